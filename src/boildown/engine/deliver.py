"""What is handed over: an artifact with everything needed to load and check it, and the manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boildown import files
from boildown.domain.artifact import Artifact
from boildown.domain.preprocess import Preprocess
from boildown.engine import handover, held
from boildown.engine.described import made_of, made_up
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
        held.SCRIPT,
        held.SAMPLES,
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
    files.remove(folder / SAMPLE)
    np.savez_compressed(folder / SAMPLE, *arrays)


def deliver(
    artifact: Artifact,
    first_folder: Path,
    folder: Path,
    classes: Sequence[str] | None = None,
    *,
    samples: bool = True,
    with_preprocessing: bool = False,
    trust: bool = True,
    ours: Iterable[str] = (),
    finish: Callable[[Path], None] = lambda _folder: None,
) -> tuple[str, ...]:
    """Fill `folder`: the artifact's files, its ports and classes, a loader, and what predicts from raw things.

    The folder appears complete or not at all; one that is there is replaced, but an empty one is filled, and one with
    files of others keeps them. samples: whether samples of the user's data lie in it. with_preprocessing: a second file
    lies there that takes raw pictures; raises InputError where it cannot. `trust` vouches for the artifact, see
    `Runtime.open`. ours: files that lay in it before by the work of boildown. finish: what is done last with the folder
    before it appears. Returns what a person should know of it, in sentences. Raises StrangeFileError where the folder
    is a link, or has one or the like in it.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." has no name, and no link is followed
    there = {path.relative_to(folder).as_posix() for path in files.walk(folder)}
    empty = folder.is_dir() and not any(folder.iterdir())
    fresh = files.make_folder(folder / "delivered" if empty else folder)
    try:
        notes = _fill(fresh, artifact, first_folder, classes, samples, with_preprocessing, trust)
        finish(fresh)
        made = {path.relative_to(fresh).as_posix() for path in files.walk(fresh)}
        if empty:  # somebody may stand in it
            for path in sorted(fresh.iterdir()):
                path.rename(folder / path.name)
        elif there - made - set(ours):
            for name in there & set(ours) - made:
                (folder / name).unlink()
            for name in sorted(made):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (fresh / name).replace(folder / name)
        else:
            files.remove(folder)
            fresh.rename(folder)
    finally:
        files.remove(fresh)
    return notes


def _fill(
    folder: Path,
    artifact: Artifact,
    first: Path,
    classes: Sequence[str] | None,
    samples: bool,
    with_preprocessing: bool,
    trust: bool,
) -> tuple[str, ...]:
    copy, runtime, kept = artifact.copy(folder, artifact.folder), artifact.runtime, first / handover.KEPT
    with files.opened(first / SAMPLE, first) as file, np.load(file, allow_pickle=False) as saved:
        arrays = [saved[name] for name in saved.files]
    with Child() as child:

        def run(call: list[Array]) -> list[Array]:
            found: list[Array] = child.call(
                "boildown.runtimes.calls:run", runtime, str(copy.path), 1, call, trust=trust
            )
            return found

        told = (
            (_with_preprocessing(child, copy, handover.kept_description(kept, classes), classes),)
            if with_preprocessing
            else ()
        )
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
            return (
                *told,
                f"There is no predict.py: the runtime {runtime} has no loader with a function load().",
            )
        (folder / held.SCRIPT).write_text(script, encoding="utf-8")
        return (*told, *child.call("boildown.engine.held:held", str(folder), str(kept)))


def _with_preprocessing(child: Child, artifact: Artifact, said: Preprocess, classes: Sequence[str] | None) -> str:
    """Write the file that takes raw pictures beside the artifact, and tell how far their outputs are apart."""
    runtime, path = artifact.runtime, artifact.path
    inside = path.with_name(f"{path.stem}.with-preprocessing{path.suffix}")
    about = {
        "preprocess": json.dumps(json.loads(said.dump()), ensure_ascii=False),
        "verdict measured on": f"{artifact.name}, sha256 {artifact.digest}, without the preprocessing",
    }
    child.call("boildown.runtimes.calls:with_preprocessing", runtime, str(path), str(inside), said, classes, about)
    most = 0.0
    pictures = made_up(said)
    for pixels in pictures:
        given = {path: made_of(said, pixels), inside: pixels}
        own, wanted = (
            child.call("boildown.runtimes.calls:run", runtime, str(file), 1, [array[None]])
            for file, array in given.items()
        )
        most = max([most, *(float(np.abs(a - b).max(initial=0)) for a, b in zip(own, wanted, strict=True))])
    return (
        f"{inside.name} takes uint8 pictures of any size; on {len(pictures)} made-up ones its outputs are within "
        f"{most:.2g} of those of {path.name}, on which alone the verdict was measured."
    )


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
    files.replace(folder / MANIFEST, json.dumps(facts, indent=2, default=str) + "\n")


def delivered(folder: Path) -> dict[str, Any]:
    """`manifest.json` of a run; empty where there is none that can be read."""
    try:
        found = json.loads(files.read_text(folder / MANIFEST, folder))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
