"""Intervals whose one-sided bounds can be trusted at a few hundred samples.

`level` is everywhere the confidence of *each* one-sided bound (0.95: the truth lies above `high` in
5 % of repetitions, and below `low` in 5 %). numpy and scipy only; everything random takes a seed.

No resampling sees what the samples do not show. Where a handful of samples dominates a statistic, or none
moves it, its bounds allow for as many more such samples as may have been missed, each as far away as the
statistic permits. Of a statistic without limits nothing is known then, and they are infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from boildown.domain.measurement import Interval

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

RESAMPLES = 2000
_CHUNK = 4_000_000  # numbers held at once while resampling: 32 MB each
_WORK = 20_000_000  # rows a slow `estimate` may read for its resamples
_IN_TAIL = 20  # resamples that must lie beyond a quantile for it to be read off directly
_HANDFUL = 5
_SAMPLES, _SHARES = (150, 500, 2000), (0.74, 0.45, 0.33)
"""Of how many samples the largest five may hold what share of the squares on one side."""
_STUDENTIZED = "studentized bootstrap"
_ROUNDED = 1 + 1e-9  # counts that were divided may exceed the number of samples by as little
_LIMITS = (np.log((_HANDFUL, *_SAMPLES)), (1.0, *_SHARES))


def quantile_of_normal(level: float) -> float:
    """The standard normal quantile at `level`."""
    return float(special.ndtri(level))


def level_at_look(confidence: float, look: int) -> float:
    """The confidence level of the k-th look at the same samples (k = 1, 2, ...).

    Each look spends alpha / (k (k + 1)) of alpha = 1 - confidence; over any number of looks the
    sum stays below alpha (Bonferroni with a telescoping series), so none need be planned ahead.
    """
    if look < 1:
        raise ValueError(f"looks are counted from 1, not {look}")
    return 1.0 - (1.0 - confidence) / (look * (look + 1))


# -- proportions ------------------------------------------------------------------------------------


def wilson(right: float, n: float, level: float) -> Interval:
    """Wilson's score interval for a proportion (1927), bounds one-sided.

    Exact rate of a false `low >= p` at nominal 5 %: at most 5.8 % for p >= 0.5, n >= 150.
    """
    low, high = wilson_bounds(right, n, level)
    return Interval(float(low), float(high), level, "Wilson score")


def wilson_bounds(right: ArrayLike, n: ArrayLike, level: float) -> tuple[Floats, Floats]:
    """`wilson` for arrays of counts: (low, high), in their broadcast shape."""
    x, whole = np.asarray(right, np.float64), np.asarray(n, np.float64)
    if not (np.all(x >= 0) and np.all(x <= whole * _ROUNDED) and np.all(whole >= 1)):
        raise ValueError(f"{right!r} of {n!r} is not a proportion")
    return _wilson(x, whole, quantile_of_normal(level))


def clopper_pearson(right: float, n: float, level: float) -> Interval:
    """Clopper and Pearson's interval for a proportion (Biometrika 26, 1934), bounds one-sided.

    Each is wrong no more often than 1 - level, however small that is; a score interval's far tails are wrong two and
    three times as often, for proportions are skewed.
    """
    if not 0 <= right <= n * _ROUNDED or n <= 0:
        raise ValueError(f"{right} of {n} is not a proportion")
    right = min(right, n)
    low = float(special.betaincinv(right, n - right + 1, 1 - level)) if right > 0 else 0.0
    high = float(special.betaincinv(right + 1, n - right, level)) if right < n else 1.0
    return Interval(low, high, level, "Clopper-Pearson")


def tango_bounds(
    only_first_right: ArrayLike, only_candidate_right: ArrayLike, n: ArrayLike, level: float, *, skewed: bool = False
) -> tuple[Floats, Floats]:
    """`tango`, or `skewed_tango`, for arrays of counts: (low, high), in their broadcast shape."""
    counts = (np.asarray(count, np.float64) for count in (only_first_right, only_candidate_right, n))
    b, c, whole = np.broadcast_arrays(*counts)
    if np.any(whole < 1) or np.any(b < 0) or np.any(c < 0) or np.any(b + c > whole * _ROUNDED):
        raise ValueError(f"discordant counts must be at least 0 and together at most n = {n!r}")
    z = quantile_of_normal(level)
    drop = (b - c) / whole
    # The score falls from +inf at -1 to -inf at +1 and is 0 at the observed drop, so each bound is
    # bracketed by it and bisection cannot fail, whatever the counts.
    moved = (z * z - 1) / 6 if skewed else 0.0

    def away(at: Floats) -> Floats:
        return _tango_score(b, c, whole, at) - (moved * _tango_skewness(b, c, whole, at) if skewed else 0.0)

    low = _bisect(lambda at: away(at) <= z, np.full_like(drop, -1.0), drop)
    high = _bisect(lambda at: away(at) <= -z, drop, np.full_like(drop, 1.0))
    return low, high


def tango(only_first_right: float, only_candidate_right: float, n: float, level: float) -> Interval:
    """Tango's score interval for the drop p_first - p_candidate of two paired proportions.

    T. Tango, Statistics in Medicine 17 (1998): 891-908, bounds one-sided. Of n pairs,
    `only_first_right` and `only_candidate_right` are the discordant ones; the others cancel.
    Exact rate of a false `high <= bound` at nominal 5 %, for bounds >= 0 and n = 150 to 5,000: at
    most 6 %. A false `low >= bound` reaches 9 % where fewer than ten discordant pairs are expected.
    """
    low, high = tango_bounds(only_first_right, only_candidate_right, n, level)
    return Interval(float(low), float(high), level, "Tango score, paired")


def skewed_tango(only_first_right: float, only_candidate_right: float, n: float, level: float) -> Interval:
    """`tango` for levels far out: each bound is moved by the skewness of the difference.

    By the first term of E. A. Cornish and R. A. Fisher (1938), as J. J. Gart and J. Nam do for score intervals of
    other differences (Biometrics 46, 1990); the next terms would move it back a little.
    """
    low, high = tango_bounds(only_first_right, only_candidate_right, n, level, skewed=True)
    return Interval(float(low), float(high), level, "Tango score, paired, with its skewness")


def paired_ratio(only_first_right: float, only_candidate_right: float, both: float, level: float) -> Interval:
    """Interval for p_candidate / p_first of two paired proportions, bounds one-sided.

    D. G. Bonett and R. M. Price, J. Educational and Behavioral Statistics 31 (2006): two Wilson
    intervals, narrowed to what their correlation leaves. `both` pairs are right in both.
    """
    first, candidate = both + only_first_right, both + only_candidate_right
    n = both + only_first_right + only_candidate_right
    name = "Bonett-Price, paired"
    if n == 0:
        return Interval(0.0, math.inf, level, name)
    discordant = math.sqrt((only_first_right + only_candidate_right + 2) / ((first + 1) * (candidate + 1)))
    of_first = math.sqrt((1 - (first + 1) / (n + 2)) / (first + 1))
    of_candidate = math.sqrt((1 - (candidate + 1) / (n + 2)) / (candidate + 1))
    z = quantile_of_normal(level) * discordant / (of_first + of_candidate)
    (first_low, first_high), (low, high) = (tuple(map(float, _wilson(right, n, z))) for right in (first, candidate))
    return Interval(low / first_high, high / first_low if first_low > 0 else math.inf, level, name)


def paired_standard_error(only_first_right: float, only_candidate_right: float, n: float) -> float:
    """Standard error of the difference of two paired proportions.

    With half a pair added to each discordant count (A. Agresti and Y. Min, Statistics in Medicine
    24 (2005)), so that no discordant pair among few samples is not taken for certainty.
    """
    b, c = only_first_right + 0.5, only_candidate_right + 0.5
    return math.sqrt(b + c - (b - c) ** 2 / (n + 2)) / (n + 2)


def _wilson(right: ArrayLike, n: ArrayLike, z: float) -> tuple[Floats, Floats]:
    x, count = np.asarray(right, np.float64), np.asarray(n, np.float64)
    centre, whole = x + z * z / 2, count + z * z
    reach = z * np.sqrt(x * (count - x) / count + z * z / 4)
    return np.maximum(0.0, (centre - reach) / whole), np.minimum(1.0, (centre + reach) / whole)


def _only_candidate(b: Floats, c: Floats, n: Floats, drop: Floats) -> Floats:
    """The likeliest share of samples that only the candidate has right, for a true drop."""
    linear = (2 * n - b + c) * drop - b - c
    root = np.sqrt(np.maximum(linear * linear + 8 * n * c * drop * (1 - drop), 0.0))
    return np.maximum((root - linear) / (4 * n), 0.0)


def _tango_skewness(b: Floats, c: Floats, n: Floats, drop: Floats) -> Floats:
    """The skewness of the difference of two paired proportions, for a true drop; 0 where it cannot vary."""
    won = _only_candidate(b, c, n, drop)
    lost = np.maximum(won + drop, 0.0)
    variance = np.maximum(won + lost - drop * drop, 0.0)
    third = lost * (1 - drop) ** 3 - won * (1 + drop) ** 3 - (1 - lost - won) * drop**3
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(third / (variance**1.5 * np.sqrt(n)), nan=0.0, posinf=0.0, neginf=0.0)


def _tango_score(b: Floats, c: Floats, n: Floats, drop: Floats) -> Floats:
    """Tango's statistic for a true drop; 0/0 counts as 0."""
    only_candidate = _only_candidate(b, c, n, drop)
    variance = np.maximum(n * (2 * only_candidate + drop * (1 - drop)), 0.0)
    away = b - c - n * drop
    away = np.where(np.abs(away) < 1e-9, 0.0, away)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(away / np.sqrt(variance), nan=0.0, posinf=np.inf, neginf=-np.inf)


def _bisect(crossed: Callable[[Floats], NDArray[np.bool_]], left: Floats, right: Floats) -> Floats:
    """Where a condition turns true between `left` and `right`, elementwise."""
    for _ in range(60):
        middle = (left + right) / 2
        here = crossed(middle)
        left, right = np.where(here, left, middle), np.where(here, middle, right)
    return (left + right) / 2


# -- means and anything else ------------------------------------------------------------------------


def dominant(influence: ArrayLike) -> dict[int, float]:
    """The few samples that decide how far a statistic may lie above or below, by position, the largest first.

    influence, (n,): by how much each sample moves the statistic; for a mean its distance from it. Five
    samples dominate a side if they hold more than a share of the squares there: 0.74 of 150 samples, 0.45 of
    500, 0.33 of 2,000 and more. These shares keep false proofs of lognormal, Pareto and contaminated
    errors near 5 % and hardly touch normal ones (`benchmarks.statistics`). The values are the shares of each.
    Empty where no side is dominated.
    """
    found: dict[int, float] = {}
    for side in (1.0, -1.0):
        found |= _dominant(side * np.asarray(influence, np.float64))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _dominant(influence: Floats) -> dict[int, float]:
    """The samples that dominate upwards."""
    squares = np.square(np.maximum(influence, 0.0))
    whole, limit = float(squares.sum()), float(np.interp(math.log(squares.size), *_LIMITS))
    largest = np.argsort(-squares, kind="stable")[:_HANDFUL]
    if float(squares[largest].sum()) <= limit * whole:
        return {}
    return {int(at): float(squares[at]) / whole for at in largest if squares[at] > 0}


def mean_interval(
    values: ArrayLike,
    level: float,
    *,
    seed: int = 0,
    span: float = math.inf,
    seen: float = 0.0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Studentized bootstrap (bootstrap-t) interval for a mean; for paired data give the differences.

    P. Hall, Annals of Statistics 16 (1988): second-order accurate for each one-sided bound, where
    the percentile bootstrap is not. Resamples are drawn in chunks of bounded memory. No value can differ
    from another by more than `span`; where that is infinite, and no value varies, `seen` says by how much
    values of this kind do.
    """
    x = np.asarray(values, np.float64).ravel()
    n = x.size
    if n == 0:
        raise ValueError("no values")
    centre = float(x.mean())
    x = x - centre
    if n == 1 or not moves(x, centre):
        return unmoved(centre, n, level, span if math.isfinite(span) else seen, _STUDENTIZED)
    return widened(studentized(centre, x, level, seed, resamples), centre, x, lambda: span)


def studentized(value: float, x: Floats, level: float, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """`mean_interval` without a word of few samples; x, (n,): by how much each moves the value, 0 on average."""
    generator, n, drawn = np.random.default_rng(seed), x.size, []
    for size in _chunks(resamples, n):
        picked = x[generator.integers(0, n, (size, n), dtype=np.int32)]
        mean = picked.mean(axis=1)
        drawn.append(_studentize(mean, np.sqrt(np.maximum((picked**2).mean(axis=1) - mean**2, 0.0) / n)))
    return _bootstrap_t(value, float(x.std()) / math.sqrt(n), np.concatenate(drawn), level, _STUDENTIZED)


def moves(influence: Floats, value: float) -> bool:
    """Whether any sample moves a value, but for rounding; influence, (n,), is 0 on average."""
    return float(influence.std()) > 1e-12 * max(abs(value), 1e-300)


def unmoved(value: float, n: float, level: float, reach: float, name: str) -> Interval:
    """The interval of a statistic that none of n samples moves; infinite where it is not known how far one could."""
    away = _unseen(0, n, level) * reach if n > 1 and 0.0 < reach < math.inf else math.inf
    return Interval(value - away, value + away, level, f"{name} (no spread)")


def widened(interval: Interval, value: float, influence: Floats, reach: Callable[[], float]) -> Interval:
    """The interval of a statistic, wider where few of its n samples dominate it.

    Some samples move it: as many as hold the squares together, by the participation ratio. As many more as may
    have been missed move it by `reach` / n each at most, or by nobody knows how much.
    """
    return loosened(interval, value, influence, reach) if dominant(influence) else interval


def loosened(interval: Interval, value: float, influence: Floats, reach: Callable[[], float]) -> Interval:
    """The interval of a statistic that few samples dominate, as `widened` allows for them."""
    n, squares = influence.size, np.square(influence)
    movers = math.ceil(float(squares.sum()) ** 2 / float(np.square(squares).sum()) - 0.05)
    missed = _unseen(movers, n, interval.level) * reach()
    allowed = max(missed, quantile_of_normal(interval.level) * math.sqrt(squares.sum()) / n)
    told = f"{interval.method} (few samples dominate)"
    return Interval(value - allowed, value + allowed, interval.level, told)


def _unseen(seen: int, n: float, level: float) -> float:
    """The largest share of samples of a kind beyond the seen / n that were drawn, with confidence `level`.

    C. J. Clopper and E. S. Pearson, Biometrika 26 (1934); 3 / n where none was, the rule of three.
    """
    return float(special.betaincinv(seen + 1, n - seen, level)) - seen / n if seen < n else 1 / n


def units_of(clusters: ArrayLike | None, n: int) -> list[Indices]:
    """What is independent of one another: every sample, or the samples of each cluster; positions of each.

    clusters, (n,): the label of every sample's cluster.
    """
    if clusters is None:
        return list(np.arange(n, dtype=np.intp).reshape(n, 1))
    labels = np.asarray(clusters)
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def jackknife(estimate: Callable[[Indices], float], units: Sequence[Indices]) -> tuple[float, Floats, list[Indices]]:
    """(the estimate over all samples, the influence of each group of units, (groups,), the groups).

    The influence is what the estimate falls by when the group is left out, times the number of groups less
    one, and 0 on average. Above 2,000 units neighbours are left out together, so that a slow estimate is
    called 2,000 times at most, and fewer for very many samples. An influence is nan where the estimate is.
    """
    n = sum(map(len, units))
    count = min(len(units), max(400, min(RESAMPLES, _WORK // n)))
    groups = [np.concatenate(units[part[0] : part[-1] + 1]) for part in np.array_split(np.arange(len(units)), count)]
    everything = np.arange(n, dtype=np.intp)
    value = float(estimate(everything))
    if count == 1:
        return value, np.zeros(1), groups
    without = np.array([float(estimate(np.delete(everything, group))) for group in groups])
    influence: Floats = (count - 1) * (value - without)
    return value, influence - influence.mean(), groups


def bootstrap(
    estimate: Callable[[Indices], float],
    units: Sequence[Indices] | int,
    level: float,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    reach: Callable[[], float] = lambda: math.inf,
    bounded: bool = False,
    jackknifed: tuple[float, Floats, list[Indices]] | None = None,
) -> tuple[Interval, float]:
    """Studentized bootstrap of any estimate over its units (or n samples), and the estimate's standard error.

    `estimate` gets indices of samples (with repeats) and returns a number; give it both models'
    statistics for a paired interval. The standard error of each resample is that of the jackknife
    influences it drew (the non-parametric delta method: Davison and Hinkley, Bootstrap Methods and
    their Application, 1997, sections 2.7 and 5.2.2), so that a slow estimate is called about
    2 * `resamples` times, fewer for many samples; groups of `jackknife` are drawn together. `jackknifed`
    is what that gave, where it is known. reach: how far a unit can move a `bounded` estimate, times their
    number; of any estimate where none moves it.
    """
    units = units_of(None, units) if isinstance(units, int) else units
    if not units:
        raise ValueError("no samples")
    name = "studentized bootstrap by jackknife"
    value, influence, groups = jackknifed or jackknife(estimate, units)
    count, n = len(groups), sum(map(len, units))
    error = float(influence.std()) / math.sqrt(count) if count > 1 else math.inf
    if not math.isfinite(error):
        return Interval(-math.inf, math.inf, level, name), math.inf
    if not moves(influence / math.sqrt(count), value):
        return unmoved(value, len(units), level, reach(), name), 0.0
    affordable = min(resamples, max(400, _WORK // n))
    generator, order = np.random.default_rng(seed), np.concatenate(groups)
    drawn = []
    for size in _chunks(affordable, count):
        picked = generator.integers(0, count, (size, count))
        of_resample = influence[picked].std(axis=1) / math.sqrt(count)
        rows = order[picked] if count == n else (np.concatenate([groups[g] for g in row]) for row in picked)
        away = np.array([float(estimate(row)) for row in rows]) - value
        drawn.append(_studentize(away, of_resample))
    interval = _bootstrap_t(value, error, np.concatenate(drawn), level, name)
    return widened(interval, value, influence, reach if bounded else lambda: math.inf), error


def median_interval(values: ArrayLike, level: float) -> Interval:
    """Distribution-free interval for a median from order statistics, bounds one-sided.

    W. R. Thompson, Annals of Mathematical Statistics 7 (1936). What a bootstrap of the median
    approximates, without its error at small n: with fewer than 5 values at level 0.95 it is infinite.
    """
    x = np.asarray(values, np.float64).ravel()
    if x.size == 0:
        raise ValueError("no values")
    return between(x, median_rank(x.size, level), level)


def between(values: Floats, rank: int, level: float) -> Interval:
    """The interval for a median that leaves out `rank` values at either end; infinite where it is negative."""
    x = np.sort(values)
    low, high = (-math.inf, math.inf) if rank < 0 else (float(x[rank]), float(x[x.size - 1 - rank]))
    return Interval(low, high, level, "order statistics of the median")


@lru_cache(maxsize=1024)
def median_rank(n: int, level: float) -> int:
    """How many of n independent values lie beyond either end of the interval for their median; -1 for too few.

    The largest rank whose value exceeds the median with probability at most 1 - level.
    """
    beyond = special.bdtr(np.arange(n + 1), n, 0.5)  # scipy.stats takes a second to load, in every child that times
    return int(np.searchsorted(beyond, 1.0 - level, side="right")) - 1


def _chunks(resamples: int, n: int) -> list[int]:
    size = max(1, min(resamples, _CHUNK // n))
    return [size] * (resamples // size) + ([resamples % size] if resamples % size else [])


def _studentize(away: NDArray[Any], error: NDArray[Any]) -> NDArray[Any]:
    """away / error; 0/0 is 0, and a resample without spread lies infinitely far out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = away / error
    return np.where((away == 0.0) & (error == 0.0), 0.0, ratio)


def _bootstrap_t(value: float, error: float, drawn: Floats, level: float, name: str) -> Interval:
    attempted = drawn.size
    drawn = np.sort(drawn[~np.isnan(drawn)])
    if 2 * drawn.size < attempted:  # the estimate is undefined on most resamples
        return Interval(-math.inf, math.inf, level, name)
    return Interval(
        value + error * _lower_tail(-drawn[::-1], level),
        value - error * _lower_tail(drawn, level),
        level,
        name,
    )


def _lower_tail(ascending: Floats, level: float) -> float:
    """The (1 - level) quantile; beyond what the resamples reach, scaled as a normal tail."""
    tail = max(1.0 - level, min(_IN_TAIL / ascending.size, 0.5))
    read = float(ascending[max(0, math.floor(tail * (ascending.size + 1)) - 1)])
    if tail <= 1.0 - level:
        return read
    return read * quantile_of_normal(level) / quantile_of_normal(1.0 - tail)
