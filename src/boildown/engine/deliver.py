"""What is handed over: an artifact with everything needed to load and check it, and the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boildown.domain.artifact import Artifact
from boildown.execution.child import Child
from boildown.runtimes import get
from boildown.runtimes.base import Array
from boildown.surgery.store import CANDIDATE, WEIGHTS

SAMPLE, _PORTS, _LOADER = "sample.npz", "ports.json", "load.py"
RESERVED = frozenset({SAMPLE, _PORTS, _LOADER, CANDIDATE, WEIGHTS})
"""Names of files that lie beside those of an artifact."""


def save_sample(arrays: Sequence[Array], folder: Path) -> None:
    """Keep the flat inputs of one call, for every delivery of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / SAMPLE, *arrays)


def deliver(
    artifact: Artifact,
    first_folder: Path,
    folder: Path,
    classes: Sequence[str] | None = None,
    *,
    trust: bool = True,
) -> None:
    """Fill `folder`: the artifact's files, its ports and classes, one sample with its output, and a loader.

    The folder appears complete or not at all; one that is there is replaced, but an empty one is filled.
    `trust` vouches for the artifact, see `Runtime.open`.
    """
    folder = folder.resolve()  # "." has no name
    empty = folder.is_dir() and not any(folder.iterdir())
    fresh = folder / ".new" if empty else folder.with_name(f".new-{folder.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        _fill(fresh, artifact, first_folder / SAMPLE, classes, trust)
        if empty:  # somebody may stand in it
            for path in sorted(fresh.iterdir()):
                path.rename(folder / path.name)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _fill(folder: Path, artifact: Artifact, sample: Path, classes: Sequence[str] | None, trust: bool) -> None:
    copy, runtime = artifact.copy(folder), artifact.runtime
    with np.load(sample) as saved:
        arrays = [saved[name] for name in saved.files]
    with Child() as child:
        inputs, outputs = child.call("boildown.runtimes.calls:ports", runtime, str(copy.path), 1, trust=trust)
        values = child.call("boildown.runtimes.calls:run", runtime, str(copy.path), 1, arrays, trust=trust)
    named = {f"input:{port.name}": array for port, array in zip(inputs, arrays, strict=True)}
    named |= {f"output:{port.name}": value for port, value in zip(outputs, values, strict=True)}
    np.savez_compressed(folder / SAMPLE, **named)
    described: dict[str, Any] = {
        side: [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in ports]
        for side, ports in (("inputs", inputs), ("outputs", outputs))
    }
    if classes:
        described["classes"] = list(classes)
    (folder / _PORTS).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    if loader := get(runtime).loader(copy):
        (folder / _LOADER).write_text(loader, encoding="utf-8")


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `manifest.json`: hashes, versions, seeds, target, verdict, and how to repeat the run.

    A process killed meanwhile leaves the old one or the new one, never half of it.
    """
    path, fresh = folder / "manifest.json", folder / ".manifest.json.new"
    fresh.write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")
    fresh.replace(path)
