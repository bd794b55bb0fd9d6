"""The first model as a file: what is read of it is held against the file itself, and the file is attempt 0 as it is.

What cannot be read, or computes something else than the file, stays a file; see `unread`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from boildown import files
from boildown.domain.artifact import Artifact
from boildown.domain.task import Samples, Task
from boildown.engine.artifact import ArtifactModel, flatten
from boildown.engine.company import agreement
from boildown.engine.deliver import RESERVED
from boildown.engine.job import Job
from boildown.engine.unread import Unread
from boildown.errors import (
    AttemptError,
    BoildownError,
    DeadlineError,
    InputError,
    Mistake,
    ModelError,
    WorkerLost,
    in_words,
)
from boildown.execution.child import Child
from boildown.measuring.environment import free_memory
from boildown.runtimes.base import Port
from boildown.surgery.factories import call_factory
from boildown.surgery.graph import capture
from boildown.surgery.onnx_file import PREFIX, File, OnnxFile, artifact_of, factory_of, file_of, named_file, path_of
from boildown.tasks.ports import fitted

NAME = "model.onnx"
"""What the file is called among a run's own."""

_LEAST, _LEAST_HALF, _LEAST_QUANTIZED = 90.0, 40.0, 15.0
"""The decibel to which what is read has to agree with a file in float32, in another precision, in integers."""
_SAMPLES, _BATCH = 128, 32
_SECONDS = 180.0
_ANSWER_SECONDS = 600.0


def named_model(model: Any) -> Any:
    """A model as it was given, in the place of a file's name its factory; one that is not there is refused later."""
    if (path := named_file(model)) is None:
        return model
    try:
        return factory_of(path)
    except InputError:
        return f"{PREFIX}{path.absolute()}"


def is_brought(model: Any) -> TypeGuard[str]:
    """Whether a model is the factory of a file."""
    return isinstance(model, str) and model.startswith(PREFIX)


def opened(factory: str) -> nn.Module:
    """What a factory's file holds: a network, or an `Unread` where ONNX Runtime runs what cannot be read.

    It is read in a child process first: a number in a file of others can make that endless. Raises InputError with
    every reason, each with its cure, where it cannot be run either.
    """
    path = path_of(factory)
    artifact = artifact_of(path)
    with Child(memory=free_memory()) as child:
        why = _unreadable(child, factory)
        if not why:
            return call_factory(factory)  # type: ignore[no-any-return]
        try:
            inputs, outputs = child.call(
                "boildown.runtimes.calls:ports", "onnxruntime", str(path), 1, deadline=_SECONDS
            )
            file = File(path, artifact.sha256, tuple(map(_port, inputs)), tuple(map(_port, outputs)))
        except BoildownError as error:
            raise ModelError(
                *why, Mistake(f"{path} cannot be run as it is either: {in_words(error)}.", "Export it again.")
            ) from error
    return Unread(file, why)


def _unreadable(child: Child, factory: str) -> tuple[Mistake, ...]:
    """Why a file cannot be read; empty where it can. Raises ModelError where nothing more should be tried with it."""
    path = path_of(factory)
    try:
        child.call("boildown.surgery.onnx_file:readable", factory, deadline=_SECONDS, doing=f"reading {path.name}")
    except ModelError:
        raise
    except InputError as error:
        return error.mistakes
    except (DeadlineError, WorkerLost) as error:
        raise ModelError.of(f"{path} cannot be read: {in_words(error)}", "Export it again.") from error
    except AttemptError as error:
        return (Mistake(f"{path.name} cannot be read: {in_words(error)}.", "Export it again, by another exporter."),)
    return ()


def _port(port: Port) -> Any:
    """A port of ONNX Runtime's. Raises AttemptError for types that hold no numbers."""
    from boildown.surgery import onnx_in

    if not isinstance(getattr(torch, port.dtype, None), torch.dtype):
        raise AttemptError(f"{port.name!r} holds values of type {port.dtype}, no numbers")
    return onnx_in.Port(
        port.name, tuple(None if size == "?" else size for size in port.shape), getattr(torch, port.dtype)
    )


def fit(model: nn.Module, task: Any) -> tuple[nn.Module, Any, list[str]]:
    """(the model, the task whose calls are its file's, what to tell); what cannot be captured becomes an `Unread`.

    Axes that the file leaves open stay open, as far as that can be captured. Raises DataError with everything in which
    the task's samples do not fit the file.
    """
    file = file_of(model)
    if file is None:
        return model, task, []
    why: tuple[Mistake, ...] = ()
    for leave_open in (True, False) if isinstance(model, OnnxFile) else ():
        made, told = fitted(task, file.inputs, leave_open=leave_open)
        try:
            graph = capture(model, *made.example())
        except AttemptError as error:
            why = why or (_mistake(f"The network read from {file.path.name} cannot be captured", error),)
            continue
        if graph.static_batch:
            cause = f"The network read from {file.path.name} takes batches of {graph.batch} only."
            why = why or (
                Mistake(cause, "Export the file with an open first axis: dynamic_shapes= of torch.onnx.export."),
            )
            continue
        if not leave_open and fitted(task, file.inputs)[0] is not made:
            told = [*told, f"axes that {file.path.name} leaves open beside the batch are fixed to the data's sizes"]
        return model, made, told
    made, told = fitted(task, file.inputs)
    return (model if isinstance(model, Unread) else Unread(file, why)), made, told


def held(model: nn.Module, task: Task, samples: Samples) -> nn.Module:
    """The model, where its outputs on real samples are those of its file run by ONNX Runtime; else an `Unread`.

    How well they agree is in its file then. Raises InputError where the file does not take the samples.
    """
    if not isinstance(model, OnnxFile | Unread):
        return model
    file = model.file
    few = samples.subset(range(min(_SAMPLES, len(samples))))
    artifact = artifact_of(file.path)
    with Child(memory=free_memory()) as child, torch.no_grad():
        theirs = ArtifactModel(
            child, artifact, example=task.example(), output=None, threads=os.cpu_count() or 1, trust=True,
            check=lambda: None, deadline=_ANSWER_SECONDS,
        )  # fmt: skip
        calls = [call for inputs, _ in few.batches(_BATCH) for call in task.calls(inputs)]
        try:
            wanted = [pytree.tree_leaves(theirs(*args, **kwargs)) for args, kwargs in calls]
        except (AttemptError, WorkerLost) as error:
            raise ModelError.of(
                f"ONNX Runtime cannot run {file.path}: {in_words(error)}", "Export it again."
            ) from error
        if isinstance(model, Unread):
            model.file = replace(file, agreement=f"the file as it is, for it stays a file: {model.reason}")
            return model
        found = [pytree.tree_leaves(model(*args, **kwargs)) for args, kwargs in calls]
        pairs = zip(zip(*wanted, strict=True), zip(*found, strict=True), strict=True)
        decibel = min((_decibel(*pair) for pair in pairs), default=math.inf)
        least = _LEAST_QUANTIZED if file.quantized else _LEAST_HALF if file.half else _LEAST
        if decibel >= least:
            of = ", whose weights are integers" if file.quantized else ""
            model.file = replace(file, agreement=f"what was read agrees with the file{of} to {decibel:.1f} dB")
            return model
        first = _first_apart(child, file, flatten(*calls[0], task.example()))
    cause = (
        f"The network read from {file.path.name} gives other outputs than the file: {decibel:.1f} dB of agreement on "
        f"real samples, at least {least:.0f} expected{first}."
    )
    return held(Unread(file, (Mistake(cause, "Export the file again, by another exporter or opset."),)), task, samples)


def _decibel(wanted: tuple[Any, ...], found: tuple[Any, ...]) -> float:
    """How well all parts of one output agree."""
    ours, theirs = (torch.cat([part.detach().reshape(-1) for part in parts]) for parts in (found, wanted))
    if ours.shape != theirs.shape:
        return -math.inf
    if not theirs.is_floating_point():
        return agreement(theirs.reshape(1, -1), ours.reshape(1, -1))
    reference, other = theirs.double().numpy(), ours.double().numpy()
    same = (reference == other) | (np.isnan(reference) & np.isnan(other))
    noise = float(np.square(np.where(same, 0.0, reference - other)).sum())
    power = float(np.square(np.where(np.isfinite(reference), reference, 0.0)).sum())
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(max(power, 1e-30) / noise) if math.isfinite(noise) else -math.inf


def _first_apart(child: Child, file: File, arrays: list[Any]) -> str:
    """Where what was read and the file part, in words; empty where nobody can say."""
    try:
        first = child.call("boildown.surgery.onnx_apart:first_apart", str(file.path), arrays, deadline=_SECONDS)
    except BoildownError:
        return ""
    return f"; the first that differs is {first}" if first else ""


def _mistake(what: str, error: AttemptError) -> Mistake:
    cause, _, cure = str(error).partition("\n")
    return Mistake(f"{what}: {cause}", cure.strip() or "Export it again, by another exporter.")


def check(model: nn.Module, job: Job) -> None:
    """Raise InputError for what is asked that a file, or one that stays a file, cannot be held against."""
    file, mistakes = file_of(model), []
    if file is None:
        return
    batch = job.deployment.batch
    if file.batch not in (None, batch):
        mistakes.append(
            Mistake(
                f"batch = {batch}, and {file.path.name} takes {file.batch} samples at a time.",
                f"Say batch = {file.batch} in the deployment, or export the file with an open first axis.",
            )
        )
    if isinstance(model, Unread):
        name, why = file.path.name, model.reason
        if not is_first(file, job):
            cause = f"{name} stays a file, which the runtime {job.deployment.first} cannot run: {why}."
            mistakes.append(Mistake(cause, "Name onnxruntime first."))
        counted = [condition.text for condition in job.target.conditions if condition.metric in ("params", "macs")]
        if counted:
            cause = f"{', '.join(counted)}: counted on the network, and {name} stays a file: {why}."
            mistakes.append(Mistake(cause, "Leave these conditions out, or mend that."))
    if mistakes:
        raise InputError(*mistakes)


def is_first(file: File | None, job: Job) -> bool:
    """Whether attempt 0 is a file as it is: the first runtime of a deployment runs such files."""
    return file is not None and job.deployment.first in ("onnxruntime", "openvino")


def take_in(file: File, runtime: str, folder: Path) -> Artifact:
    """The file itself as an artifact: a copy in `folder`. Raises ModelError where it has changed meanwhile."""
    source = artifact_of(file.path)
    names: Mapping[str, str] = {name: NAME if name == source.name else name for name in source.files}
    if clash := sorted((RESERVED | {NAME}) & {name for name in source.files if name != source.name}):
        raise ModelError.of(
            f"{file.path.name} keeps weights in a file called {clash[0]}, as boildown calls one of its own.",
            "Save it with its weights inside, or in a file of another name.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for old, new in names.items():
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        files.remove(folder / new)
        files.copy(source.folder / old, folder / new, source.folder)
    made = Artifact.read(runtime, folder / NAME, [folder / name for name in names.values() if name != NAME])
    if source.sha256 != file.sha256 or any(made.files[new] != source.files[old] for old, new in names.items()):
        raise ModelError.of(f"{file.path} has changed since it was read.", "Begin again when it is written to its end.")
    return made
