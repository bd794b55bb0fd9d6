"""measure(): any artifact held against a target."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from boildown.api.asked import BATCH, Read, check_data, conditions, number_mistakes, plain_latency, task_from
from boildown.api.sitting import sitting
from boildown.domain.candidate import Candidate
from boildown.domain.grammar import parse_target
from boildown.domain.target import Target
from boildown.domain.task import Task
from boildown.domain.verdict import Verdict, judge
from boildown.engine.budget import Budget
from boildown.engine.job import Job, Latency
from boildown.engine.metric_checks import outputs_of, refuse_wrong
from boildown.engine.prepare import FIRST, SCORING, named
from boildown.engine.timing import in_doubt
from boildown.errors import AttemptError, InputError, JournalError, Mistakes, WorkerLost, contained
from boildown.journal.journal import FILE, Journal
from boildown.journal.keys import file_hash
from boildown.runtimes import get
from boildown.tasks.splits import judged_alone


@contained()
def measure(
    path: str | Path,
    task: Task | str,
    target: Sequence[str] | str,
    *,
    first: str | Path | None = None,
    confidence: float | None = None,
    latency: Latency = Latency(),  # noqa: B008 - frozen
    runtime: str = "onnxruntime",
    batch_size: int | None = None,
    seed: int = 0,
    trust: bool = False,
) -> Verdict:
    """Measure an artifact on the task's data and hold it against a target.

    Quality is scored on all of `test`, or of `validation` without it. `first` is the first model's
    artifact, which drops and ratios are relative to; for an artifact inside a run folder it is found
    by itself, and both must be the files that the run measured. `trust` vouches for files of a format
    that could execute code when loaded (runtime `eager`); without it they are refused. Raises
    InputError where a condition needs what is not there, or a metric is not what it says.
    """
    path = Path(path)
    base = Path(first) if first is not None else _first_beside(path)
    task = task_from(task)
    mistakes, wanted = Mistakes(), Target(())
    numbers = {"confidence": confidence, "latency": plain_latency(latency), "batch_size": batch_size, "seed": seed}
    with mistakes:
        if found_wrong := number_mistakes(numbers):
            raise InputError(*found_wrong)
    with mistakes:
        get(runtime)
    with mistakes:
        for file in (path, *([] if first is None else [base])):
            if file is not None and not file.is_file():
                raise InputError.of(f"There is no artifact {file}.", "Check the path.")
    with mistakes:
        _check_record(path, base if first is None else None)
    with mistakes:
        wanted = parse_target(conditions(target), task.metrics)
    with mistakes:
        relative = [c.text for c in wanted.conditions if c.form != "value"]
        if relative and base is None:
            raise InputError.of(
                f"{', '.join(relative)}: relative to the first model, whose artifact is not known.",
                "Give it with first=..., or ask for values.",
            )
    with mistakes:
        uncounted = [c.text for c in wanted.conditions if c.metric in ("params", "macs")]
        if uncounted:
            raise InputError.of(
                f"{', '.join(uncounted)}: counted on the model, not on an artifact.",
                "Leave these conditions out.",
            )
    with mistakes:
        check_data(task)
    mistakes.raise_all()
    splits = judged_alone(task.test or task.validation)
    job = Job(
        task, splits, wanted, confidence=confidence, latency=latency,
        runtime=runtime, batch_size=batch_size or BATCH, seed=seed,
    )  # fmt: skip
    read = Read(job, Candidate(nn.Module()), Budget(), splits.notes)
    with tempfile.TemporaryDirectory() as scratch, sitting(read, Path(scratch), ()) as sat:
        bench, sha256 = sat.bench, file_hash(path)
        bench.trust = trust
        bench.first = base or path
        try:
            bench.ports(path)
        except (AttemptError, WorkerLost) as error:
            raise InputError.of(f"{path} cannot be opened by {runtime}: {error}", "Export it again.") from error
        found = {"size": bench.size(path)}
        with named("The artifact cannot be scored", SCORING):
            quality = {m.metric: m for m in bench.quality(None, path, sha256, "verdict", first=None)}
            artifact = bench.artifact(None, path)
            looked_at = outputs_of(lambda inputs: task.run(artifact, inputs), splits.verdict, seed, size=job.batch_size)
        refuse_wrong(task.metrics, {name: m.value for name, m in quality.items()}, looked_at, seed)
        found |= quality
        if job.asks("latency"):
            found["latency"] = bench.latency(path, sha256)
            if in_doubt(job, found):
                found["latency"] = bench.latency(path, sha256, look=2)
        if job.asks("memory"):
            found["memory"] = bench.memory(path, sha256)
        if base is None:
            found = {name: replace(m, first=None, drop=None, ratio=None) for name, m in found.items()}
        return judge(wanted, found, confidence, bench.machine)


def _check_record(path: Path, base: Path | None) -> None:
    """Raise InputError where a file in a run folder, or the first model's beside it, is not what the run measured."""
    run = next((parent for parent in path.resolve().parents[:4] if (parent / FILE).is_file()), None)
    if run is None or not path.is_file() or not path.resolve().relative_to(run).parts[0].startswith(_KEPT):
        return
    away = "copy it elsewhere, and name the first model's with first=..."
    try:
        with Journal.open(run, readonly=True) as journal:
            recorded = {row.sha256 for row in journal.attempts()}
    except JournalError as error:
        raise InputError.of(f"{path} cannot be held against what its run measured. {error}", f"Or {away}") from error
    for file, what in ((path, "an artifact"), (base, "the first model's artifact")):
        if file is not None and file_hash(file) not in recorded:
            raise InputError.of(
                f"{file} is not the file that run {run.name} measured as {what}.",
                f"Bring it back from a copy; or {away}",
            )


_KEPT = ("best", "attempt")
"""The folders of a run that hold what it measured begin with one of these."""


def _first_beside(path: Path) -> Path | None:
    """The first model's artifact of the run that a path lies in."""
    for parent in path.resolve().parents[:4]:
        if (found := parent / FIRST / path.name).is_file():
            return found
    return None
