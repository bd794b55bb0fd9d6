"""Batches whose samples differ in length, such as detections: lists of what belongs to each, and rows made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def of_each(output: Any, count: int) -> list[Any] | None:
    """What belongs to each of `count` samples, where an output is a list of that: dicts, or arrays of any length.

    None for anything else, such as a list of arrays with one row per sample.
    """
    if not isinstance(output, list) or len(output) != count:
        return None
    whole = [getattr(each, "ndim", 0) > 0 and len(each) == count for each in output]
    return None if all(whole) else output


def as_rows(statistic: Any) -> Floats:
    """The statistics of a batch of n samples, shape (n, ...); of a list of rows shorter ones end in zeros."""
    if not isinstance(statistic, list | tuple):
        return np.asarray(statistic, np.float64)
    rows = [np.asarray(each, np.float64) for each in statistic]
    if len({row.shape for row in rows}) > 1:
        return stacked([row.reshape(1, -1) for row in rows])
    return np.asarray(rows, np.float64)


def stacked(parts: Sequence[Floats]) -> Floats:
    """The rows of several batches as one array; narrower ones, (n, k), end in zeros."""
    if len({part.shape[1:] for part in parts}) > 1 and all(part.ndim == 2 for part in parts):
        widest = max(part.shape[1] for part in parts)
        parts = [np.pad(part, ((0, 0), (0, widest - part.shape[1]))) for part in parts]
    return np.concatenate(parts)
