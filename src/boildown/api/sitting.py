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
from boildown.engine.chain import first_key
from boildown.engine.changed import CHANGED, changed
from boildown.engine.climb import Climbed, climb
from boildown.engine.deliver import deliver, write_manifest
from boildown.engine.job import Job
from boildown.engine.ladder import ladder
from boildown.engine.prepare import FIRST, Prepared
from boildown.engine.quote import Quote, quote
from boildown.errors import AttemptError, BoildownError, Cancelled, InputError, contained, disk_is_full
from boildown.execution.interrupt import Stop
from boildown.execution.quiet import computing
from boildown.journal.journal import Journal
from boildown.measuring.environment import environment
from boildown.report import write as write_report
from boildown.report.live import Live


@dataclass(frozen=True)
class Event:
    """What a callback receives: `kind` is attempt, step, record, verdict, notice or outcome.

    attempt, verdict: `attempt`, the one that begins or was judged. step: `what`, how much is `done` of `total`, and
    the seconds `left` of the budget. record: a `kind` and `data` of the journal, of the `attempt` of this number.
    notice: `text`. outcome: `outcome`, and the folder of the `run`.
    """

    kind: str
    data: Mapping[str, Any]


Callback = Callable[[Event], None]
Listener = Callable[[str, Mapping[str, Any]], None]

_PULSE = 2.0


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

    def __init__(self, job: Job, bench: Bench, listeners: list[Listener], stop: Stop) -> None:
        self.job, self.bench, self.listeners, self.stop = job, bench, listeners, stop

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell everybody who listens."""
        for listener in self.listeners:
            listener(kind, data)

    def identity(self, read: Read) -> dict[str, str]:
        """What must stay the same while a run is resumed: the first model, the samples of the verdict."""
        key = first_key(read.first, self.bench.graph(read.first))
        students = {} if read.job.students_key is None else {"students": read.job.students_key}
        return {"first": key, "verdict data": self.bench.fingerprint("verdict"), **students}

    def check_identity(self, read: Read, began: Mapping[str, Any], run: str) -> None:
        """Raise InputError for another model or other data than a run began with."""
        try:
            found = self.identity(read)
        except AttemptError:  # the right model could be captured
            found = {**began, "first": ""}
        wrong = [
            what
            for name, what in (("first", "model"), ("verdict data", "data to judge on"), ("students", "students"))
            if found.get(name) != began.get(name)
        ]
        if wrong:
            raise InputError.of(
                f"The {' and the '.join(wrong)} are not what run {run} began with."
                if len(wrong) > 1 or wrong == ["students"]
                else f"The {wrong[0]} is not what run {run} began with.",
                "Give the same, or start a new run.",
            )

    def climb(
        self, journal: Journal, read: Read, prepared: Prepared, given: Ladder, attempts: list[Attempt], fresh: bool,
        *, again: bool = False,
    ) -> Run:  # fmt: skip
        """Climb, then hand over: best/, manifest, report."""
        folder = self.bench.folder
        self.listeners.append(Pulse(journal))
        with self._climber(journal, read, prepared, fresh) as climber:
            climbed = climb(climber, ladder(given, self.job, climber.forecast), attempts, again=again)
            if climbed.best is not None and climbed.best.number and climbed.best.judged_in_full:
                self._compare(journal, climbed.best, read.first)
        self._hand_over(journal, climbed, read.budget.elapsed, attempts)
        self.emit("outcome", {"outcome": climbed.outcome, "run": folder})
        return Run(folder, self.job, read.first, climbed.outcome, attempts, climbed.best)

    def quote(self, journal: Journal, read: Read, prepared: Prepared, given: Ladder) -> Quote:
        """What the ladder would do and take."""
        with self._climber(journal, read, prepared, fresh=True) as climber:
            first = climber.measure_first()
            return quote(climber, ladder(given, self.job, climber.forecast), first)

    def _climber(
        self, journal: Journal, read: Read, prepared: Prepared, fresh: bool
    ) -> AbstractContextManager[Climber]:
        return contextlib.closing(
            Climber(
                self.job, self.bench, journal, read.budget, folder=self.bench.folder, runs=self.bench.folder.parent,
                first=read.first, prepared=prepared, stop=self.stop.check, emit=self.emit, fresh=fresh,
            )
        )  # fmt: skip

    def _compare(self, journal: Journal, best: Attempt, first: Candidate) -> None:
        """Record what the best candidate gets wrong that the first model got right: the report shows it."""
        try:
            with contained():
                found = changed(self.bench, best, first)
        except Exception as error:  # noqa: BLE001 - journalled; the run is handed over without it
            journal.record(best.number, "not compared", {"why": f"{type(error).__name__}: {error}"})
        else:
            if found is not None:
                journal.record(best.number, CHANGED, found)

    def _hand_over(self, journal: Journal, climbed: Climbed, seconds: float, attempts: Sequence[Attempt]) -> None:
        folder, best = self.bench.folder, climbed.best
        row = None if best is None else next(row for row in journal.attempts() if row.number == best.number)
        if best is not None and row is not None and best.artifact is not None:
            classes = getattr(self.job.task, "classes", None)
            with self.bench.timed("export"):
                notes = deliver(best.artifact, folder / FIRST, folder / "best", classes, finish=sealing(journal, row))
            for note in notes:
                journal.record(best.number, "handed over", {"note": note})
                self.emit("notice", {"text": note})
        judged = [(f"attempt {a.number} ({a.rung})", a.verdict) for a in attempts if a.number and a.verdict is not None]
        eased = [] if climbed.outcome is Outcome.TARGET_MET else relaxations(self.job.target, judged)
        sentence = climbed.outcome.sentence + (f" {eased[0]}." if eased else "")
        told = baseline(attempts, best)
        journal.update_facts({"seconds": {**self.bench.seconds, "all": seconds}, "baseline": told})
        journal.record(None, "sitting", {"seconds": dict(self.bench.seconds), "all": seconds})
        journal.finish(climbed.outcome, None if best is None else best.number, sentence, seconds)
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
                "files": {
                    path.relative_to(folder).as_posix(): file_hash(path)
                    for path in sorted((folder / "best").rglob("*"))
                    if path.is_file()
                },
            },
        )
        write_report(folder)


@contextlib.contextmanager
def sitting(read: Read, folder: Path, callbacks: Sequence[Callback]) -> Iterator[Sitting]:
    """Begin work in a run folder: shows the notices, answers Ctrl-C, and ends the child processes."""
    with Live() as live:
        called: list[Callback] = [callbacks] if callable(callbacks) else list(callbacks)

        def call(kind: str, data: Mapping[str, Any]) -> None:
            failed = []
            for callback in tuple(called):
                try:
                    with contained():
                        callback(Event(kind, data))
                except Cancelled:
                    raise
                except Exception as error:  # noqa: BLE001 - told; a run does not depend on who listens to it
                    called.remove(callback)
                    name = getattr(callback, "__qualname__", type(callback).__name__)
                    failed.append(f"{name} is not called again, for it raised {type(error).__name__}: {error}")
            for text in failed:
                sat.emit("notice", {"text": text})

        def told() -> None:
            live("notice", {"text": "stopping after this step; press Ctrl-C again to stop at once"})

        def progress(what: str, done: int, total: int | None) -> None:
            left = read.budget.remaining if read.budget.seconds is not None else None
            sat.emit("step", {"what": what, "done": done, "total": total, "left": left})

        with Stop(told) as stop, computing(stop.check), warnings.catch_warnings():
            # Torch about itself, of no use to who calls this.
            warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
            bench = Bench(read.job, folder, check=stop.check, progress=progress)
            bench.seconds["build"] += read.building
            sat = Sitting(read.job, bench, [live, call], stop)
            try:
                for notice in read.notices:
                    sat.emit("notice", {"text": notice})
                yield sat
            except Exception as error:
                if disk_is_full(error):
                    raise BoildownError(
                        "The disk is full. Free space, then resume the run, or start it where it has not begun."
                    ) from error
                raise
            finally:
                bench.close()
