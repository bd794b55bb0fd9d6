"""What samples in groups prove: samples that belong together are neither independent nor one and the same.

How much alike the samples of a group are is read off the data: the design effect says by how much the variance of a
mean exceeds that of as many independent samples (L. Kish, Survey Sampling, 1965; over groups of unequal sizes from the
linearised ratio: W. G. Cochran, Sampling Techniques, 1977, section 6.3). Counts of right and wrong are divided by it,
and then judged as if they were independent (J. N. K. Rao and A. J. Scott, Biometrics 48, 1992), with Student's
t of groups - 1 degrees in the place of the normal distribution (E. L. Korn and B. I. Graubard, Survey Methodology 24,
1998); groups of unequal sizes count as fewer (A. V. Carter, K. T. Schnepel and D. G. Steigerwald, Review of Economics
and Statistics 99, 2017). Any other figure is judged by a studentized
bootstrap over groups; of fewer than 30 by that t as well, and the wider of the two holds.

Few samples that differ do not show how much alike those of a group are. So one more group, all of whose samples differ,
is counted when the design effect is taken: where no sample differs it is the size of a group, and G groups prove what G
independent samples do; where many do it hardly counts (as the largest weight does in M. P. Fay and E. J. Feuer,
Statistics in Medicine 16, 1997). A quarter of such a group would let up to 14 % be proven falsely where some groups
answer as one and none of them was lost by chance. `benchmarks.clusters` simulates all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from boildown.domain.measurement import Interval
from boildown.measuring.statistics import loosened, quantile_of_normal, studentized

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

FEW = 30
"""From so many groups on a bootstrap over them is trusted."""


_ALONE, _LEAST = 0.75, 0.5


def said(samples: int, groups: int) -> str:
    """How many samples in how many groups, for people."""
    return f"{samples:,} samples in {groups:,} group{'' if groups == 1 else 's'}"


def counted(sizes: Floats) -> float:
    """As how many groups of one size those of these sizes count where their variance is estimated."""
    return float(np.square(np.square(sizes).sum()) / np.square(np.square(sizes)).sum())


def quantile_of_student(level: float, sizes: Floats) -> float:
    """The quantile at `level` of Student's t for groups of these sizes: groups - 1 degrees, fewer where they differ."""
    degrees = counted(sizes) - 1
    return float(special.stdtrit(degrees, level)) if degrees > _LEAST else math.inf  # scipy.stats loads for a second


def sizes_of(units: Sequence[Indices]) -> Floats:
    """How many samples each unit has."""
    return np.array([len(unit) for unit in units], np.float64)


def design_effect(sums: Floats, squares: ArrayLike, sizes: Floats) -> Floats:
    """By how much groups multiply the variance of the mean of 0/1 scores, or of their differences; 1 at least.

    sums, (..., G): of the residuals of each group's samples, which add up to 0. squares, (...): of all
    samples' residuals, added up. sizes, (G,): samples in each group.
    """
    size, groups = float(np.square(sizes).sum() / sizes.sum()), max(counted(sizes), 1 + _LEAST)
    between = np.square(sums).sum(-1) * groups / (groups - 1)
    found: Floats = (between + size**2) / (np.asarray(squares) + size)
    return np.maximum(found, 1.0)


def effective(residuals: Floats, units: Sequence[Indices]) -> float:
    """How many independent samples those in groups are worth; 0 for a single group, which says nothing of others.

    residuals, (n,): what each sample's score differs by from the estimate. units: the positions of each group's.
    """
    if len(units) < 2:
        return 0.0
    sums = np.array([residuals[unit].sum() for unit in units])
    sizes = sizes_of(units)
    return len(residuals) / float(design_effect(sums, np.square(residuals).sum(), sizes))


def allowed(effective: float, sizes: Floats, level: float) -> float:
    """Effective samples by which a normal bound is that of Student's t, since the design effect is estimated."""
    return effective * (quantile_of_normal(level) / quantile_of_student(level, sizes)) ** 2


def alike(sizes: Floats) -> float:
    """How many groups of one size those are worth of which each says one and the same: Kish's effective number."""
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def dominant(influence: Floats) -> dict[int, float]:
    """The group that decides by itself how far a figure of few groups may lie, by position, with its share.

    It holds more than three quarters of the squares, as one of five or more normal ones hardly ever does.
    """
    squares = np.square(influence)
    at, whole = int(squares.argmax()), float(squares.sum())
    return {at: float(squares[at]) / whole} if whole > 0 and squares[at] > _ALONE * whole else {}


def student(
    value: float,
    influence: Floats,
    sizes: Floats,
    level: float,
    *,
    seed: int = 0,
    reach: Callable[[], float] | None = None,
) -> tuple[Interval, float]:
    """(Student's t interval of an estimate over few groups, the estimate's standard error).

    Skewed figures need more than t: either end is the studentized bootstrap's, of the influences, where it is wider.
    influence, (G,): by how much each group moves it, times their number; 0 on average. sizes, (G,). reach: how far a
    group can move an estimate that has limits, times their number; of one without them, a group that is `dominant`
    leaves everything open.
    """
    groups, name = influence.size, "Student's t over groups"
    error = math.sqrt(float(np.square(influence).sum()) / (groups * (groups - 1))) if groups > 1 else math.inf
    if not math.isfinite(error):
        return Interval(-math.inf, math.inf, level, name), math.inf
    away = quantile_of_student(level, sizes) * error
    drawn = studentized(value, influence, level, seed)
    found = Interval(min(drawn.low, value - away), max(drawn.high, value + away), level, name)
    if not dominant(influence):
        return found, error
    loose = loosened(found, value, influence, reach or (lambda: math.inf))
    return replace(loose, low=min(loose.low, found.low), high=max(loose.high, found.high)), error
