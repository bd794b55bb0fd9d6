"""measure(): any artifact held against a target."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from boildown.api.asked import (
    BATCH,
    Read,
    check_data,
    conditions,
    deployment_of,
    number_mistakes,
    plain_deployment,
    task_from,
)
from boildown.api.sitting import desk, sitting
from boildown.api.wanted import check_costs, refuse_unplanned, wanted
from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.deployment import Deployment, Latency
from boildown.domain.grammar import base_of, set_of
from boildown.domain.measurement import Measurement
from boildown.domain.target import Target
from boildown.domain.task import Task
from boildown.domain.verdict import Verdict, judge
from boildown.engine import manifest
from boildown.engine.budget import Budget, parse_time
from boildown.engine.costs import of_the_file
from boildown.engine.described import held_against_data
from boildown.engine.job import Job
from boildown.engine.metric_checks import outputs_of, refuse_wrong
from boildown.engine.plugged import check_runtime
from boildown.engine.prepare import FIRST, SCORING, named
from boildown.engine.timing import of_the_machine
from boildown.errors import AttemptError, DeadlineError, InputError, JournalError, Mistakes, WorkerLost, contained
from boildown.files import real
from boildown.journal.journal import FILE, Journal
from boildown.measuring.environment import free_memory
from boildown.runtimes.base import Runtime
from boildown.tasks.others import judged_beside
from boildown.tasks.slice_checks import check_slices
from boildown.tasks.splits import Splits
from boildown.tasks.watch import watching


@contained()
@watching()
def measure(
    path: str | Path,
    task: Task | str,
    target: Sequence[str] | str,
    *,
    first: str | Path | None = None,
    confidence: float | None = None,
    deployment: Deployment | None = None,
    runtime: str | Sequence[str] | None = None,
    latency: Latency | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    trust: bool = False,
    limit: str | float = "10 min",
    memory: float | None = None,
    costs: Sequence[str] = (),
) -> Verdict:
    """Measure an artifact on the task's data and hold it against a target.

    Quality is scored on all of `test`, or of `validation` without it, and so it is on other sets that conditions name;
    corruptions are drawn from `seed`. `first` is the first model's artifact, which drops and ratios are relative to;
    for an artifact inside a run folder it is found by itself, and both must be the files that the run measured. What
    runs them is the `runtime`; where none is named, or several are, the one that their run has written them for.
    `trust` vouches for files of a format that could execute code when loaded (runtime `eager`); without it they are
    refused. limit: the most time that one call of the artifact takes, or that it takes to open. memory: the most bytes
    that it gets, by default four fifths of what is free; held on Linux alone. costs: such as "latency p99" or
    "throughput", that are measured although no condition is about them. Raises InputError where a condition needs what
    is not there, or a metric is not what it says.
    """
    path = Path(path).absolute()
    base = Path(first).absolute() if first is not None else _first_beside(path)
    task = task_from(task)
    mistakes, asked_for, notices = Mistakes(), Target(()), tuple[str, ...]()
    where, wrong = plain_deployment(deployment, runtime, latency=latency)
    asked = {"confidence": confidence, "deployment": where, "batch_size": batch_size, "seed": seed}
    with mistakes:
        if wrong := [*wrong, *number_mistakes(asked)]:
            raise InputError(*wrong)
    seconds = 0.0
    with mistakes:
        seconds = parse_time(limit, "limit")
    meant, artifact, reference, splits = deployment_of(asked), None, None, None
    own, other = _runtimes(path, base, runtime, meant)
    with mistakes:
        artifact = _artifact(own, check_runtime(own), path)
        reference = None if base is None else _artifact(other, check_runtime(other), base)
        _check_record(artifact, reference if first is None else None)
    with mistakes:
        check_costs(costs)
    with mistakes:
        task, asked_for, notices = wanted(task, conditions(target))
        refuse_unplanned(asked_for, (own,), costs)
    with mistakes:
        likeness = {metric.name for metric in getattr(task, "likeness", ())}
        relative = [c.text for c in asked_for.conditions if c.form != "value" or base_of(c.metric) in likeness]
        if relative and base is None:
            raise InputError.of(
                f"{', '.join(relative)}: relative to the first model, whose artifact is not known.",
                "Give it with first=..., or ask for values.",
            )
    with mistakes:
        uncounted = [c.text for c in asked_for.conditions if c.metric in ("params", "macs")]
        if uncounted:
            raise InputError.of(
                f"{', '.join(uncounted)}: counted on the model, not on an artifact.",
                "Leave these conditions out.",
            )
    with mistakes:
        check_data(task)
        if any(map(set_of, (condition.metric for condition in asked_for.conditions))):
            held_against_data(task)  # corruptions go by the description
        splits = judged_beside(task, asked_for, seed)
    mistakes.raise_all()
    assert artifact is not None
    assert splits is not None
    notes = check_slices(asked_for, task, splits, confidence)
    job = Job(
        task, splits, asked_for, confidence=confidence, deployment=replace(meant, runtime=other).beside_first(own),
        batch_size=batch_size or BATCH, seed=seed, also=tuple(costs),
    )  # fmt: skip
    read = Read(job, Candidate(nn.Module()), Budget(), (*notices, *splits.notes, *notes))
    with (
        tempfile.TemporaryDirectory() as scratch,
        desk((), read.budget) as at,
        sitting(read, Path(scratch), at) as sat,
    ):
        bench = sat.bench
        bench.trust = trust
        most = free_memory() if memory is None else int(memory)
        bench.bound(seconds, most)
        bench.first = reference or artifact
        try:
            with _bounded(path, seconds, most):
                bench.ports(artifact)
        except (AttemptError, WorkerLost) as error:
            raise InputError.of(f"{path} cannot be opened by {own}: {error}", "Export it again.") from error
        with _bounded(path, seconds, most):
            found = of_the_file(job, bench, artifact)
        with named("The artifact cannot be scored", SCORING), _bounded(path, seconds, most):
            scored = bench.quality(None, artifact, "verdict", first=None)
            quality = {m.metric: _with_notes(m, splits) for m in scored}
            model = bench.model(None, artifact)
            looked_at = (
                outputs_of(lambda inputs: task.run(model, inputs), splits.verdict, seed, size=job.batch_size)
                if task.metrics
                else []
            )
        refuse_wrong(task.metrics, {name: m.value for name, m in quality.items()}, looked_at, seed)
        found |= quality
        with _bounded(path, seconds, most):
            found |= of_the_machine(job, bench, artifact, found)
        if base is None:
            found = {name: _alone(measurement) for name, measurement in found.items() if base_of(name) not in likeness}
        return judge(asked_for, found, confidence, bench.machine, "" if own == other else own)


def _alone(measurement: Measurement) -> Measurement:
    """A measurement without a first model beside it."""
    slices = tuple(map(_alone, measurement.slices))
    return replace(measurement, first=None, drop=None, ratio=None, slices=slices)


def _with_notes(measurement: Measurement, splits: Splits) -> Measurement:
    """A measurement on another set with what is worth knowing of that."""
    of = splits.others.get(set_of(measurement.metric) or "")
    return measurement if of is None else replace(measurement, notes=(*measurement.notes, *of.notes))


@contextlib.contextmanager
def _bounded(path: Path, seconds: float, memory: int | None) -> Iterator[None]:
    """What is done inside calls the artifact, which has limits."""
    try:
        yield
    except DeadlineError as error:
        raise InputError.of(
            f"{path} was stopped: opening it, or one call of it, took more than {seconds:g} s.",
            "Give it more with limit=... (--limit) where it is only slow; a loop in it may never end.",
        ) from error
    except (AttemptError, WorkerLost, InputError) as error:
        if memory is None or not any(word in str(error) for word in _NO_MEMORY):
            raise
        raise InputError.of(
            f"{path} was stopped: it asked for more than the {memory / 1e9:.1f} GB that it may have.",
            "Give it more with memory=... (bytes; --memory, GB) where the machine has it, or a smaller batch size.",
        ) from error


_NO_MEMORY = ("bad_alloc", "bad allocation", "MemoryError", "Failed to allocate memory", "can't allocate memory")
"""What libraries say that get no memory."""


def _runtimes(path: Path, base: Path | None, runtime: str | Sequence[str] | None, meant: Deployment) -> tuple[str, str]:
    """What runs an artifact, and the first model's."""
    if isinstance(runtime, str) and len(meant.runtimes) == 1:
        return meant.first, meant.first
    written = _written_for(path)
    own = written if written in meant.runtimes or meant.runtime == Deployment().runtime else meant.first
    return own or meant.first, (_written_for(base) if base is not None else "") or own or meant.first


def _written_for(path: Path) -> str:
    """The runtime that a file was written for, by what lies beside it or by its run; empty where nobody says."""
    with contextlib.suppress(ValueError):
        told = manifest.read(path.parent)
        return str(told["runtime"]) if told["artifact"] == path.name else ""
    if (run := _run_of(path)) is not None:
        with contextlib.suppress(JournalError, OSError), Journal.open(run, readonly=True) as journal:
            rows = [row.artifact for row in journal.attempts() if row.artifact is not None]
            return next((kept.runtime for kept in rows if real(kept.path) == real(path)), "")
    return ""


def _artifact(name: str, runtime: Runtime, path: Path) -> Artifact:
    """The artifact of which `path` is loaded: its files as its run recorded them, else those that the runtime names."""
    if not (path.is_file() or (path.is_dir() and path.suffix == runtime.suffix)):
        raise InputError.of(f"There is no artifact {path}.", "Check the path.")
    run = _run_of(path)
    if run is not None:
        with contextlib.suppress(JournalError, OSError), Journal.open(run, readonly=True) as journal:
            recorded = [row.artifact for row in journal.attempts() if row.artifact is not None]
            for beside in (kept for kept in recorded if kept.name == path.name):
                return Artifact.read(name, path, (path.parent / file for file in beside.files))
    try:
        return Artifact.read(name, path, runtime.files(path))
    except OSError as error:
        raise InputError.of(f"A file of the artifact {path} cannot be read: {error}.", "Bring it back.") from error


def _run_of(path: Path) -> Path | None:
    """The run folder that a path lies in."""
    return next((parent for parent in real(path).parents[:4] if (parent / FILE).is_file()), None)


def _check_record(artifact: Artifact, base: Artifact | None) -> None:
    """Raise InputError where a file in a run folder, or the first model's beside it, is not what the run measured."""
    path, run = artifact.path, _run_of(artifact.path)
    if run is None or not real(path).relative_to(run).parts[0].startswith(_KEPT):
        return
    away = "copy it elsewhere, and name the first model's with first=..."
    try:
        with Journal.open(run, readonly=True) as journal:
            recorded = {row.artifact.sha256 for row in journal.attempts() if row.artifact is not None}
    except JournalError as error:
        raise InputError.of(f"{path} cannot be held against what its run measured. {error}", f"Or {away}") from error
    for measured, what in ((artifact, "an artifact"), (base, "the first model's artifact")):
        if measured is not None and measured.sha256 not in recorded:
            raise InputError.of(
                f"{measured.path} is not the file that run {run.name} measured as {what}.",
                f"Bring it back from a copy; or {away}",
            )


_KEPT = ("best", "attempt")
"""The folders of a run that hold what it measured begin with one of these."""


def _first_beside(path: Path) -> Path | None:
    """The first model's artifact of the run that a path lies in."""
    for parent in real(path).parents[:4]:
        if (found := parent / FIRST / path.name).is_file():
            return found
    if (run := _run_of(path)) is not None:  # where that is for another runtime, its file may be called otherwise
        with contextlib.suppress(JournalError, OSError), Journal.open(run, readonly=True) as journal:
            return next((row.artifact.path for row in journal.attempts() if not row.number and row.artifact), None)
    return None
