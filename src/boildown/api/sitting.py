"""One process working on a run: the bench, the events, the user's wish to stop, and what is handed over."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boildown
from boildown import files
from boildown.api.asked import Ladder, Read
from boildown.api.run import Run, show
from boildown.api.sealing import sealing
from boildown.domain.artifact import file_hash
from boildown.domain.candidate import Candidate
from boildown.domain.outcome import Outcome
from boildown.domain.verdict import relaxations
from boildown.engine.attempt import Attempt, Climber
from boildown.engine.baseline import baseline
from boildown.engine.bench import Bench
from boildown.engine.budget import Budget
from boildown.engine.chain import first_key
from boildown.engine.changed import CHANGED, changed
from boildown.engine.climb import Climbed, climb, run_out, sentence
from boildown.engine.deliver import deliver, delivered, write_manifest
from boildown.engine.job import Job
from boildown.engine.ladder import ladder
from boildown.engine.prepare import FIRST, Prepared
from boildown.engine.quote import Quote, by_cards, quote
from boildown.errors import (
    AttemptError,
    BoildownError,
    BudgetError,
    Cancelled,
    InputError,
    contained,
    disk_is_full,
    in_words,
)
from boildown.execution.interrupt import Stop
from boildown.execution.quiet import Patience, computing, give_way, patient
from boildown.journal.journal import Journal
from boildown.journal.keys import hash_of
from boildown.measuring.environment import environment
from boildown.report import write as write_report
from boildown.report.live import Live
from boildown.report.words import duration
from boildown.tasks.data import repeated_fingerprint
from boildown.tasks.pauses import asking
from boildown.tasks.watch import current


@dataclass(frozen=True)
class Event:
    """What a callback receives: `kind` is attempt, step, record, verdict, notice, forecast or outcome.

    attempt, verdict: `attempt`, the one that begins or was judged. step: `what`, how much is `done` of `total`, and
    the seconds `left` of the budget. record: a `kind` and `data` of the journal, of the `attempt` of this number.
    notice: `text`. forecast: the `text` of a line of a quote. outcome: `outcome`, and the folder of the `run`.
    """

    kind: str
    data: Mapping[str, Any]


Callback = Callable[[Event], None]
"""Hears of events."""
Listener = Callable[[str, Mapping[str, Any]], None]

_PULSE = 2.0
_TOLD = 0.1
_IDENTITY = {
    "first": "model",
    "verdict data": "data to judge on",
    "other data": "other data to judge on",
    "groups": "groups of the data to judge on",
    "slices": "slices",
    "students": "students",
}
"""What a run that goes on must have as it began, and what to call it."""
_SEVERAL = ("students", "slices", "groups of the data to judge on", "data to train on")
"""Of that, what is many."""
_KINDS = {
    "build": "building the model and the task", "read": "reading the data", "export": "exporting",
    "measure": "scoring and timing",
}  # fmt: skip
"""What a kind of work is called in a sentence."""


class Pulse:
    """Journals the step under way every two seconds, as the fact `now`, for those who watch from elsewhere."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        self._journal, self._clock = journal, clock
        self._last, self._since, self._what = -math.inf, 0.0, ""

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        """Hear of an event."""
        if kind != "step":
            return
        now = self._clock()
        if data["what"] != self._what:
            self._what, self._since = data["what"], now
        if now - self._last >= _PULSE:
            self._last = now
            self._journal.update_facts({"now": {**data, "at": now, "since": self._since}})


class Sitting:
    """Works on a run, from its preparation to what it hands over."""

    def __init__(self, job: Job, bench: Bench, at: Desk) -> None:
        self.job, self.bench, self.desk = job, bench, at

    def identity(self, read: Read, *, training: bool = True) -> dict[str, str]:
        """What must stay the same while a run is resumed: the first model, the data to judge on and to train on.

        Of training data 256 samples are looked at, where they are the same whenever they are read.
        """
        key = first_key(read.first, self.bench.graph(read.first))
        students = {} if read.job.students_key is None else {"students": read.job.students_key}
        train = read.job.splits.train if training else None
        with self.bench.timed("read"):
            learned = None if train is None else repeated_fingerprint(train)
        own = {} if learned is None else {"training data": learned}
        if sliced := self.bench.slicer.identity():
            own["slices"] = sliced
        own |= {} if (groups := self.bench.grouping("verdict")) is None else {"groups": groups}
        others = {name: self.bench.on(name).fingerprint("verdict") for name in self.job.splits.others}
        own |= {"other data": hash_of(others)} if others else {}
        return {"first": key, "verdict data": self.bench.fingerprint("verdict"), **students, **own}

    def check_identity(self, read: Read, began: Mapping[str, Any], run: str, *, training: bool = True) -> None:
        """Raise InputError for another model or other data than a run began with."""
        try:
            found = self.identity(read, training=training)
        except AttemptError:  # the right model could be captured
            found = {**began, "first": ""}
        wrong = [what for name, what in _IDENTITY.items() if found.get(name) != began.get(name)]
        if len({print_ for side in (found, began) if (print_ := side.get("training data")) is not None}) > 1:
            wrong.append("data to train on")
        if wrong:
            raise InputError.of(
                f"The {' and the '.join(wrong)} are not what run {run} began with."
                if len(wrong) > 1 or wrong[0] in _SEVERAL
                else f"The {wrong[0]} is not what run {run} began with.",
                "Give the same, or start a new run.",
            )

    def climb(
        self, journal: Journal, read: Read, prepared: Prepared, given: Ladder, attempts: list[Attempt], fresh: bool,
        *, again: bool = False,
    ) -> Run:  # fmt: skip
        """Climb, then hand over: best/, manifest, report."""
        folder, done = self.bench.folder, len(attempts)
        self.desk.listeners.append(Pulse(journal))
        with self._climber(journal, read, prepared, fresh) as climber:
            climbed = climb(climber, ladder(given, self.job, climber.forecast), attempts, again=again)
            if climbed.best is not None and climbed.best.number and climbed.best.judged_in_full:
                self._compare(journal, climbed.best, read.first)
        worked = len(attempts) > done or journal.ending is None
        self._hand_over(journal, climbed, read.budget.elapsed if worked else read.budget.used, attempts)
        self.desk.emit("outcome", {"outcome": climbed.outcome, "run": folder})
        return Run(folder, self.job, read.first, climbed.outcome, attempts, climbed.best)

    def run_out(self, journal: Journal, read: Read, attempts: list[Attempt]) -> Run:
        """Hand over what there is: the budget ended before the first model was ready."""
        climbed = run_out(attempts, self.job, self.job.first_quality)
        self._hand_over(journal, climbed, read.budget.elapsed, attempts)
        self.desk.emit("outcome", {"outcome": climbed.outcome, "run": self.bench.folder})
        return Run(self.bench.folder, self.job, read.first, climbed.outcome, attempts, climbed.best)

    def quote(self, journal: Journal, read: Read, prepared: Prepared | None, given: Ladder) -> Quote:
        """What the ladder would do and take, as far as the time goes."""
        if prepared is None:
            return by_cards(ladder(given, self.job))
        with self._climber(journal, read, prepared, fresh=True) as climber:
            first = None
            with contextlib.suppress(BudgetError):
                first = climber.measure_first()
            return quote(climber, ladder(given, self.job, climber.forecast), first)

    def _too_early(self) -> str:
        """What took the time, where not even the first model was measured."""
        spent = {_KINDS[kind]: seconds for kind, seconds in self.bench.seconds.items() if kind in _KINDS}
        spent["waiting for other runs"] = self.desk.patience.spent
        told = [f"{what} {duration(s)}" for what, s in sorted(spent.items(), key=lambda each: -each[1]) if s >= _TOLD]
        return (
            "The budget ended before the first model was measured"
            + (f": {', '.join(told)}" if told else "")
            + (f" (under way: {self.desk.what})" if self.desk.what else "")
            + ". Resume the run with a larger budget; nothing finished is done again."
        )

    def _climber(
        self, journal: Journal, read: Read, prepared: Prepared, fresh: bool
    ) -> AbstractContextManager[Climber]:
        return contextlib.closing(
            Climber(
                self.job, self.bench, journal, read.budget, folder=self.bench.folder, runs=self.bench.folder.parent,
                first=read.first, prepared=prepared, stop=self.desk.check, emit=self.desk.emit, fresh=fresh,
            )
        )  # fmt: skip

    def _compare(self, journal: Journal, best: Attempt, first: Candidate) -> None:
        """Record what the best candidate gets wrong that the first model got right: the report shows it."""
        try:
            with contained():
                found = changed(self.bench, best, first)
        except Exception as error:  # noqa: BLE001 - journalled; the run is handed over without it
            journal.record(best.number, "not compared", {"why": in_words(error)})
        else:
            if found is not None:
                journal.record(best.number, CHANGED, found)

    def _hand_over(self, journal: Journal, climbed: Climbed, seconds: float, attempts: Sequence[Attempt]) -> None:
        folder, best = self.bench.folder, climbed.best
        row = None if best is None else next(row for row in journal.attempts() if row.number == best.number)
        if best is not None and row is not None and best.artifact is not None:
            classes = getattr(self.job.task, "classes", None)
            with self.bench.timed("export"):
                ours = {str(name).removeprefix("best/") for name in delivered(folder).get("files", ())}
                notes = deliver(
                    best.artifact, folder / FIRST, folder / "best", classes, ours=ours, finish=sealing(journal, row)
                )
            for note in notes:
                journal.record(best.number, "handed over", {"note": note})
                self.desk.emit("notice", {"text": note})
        judged = [(f"attempt {a.number} ({a.rung})", a.verdict) for a in attempts if a.number and a.verdict is not None]
        eased = [] if climbed.outcome is Outcome.TARGET_MET else relaxations(self.job.target, judged)
        early = not attempts and climbed.outcome is Outcome.OUT_OF_BUDGET
        said = self._too_early() if early else sentence(climbed, attempts, self.job)
        said += f" {eased[0]}." if eased else ""
        told = baseline(attempts, best)
        journal.update_facts({"seconds": {**self.bench.seconds, "all": seconds}, "baseline": told})
        journal.record(None, "sitting", {"seconds": dict(self.bench.seconds), "all": seconds})
        journal.finish(climbed.outcome, None if best is None else best.number, said, seconds)
        facts = journal.facts
        write_manifest(
            folder,
            {
                **show(folder),
                "boildown": boildown.__version__,
                "environment": environment(),
                "asked": facts["asked"],
                "first": facts.get("first"),
                "data": facts["data"],
                "command": facts["command"],
                "files": {
                    path.relative_to(folder).as_posix(): file_hash(path, folder)
                    for path in sorted(files.walk(folder / "best"))
                },
            },
        )
        write_report(folder)


class Desk:
    """What a process works at: who is told of it, and what is asked between two steps."""

    def __init__(self, live: Live, callbacks: Sequence[Callable[[Event], None]], budget: Budget) -> None:
        self.live, self.budget = live, budget
        self.stop = Stop(self._stopping)
        self.patience = Patience(budget.patience, self.waits)
        self.what = ""
        self.listeners: list[Listener] = [live, self._call]
        self._called = list(callbacks)

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell everybody who listens."""
        for listener in self.listeners:
            listener(kind, data)

    def check(self) -> None:
        """Raise Cancelled where the user asked to stop, BudgetError where the time is up."""
        self.stop.check()
        self.budget.check()

    def between(self) -> None:
        """The same between two steps that compute: if someone wants to time, wait until they have."""
        self.check()
        give_way(self.check)

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Tell of the step under way."""
        self.what = what
        left = self.budget.remaining if self.budget.seconds is not None else None
        self.emit("step", {"what": what, "done": done, "total": total, "left": left})

    def waits(self, what: str, seconds: float) -> None:
        """Tell what is waited for."""
        self.progress(what, 0, None)
        self.live.wait(what, seconds)

    def _call(self, kind: str, data: Mapping[str, Any]) -> None:
        failed = []
        for callback in tuple(self._called):
            try:
                with contained():
                    callback(Event(kind, data))
            except Cancelled:
                raise
            except Exception as error:  # noqa: BLE001 - told; a run does not depend on who listens to it
                self._called.remove(callback)
                name = getattr(callback, "__qualname__", type(callback).__name__)
                failed.append(f"{name} is not called again, for it raised {in_words(error)}")
        for text in failed:
            self.emit("notice", {"text": text})

    def _stopping(self) -> None:
        self.live("notice", {"text": "stopping after this step; press Ctrl-C again to stop at once"})


@contextlib.contextmanager
def desk(callbacks: Sequence[Callback] | Callback, budget: Budget, *, verbose: bool | None = None) -> Iterator[Desk]:
    """Begin to work: answers Ctrl-C, tells what is waited for, and holds the machine together with others who compute.

    callbacks: who listens. verbose: tell on standard error what is done; None does where
    it is a terminal.
    """
    called: list[Callback] = [callbacks] if callable(callbacks) else list(callbacks)
    with Live.silent() if verbose is False else Live(lines=bool(verbose)) as live, warnings.catch_warnings():
        # Torch about itself, of no use to who calls this.
        warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
        at = Desk(live, called, budget)
        current().told = lambda text: at.emit("notice", {"text": text})
        with at.stop, patient(at.patience), computing(at.stop.check), asking(at.between):
            yield at


@contextlib.contextmanager
def sitting(read: Read, folder: Path, at: Desk) -> Iterator[Sitting]:
    """Begin work in a run folder: shows the notices, and ends the child processes."""
    bench = Bench(read.job, folder, check=at.between, progress=at.progress)
    bench.seconds["build"] += read.building
    bench.seconds["read"] += read.reading
    try:
        for notice in read.notices:
            at.emit("notice", {"text": notice})
        yield Sitting(read.job, bench, at)
    except Exception as error:
        if disk_is_full(error):
            raise BoildownError(
                "The disk is full. Free space and try again; a run that had begun goes on with resume."
            ) from error
        raise
    finally:
        bench.close()
