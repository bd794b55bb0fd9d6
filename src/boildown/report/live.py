"""What a person sees while a run works, told as events: by the run itself, or by who follows its journal."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live as Region
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from boildown.domain.grammar import format_measurement
from boildown.domain.measurement import LEGEND, Measurement
from boildown.domain.outcome import State
from boildown.domain.verdict import Status, Verdict
from boildown.report.words import duration, printable

_MARKS = {
    State.MET: "[green]met[/]",
    State.MISSED: "[yellow]missed[/]",
    State.UNDECIDED: "[yellow]undecided[/]",
    State.SKIPPED: "[dim]skipped[/]",
    State.FAILED: "[red]failed[/]",
}
_STATUS = {Status.MET: "[green]met[/]", Status.MISSED: "[yellow]missed[/]", Status.UNDECIDED: "[yellow]undecided[/]"}
_UNTOLD = ("macs", "divergence")
_EVERY = 10.0
"""Seconds without a word, after which what is under way is told."""
_LOOKS = 0.5
_TOLD_FROM = 5.0
"""Seconds of a wait that is told in any case."""


class Climbed(Protocol):
    """What is told of an attempt."""

    number: int
    rung: str
    state: State
    verdict: Verdict | None

    @property
    def sentence(self) -> str:
        """How it stands, in words."""
        ...

    @property
    def measurements(self) -> Mapping[str, Measurement]:
        """By metric."""
        ...

    @property
    def quote(self) -> Mapping[str, Any]:
        """What was expected of it."""
        ...


class Live:
    """Tells every attempt in a line, and shows below what is under way, the time left, and the best so far.

    console: standard error by default. lines: tell the attempts where the console is no terminal too, and every ten
    seconds what is under way; by default nothing is shown there but for what is waited for.
    """

    def __init__(
        self, console: Console | None = None, *, lines: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._clock = clock
        self._told = lines or self._console.is_terminal
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
            console=self._console, auto_refresh=False,
        )  # fmt: skip
        self._step: TaskID | None = None
        self._rung, self._begun = "", 0.0
        self._what, self._since = "", 0.0
        self._minutes: float | None = None
        self._until: float | None = None
        self._judged: dict[int, Climbed] = {}
        self._explained = False
        self._said, self._ended = clock(), threading.Event()
        self._region = Region(
            get_renderable=self._below, console=self._console, transient=True, refresh_per_second=4,
            auto_refresh=self._console.is_terminal,
        )  # fmt: skip

    @classmethod
    def silent(cls) -> Self:
        """One that says nothing."""
        return cls(Console(quiet=True))

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._region.start()
        elif self._told:
            threading.Thread(target=self._beats, daemon=True).start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._region.stop()
        self._ended.set()

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        """Hear of one event of a run; `gone` are the seconds since an attempt began, where it is told later."""
        if kind == "attempt":
            self._rung, self._begun = data["attempt"].rung, self._clock() - data.get("gone", 0.0)
            self._minutes = data["attempt"].quote.get("minutes")
        elif kind == "step":
            self._show_step(**data)
        elif kind == "verdict":
            self._show_verdict(data["attempt"])
        elif kind == "forecast":
            self.say(plain(data["text"]))
        elif kind == "notice":
            self.say(f"[yellow]note[/] {plain(data['text'])}")

    def standing(self) -> list[str]:
        """How the run stands, a line each in rich's markup: the step under way, the time, the best so far."""
        lines = []
        if self._step is not None:
            task = self._progress.tasks[0]
            share = f", {task.completed:.0f} of {task.total:.0f}" if task.total else ""
            lines.append(f"now: {task.description}{share}")
        times = []
        if self._minutes is not None:
            gone = self._clock() - self._begun
            times.append(f"{duration(gone)} of about {duration(60 * self._minutes)} by forecast")
        if self._until is not None:
            times.append(f"{duration(max(0.0, self._until - self._clock()))} of the budget left")
        lines += [f"time: {', '.join(times)}"] if times else []
        return lines + self._best()

    def _best(self) -> list[str]:
        judged = [attempt for attempt in self._judged.values() if attempt.verdict is not None]
        if not judged:
            return []
        best = min(judged, key=_distance)
        assert best.verdict is not None
        findings = ", ".join(
            f"{plain(f.condition.text)} {_STATUS[f.status]} ({plain(f.shown)})" for f in best.verdict.findings
        )
        return [f"best so far: {best.number} {plain(best.rung)}: {findings}"]

    def _below(self) -> RenderableType:
        return Group(self._progress.get_renderable(), *self.standing()[1 if self._step is not None else 0 :])

    def say(self, text: str) -> None:
        """A line, in rich's markup: what users named has to be `plain`."""
        if self._told:
            self._said = self._clock()
            self._console.print(text)

    def wait(self, what: str, seconds: float) -> None:
        """What is waited for, and how long so far; told where no step is shown."""
        if not self._console.is_terminal and seconds >= _TOLD_FROM:
            self._said = self._clock()
            self._console.print(plain(what))

    def beat(self) -> None:
        """Say what is under way where nothing was said for ten seconds."""
        if self._step is not None and self._clock() - self._said >= _EVERY:
            self.say(", ".join([*self.standing()[:1], f"{duration(self._clock() - self._since)} so far"]))

    def _beats(self) -> None:
        while not self._ended.wait(_LOOKS):
            self.beat()

    def _show_step(self, what: str, done: int, total: int | None, left: float | None = None, **_more: Any) -> None:
        description = plain(f"{self._rung}: {what}" if self._rung else what)
        if description != self._what:
            self._what, self._since = description, self._clock()
        if self._step is None:
            self._step = self._progress.add_task(description, total=total)
        self._progress.update(self._step, description=description, completed=done, total=total)
        if left is not None and math.isfinite(left):
            self._until = self._clock() + left

    def _show_verdict(self, attempt: Climbed) -> None:
        self._judged[attempt.number], self._minutes = attempt, None
        if attempt.number == 0:
            shown = ", ".join(
                f"{m.metric} {format_measurement(m)}" for m in attempt.measurements.values() if m.metric not in _UNTOLD
            )
            self.say(f"first model: {plain(shown)}")
        else:
            mark = _MARKS.get(attempt.state, attempt.state.value)
            self.say(f"{attempt.number:>2} {plain(attempt.rung)}: {mark} {plain(attempt.sentence)}")
        if not self._explained and any(found.noisy for found in attempt.measurements.values()):
            self._explained = True
            self.say(LEGEND)


def _distance(attempt: Climbed) -> tuple[bool, float]:
    """Met ones first, then by the largest excess of what was measured."""
    assert attempt.verdict is not None
    known = [finding.excess for finding in attempt.verdict.findings if finding.observed is not None]
    return attempt.state is not State.MET, max(known, default=math.inf)


def plain(text: str) -> str:
    """Text that rich prints as it is, and that steers no terminal."""
    return escape(printable(text))
