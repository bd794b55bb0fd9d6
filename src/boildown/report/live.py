"""What a person sees while a run works; silent where standard error is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from boildown.domain.grammar import format_measurement
from boildown.domain.outcome import State

_MARKS = {
    State.MET: "[green]met[/]",
    State.MISSED: "[yellow]missed[/]",
    State.UNDECIDED: "[yellow]undecided[/]",
    State.SKIPPED: "[dim]skipped[/]",
    State.FAILED: "[red]failed[/]",
}


class Live:
    """Shows attempts and the step under way on standard error."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
            console=console, transient=True, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._quiet = not sys.stderr.isatty()
        self._step: TaskID | None = None
        self._rung = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, kind: str, data: Mapping[str, Any]) -> None:
        """Show one event of a run."""
        if self._quiet:
            return
        if kind == "attempt":
            self._rung = data["attempt"].rung
        elif kind == "step":
            self._show_step(**data)
        elif kind == "verdict":
            self._show_verdict(data["attempt"])
        elif kind == "notice":
            self._progress.console.print(f"[yellow]note[/] {_plain(data['text'])}")

    def _show_step(self, what: str, done: int, total: int | None) -> None:
        description = _plain(f"{self._rung}: {what}" if self._rung else what)
        if self._step is None:
            self._step = self._progress.add_task(description, total=total)
        self._progress.update(self._step, description=description, completed=done, total=total)

    def _show_verdict(self, attempt: Any) -> None:
        if attempt.number == 0:
            shown = ", ".join(
                f"{m.metric} {format_measurement(m)}"
                for m in attempt.measurements.values()
                if m.metric not in ("macs", "divergence")
            )
            self._progress.console.print(f"first model: {_plain(shown)}")
        else:
            self._progress.console.print(
                f"{attempt.number:>2} {_plain(attempt.rung)}: {_MARKS[attempt.state]} {_plain(attempt.sentence)}"
            )


def _plain(text: str) -> str:
    """Text that rich prints as it is."""
    return escape(text)
