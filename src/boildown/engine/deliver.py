"""What is handed over: an artifact with everything needed to load and check it, and the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boildown.domain.artifact import Artifact
from boildown.engine import handover
from boildown.engine.manifest import CARD, MANIFEST, README, SAMPLE
from boildown.execution.child import Child
from boildown.runtimes import get
from boildown.runtimes.base import Array, Port
from boildown.surgery.store import CANDIDATE, WEIGHTS

_PORTS, _LOADER = "ports.json", "load.py"
RESERVED = frozenset(
    {
        SAMPLE,
        _PORTS,
        _LOADER,
        CANDIDATE,
        WEIGHTS,
        handover.DESCRIPTION,
        handover.SCRIPT,
        handover.SAMPLES,
        handover.KEPT,
        CARD,
        README,
        MANIFEST,
    }
)
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
    samples: bool = True,
    trust: bool = True,
    finish: Callable[[Path], None] = lambda _folder: None,
) -> tuple[str, ...]:
    """Fill `folder`: the artifact's files, its ports and classes, a loader, and what predicts from raw things.

    The folder appears complete or not at all; one that is there is replaced, but an empty one is filled. samples:
    whether samples of the user's data lie in it. `trust` vouches for the artifact, see `Runtime.open`. finish: what is
    done last with the folder before it appears. Returns what a person should know of it, in sentences.
    """
    folder = folder.resolve()  # "." has no name
    empty = folder.is_dir() and not any(folder.iterdir())
    fresh = folder / ".new" if empty else folder.with_name(f".new-{folder.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        notes = _fill(fresh, artifact, first_folder, classes, samples, trust)
        finish(fresh)
        if empty:  # somebody may stand in it
            for path in sorted(fresh.iterdir()):
                path.rename(folder / path.name)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return notes


def _fill(
    folder: Path, artifact: Artifact, first: Path, classes: Sequence[str] | None, samples: bool, trust: bool
) -> tuple[str, ...]:
    copy, runtime, kept = artifact.copy(folder), artifact.runtime, first / handover.KEPT
    with np.load(first / SAMPLE) as saved:
        arrays = [saved[name] for name in saved.files]
    with Child() as child:

        def run(call: list[Array]) -> list[Array]:
            found: list[Array] = child.call(
                "boildown.runtimes.calls:run", runtime, str(copy.path), 1, call, trust=trust
            )
            return found

        inputs, outputs = child.call("boildown.runtimes.calls:ports", runtime, str(copy.path), 1, trust=trust)
        samples = handover.add(kept, folder, inputs, outputs, run, classes=classes, samples=samples)
        if not samples:
            arrays = _made_up(arrays)
        _write_ports(folder, inputs, outputs, arrays, run(arrays), classes)
        loader = get(runtime).loader(copy)
        if loader:
            (folder / _LOADER).write_text(loader, encoding="utf-8")
        script = handover.script(loader)
        if script is None:
            return (f"There is no predict.py: the runtime {runtime} has no loader with a function load().",)
        (folder / handover.SCRIPT).write_text(script, encoding="utf-8")
        return tuple(child.call("boildown.engine.handover:held", str(folder), str(kept)))


def _made_up(arrays: Sequence[Array]) -> list[Array]:
    """Inputs of the same shapes that are nobody's data: noise, and ones for whole numbers."""
    random = np.random.default_rng(0)
    return [
        random.standard_normal(array.shape).astype(array.dtype) if array.dtype.kind == "f" else np.ones_like(array)
        for array in arrays
    ]


def _write_ports(
    folder: Path,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    arrays: Sequence[Array],
    values: Sequence[Array],
    classes: Sequence[str] | None,
) -> None:
    """The names, types and shapes of what goes in and comes out, and one call with its output."""
    named: dict[str, Any] = {f"input:{port.name}": array for port, array in zip(inputs, arrays, strict=True)}
    named |= {f"output:{port.name}": value for port, value in zip(outputs, values, strict=True)}
    np.savez_compressed(folder / SAMPLE, **named)
    described: dict[str, Any] = {
        side: [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in ports]
        for side, ports in (("inputs", inputs), ("outputs", outputs))
    }
    if classes:
        described["classes"] = list(classes)
    (folder / _PORTS).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `manifest.json`: hashes, versions, seeds, target, verdict, and how to repeat the run.

    A process killed meanwhile leaves the old one or the new one, never half of it.
    """
    path, fresh = folder / "manifest.json", folder / ".manifest.json.new"
    fresh.write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")
    fresh.replace(path)
