"""Time: reading a budget, and how much of it an attempt may use."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from boildown.errors import BudgetError, InputError

_UNITS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_RESERVE = 0.1
_PATIENCE = 0.1
_FOREVER = 1e300
_LEAST_LIMIT = 120.0
_WITHOUT_BUDGET = 3600.0
_JUDGED_WITHOUT_BUDGET = 3600.0


def parse_time(text: str | float | int, what: str = "budget") -> float:
    """Seconds from `"30 min"`, `"1 h 30 min"` or a number of seconds.

    Raises InputError for anything else, or for no time at all, naming `what` it is.
    """
    cure = 'Write it like "30 min", "2 h" or "90 s".'
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = float(text) if abs(text) < _FOREVER else math.inf
    else:
        seconds, rest = 0.0, str(text).strip().lower()
        while rest:
            match = _PART.match(rest)
            scale = _scale(match[2]) if match else None
            if match is None or scale is None:
                raise InputError.of(f"The {what} {text!r} cannot be read.", cure)
            seconds += float(match[1]) * scale
            rest = rest[match.end() :]
    if not 0 < seconds < float("inf"):
        raise InputError.of(f"The {what} {text!r} leaves no time to work in.", cure)
    return seconds


@dataclass
class Budget:
    """What is left of the time; `seconds` is None for no limit. `used` counts earlier sittings."""

    seconds: float | None = None
    used: float = 0.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._start = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds used so far, earlier sittings included."""
        return self.used + self.clock() - self._start

    @property
    def remaining(self) -> float:
        """Seconds left for attempts: a tenth of the budget is kept for the final verdict."""
        if self.seconds is None:
            return float("inf")
        return self.seconds * (1 - _RESERVE) - self.elapsed

    def check(self) -> None:
        """Raise BudgetError once all of it is used, the tenth for the final verdict included."""
        if self.seconds is not None and self.elapsed > self.seconds:
            raise BudgetError("The budget of the run is spent. Resume it with a larger one.")

    @property
    def patience(self) -> float | None:
        """Seconds that may be spent waiting for other runs: a tenth; None where there is no budget."""
        return None if self.seconds is None else self.seconds * _PATIENCE

    @property
    def left(self) -> float:
        """Seconds until the budget's end, for judging what was made; an hour without a budget: it ends a hang."""
        return _JUDGED_WITHOUT_BUDGET if self.seconds is None else max(1.0, self.seconds - self.elapsed)

    def room(self, beside: float) -> float:
        """Seconds in which something may be made: at the end some have to be left `beside` for judging it."""
        return self.remaining if self.seconds is None else min(self.remaining, self.left - beside)

    def limit(self, minutes: float, beside: float = 0.0, *, last: bool = False) -> float:
        """How long making something quoted at `minutes` may take: 3x, at most half of the room that there is.

        beside: seconds that judging it takes then. last: nothing else is left to be made, so that it may take all of
        the room. What needs about half of it gets 1.5x: with less it would be begun in vain. Cards quote small
        models: at least a quarter of the room, and two minutes where the budget has them; without a budget at least an
        hour, since then only a hang has to be ended.
        """
        quoted, remaining = 60 * minutes, self.room(beside)
        if last and self.seconds is not None:
            return max(1.0, remaining)
        least = _WITHOUT_BUDGET if self.seconds is None else max(_LEAST_LIMIT, remaining / 4)
        most = min(1.5 * quoted, remaining) if quoted <= remaining else 0.0
        return max(1.0, min(max(3 * quoted, least), max(remaining / 2, most)))


def _scale(unit: str) -> int | None:
    """Seconds in a unit, singular or plural."""
    return _UNITS.get(unit, _UNITS.get(unit.rstrip("s")))
