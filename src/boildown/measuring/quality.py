"""How good an artifact is, and how much worse than the first model on the same samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boildown.domain.grammar import unit_of
from boildown.domain.measurement import Form, Interval, Measurement
from boildown.domain.task import Metric
from boildown.errors import AttemptError
from boildown.measuring import statistics

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def measure_quality(
    metric: Metric,
    statistics_candidate: ArrayLike,
    statistics_first: ArrayLike | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    data: str = "verdict",
    environment: Mapping[str, Any] | None = None,
) -> Measurement:
    """The metric of a candidate, held against the first model's on the same samples.

    The statistics are `metric.statistic`'s of every sample, shape (n, ...), in the same order for
    both. 0/1 statistics get score intervals (Wilson; paired: Tango, Bonett-Price); other means the
    studentized bootstrap; metrics that are no mean the bootstrap over rows. Every bound holds
    one-sided with confidence `level`; the ratio's only where the metric cannot be negative.
    A sample without a score (NaN for both models, and left out by the metric itself) does not count.
    Raises AttemptError if another statistic or the metric is not finite.
    """
    candidate, first = _checked(metric, statistics_candidate, statistics_first)
    value = _computed(metric, candidate, "candidate")
    told: dict[str, Any] = {"samples": len(candidate), "data": data, "environment": dict(environment or {})}
    if first is None:
        interval, error = _of_value(metric, candidate, level, seed)
        alone = Measurement(metric.name, value, unit_of(metric), standard_error=error, intervals={"value": interval})
        return replace(alone, **told)
    point = compared(metric, value, _computed(metric, first, "first model"))
    of_drop, error = _of_drop(metric, candidate, first, level, seed)
    intervals: dict[Form, Interval] = {
        "value": _of_value(metric, candidate, level, seed)[0],
        "drop": of_drop,
    }
    if point.ratio is not None:
        intervals["ratio"] = _of_ratio(metric, candidate, first, level, seed)
    return replace(point, standard_error=error, intervals=intervals, **told)


def compared(metric: Metric, value: float, first: float) -> Measurement:
    """The point alone: a metric's value beside the first model's, its drop, and its ratio where it has one."""
    ratio = value / first if metric.range[0] >= 0.0 and first > 0.0 else None
    drop = _worse(metric, first, value)
    return Measurement(metric.name, value, unit_of(metric), first=first, drop=drop, ratio=ratio)


def mean_of_each(rows: Floats) -> Floats:
    """One number per sample, shape (n,), from statistics of shape (n, ...)."""
    averaged: Floats = rows.reshape(len(rows), -1).mean(axis=1)
    return averaged


def summarise_divergence(
    per_sample: ArrayLike, *, data: str = "search", environment: Mapping[str, Any] | None = None
) -> Measurement:
    """Mean divergence of a candidate's outputs from the first model's, with its standard error.

    `per_sample` has shape (n,). Raises AttemptError if any is not finite.
    """
    values = _finite(np.asarray(per_sample, np.float64).ravel(), "divergence", "candidate")
    error = float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else None
    return Measurement(
        metric="divergence",
        value=float(values.mean()),
        standard_error=error,
        samples=values.size,
        data=data,
        environment=dict(environment or {}),
    )


def _of_value(metric: Metric, rows: Floats, level: float, seed: int) -> tuple[Interval, float | None]:
    n = len(rows)
    if not metric.decomposable:
        interval, error = statistics.bootstrap(lambda at: metric.compute(rows[at]), n, level, seed=seed)
        return _clip(interval, *metric.range), _known(error)
    means = mean_of_each(rows)
    error = float(means.std()) / math.sqrt(n)
    if _zero_one(rows):
        return statistics.wilson(int(means.sum()), n, level), error
    interval = statistics.mean_interval(means, level, seed=seed, span=_span(metric))
    return _clip(interval, *metric.range), error


def _of_drop(
    metric: Metric, candidate: Floats, first: Floats, level: float, seed: int
) -> tuple[Interval, float | None]:
    n = len(candidate)
    span = _span(metric)
    if not metric.decomposable:

        def drop(at: Indices) -> float:
            return _worse(metric, metric.compute(first[at]), metric.compute(candidate[at]))

        interval, error = statistics.bootstrap(drop, n, level, seed=seed)
        return _clip(interval, -span, span), _known(error)
    if _zero_one(candidate) and _zero_one(first):
        lost, won = _discordant(candidate, first)
        if not metric.higher_is_better:
            lost, won = won, lost
        return statistics.tango(lost, won, n, level), statistics.paired_standard_error(lost, won, n)
    worse = mean_of_each(first) - mean_of_each(candidate)
    if not metric.higher_is_better:
        worse = -worse
    interval = statistics.mean_interval(worse, level, seed=seed, span=span)
    return _clip(interval, -span, span), float(worse.std()) / math.sqrt(n)


def _of_ratio(metric: Metric, candidate: Floats, first: Floats, level: float, seed: int) -> Interval:
    if metric.decomposable and _zero_one(candidate) and _zero_one(first):
        lost, won = _discordant(candidate, first)
        return statistics.paired_ratio(lost, won, int(first.sum()) - lost, level)
    if metric.decomposable:
        candidate, first = mean_of_each(candidate), mean_of_each(first)

    def estimate(rows: Floats) -> float:
        return float(rows.mean()) if metric.decomposable else metric.compute(rows)

    def ratio(at: Indices) -> float:
        below = estimate(first[at])
        return estimate(candidate[at]) / below if below > 0.0 else math.nan

    interval, _ = statistics.bootstrap(ratio, len(candidate), level, seed=seed)
    return _clip(interval, 0.0, math.inf)


def _worse(metric: Metric, first: float, candidate: float) -> float:
    return first - candidate if metric.higher_is_better else candidate - first


def _discordant(candidate: Floats, first: Floats) -> tuple[int, int]:
    """How many samples only the first model, and only the candidate, scored 1."""
    candidate, first = mean_of_each(candidate), mean_of_each(first)
    return int(((first == 1) & (candidate == 0)).sum()), int(((first == 0) & (candidate == 1)).sum())


def _zero_one(rows: Floats) -> bool:
    return rows.size == len(rows) and bool(np.all((rows == 0.0) | (rows == 1.0)))


def _span(metric: Metric) -> float:
    return metric.range[1] - metric.range[0]


def _clip(interval: Interval, lowest: float, highest: float) -> Interval:
    return replace(interval, low=max(interval.low, lowest), high=min(interval.high, highest))


def _known(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _checked(metric: Metric, candidate: ArrayLike, first: ArrayLike | None) -> tuple[Floats, Floats | None]:
    """The statistics of the samples that count."""
    both = {"candidate": np.asarray(candidate, np.float64)}
    if first is not None:
        both["first model"] = np.asarray(first, np.float64)
    for whose, rows in both.items():
        if rows.ndim == 0 or len(rows) == 0:
            raise ValueError(f"{metric.name}: no statistics of the {whose}")
    shapes = [rows.shape for rows in both.values()]
    if shapes[0] != shapes[-1]:
        raise ValueError(
            f"{metric.name}: statistics of the first model have shape {shapes[-1]}, of the candidate "
            f"{shapes[0]}; both must come from the same samples in the same order"
        )
    counted = ~np.logical_and.reduce([_left_out(metric, rows) for rows in both.values()])
    found = [_finite(rows[counted], metric.name, whose) for whose, rows in both.items()]
    return found[0], found[1] if first is not None else None


def _left_out(metric: Metric, rows: Floats) -> NDArray[np.bool_]:
    """Which samples are NaN throughout, (n,), where the metric is finite all the same: it leaves them out."""
    unscored = np.asarray(np.isnan(rows.reshape(len(rows), -1)).all(axis=1))
    if unscored.any() and not math.isfinite(metric.compute(rows)):
        unscored[:] = False
    return unscored


def _finite(rows: Floats, name: str, whose: str) -> Floats:
    bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    if bad.any():
        raise AttemptError(
            f"{name} of the {whose} is not a finite number on {int(bad.sum())} of {len(rows)} samples, "
            f"first on sample {int(np.argmax(bad))}: look at the output for that sample"
        )
    return rows


def _computed(metric: Metric, rows: Floats, whose: str) -> float:
    value = float(metric.compute(rows))
    if not math.isfinite(value):
        raise AttemptError(
            f"{metric.name} of the {whose} is {value} over {len(rows)} samples: a constant output, or no "
            "sample it is defined on"
        )
    return value
