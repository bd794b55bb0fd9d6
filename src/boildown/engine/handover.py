"""What lies beside an artifact so that others can predict with it: `preprocess.json`, `predict.py`, raw samples.

A run keeps all that its task has to say on this, so that any of its artifacts is handed over without the task.
"""

from __future__ import annotations

import ast
import csv
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from boildown.domain.preprocess import TENSORS, ColumnOf, Columns, Output, Preprocess, Raw, Tokenize
from boildown.domain.task import Task
from boildown.engine import predict
from boildown.engine.artifact import flatten
from boildown.engine.held import CALLS, SAMPLES, calls_of
from boildown.errors import InputError
from boildown.runtimes.base import Array, Port
from boildown.tasks.data import evenly_spaced

DESCRIPTION = "preprocess.json"
KEPT = "handover"
"""The folder that a run keeps it in, beside the first model's artifact."""

_COUNT = 5
_MOST_BYTES = 20e6
_LISTED = "samples.json"


def description(task: Task) -> Preprocess:
    """What a task says of its raw things and its outputs; of one that says nothing, tensors."""
    said = getattr(task, "preprocess", None)
    if isinstance(said, Preprocess):
        return said
    try:
        says = task.answer()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):  # a task of the user's own kind, or its own method of that name
        return TENSORS
    return replace(TENSORS, output=says) if isinstance(says, Output) else TENSORS


def keep(task: Task, folder: Path, *, samples: bool = True) -> None:
    """Keep in `folder` the description, the files that it names, and raw samples with the inputs made of them."""
    said = description(task)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / DESCRIPTION).write_text(replace(said, samples=samples).dump(), encoding="utf-8")
    for name, path in getattr(task, "beside", {}).items():
        shutil.copyfile(path, folder / name)
    if not samples:
        return
    chosen = evenly_spaced(len(task.validation), _COUNT)
    raw: Callable[[int], Any] | None = getattr(task, "raw", None)
    is_tensor = raw is None or len(said.inputs) != 1 or said.inputs[0].kind == "tensor"
    calls: dict[str, Any] = {}
    kept: list[int] = []
    for place in chosen:
        inputs, _target = next(task.validation.subset([place]).batches(1))
        made = [flatten(*call, task.example()) for call in task.calls(inputs)][: 1 if is_tensor else None]
        if kept and sum(array.nbytes for arrays in (calls.values(), *made) for array in arrays) > _MOST_BYTES:
            break
        for number, arrays in enumerate(made):
            calls |= {f"{len(kept)}:{number}:{port}": array for port, array in enumerate(arrays)}
        kept.append(place)
    np.savez_compressed(folder / CALLS, **calls)
    names = [f"{place}.npz" for place in range(1, len(kept) + 1)]
    if raw is not None and not is_tensor:
        (folder / SAMPLES).mkdir()
        names = _write(said, list(map(raw, kept)), folder / SAMPLES)
    (folder / _LISTED).write_text(json.dumps(names), encoding="utf-8")


def add(
    kept: Path,
    folder: Path,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    run: Callable[[list[Array]], Sequence[Array]],
    *,
    classes: Sequence[str] | None = None,
    samples: bool = True,
) -> bool:
    """Lay into `folder`, beside an artifact, what a run keeps: the description by the names of its ports, and samples.

    run: runs the artifact. classes: of a run that keeps nothing. Returns whether samples of the user's data may lie
    there: so they may beside the artifact of a run that has kept nothing, and said nothing.
    """
    said = kept_description(kept, classes)
    if len(said.inputs) == 1:
        said = replace(said, inputs=(replace(said.inputs[0], feeds=tuple(port.name for port in inputs)),))
    samples = samples and said.samples
    (folder / DESCRIPTION).write_text(replace(said, samples=samples).dump(), encoding="utf-8")
    for name in _beside(said):
        if _is_own(kept / name):
            shutil.copyfile(kept / name, folder / name)
    if samples and _is_own(kept / _LISTED):
        try:
            _add_samples(kept, folder, said, [port.name for port in inputs], [port.name for port in outputs], run)
        except (ValueError, KeyError, TypeError, BadZipFile) as error:
            raise InputError.of(
                f"The samples in {kept} cannot be read: {type(error).__name__}: {error}.",
                "Take the run folder from a copy, or leave them out: samples=False.",
            ) from error
    return samples


def _add_samples(
    kept: Path,
    folder: Path,
    said: Preprocess,
    inputs: Sequence[str],
    outputs: Sequence[str],
    run: Callable[[list[Array]], Sequence[Array]],
) -> None:
    """The samples that are kept, with what the artifact gives for the inputs that the data set made of them."""
    (folder / SAMPLES).mkdir()
    names = json.loads((kept / _LISTED).read_text(encoding="utf-8"))
    if wrong := [name for name in names if not isinstance(name, str) or name != Path(name).name]:
        raise InputError.of(f"{kept / _LISTED} names {wrong[0]!r}, no file of a sample.", "Take it from a copy.")
    plain = json.loads(said.dump())
    recorded: dict[str, Any] = {}
    told = []
    for place, (name, arrays) in enumerate(zip(names, calls_of(kept), strict=True)):
        calls = [dict(zip(inputs, call, strict=True)) for call in arrays]
        given = [dict(zip(outputs, run(call), strict=True)) for call in arrays]
        for number, its in enumerate(given):
            if sum(value.nbytes for each in (recorded, its) for value in each.values()) <= _MOST_BYTES:
                recorded |= {f"{place}:{number}:{port}": value for port, value in its.items()}
        try:
            answer = predict.answer(plain, given, calls)
        except predict.Refused:  # it is no answer there either
            answer = {}
        told.append({"file": name, "answer": {key: value for key, value in answer.items() if key != "outputs"}})
        if _is_own(kept / SAMPLES / name):
            shutil.copyfile(kept / SAMPLES / name, folder / SAMPLES / name)
        elif name.endswith(".npz"):
            np.savez_compressed(folder / SAMPLES / name, **dict[str, Any](calls[0]))
    np.savez_compressed(folder / SAMPLES / "outputs.npz", **recorded)
    (folder / SAMPLES / "answers.json").write_text(
        json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def script(loader: str) -> str | None:
    """`predict.py`, where the runtime's loader has a function `load`; None for any other."""
    try:
        functions = {node.name for node in ast.parse(loader).body if isinstance(node, ast.FunctionDef)}
    except SyntaxError:
        return None
    return Path(predict.__file__).read_text(encoding="utf-8") if "load" in functions else None


def kept_description(kept: Path, classes: Sequence[str] | None) -> Preprocess:
    """The description that a run keeps. Raises InputError where it has been tampered with."""
    path = kept / DESCRIPTION
    if _is_own(path):
        return Preprocess.load(path.read_text(encoding="utf-8"))
    return (
        replace(TENSORS, output=replace(TENSORS.output, kind="classes", classes=tuple(classes))) if classes else TENSORS
    )


def _is_own(path: Path) -> bool:
    """Whether there is such a file, and no link in its place, nor in that of its folder."""
    return path.is_file() and not path.is_symlink() and not path.parent.is_symlink()


def _beside(said: Preprocess) -> Iterator[str]:
    """The files that steps name, none of them in another folder."""
    for raw in said.inputs:
        for step in raw.steps:
            if isinstance(step, Tokenize) and step.file == Path(step.file).name:
                yield step.file


def _write(said: Preprocess, raws: Sequence[Any], folder: Path) -> list[str]:
    """Raw samples as files, and the name of the file of each."""
    (raw,) = said.inputs
    if raw.kind == "picture":
        return [write_picture(each, folder, str(number)) for number, each in enumerate(raws, 1)]
    name = "rows.csv" if raw.kind == "row" else "texts.csv"
    header = [column.name for column in _table(raw)]
    header += [column for step in raw.steps if isinstance(step, Tokenize) for column in step.columns]
    header += [said.output.target] if said.output.target in raws[0] else []
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";" if any(column.comma for column in _table(raw)) else ",")
        writer.writerow(header)
        writer.writerows([each[column] for column in header] for each in raws)
    return [name] * len(raws)


def _table(raw: Raw) -> list[ColumnOf]:
    """The columns of a row that steps read."""
    return [column for step in raw.steps if isinstance(step, Columns) for column in step.columns]


def write_picture(raw: Any, folder: Path, name: str) -> str:
    """A raw picture as a file: a copy of its own, or its pixels as PNG. Returns its name."""
    if isinstance(raw, str | Path):
        name += Path(raw).suffix.lower()
        shutil.copyfile(raw, folder / name)
        return name
    from PIL import Image

    pixels = np.asarray(raw)
    Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(folder / f"{name}.png")
    return f"{name}.png"
