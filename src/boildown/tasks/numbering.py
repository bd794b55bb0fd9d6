"""Numbers that were handed out to rows, and measure nothing: they say where a row stood, and no new row has them."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

_LEAST = 20
_WRONG_STEPS = 0.02
_DISTINCT = 0.55
_TIES = 7.0
_SPARSE, _UNEVEN = 100.0, 4.0
_NAME = re.compile(r"(?i:unnamed: \d+|index|idx|row|(.*[^a-z])?id)?|.*[a-z]I[dD]")


def row_number(name: str, numbers: NDArray[np.float64]) -> str:
    """Why the numbers of a column, in the order of the rows, number them; empty where they may be measured.

    Whole numbers do that rise, or fall, from row to row almost always, with gaps or without, and begin anew where
    tables were joined. So do numbers in any order of which none occurs twice, although among as many drawn from
    their range at least seven pairs of equals are expected; and numbers that all differ in a column called an id.
    Numbers that rise in steps of very unequal size, far apart, are measured: the rows are sorted by them.
    """
    count, again = len(numbers), len(numbers) - len(np.unique(numbers))
    if count < _LEAST or (numbers % 1).any():
        return ""
    unlike = f"but for {again:,} no value twice" if again else "no value twice"
    if (way := direction(numbers)) and not _sorted_by(numbers):
        return f"it numbers the rows ({way} from row to row, {unlike})"
    if again:
        return ""
    lowest, highest = numbers.min(), numbers.max()
    if count * (count - 1) / 2 >= _TIES * (highest - lowest + 1):
        return f"it numbers the rows (whole numbers from {lowest:.0f} to {highest:.0f} in any order, {unlike})"
    return f"it names the rows (whole numbers, {unlike})" if _NAME.fullmatch(name.strip()) else ""


def direction(numbers: NDArray[np.float64]) -> str:
    """`rises` or `falls` where numbers do so from row to row almost always, and seldom return; else nothing."""
    count, steps = len(numbers), np.diff(numbers)
    if count < _LEAST or len(np.unique(numbers)) < _DISTINCT * count:
        return ""
    allowed = max(1.0, _WRONG_STEPS * len(steps))
    return "rises" if (steps <= 0).sum() <= allowed else "falls" if (steps >= 0).sum() <= allowed else ""


def _sorted_by(numbers: NDArray[np.float64]) -> bool:
    """Whether numbers lie far apart and unevenly, as measured ones do that rows are sorted by."""
    steps = np.diff(numbers)
    steps = np.abs(steps[np.sign(steps) == np.sign(np.median(steps))])
    mean = float(steps.mean())
    return mean > _SPARSE and float(np.median(steps)) * _UNEVEN < mean
