"""Ctrl-C once ends a run in order; twice ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from boildown.errors import Cancelled

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Answers SIGINT and SIGTERM while it is entered.

    The first only sets `asked`, so that the step under way can finish: `check` then raises
    Cancelled. The second raises KeyboardInterrupt. Off the main thread, where Python allows no
    answer to signals, it does nothing but `ask`. `told` is called at the first signal, to say that
    the run is stopping.
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self.asked = False
        self._told = told
        self._previous: dict[signal.Signals, Any] = {}

    def ask(self) -> None:
        """Stop at the next `check`, as the first Ctrl-C does."""
        self.asked = True

    def check(self) -> None:
        """Raise Cancelled if the user asked to stop; called between steps."""
        if self.asked:
            raise Cancelled("Stopped at the user's request.")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._answer) for number in _SIGNALS}
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            # None stands for an answer that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous = {}

    def _answer(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with contextlib.suppress(RuntimeError):  # the signal came while the same stream was being written to
            self._told()
