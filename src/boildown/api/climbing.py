"""compress(), quote() and resume()."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

import boildown
from boildown import files
from boildown.api.asked import Ladder, Read, conditions, plain_deployment, read, started
from boildown.api.run import Run
from boildown.api.sitting import Callback, Desk, Sitting, desk, sitting
from boildown.domain.candidate import Candidate
from boildown.domain.deployment import Deployment, Latency
from boildown.domain.outcome import State
from boildown.domain.task import Task
from boildown.domain.verdict import Verdict
from boildown.engine.attempt import PROBE, Attempt
from boildown.engine.brought import is_brought, named_model
from boildown.engine.budget import Budget
from boildown.engine.job import Factories, Goal
from boildown.engine.maker import TRAINING
from boildown.engine.prepare import Prepared, prepare
from boildown.engine.quote import Quote
from boildown.engine.students import OBJECT, Named, missing, named
from boildown.errors import BoildownError, BudgetError, Cancelled, InputError, Mistake, contained
from boildown.journal.journal import Journal, readable
from boildown.journal.runs import HIDDEN, resolve_run, run_id
from boildown.measuring.environment import environment
from boildown.methods.base import INITIAL
from boildown.methods.registry import installed
from boildown.surgery.onnx_file import file_of, path_of
from boildown.surgery.store import load_candidate
from boildown.tasks.watch import watching

_WRITTEN = ("attempts", "best", "exports", "forecasts", TRAINING)
"""The folders in that of a run that are written while it works."""

_QUOTE, _MOST_QUOTE = 0.25, 120.0
"""The share of the budget that saying what it would be spent on may take, and the most seconds."""


@contained()
@watching()
def compress(
    model: nn.Module | str | Path,
    task: Task | str,
    target: Sequence[str] | str,
    *,
    goal: Goal = "first",
    ladder: Ladder = "auto",
    budget: str | float | None = None,
    confidence: float | None = None,
    deployment: Deployment | None = None,
    runtime: str | Sequence[str] | None = None,
    hardware: str | None = None,
    latency: Latency | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    students: Sequence[nn.Module | str] = (),
    initial_student: nn.Module | str | None = None,
    factory: str | None = None,
    weights: str | Path | None = None,
    expected: Mapping[str, float] | None = None,
    runs: str | Path = "runs",
    seed: int = 0,
    fresh: bool = False,
    samples: bool = True,
    verbose: bool = True,
    callbacks: Sequence[Callback] = (),
    command: str | None = None,
) -> Run:
    """Boil a trained model down until it meets the target.

    model, task: the objects, or `"module:callable"` factories that return them; the model may be an ONNX file, by its
        name, which is attempt 0 as it is: ratios refer to it. Where both are files or
        factories (for a model object: named by `factory`), attempts run in a child process with a
        hard deadline, and `resume` needs neither.
    target: conditions such as `"accuracy drop <= 1 pp"`, `"size <= 0.25x"`, `"latency <= 2 ms"`.
    goal: `first` stops at the first met verdict; `smallest`, `fastest` and `best` use the budget.
    ladder: `"auto"`, a ready ladder's name, or rungs in order.
    budget: wall time such as `"30 min"`; None for no limit.
    students: networks of your own that methods which train may make small models of, as modules or
        `"module:callable"` factories; by default they propose a twin of the first model.
    initial_student: what rounds of pruning and distillation begin with; by default the first model's copy.
    confidence: conditions must be proven at this one-sided level (0.5..1), not only observed.
    weights: a file to load into the factory's model (into a copy of a model object).
    deployment: where and how the model will run: the runtime, or several that are rivals ("auto": all that are
        installed), the hardware that it is made for, batch and threads that time and memory are measured with.
        runtime, hardware, latency: parts of one, in its place.
    expected: scores the first model must show, to within one percentage point.
    fresh: do not reuse candidates and measurements of earlier runs in `runs`.
    samples: lay a few raw samples of the validation data beside what is handed over, with the answers of the run.
    verbose: tell on standard error what is done as it is done; False says nothing.
    callbacks: called with an Event as things happen.
    command: what repeats the run, for its manifest; by default this call.

    Raises InputError with every mistake at once, before a run folder exists.
    """
    kept = Path(runs).absolute()  # code of the user's may change the working directory
    first: nn.Module | str = named_model(model)
    names, given = named(students, initial_student)
    where, wrong = plain_deployment(deployment, runtime, hardware, latency)
    asked = _asked(
        target, ladder, expected, _factories(first, task, factory, weights, names),
        goal=goal, budget=budget, confidence=confidence, deployment=where, device=device,
        batch_size=batch_size, seed=seed, fresh=fresh, samples=samples,
    )  # fmt: skip
    with (
        desk(callbacks, started(budget), verbose=verbose) as at,
        _begun(at, asked, (first, task, given, wrong), kept, command) as (sat, found, prepared, facts),
    ):
        new = sat.bench.folder
        final = new.with_name(new.name.removeprefix(HIDDEN))
        Journal.create(new, {**facts, "run": final.name}).close()
        new.rename(final)  # the run begins whole: a process killed before has left a hidden folder, and no run
        sat.bench.move(final)
        with Journal.open(final) as journal:
            if prepared is None:
                return sat.run_out(journal, found, [])
            return sat.climb(journal, found, prepared, asked["ladder"], [], fresh)


@contained()
@watching()
def quote(
    model: nn.Module | str | Path,
    task: Task | str,
    target: Sequence[str] | str,
    *,
    ladder: Ladder = "auto",
    budget: str | float | None = None,
    deployment: Deployment | None = None,
    runtime: str | Sequence[str] | None = None,
    hardware: str | None = None,
    latency: Latency | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    students: Sequence[nn.Module | str] = (),
    initial_student: nn.Module | str | None = None,
    factory: str | None = None,
    weights: str | Path | None = None,
    expected: Mapping[str, float] | None = None,
    runs: str | Path = "runs",
    seed: int = 0,
    verbose: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Quote:
    """What `compress` would climb: the rungs, what sketches of them cost, and the minutes they would take.

    It takes a quarter of the budget, two minutes at most, and says what it had no time for. The arguments are those of
    `compress`; nothing is kept in `runs`. Raises InputError with every mistake at once.
    """
    kept = Path(runs).absolute()  # code of the user's may change the working directory
    first: nn.Module | str = named_model(model)
    names, given = named(students, initial_student)
    where, wrong = plain_deployment(deployment, runtime, hardware, latency)
    asked = _asked(
        target, ladder, expected, _factories(first, task, factory, weights, names),
        goal="first", budget=budget, confidence=None, deployment=where, device=device,
        batch_size=batch_size, seed=seed, fresh=True,
    )  # fmt: skip
    with (
        desk(callbacks, _for_quote(started(budget)), verbose=verbose) as at,
        _begun(at, asked, (first, task, given, wrong), kept, None) as (sat, found, prepared, facts),
        Journal.create(sat.bench.folder, facts) as journal,
    ):
        return sat.quote(journal, found, prepared, asked["ladder"])


def _for_quote(budget: Budget) -> Budget:
    """What may be spent on saying what a budget would be spent on."""
    return Budget(_MOST_QUOTE if budget.seconds is None else min(_MOST_QUOTE, budget.seconds * _QUOTE))


@contextlib.contextmanager
def _begun(
    at: Desk,
    asked: Mapping[str, Any],
    given: tuple[nn.Module | str, Task | str, Mapping[str, nn.Module], Sequence[Mistake]],
    runs: Path,
    command: str | None,
) -> Iterator[tuple[Sitting, Read, Prepared | None, dict[str, Any]]]:
    """A sitting with all that is checked before a run begins; its folder is hidden, and gone unless it is renamed.

    What is prepared is None where the budget ended before.
    """
    with _nothing_kept():
        at.progress("read the model and the data", 0, None)
        found = read(asked, *given, at.budget)
    ours = not runs.exists()
    folder = _new_folder(runs)
    at.patience.run = folder.name.removeprefix(HIDDEN)
    try:
        with _nothing_kept(), sitting(found, folder, at) as sat:
            prepared, known = None, dict[str, str]()
            with contextlib.suppress(BudgetError):
                if not found.late:
                    ready = prepare(found.first, found.job, sat.bench)
                    known, prepared = sat.identity(found), ready
            for notice in prepared.notices if prepared is not None else ():
                at.emit("notice", {"text": notice})
            yield sat, found, prepared, {**_facts(asked, found, prepared, command), **known}
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            if ours:
                with contextlib.suppress(OSError):
                    runs.rmdir()


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Whoever stops what is done inside is told that no run has begun."""
    try:
        yield
    except Cancelled:
        raise Cancelled("Stopped before the run began; nothing was kept.") from None


@contained()
@watching()
def resume(
    run: str | Path,
    model: nn.Module | str | Path | None = None,
    task: Task | None = None,
    *,
    students: Sequence[nn.Module | str] = (),
    initial_student: nn.Module | str | None = None,
    budget: str | float | None = None,
    runs: str | Path = "runs",
    verbose: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Go on with a run where it stood; nothing finished is done again.

    run: a path, an id, a unique prefix or `latest`. The model (a file by its name, where it lies elsewhere now) and
    the task are needed again unless
    the run has factories for both, and so are students that were modules. A given
    budget replaces the run's, and rungs that ran out of time are climbed once more. Raises InputError if something
    is missing, or if the model, the data or the students are not the ones the run began with.
    """
    folder = resolve_run(Path(runs), str(run))
    with Journal.open(folder) as journal:
        files.survey(folder, _WRITTEN)
        facts = journal.facts
        with readable(folder):
            asked = dict(facts["asked"])
            clock = started(asked["budget"] if budget is None else budget)
        worked = sum(row.timings.get("total", 0.0) for row in journal.attempts())
        clock.used = max(worked, journal.ending.seconds if journal.ending else 0.0)
        with desk(callbacks, clock, verbose=verbose) as at:
            at.patience.run = folder.name
            at.progress("read the model and the data", 0, None)
            found = reread(facts, folder, model, task, students, initial_student, budget=budget, clock=clock)
            with sitting(found, folder, at) as sat:
                return _resumed(sat, journal, found, asked, again=budget is not None)


def _resumed(sat: Sitting, journal: Journal, found: Read, asked: Mapping[str, Any], *, again: bool) -> Run:
    """Go on with a run; with what there is where the budget ends before the first model is ready again."""
    folder, facts, prepared = journal.folder, journal.facts, None
    with contextlib.suppress(BudgetError):
        if not found.late:
            if "first" in facts:
                sat.check_identity(found, facts, folder.name)
            attempts = _attempts(journal, folder, found.first, found.job.students)
            with readable(folder):
                measured = (attempts[0].artifact, dict(facts["model"])) if attempts else ()
            ready = prepare(found.first, found.job, sat.bench, *measured)
            if "first" not in facts:  # no sitting had the time to find out
                journal.update_facts({**_facts(asked, found, ready, facts["command"]), **sat.identity(found)})
            prepared = ready
    if prepared is None:
        return sat.run_out(journal, found, _attempts(journal, folder, found.first, found.job.students))
    return sat.climb(journal, found, prepared, asked["ladder"], attempts, asked["fresh"], again=again)


def reread(
    facts: Mapping[str, Any],
    folder: Path,
    model: nn.Module | str | Path | None,
    task: Task | str | None,
    students: Sequence[nn.Module | str],
    initial_student: nn.Module | str | None,
    *,
    budget: str | float | None = None,
    call: str = "resume",
    clock: Budget | None = None,
) -> Read:
    """The job of a run that is there, from its facts and what the user gives again; `clock` as for `read`.

    Raises InputError naming what must be given, in a call of `boildown.` and this name.
    """
    with readable(folder):
        asked, factories = dict(facts["asked"]), dict(facts["asked"]["factories"])
        # Made for what was meant when it began, whatever machine goes on with it.
        meant = {name: facts["deployment"][name] for name in ("runtime", "hardware")}
        asked["deployment"] = {**facts["asked"]["deployment"], **meant}
        given: dict[str, Any] = {"model": named_model(model), "task": task}
        given = {name: factories[name] if value is None else value for name, value in given.items()}
        if is_brought(given["model"]):  # it may lie elsewhere now
            asked["factories"] = {**factories, "model": given["model"]}
        began = tuple((str(name), str(factory)) for name, factory in factories.get("students", ()))
        sys.path += [entry for entry in map(str, factories["path"]) if entry not in sys.path]
    if budget is not None:
        asked["budget"] = budget
    modules = named(students, initial_student)[1]
    if needed := [*(name for name, value in given.items() if value is None), *missing(began, modules)]:
        raise InputError.of(
            f"Run {folder.name} has no factory for its {' and '.join(needed)}.",
            f"Give {' and '.join(needed)} again: "
            f"boildown.{call}({str(folder)!r}, {', '.join(f'{name}=...' for name in needed)}).",
        )
    return read(asked, given["model"], given["task"], modules, clock=clock)


def _asked(
    target: Sequence[str] | str, ladder: Ladder, expected: Mapping[str, float] | None,
    factories: Mapping[str, Any], **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """What was asked for, as plain data that the journal keeps; `settings` are plain already."""
    return {
        **settings,
        "target": conditions(target),
        "ladder": _plain(ladder),
        "expected": dict(expected) if isinstance(expected, Mapping) else expected or {},
        "factories": factories,
    }


def _factories(
    model: nn.Module | str, task: Task | str, factory: str | None, weights: str | Path | None, students: Named
) -> dict[str, Any]:
    """Where children find everything, as plain data."""
    return asdict(
        Factories(
            model if isinstance(model, str) else factory,
            task if isinstance(task, str) else None,
            None if weights is None else str(files.real(Path(weights))),
            tuple(str(Path(entry).absolute()) for entry in sys.path),
            students,
        )
    )


def _plain(ladder: Any) -> Any:
    """The ladder as plain data; what is none is left for the rungs' reader to refuse."""
    if isinstance(ladder, str):
        return ladder
    rungs = ladder if isinstance(ladder, list | tuple) else [ladder]
    return [dict(rung) if isinstance(rung, Mapping) else str(rung) for rung in rungs]


def _new_folder(runs: Path) -> Path:
    folder = runs / f"{HIDDEN}{run_id()}"
    try:
        folder.mkdir(parents=True)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError.of(f"The folder {runs} cannot be written: {said}.", "Give another with runs=...") from None
    return folder


def _facts(asked: Mapping[str, Any], found: Read, prepared: Prepared | None, command: str | None) -> dict[str, Any]:
    """What the journal keeps for the whole run."""
    job, splits = found.job, found.job.splits
    facts, notices = ({}, ()) if prepared is None else (prepared.facts, prepared.notices)
    file = file_of(found.first.model)
    sizes = {
        name: None if part is None else len(part)
        for name, part in (
            ("train", splits.train), ("calibration", splits.calibration), ("search", splits.search),
            ("verdict", splits.verdict),
        )
    }  # fmt: skip
    for name, other in splits.others.items():
        sizes |= {f"search[{name}]": len(other.search)} if other.search_labelled else {}
        sizes[f"verdict[{name}]"] = len(other.verdict)
    return {
        "boildown": boildown.__version__,
        "asked": asked,
        "target": [condition.text for condition in job.target.conditions],
        "goal": job.goal,
        "confidence": job.confidence,
        "seed": job.seed,
        "deployment": job.deployment.to_json(),
        "budget": asked["budget"],
        "ladder": asked["ladder"],
        "metrics": {
            m.name: {"unit": m.unit, "higher_is_better": m.higher_is_better, "range": list(m.range)}
            for m in (*job.metrics, *job.evaluated)
        },
        "data": {**sizes, "search labelled": splits.search_labelled},
        "model": {
            "class": type(found.first.model).__name__,
            "parameters": sum(p.numel() for p in found.first.model.parameters()),
            **({} if file is None else {"file": {"name": file.path.name, "sha256": file.sha256}}),
            **facts,
        },
        "classes": getattr(job.task, "classes", None),
        "task": type(job.task).__name__,
        "notices": [*found.notices, *notices],
        "environment": environment(),
        "in child": job.factories.complete,
        "command": command or _call(asked),
    }


def _call(asked: Mapping[str, Any]) -> str:
    """The call of `compress` that repeats a run."""
    usual: dict[str, Any] = {
        "goal": "first", "ladder": "auto", "budget": None, "confidence": None,
        "device": "auto", "batch_size": None, "seed": 0, "expected": {}, "fresh": False,
        "samples": True,
    }  # fmt: skip
    factories = asked["factories"]
    brought = factories["model"]
    known = {"model": str(path_of(brought)) if is_brought(brought) else brought, "task": factories["task"]}
    model, task = (repr(factory) if factory else name for name, factory in known.items())
    changed = {name: asked[name] for name, value in usual.items() if asked.get(name, value) != value}
    options = [f"target={asked['target']!r}", *(f"{name}={value!r}" for name, value in changed.items())]
    where, usually = asked["deployment"], Deployment().to_json()
    if said := ", ".join(f"{name}={value!r}" for name, value in where.items() if value != usually[name]):
        options.append(f"deployment=boildown.Deployment({said})")
    if students := dict(factories["students"]):
        initial = students.pop(INITIAL, None)
        given = ", ".join(name if factory == OBJECT else repr(factory) for name, factory in students.items())
        options += [f"students=[{given}]"] if students else []
        options += [f"initial_student={'initial' if initial == OBJECT else repr(initial)}"] if initial else []
    if factories["weights"]:
        options.append(f"weights={factories['weights']!r}")
    return f"boildown.compress({', '.join([model, task, *options])})"


def _attempts(
    journal: Journal, folder: Path, first: Candidate, students: Mapping[str, nn.Module] = MappingProxyType({})
) -> list[Attempt]:
    """The finished attempts of earlier sittings, up to the first that was cut off."""
    installed()  # methods bring the edits that their candidates are rebuilt with
    attempts: list[Attempt] = []
    probes = {record.attempt: dict(record.data) for record in journal.records(PROBE)}
    for row in journal.attempts():
        if row.state is State.RUNNING or row.number != len(attempts):
            break
        artifact = row.artifact
        attempt = Attempt(
            row.number, row.rung, row.reason,
            artifact.folder if artifact is not None else folder,
            key=row.candidate_key or "", parent=row.parent, state=row.state, artifact=artifact,
            seconds=dict(row.timings), notes=list(row.notes), quote=dict(row.quote),
            probe=probes.get(row.number, {}),
        )  # fmt: skip
        if row.verdict is not None:
            with readable(folder):
                attempt.verdict = Verdict.from_json(row.verdict)
            attempt.measurements = dict(attempt.verdict.measurements)
        if attempt.verdict is None:
            attempt.failure = row.sentence
        elif artifact is not None:
            if changed := journal.changed(row):
                what = "artifact" if changed[0] in artifact.paths else "candidate"
                raise BoildownError(
                    f"The {what} of attempt {row.number} ({changed[0]}) is not the one that was measured. "
                    "Bring it back from a copy, or start a new run."
                )
            try:
                attempt.candidate = load_candidate(artifact.folder, first, students)
            except (OSError, ValueError) as error:
                raise BoildownError(
                    f"The candidate of attempt {row.number} cannot be read: {error}. "
                    "Bring it back from a copy, or start a new run."
                ) from error
        attempts.append(attempt)
    return attempts
