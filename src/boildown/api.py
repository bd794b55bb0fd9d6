"""compress(), resume(), measure(): the one place that picks real parts and defaults."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import boildown
from boildown.domain.candidate import Candidate
from boildown.domain.grammar import parse_target
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import Outcome, State
from boildown.domain.target import Target
from boildown.domain.task import Task
from boildown.domain.verdict import Verdict, judge, relaxations
from boildown.engine.attempt import Attempt, Climber, call_factory
from boildown.engine.bench import Bench, file_hash
from boildown.engine.budget import Budget, parse_time
from boildown.engine.climb import Climbed, climb
from boildown.engine.deliver import deliver, write_manifest
from boildown.engine.job import GOALS, Factories, Goal, Job, Latency
from boildown.engine.ladder import fixed_rungs, ladder
from boildown.engine.prepare import FIRST, prepare, unknown_expectations
from boildown.errors import BoildownError, ConfigError, InputError, ModelError
from boildown.execution.interrupt import Stop
from boildown.execution.quiet import computing
from boildown.journal.journal import Journal
from boildown.journal.runs import resolve_run, run_id
from boildown.measure.environment import environment
from boildown.report import facts as report_facts
from boildown.report import write as write_report
from boildown.report.live import Live
from boildown.report.text import summary
from boildown.runtimes import get
from boildown.surgery.graph import capture
from boildown.surgery.simulate import simulate
from boildown.surgery.store import load_candidate
from boildown.surgery.weights import load, ready
from boildown.tasks.checks import overlap
from boildown.tasks.splits import Splits, resolve

HARDWARE = ("this machine", "x86-any", "arm64")
Ladder = str | Sequence[str | Mapping[str, Any]]


@dataclass(frozen=True)
class Event:
    """What a callback receives: `kind` is attempt, step, verdict, notice or outcome."""

    kind: str
    data: Mapping[str, Any]


Callback = Callable[[Event], None]

__all__ = ["Event", "Latency", "Result", "Run", "compress", "measure", "resume", "show", "take"]


class Result:
    """One attempt of a run, as its user sees it."""

    def __init__(self, attempt: Attempt, run: Run) -> None:
        self._attempt, self._run = attempt, run

    @property
    def number(self) -> int:
        """0 is the first model itself."""
        return self._attempt.number

    @property
    def rung(self) -> str:
        """The methods and settings."""
        return self._attempt.rung

    @property
    def state(self) -> State:
        """Met, missed, undecided, skipped or failed."""
        return self._attempt.state

    @property
    def sentence(self) -> str:
        """How it stands, or why it was skipped or failed, in words."""
        return self._attempt.sentence

    @property
    def artifact(self) -> Path | None:
        """The exported file; the best attempt's lies in `best/`."""
        if self._attempt is self._run.best_attempt and (found := list((self._run.path / "best").glob("model.*"))):
            return found[0]
        return self._attempt.artifact

    @property
    def verdict(self) -> Verdict | None:
        """Condition by condition; None if it was skipped or failed."""
        return self._attempt.verdict

    @property
    def measurements(self) -> Mapping[str, Measurement]:
        """By metric name."""
        return self._attempt.measurements

    def module(self) -> nn.Module:
        """The candidate as a PyTorch module, rebuilt from the first model, edits, plan and safetensors.

        A quantized candidate comes as its simulation. Raises InputError for one made on the exported
        file, which has no PyTorch form.
        """
        candidate = load_candidate(self._attempt.folder, self._run.first)
        if candidate.rewrite is not None:
            raise InputError.of(
                f"Attempt {self.number} ({self.rung}) was made on the exported file and has no PyTorch module.",
                f"Use its artifact: {self.artifact}.",
            )
        if candidate.plan is None:
            return cast(nn.Module, candidate.model)
        return simulate(capture(candidate.model, *self._run.job.task.example()), candidate.plan)

    def export(self, folder: str | Path) -> Path:
        """Write a deployable folder for this attempt, as `best/` is; returns the artifact's path."""
        return take(self._run.path, self.number, folder)

    def __repr__(self) -> str:
        return f"<attempt {self.number}: {self.rung}, {self.state.value}>"


class Run:
    """One `compress` from start to outcome. `print(run)` gives the table a person wants."""

    def __init__(
        self,
        path: Path,
        job: Job,
        first: Candidate,
        outcome: Outcome,
        attempts: Sequence[Attempt],
        best: Attempt | None,
    ) -> None:
        self.path, self.job, self.first, self.outcome = path, job, first, outcome
        self.best_attempt = best
        self._attempts = list(attempts)

    @property
    def id(self) -> str:
        """UTC time and four hex digits."""
        return self.path.name

    @property
    def best(self) -> Result | None:
        """The attempt to deploy, or the nearest one; None only if the run was cancelled before any."""
        return None if self.best_attempt is None else Result(self.best_attempt, self)

    @property
    def candidates(self) -> list[Result]:
        """Every attempt, the first model included."""
        return [Result(attempt, self) for attempt in self._attempts]

    def report(self) -> Path:
        """Path of one self-contained HTML file, written anew."""
        return write_report(self.path)

    def to_json(self) -> dict[str, Any]:
        """The run as plain data, as `--json` prints it."""
        return show(self.path)

    def __str__(self) -> str:
        with Journal.open(self.path, readonly=True) as journal:
            return summary(report_facts(journal))

    def __repr__(self) -> str:
        return f"<run {self.id}: {self.outcome.name}>"


def compress(
    model: nn.Module | str,
    task: Task | str,
    target: Sequence[str] | str,
    *,
    goal: Goal = "first",
    ladder: Ladder = "auto",
    budget: str | float | None = None,
    confidence: float | None = None,
    latency: Latency = Latency(),  # noqa: B008 - frozen
    runtime: str = "onnxruntime",
    hardware: str = "this machine",
    device: str = "auto",
    batch_size: int | None = None,
    factory: str | None = None,
    weights: str | Path | None = None,
    expected: Mapping[str, float] | None = None,
    runs: str | Path = "runs",
    seed: int = 0,
    fresh: bool = False,
    callbacks: Sequence[Callback] = (),
    command: str | None = None,
) -> Run:
    """Boil a trained model down until it meets the target.

    model, task: the objects, or `"module:callable"` factories that return them. Where both are
        factories (for a model object: named by `factory`), attempts run in a child process with a
        hard deadline, and `resume` needs neither.
    target: conditions such as `"accuracy drop <= 1 pp"`, `"size <= 0.25x"`, `"latency <= 2 ms"`.
    goal: `first` stops at the first met verdict; `smallest`, `fastest` and `best` use the budget.
    ladder: `"auto"`, a ready ladder's name, or rungs in order.
    budget: wall time such as `"30 min"`; None for no limit.
    confidence: conditions must be proven at this one-sided level (0.5..1), not only observed.
    weights: a file to load into the factory's model.
    expected: scores the first model must show, to within one percentage point.
    fresh: do not reuse candidates and measurements of earlier runs in `runs`.
    callbacks: called with an Event as things happen.

    Raises InputError with every mistake at once, before a run folder exists.
    """
    asked: dict[str, Any] = {
        "target": [target] if isinstance(target, str) else list(target),
        "goal": goal,
        "ladder": ladder if isinstance(ladder, str) else [r if isinstance(r, str) else dict(r) for r in ladder],
        "budget": budget,
        "confidence": confidence,
        "latency": asdict(latency),
        "runtime": runtime,
        "hardware": hardware,
        "device": device,
        "batch_size": batch_size,
        "seed": seed,
        "expected": dict(expected or {}),
        "fresh": fresh,
        "factories": asdict(
            Factories(
                model if isinstance(model, str) else factory,
                task if isinstance(task, str) else None,
                None if weights is None else str(Path(weights).resolve()),
                tuple(sys.path),
            )
        ),
    }
    job, first, budgeted, notices = _read(asked, model, task)
    folder = _new_folder(Path(runs))
    try:
        with _sitting(job, folder, callbacks) as sitting:
            for notice in notices:
                sitting.emit("notice", {"text": notice})
            prepared = prepare(first, job, sitting.bench)
            final = folder.with_name(folder.name.removeprefix(".new-"))
            folder.rename(final)
            folder = final
            sitting.bench.move(final)
            facts = _facts(asked, job, first, notices, prepared.facts, command, final)
            with Journal.create(final, facts) as journal:
                return sitting.climb(journal, first, prepared, budgeted, asked["ladder"], [], fresh)
    finally:
        if folder.name.startswith(".new-"):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


def resume(
    run: str | Path,
    model: nn.Module | None = None,
    task: Task | None = None,
    *,
    budget: str | float | None = None,
    runs: str | Path = "runs",
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Go on with a run where it stood; nothing finished is done again.

    run: a path, an id, a unique prefix or `latest`. The model and the task are needed again unless
    the run has factories for both. A given budget replaces the run's. Raises InputError if something
    is missing, or if the model or the data are not the ones the run began with.
    """
    folder = resolve_run(Path(runs), str(run))
    with Journal.open(folder) as journal:
        facts = journal.facts
        asked = dict(facts["asked"])
        if budget is not None:
            asked["budget"] = budget
        for entry in asked["factories"]["path"]:
            if entry not in sys.path:
                sys.path.append(entry)
        given_model, given_task = model or asked["factories"]["model"], task or asked["factories"]["task"]
        missing = [name for name, value in (("model", given_model), ("task", given_task)) if value is None]
        if missing:
            raise InputError.of(
                f"Run {folder.name} has no factory for its {' and '.join(missing)}.",
                f"Give {' and '.join(missing)} again: boildown.resume({folder.name!r}, model=..., task=...).",
            )
        job, first, budgeted, notices = _read(asked, given_model, given_task)
        used = (
            journal.ending.seconds if journal.ending else sum(a.timings.get("total", 0.0) for a in journal.attempts())
        )
        budgeted.used = used
        with _sitting(job, folder, callbacks) as sitting:
            for notice in notices:
                sitting.emit("notice", {"text": notice})
            prepared = prepare(first, job, sitting.bench)
            attempts = _attempts(journal, folder, first)
            return sitting.climb(
                journal, first, prepared, budgeted, asked["ladder"], attempts, asked["fresh"], expect=facts
            )


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
) -> Verdict:
    """Measure an artifact on the task's data and hold it against a target.

    Quality is scored on all of `test`, or of `validation` without it. `first` is the first model's
    artifact, which drops and ratios are relative to; for an artifact inside a run folder it is found
    by itself. Raises InputError where a condition needs what is not there.
    """
    path = Path(path)
    task = call_factory(task) if isinstance(task, str) else task
    mistakes = _Mistakes()
    wanted = Target(())
    with mistakes:
        wanted = parse_target([target] if isinstance(target, str) else list(target), task.metrics)
    with mistakes:
        if not path.is_file():
            raise InputError.of(f"There is no artifact {path}.", "Check the path.")
    base = Path(first) if first is not None else _first_beside(path)
    with mistakes:
        relative = [c.text for c in wanted.conditions if c.form != "value"]
        if relative and (base is None or not base.is_file()):
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
    mistakes.raise_all()
    data = task.test or task.validation
    job = Job(
        task, Splits(None, data, data, False, data), wanted, confidence=confidence, latency=latency,
        runtime=runtime, batch_size=batch_size or _BATCH, seed=seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch, _sitting(job, Path(scratch), ()) as sitting:
        bench = sitting.bench
        bench.first = base or path
        sha256 = file_hash(path)
        found = {"size": bench.size(path)}
        found |= {m.metric: m for m in bench.quality(None, path, sha256, "verdict", first=None)}
        if job.asks("latency"):
            found["latency"] = bench.latency(path, sha256)
        if job.asks("memory"):
            found["memory"] = bench.memory(path, sha256)
        if base is None:
            found = {name: replace(m, first=None, drop=None, ratio=None) for name, m in found.items()}
        return judge(wanted, found, confidence, bench.machine)


def take(run: str | Path, attempt: int, to: str | Path | None = None, *, runs: str | Path = "runs") -> Path:
    """Write a deployable folder for any attempt of a run; returns the artifact's path.

    The folder is `to`, or `attempt-N` in the run folder. Raises InputError for an attempt without
    an artifact.
    """
    folder = resolve_run(Path(runs), str(run))
    with Journal.open(folder, readonly=True) as journal:
        rows = {row.number: row for row in journal.attempts()}
        facts = journal.facts
        row = rows.get(attempt)
        artifact = journal.artifact(row) if row is not None else None
    if artifact is None or not artifact.is_file():
        have = ", ".join(str(number) for number, row in rows.items() if row.artifact)
        raise InputError.of(f"Attempt {attempt} of run {folder.name} has no artifact.", f"These have one: {have}.")
    target = Path(to) if to is not None else folder / f"attempt-{attempt}"
    deliver(artifact, facts["asked"]["runtime"], folder / FIRST, target, facts.get("classes"))
    return target / f"model{artifact.suffix}"


def show(folder: Path) -> dict[str, Any]:
    """A run as plain data, read from its journal."""
    with Journal.open(folder, readonly=True) as journal:
        ending, facts = journal.ending, journal.facts
        best = folder / "best"
        return {
            "run": folder.name,
            "path": str(folder),
            "outcome": ending.outcome.name if ending else None,
            "sentence": ending.sentence if ending else "The run has not ended.",
            "seconds": ending.seconds if ending else None,
            "best": ending.best_attempt if ending else None,
            "artifact": next((str(path) for path in best.glob("model.*")), None),
            "report": str(folder / "report.html"),
            "target": facts["target"],
            "attempts": [
                {
                    "number": row.number,
                    "rung": row.rung,
                    "state": row.state.value,
                    "reason": row.reason,
                    "sentence": row.sentence,
                    "parent": row.parent,
                    "key": row.candidate_key,
                    "artifact": row.artifact,
                    "sha256": row.sha256,
                    "seconds": row.timings,
                    "notes": list(row.notes),
                    "verdict": row.verdict,
                }
                for row in journal.attempts()
            ],
        }


# -- parts --------------------------------------------------------------------------------------------

_BATCH = 64
_OVERLAP_ITEMS = 20_000


class _Mistakes:
    """Collects input errors, so that all of them are told at once."""

    def __init__(self) -> None:
        self._errors: list[InputError] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, InputError):
            self._errors.append(error)
            return True
        return False

    def raise_all(self) -> None:
        if self._errors:
            raise InputError.merge(self._errors) if len(self._errors) > 1 else self._errors[0]


class _Sitting:
    """One process working on a run: the bench, the events, the user's wish to stop."""

    def __init__(self, job: Job, folder: Path, callbacks: Sequence[Callback], live: Live, stop: Stop) -> None:
        self.job, self.folder, self.stop = job, folder, stop
        self._callbacks, self._live = callbacks, live
        self.bench = Bench(
            job, folder, check=stop.check,
            progress=lambda what, done, total: self.emit("step", {"what": what, "done": done, "total": total}),
        )  # fmt: skip

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell the live view and the callbacks."""
        self._live(kind, data)
        for callback in self._callbacks:
            callback(Event(kind, data))

    def climb(
        self, journal: Journal, first: Candidate, prepared: Any, budget: Budget, given: Ladder,
        attempts: list[Attempt], fresh: bool, expect: Mapping[str, Any] | None = None,
    ) -> Run:  # fmt: skip
        """Climb, then hand over: best/, manifest, report."""
        folder = self.bench.folder
        climber = Climber(
            self.job, self.bench, journal, budget, folder=folder, runs=folder.parent, first=first,
            prepared=prepared, stop=self.stop.check, emit=self.emit, fresh=fresh,
        )  # fmt: skip
        try:
            keys = {"first": climber.first_key, "verdict data": self.bench.fingerprint("verdict")}
            for name, key in keys.items():
                if expect is not None and expect.get(name, key) != key:
                    what = "model" if name == "first" else "data to judge on"
                    raise InputError.of(
                        f"The {what} is not what run {folder.name} began with.",
                        "Give the same, or start a new run.",
                    )
            journal.update_facts(keys)
            climbed = climb(climber, ladder(given, self.job), attempts)
            self._hand_over(journal, climbed, budget, attempts)
        finally:
            climber.close()
        self.emit("outcome", {"outcome": climbed.outcome})
        return Run(folder, self.job, first, climbed.outcome, attempts, climbed.best)

    def _hand_over(self, journal: Journal, climbed: Climbed, budget: Budget, attempts: Sequence[Attempt]) -> None:
        folder, best = self.bench.folder, climbed.best
        if best is not None and best.artifact is not None:
            deliver(
                best.artifact,
                self.job.runtime,
                folder / FIRST,
                folder / "best",
                getattr(self.job.task, "classes", None),
            )
        judged = [(f"attempt {a.number} ({a.rung})", a.verdict) for a in attempts if a.number and a.verdict is not None]
        eased = [] if climbed.outcome is Outcome.TARGET_MET else relaxations(self.job.target, judged)
        sentence = climbed.outcome.sentence + (f" {eased[0]}." if eased else "")
        journal.update_facts({"seconds": {**self.bench.seconds, "all": budget.elapsed}})
        journal.record(None, "sitting", {"seconds": dict(self.bench.seconds), "all": budget.elapsed})
        journal.finish(climbed.outcome, None if best is None else best.number, sentence, budget.elapsed)
        facts = journal.facts
        write_manifest(
            folder,
            {
                **show(folder),
                "boildown": boildown.__version__,
                "environment": environment(),
                "asked": facts["asked"],
                "first": facts["first"],
                "data": facts["data"],
                "command": facts["command"],
                "files": {str(p.relative_to(folder)): file_hash(p) for p in sorted((folder / "best").glob("*"))},
            },
        )
        write_report(folder)


@contextlib.contextmanager
def _sitting(job: Job, folder: Path, callbacks: Sequence[Callback]) -> Iterator[_Sitting]:
    with Live() as live, Stop() as stop, computing(stop.check):
        sitting = _Sitting(job, folder, callbacks, live, stop)
        try:
            yield sitting
        finally:
            sitting.bench.close()


def _read(
    asked: Mapping[str, Any], model: nn.Module | str, task: Task | str
) -> tuple[Job, Candidate, Budget, tuple[str, ...]]:
    """Everything the user gave, read and checked; InputError with all mistakes."""
    mistakes = _Mistakes()
    factories = Factories(**{**asked["factories"], "path": tuple(asked["factories"]["path"])})
    notices: list[str] = []
    budget, target, splits, first = Budget(), Target(()), None, None
    with mistakes:
        if asked["budget"] is not None:
            budget = Budget(parse_time(asked["budget"]))
    with mistakes:
        _check_choices(asked)
    with mistakes:
        get(asked["runtime"])
    with mistakes:
        if asked["ladder"] != "auto":
            fixed_rungs(asked["ladder"])
    with mistakes:
        first, found = _first(model, factories.weights)
        notices += found
    with mistakes:
        task = call_factory(task) if isinstance(task, str) else task
        if found_in_data := task.check():
            raise InputError(*found_in_data)
        splits = resolve(task, asked["seed"])
        notices += [*splits.notes, *_overlap(task)]
    if not isinstance(task, str):
        with mistakes:
            target = parse_target(asked["target"], task.metrics)
        with mistakes:
            unknown_expectations(asked["expected"], frozenset(metric.name for metric in task.metrics))
    mistakes.raise_all()
    assert splits is not None
    assert first is not None
    assert not isinstance(task, str)
    job = Job(
        task, splits, target, goal=asked["goal"], confidence=asked["confidence"], latency=Latency(**asked["latency"]),
        runtime=asked["runtime"], hardware=asked["hardware"], device=_device(asked["device"]),
        batch_size=asked["batch_size"] or getattr(splits.verdict, "batch_size", None) or _BATCH,
        seed=asked["seed"], factories=factories, expected=asked["expected"],
    )  # fmt: skip
    return job, Candidate(first), budget, tuple(notices)


def _check_choices(asked: Mapping[str, Any]) -> None:
    """Goal, hardware, confidence, latency, batch size."""
    errors = []
    if asked["goal"] not in GOALS:
        errors.append(InputError.of(f"There is no goal {asked['goal']!r}.", f"One of: {', '.join(GOALS)}."))
    if asked["hardware"] not in HARDWARE:
        errors.append(
            InputError.of(f"The hardware {asked['hardware']!r} is not known.", f"One of: {', '.join(HARDWARE)}.")
        )
    confidence = asked["confidence"]
    if confidence is not None and not 0.5 < confidence < 1:
        errors.append(InputError.of(f"confidence = {confidence} is not between 0.5 and 1.", "0.95 is usual."))
    for name, value in (*asked["latency"].items(), ("batch_size", asked["batch_size"] or 1)):
        if not isinstance(value, int) or value < 1:
            errors.append(InputError.of(f"{name} = {value!r} is not a positive whole number.", "Give 1 or more."))
    if errors:
        raise InputError.merge(errors)


def _first(model: nn.Module | str, weights: str | None) -> tuple[nn.Module, tuple[str, ...]]:
    loaded: tuple[str, ...] = ()
    if isinstance(model, str):
        built = call_factory(model)
        if not isinstance(built, nn.Module):
            raise ConfigError.of(
                f"The factory {model!r} returned {type(built).__name__}, no torch.nn.Module.",
                "Return the model.",
            )
        model = built
    elif not isinstance(model, nn.Module):
        raise ModelError.of(f"The model is {type(model).__name__}, no torch.nn.Module.", "Give the trained module.")
    if weights is not None:
        loaded = load(model, Path(weights))
        model.eval()
    prepared, notices = ready(model)
    return prepared, (*loaded, *notices)


def _overlap(task: Task) -> list[str]:
    judged = task.test or task.validation
    shared = overlap(task.train, judged) if task.train is not None else 0
    if not shared:
        return []
    return [f"{shared} of {len(judged)} samples to judge on are also in train: scores may flatter every model"]


def _device(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _new_folder(runs: Path) -> Path:
    folder = runs / f".new-{run_id()}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError.of(
            f"The folder {runs} cannot be written: {error.strerror}.", "Give another with runs=..."
        ) from None
    return folder


def _facts(
    asked: Mapping[str, Any], job: Job, first: Candidate, notices: Sequence[str], written: Mapping[str, Any],
    command: str | None, folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """What the journal keeps for the whole run."""
    splits = job.splits
    sizes = {
        name: None if part is None else len(part)
        for name, part in (
            ("train", splits.train), ("calibration", splits.calibration), ("search", splits.search),
            ("verdict", splits.verdict),
        )
    }  # fmt: skip
    return {
        "run": folder.name,
        "boildown": boildown.__version__,
        "asked": asked,
        "target": [condition.text for condition in job.target.conditions],
        "goal": job.goal,
        "confidence": job.confidence,
        "seed": job.seed,
        "runtime": job.runtime,
        "hardware": job.hardware,
        "latency": asdict(job.latency),
        "budget": asked["budget"],
        "ladder": asked["ladder"],
        "metrics": {
            m.name: {"unit": m.unit, "higher_is_better": m.higher_is_better, "range": list(m.range)}
            for m in job.task.metrics
        },
        "data": {**sizes, "search labelled": splits.search_labelled},
        "model": {
            "class": type(first.model).__name__,
            "parameters": sum(p.numel() for p in first.model.parameters()),
            **written,
        },
        "classes": getattr(job.task, "classes", None),
        "notices": list(notices),
        "environment": environment(),
        "in child": job.factories.complete,
        "command": command or _repeat(asked),
    }


def _repeat(asked: Mapping[str, Any]) -> str:
    defaults = {
        "goal": "first",
        "ladder": "auto",
        "budget": None,
        "confidence": None,
        "runtime": "onnxruntime",
        "seed": 0,
    }
    changed = "".join(f", {name}={asked[name]!r}" for name, usual in defaults.items() if asked[name] != usual)
    return f"boildown.compress(model, task, target={json.dumps(asked['target'])}{changed})"


def _attempts(journal: Journal, folder: Path, first: Candidate) -> list[Attempt]:
    """The finished attempts of earlier sittings, up to the first that was cut off."""
    attempts: list[Attempt] = []
    for row in journal.attempts():
        if row.state is State.RUNNING or row.number != len(attempts):
            break
        artifact = journal.artifact(row)
        attempt = Attempt(
            row.number, row.rung, row.reason,
            artifact.parent if artifact is not None else folder,
            key=row.candidate_key or "", parent=row.parent, state=row.state, artifact=artifact,
            sha256=row.sha256 or "", seconds=dict(row.timings), notes=list(row.notes),
        )  # fmt: skip
        if row.verdict is not None:
            attempt.verdict = Verdict.from_json(row.verdict)
            attempt.measurements = dict(attempt.verdict.measurements)
        if attempt.verdict is None:
            attempt.failure = row.sentence
        elif artifact is not None:
            if not artifact.is_file() or file_hash(artifact) != row.sha256:
                raise BoildownError(
                    f"The artifact of attempt {row.number} ({artifact}) is not the one that was measured. "
                    "Bring it back from a copy, or start a new run."
                )
            attempt.candidate = load_candidate(artifact.parent, first)
        attempts.append(attempt)
    return attempts


def _first_beside(path: Path) -> Path | None:
    """The first model's artifact of the run that a path lies in."""
    for parent in path.resolve().parents[:4]:
        if (found := parent / FIRST / path.name).is_file():
            return found
    return None
