"""Time: reading a budget, and how much of it an attempt may use."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from boildown.errors import InputError

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
_FOREVER = 1e300
_LEAST_LIMIT = 120.0
_WITHOUT_BUDGET = 3600.0


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

    def limit(self, minutes: float) -> float:
        """How long an attempt quoted at `minutes` may take: 3x, at most half of what remains.

        One that needs about half of it gets 1.5x: with less it would be begun in vain. Cards quote small models: at
        least a quarter of what remains, and two minutes where the budget has them; without a budget at least an hour,
        since then only a hang has to be ended.
        """
        quoted, remaining = 60 * minutes, self.remaining
        least = _WITHOUT_BUDGET if self.seconds is None else max(_LEAST_LIMIT, remaining / 4)
        most = min(1.5 * quoted, remaining) if quoted <= remaining else 0.0
        return max(1.0, min(max(3 * quoted, least), max(remaining / 2, most)))


def _scale(unit: str) -> int | None:
    """Seconds in a unit, singular or plural."""
    return _UNITS.get(unit, _UNITS.get(unit.rstrip("s")))
