"""Intervals for a number that is only known of whole sets of samples: from what it is on parts that share none."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from boildown.domain.measurement import Interval

Indices = NDArray[np.intp]

MOST, LEAST = 10, 5
"""Parts that samples are dealt into at most, and at least."""
UNITS = 15
"""Independent samples that every part has at least: of fewer a score says little."""


def dealt(units: Sequence[Indices], seed: int) -> list[Indices]:
    """Positions of samples in parts of about equal size, sorted; what belongs to one unit stays together.

    At random by `seed`, the largest units first. Empty where there are too few units for `LEAST` parts.
    """
    count = min(MOST, len(units) // UNITS)
    if count < LEAST:
        return []
    order = np.random.default_rng(seed).permutation(len(units))
    order = order[np.argsort([-len(units[at]) for at in order], kind="stable")]
    held = [(0, part) for part in range(count)]
    found: list[list[Indices]] = [[] for _ in range(count)]
    for at in order:
        size, part = heapq.heappop(held)
        found[part].append(units[at])
        heapq.heappush(held, (size + len(units[at]), part))
    return [np.sort(np.concatenate(part)) for part in found]


def interval_of_parts(
    value: float, parts: ArrayLike, level: float, *, count: int, span: float = math.inf
) -> tuple[Interval, float]:
    """(interval, standard error) of a number by what it is on parts that share no sample, bounds one-sided.

    Student's t over the parts, whose spread falls with the root of their number (batch means: B. Schmeiser, Operations
    Research 30, 1982). A number that is no mean is biased on parts, all alike: the interval lies around that of the
    whole. count: independent samples; where no part differs from another, as many as may have been missed (three of
    them at 95 %) may each differ by `span` / count.
    """
    found = np.asarray(parts, np.float64)
    number = found.size
    error = float(found.std(ddof=1)) / math.sqrt(number)
    name = f"Student's t over {number} parts"
    if error <= 1e-12 * max(abs(value), 1e-300):
        away = (1 - (1 - level) ** (1 / count)) * span if math.isfinite(span) else math.inf
        return Interval(value - away, value + away, level, f"{name} (no spread)"), 0.0
    away = float(special.stdtrit(number - 1, level)) * error
    return Interval(value - away, value + away, level, name), error
