"""Tails and throughput: every call of the candidate and of the first model timed by itself, in turns.

Called by name in a fresh child process, as `latency.compare`, whose turns it takes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from boildown.domain.measurement import Form, Interval, Measurement, spread
from boildown.measuring.latency import FIRST_PEEK, Pair, environment_of, noise, settled, sides, unpinned
from boildown.measuring.statistics import level_at_look, quantile_of_normal
from boildown.runtimes.base import Array

QUANTILES: Mapping[str, float] = {"latency p95": 0.95, "latency p99": 0.99}
THROUGHPUT = "throughput"

PATIENCE = 4.0
"""How many times as long is sampled where that many calls are needed for a bound of a quantile."""

_STRETCHES = 6  # of neighbours, that are held against each other for a mean
_PARTS = 10  # of neighbours, that are for a quantile
_ENOUGH = 32  # values to do so
_ALIKE = 0.1  # the chance of parts of independent calls to look as if they were not
_RUNS = 40  # of neighbouring quads, that are drawn together for a ratio
_FEWEST_RUNS = 20
_BEYOND = 10  # calls beyond a quantile on either side, for a ratio
_RESAMPLES = 1000
_AT_ONCE = 2_000_000  # numbers
_KEPT = 3.0  # times as many of the longest calls as lie beyond a quantile are looked at in resamples

Floats = NDArray[np.float64]
Bounds = Mapping[str, Mapping[Form, float]]


def compare_calls(
    first: str | Path,
    candidate: str | Path,
    inputs: Sequence[Array],
    metrics: Sequence[str],
    bounds: Bounds,
    *,
    batch: int = 1,
    runtime: str = "onnxruntime",
    threads: int = 1,
    level: float = 0.95,
    seconds: float = 30.0,
    trust: bool = False,
    first_runtime: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Quantiles of the time of a call, and samples per second, beside the first model's: `Measurement.to_json` by name.

    metrics: of `QUANTILES` and `THROUGHPUT`. bounds: by metric and form, in seconds, samples per second and ratios.
    Blocks of calls alternate as for the median. Sampling goes on until every metric has bounds that lie outside its
    interval or `seconds` are spent, and on to `PATIENCE` times as long while a quantile has too few calls for one at
    `level`. Peeks at 8, 16, 32, ... quads share the error (`level_at_look`). Throughput is that of one call after
    the other: samples by the time that all calls took. The other arguments are those of `latency.compare`.
    """
    base = first_runtime or runtime
    how = inputs, threads, trust
    taken, peek = _Taken(), 0
    found: dict[str, dict[Form, Interval]] = {}
    with settled(threads) as pinned, sides((first, base, *how), (candidate, runtime, *how)) as both:
        pair = Pair(*both)
        while True:
            taken.add(*pair.each())
            spent = pair.spent
            last = spent >= PATIENCE * seconds or (spent >= seconds and taken.enough(metrics, level, peek + 1))
            if last or taken.quads == FIRST_PEEK * 2**peek:
                peek += 1
                found = {metric: taken.intervals(metric, level, peek, batch) for metric in metrics}
                if last or all(metric in bounds and _left(found[metric], bounds[metric]) for metric in metrics):
                    break
        versions = [str(side.ask("version")) for side in both]
    ratios = taken.ratios
    shared: dict[str, Any] = {
        "samples": taken.calls,
        "spread": spread(ratios),
        "environment": environment_of(versions, threads, pinned),
        "notes": (*noise(ratios, "ratios"), *unpinned(pinned)),
    }
    return {
        metric: taken.measurement(metric, found[metric], level, peek, batch, shared).to_json() for metric in metrics
    }


class _Taken:
    """The times of single calls, in seconds, quad by quad: of the first model and of the candidate."""

    def __init__(self) -> None:
        self._parts: tuple[list[Floats], list[Floats]] = [], []

    def add(self, first: Sequence[float], candidate: Sequence[float]) -> None:
        """One quad more."""
        for parts, new in zip(self._parts, (first, candidate), strict=True):
            parts.append(np.asarray(new, np.float64))

    @property
    def quads(self) -> int:
        """How many quads there are."""
        return len(self._parts[0])

    @property
    def calls(self) -> int:
        """How often the candidate was called."""
        return sum(part.size for part in self._parts[1])

    @property
    def ratios(self) -> list[float]:
        """Of the mean times in each quad."""
        return [float(own.mean() / base.mean()) for base, own in zip(*self._parts, strict=True)]

    def enough(self, metrics: Sequence[str], level: float, peek: int) -> bool:
        """Whether there are calls enough for a bound of every quantile."""
        needed = [calls_for(QUANTILES[metric], level_at_look(level, peek)) for metric in metrics if metric in QUANTILES]
        return self.calls >= max(needed, default=0)

    def intervals(self, metric: str, level: float, peek: int, batch: int) -> dict[Form, Interval]:
        """Those at `level`, wide enough that all peeks together keep it."""
        strict = level_at_look(level, peek)
        if metric == THROUGHPUT:
            value, ratio = rate_interval(self._parts[1], strict, batch), rate_ratio_interval(*self._parts, strict)
        else:
            q = QUANTILES[metric]
            value = quantile_interval(np.concatenate(self._parts[1]), q, strict)
            ratio = quantile_ratio_interval(*self._parts, q, strict)
        told: dict[Form, Interval] = {"value": value, "ratio": ratio}
        return {form: Interval(i.low, i.high, level, f"{i.method}, peek {peek}") for form, i in told.items()}

    def measurement(
        self, metric: str, intervals: Mapping[Form, Interval], level: float, peek: int, batch: int,
        shared: Mapping[str, Any],
    ) -> Measurement:  # fmt: skip
        """The point, with intervals, and what there is to tell."""
        firsts, own = (np.concatenate(part) for part in self._parts)
        if metric == THROUGHPUT:
            reference, value = (batch / float(of.mean()) for of in (firsts, own))
            return Measurement(
                metric, value, "samples/s", first=reference, drop=reference - value, ratio=value / reference,
                intervals=intervals, **shared,
            )  # fmt: skip
        q = QUANTILES[metric]
        reference, value = (float(np.quantile(of, q)) for of in (firsts, own))
        needed = calls_for(q, level_at_look(level, peek))
        notes = tuple(shared["notes"])
        if own.size < needed:
            notes = (f"{own.size:,} calls are too few for a bound at {100 * level:g} %: {needed:,} would do", *notes)
        return Measurement(
            metric, value, "s", first=reference, drop=value - reference, ratio=value / reference, intervals=intervals,
            **{**shared, "notes": notes},
        )  # fmt: skip


def calls_for(q: float, level: float) -> int:
    """The least number of calls whose longest lies above the quantile `q` with confidence `level`."""
    return math.ceil(math.log(1 - level) / math.log(q))


def quantile_interval(values: Floats, q: float, level: float) -> Interval:
    """Distribution-free interval for a quantile from order statistics, bounds one-sided; infinite for too few values.

    values: (n,) in the order they were taken. H. A. David and H. N. Nagaraja, Order Statistics (2003), section 7.1.
    Load comes and goes, and neighbours are alike: where the calls beyond the quantile are spread over ten parts less
    evenly than chance would (chi square), they count as so many fewer, and by Student's t.
    """
    n, ordered = values.size, np.sort(values)
    count = max(1, int(n / _crowding(values > np.quantile(values, q), level)))
    below = special.bdtr(np.arange(count + 1), count, q)  # that so many values or fewer lie below the quantile
    low = int(np.searchsorted(below, 1 - level, side="right")) - 1
    high = int(np.searchsorted(below, level))
    return Interval(
        float(ordered[low * n // count]) if low >= 0 else -math.inf,
        float(ordered[math.ceil((high + 1) * n / count) - 1]) if high < count else math.inf,
        level,
        "order statistics of the quantile",
    )


def _crowding(beyond: NDArray[np.bool_], level: float) -> float:
    """How many times as much calls beyond a quantile vary from part to part as by chance; 1 where it may be chance."""
    n, share = beyond.size, float(beyond.mean())
    if n < _ENOUGH or not 0 < share < 1:
        return 1.0
    edges = np.linspace(0, n, _PARTS + 1).astype(np.intp)
    sizes = np.diff(edges)
    counts = np.add.reduceat(beyond.astype(np.float64), edges[:-1])
    chi = float(((counts - share * sizes) ** 2 / (sizes * share * (1 - share))).sum())
    if chi <= special.chdtri(_PARTS - 1, _ALIKE):
        return 1.0
    wider = float(special.stdtrit(_PARTS - 1, level)) / quantile_of_normal(level)
    return chi / (_PARTS - 1) * wider**2


def quantile_ratio_interval(
    first: Sequence[Floats], candidate: Sequence[Floats], q: float, level: float, seed: int = 0
) -> Interval:
    """Interval for the candidate's quantile by the first model's: bootstrap over runs of neighbouring quads.

    first, candidate: the times of the calls in each quad. Runs of both are drawn together, so that what slowed both
    cancels (B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, sections 8.6 and 13.3: percentiles),
    and the distances from the point are those of Student's t. Infinite with fewer than 20 runs, or ten calls beyond
    the quantile.
    """
    name = "bootstrap over runs of calls, paired"
    both = [np.concatenate(parts) for parts in (first, candidate)]
    runs = min(_RUNS, len(first))
    if runs < _FEWEST_RUNS or min(part.size for part in both) * (1 - q) < _BEYOND:
        return Interval(-math.inf, math.inf, level, name)
    edges = np.linspace(0, len(first), runs + 1).astype(np.intp)
    run_of_quad = np.searchsorted(edges, np.arange(len(first)), side="right") - 1
    picked = np.random.default_rng(seed).integers(0, runs, (_RESAMPLES, runs))
    weights = np.stack([np.bincount(row, minlength=runs) for row in picked])
    drawn = [_drawn_quantiles(parts, run_of_quad, weights, q) for parts in (first, candidate)]
    point = math.log(float(np.quantile(both[1], q)) / float(np.quantile(both[0], q)))
    away = np.log(drawn[1] / drawn[0]) - point
    wider = float(special.stdtrit(runs - 1, level)) / quantile_of_normal(level)
    low, high = (wider * float(np.quantile(away, end)) for end in (1 - level, level))
    return Interval(math.exp(point + min(low, 0.0)), math.exp(point + max(high, 0.0)), level, name)


def rate_interval(parts: Sequence[Floats], level: float, batch: int) -> Interval:
    """Interval for samples per second, from the mean times of calls in six stretches of neighbours (Student's t)."""
    low, high = _mean_of_logs(np.log(batch / _by_stretch(parts)), level)
    return Interval(low, high, level, "Student's t over stretches")


def rate_ratio_interval(first: Sequence[Floats], candidate: Sequence[Floats], level: float) -> Interval:
    """Interval for the candidate's rate by the first model's, paired by stretch."""
    low, high = _mean_of_logs(np.log(_by_stretch(first) / _by_stretch(candidate)), level)
    return Interval(low, high, level, "Student's t over stretches, paired")


def _by_stretch(parts: Sequence[Floats]) -> Floats:
    """Seconds per call in each of six stretches of neighbouring quads; none where there are fewer quads."""
    if len(parts) < _STRETCHES:
        return np.zeros(0)
    edges = np.linspace(0, len(parts), _STRETCHES + 1).astype(np.intp)
    return np.array([np.concatenate(parts[a:b]).mean() for a, b in itertools.pairwise(edges)])


def _mean_of_logs(logs: Floats, level: float) -> tuple[float, float]:
    """The ends of the interval for what the logs are about."""
    if logs.size < _STRETCHES:
        return 0.0, math.inf
    reach = float(special.stdtrit(logs.size - 1, level)) * float(logs.std(ddof=1)) / math.sqrt(logs.size)
    return math.exp(float(logs.mean()) - reach), math.exp(min(float(logs.mean()) + reach, 700.0))


def _drawn_quantiles(
    parts: Sequence[Floats], run_of_quad: NDArray[np.intp], weights: NDArray[np.intp], q: float
) -> Floats:
    """The quantile in every resample, (resamples,); weights, (resamples, runs): how often each run was drawn."""
    values = np.concatenate(parts)
    runs = np.repeat(run_of_quad, [part.size for part in parts])
    sizes = np.bincount(runs, minlength=weights.shape[1])
    kept = min(values.size, math.ceil(_KEPT * (1 - q) * values.size) + _BEYOND)
    longest = np.argsort(-values, kind="stable")[:kept]
    ordered, of_run = values[longest], runs[longest]
    beyond, found = (1 - q) * (weights @ sizes), []
    for part in np.array_split(np.arange(len(weights)), math.ceil(len(weights) * kept / _AT_ONCE)):
        passed = np.cumsum(weights[part][:, of_run], axis=1) > beyond[part, None]
        found.append(ordered[np.where(passed[:, -1], passed.argmax(axis=1), kept - 1)])
    return np.concatenate(found)


def _left(intervals: Mapping[Form, Interval], bounds: Mapping[Form, float]) -> bool:
    """Whether every bound lies outside its interval."""
    return all(bound not in intervals[form] for form, bound in bounds.items())
