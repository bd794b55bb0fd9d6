"""How good an artifact is, and how much worse than the first model on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boildown.domain.grammar import unit_of
from boildown.domain.measurement import Form, Interval, Measurement
from boildown.domain.task import Metric
from boildown.errors import AttemptError
from boildown.measuring import clusters as grouping
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
    clusters: ArrayLike | None = None,
    places: ArrayLike | None = None,
    groups: bool = False,
    far: bool = False,
) -> Measurement:
    """The metric of a candidate, held against the first model's on the same samples.

    The statistics are `metric.statistic`'s of every sample, shape (n, ...), in the same order for
    both. 0/1 statistics get score intervals (Wilson; paired: Tango, Bonett-Price); other means the
    studentized bootstrap; metrics that are no mean the bootstrap over rows. Every bound holds
    one-sided with confidence `level`; the ratio's only where the metric cannot be negative. far: `level` lies far out,
    as that of one of many: 0/1 statistics get bounds whose far tails hold (Clopper and Pearson; Tango with skewness).
    clusters, (n,): samples of one label say the same and count as one (0/1 statistics: by L. Kish's
    effective number, Survey Sampling, 1965); `samples` is their number. groups: those of one label belong together and
    need not say the same (`measuring.clusters`); `groups` is the number of labels then. places, (n,): what the
    samples are called where few of them dominate. A sample without a score (NaN for both models, and left out by
    the metric itself) does not count. Raises AttemptError if another statistic or the metric is not finite.
    """
    candidate, first, counted = _checked(metric, statistics_candidate, statistics_first)
    value = _computed(metric, candidate, "candidate")
    units = statistics.units_of(None if clusters is None else np.asarray(clusters)[counted], len(candidate))
    names = np.flatnonzero(counted) if places is None else np.asarray(places)[counted]
    told: dict[str, Any] = {"samples": len(units), "data": data, "environment": dict(environment or {})}
    grouped = groups and clusters is not None
    if grouped:
        told |= {"samples": len(candidate), "groups": len(units)}
        told["notes"] = (grouping.said(len(candidate), len(units)),)
    elif len(units) < len(candidate):
        told["notes"] = (f"{len(candidate):,} samples, of which {len(units):,} are different, and only these count",)
    sampled = _Sampled(metric, candidate, first, units, names, level, seed, grouped, far)
    interval, error = sampled.of_value()
    if first is None:
        alone = Measurement(metric.name, value, unit_of(metric), standard_error=error, intervals={"value": interval})
        return replace(alone, **told)
    point = compared(metric, value, _computed(metric, first, "first model"))
    of_drop, error = sampled.of_drop()
    intervals: dict[Form, Interval] = {"value": interval, "drop": of_drop}
    if point.ratio is not None:
        intervals["ratio"] = sampled.of_ratio()
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


@dataclass(frozen=True)
class _Sampled:
    """Both models' statistics of the samples that count, and what of them is independent: the source of intervals."""

    metric: Metric
    candidate: Floats
    first: Floats | None
    units: list[Indices]
    names: NDArray[Any]
    level: float
    seed: int
    grouped: bool = False
    """Whether units are groups, whose samples need not say the same."""
    far: bool = False

    def of_value(self) -> tuple[Interval, float | None]:
        """(interval, standard error) of the candidate's metric."""
        rows, (low, high) = self.candidate, self.metric.range
        if not self.metric.decomposable:
            return self._estimated(lambda at: self.metric.compute(rows[at]), low, high)
        means = mean_of_each(rows)
        if _zero_one(rows):
            worth = self._worth(means - means.mean())
            error = float(means.std()) / math.sqrt(worth) if worth else None
            if (n := self._allowed(worth)) < 1:
                return self._anything(low, high), error
            of_share = statistics.clopper_pearson if self.far else statistics.wilson
            return of_share(float(means.sum()) * (n / len(rows)), n, self.level), error
        return self._averaged(means, low, high)

    def of_drop(self) -> tuple[Interval, float | None]:
        """(interval, standard error) of how much worse the candidate's metric is than the first model's."""
        metric, candidate, first = self.metric, self.candidate, self._reference
        span = metric.range[1] - metric.range[0]
        if not metric.decomposable:

            def drop(at: Indices) -> float:
                return _worse(metric, metric.compute(first[at]), metric.compute(candidate[at]))

            return self._estimated(drop, -span, span)
        if _zero_one(candidate) and _zero_one(first):
            lost, won = _discordant(candidate, first)
            if not metric.higher_is_better:
                lost, won = won, lost
            worse, size = mean_of_each(first) - mean_of_each(candidate), len(first)
            worth = self._worth(worse - worse.mean())
            error = statistics.paired_standard_error(lost * worth / size, won * worth / size, worth) if worth else None
            if (n := self._allowed(worth)) < 1:
                return self._anything(-span, span), error
            of_drop = statistics.skewed_tango if self.far else statistics.tango
            return of_drop(lost * n / size, won * n / size, n, self.level), error
        worse = mean_of_each(first) - mean_of_each(candidate)
        return self._averaged(worse if metric.higher_is_better else -worse, -span, span)

    def of_ratio(self) -> Interval:
        """The interval of the candidate's metric by the first model's."""
        metric, candidate, first = self.metric, self.candidate, self._reference
        if metric.decomposable and _zero_one(candidate) and _zero_one(first):
            lost, won = _discordant(candidate, first)
            right = float(first.sum())
            of_one = mean_of_each(candidate) - (right - lost + won) / max(right, 1.0) * mean_of_each(first)
            if (n := self._allowed(self._worth(of_one))) < 1:
                return self._anything(0.0, math.inf)
            shrunk = n / len(first)
            return statistics.paired_ratio(lost * shrunk, won * shrunk, (right - lost) * shrunk, self.level)
        if metric.decomposable:
            candidate, first = mean_of_each(candidate), mean_of_each(first)

        def estimate(rows: Floats) -> float:
            return float(rows.mean()) if metric.decomposable else metric.compute(rows)

        def ratio(at: Indices) -> float:
            below = estimate(first[at])
            return estimate(candidate[at]) / below if below > 0.0 else math.nan

        base = estimate(first)
        return self._estimated(ratio, 0.0, math.inf, reach=lambda: self._reach() / base if base > 0 else math.inf)[0]

    @property
    def _reference(self) -> Floats:
        assert self.first is not None
        return self.first

    @cached_property
    def _sizes(self) -> Floats:
        return grouping.sizes_of(self.units)

    def _worth(self, residuals: Floats) -> float:
        """How many independent samples these are worth, by what each differs by from the estimate.

        Of equal samples, whose score is one and the same, it is Kish's effective number.
        """
        return grouping.effective(residuals, self.units) if self.grouped else grouping.alike(self._sizes)

    def _allowed(self, worth: float) -> float:
        """By how many independent samples bounds are found: fewer than they are worth, where that is estimated."""
        return grouping.allowed(worth, self._sizes, self.level) if self.grouped else worth

    def _anything(self, low: float, high: float) -> Interval:
        alone = "one group, which says nothing of others"
        few = f"{len(self.units):,} groups, too few or too unequal to say anything of others"
        return Interval(low, high, self.level, "none", alone if len(self.units) == 1 else few)

    def _unmoved(self, value: float, influence: Floats, reach: Callable[[], float]) -> Interval | None:
        """The interval of an estimate that none of several groups moves: as of so many groups of one size."""
        still = np.isfinite(influence).all() and not statistics.moves(influence, value)
        if not self.grouped or len(self.units) < 2 or not still:
            return None
        return statistics.unmoved(value, grouping.alike(self._sizes), self.level, reach(), "groups")

    @property
    def _few(self) -> bool:
        return self.grouped and len(self.units) < grouping.FEW

    def _averaged(self, values: Floats, lowest: float, highest: float) -> tuple[Interval, float | None]:
        """(interval, standard error) of a mean of the samples' values, (n,)."""
        if self._few:
            each = values
            return self._estimated(lambda at: float(each[at].mean()), lowest, highest)
        if len(self.units) < len(values):  # what each cluster adds to the mean
            centre, share = float(values.mean()), len(self.units) / len(values)
            values = np.array([centre + share * float((values[unit] - centre).sum()) for unit in self.units])
        interval = self._unmoved(float(values.mean()), values - values.mean(), self._reach)
        interval = interval or statistics.mean_interval(
            values, self.level, seed=self.seed, span=self._span, seen=self._seen
        )  # fmt: skip
        told = self._told(
            interval, values - values.mean(), lowest, highest, lambda at: self.names[self.units[at][0]]
        )  # fmt: skip
        return told, float(values.std()) / math.sqrt(len(values))

    def _estimated(
        self,
        estimate: Callable[[Indices], float],
        lowest: float,
        highest: float,
        reach: Callable[[], float] | None = None,
    ) -> tuple[Interval, float | None]:
        """(interval, standard error) of an estimate over rows; reach: how far one sample can move it."""
        value, influence, groups = jackknifed = statistics.jackknife(estimate, self.units)
        reaching, bounded = reach or self._reach, math.isfinite(self._span)
        if (unmoved := self._unmoved(value, influence, reaching)) is not None:
            interval, error = unmoved, 0.0
        elif self._few:
            interval, error = grouping.student(
                value, influence, self._sizes, self.level, seed=self.seed, reach=reaching if bounded else None
            )  # fmt: skip
        else:
            interval, error = statistics.bootstrap(
                estimate, self.units, self.level,
                seed=self.seed, reach=reaching, bounded=bounded, jackknifed=jackknifed,
            )  # fmt: skip
        told = self._told(
            interval, influence, lowest, highest, lambda at: self._worst(estimate, value, groups[at])
        )  # fmt: skip
        return told, error if math.isfinite(error) else None

    @property
    def _span(self) -> float:
        return self.metric.range[1] - self.metric.range[0]

    @property
    def _seen(self) -> float:
        """By how much the means of single samples differ, of either model."""
        both = [mean_of_each(rows) for rows in (self.candidate, self.first) if rows is not None]
        return float(max(values.max() for values in both) - min(values.min() for values in both))

    def _reach(self) -> float:
        """How far one sample can move the metric, times the number of samples: as samples of either model differ."""
        if self.metric.decomposable:
            return self._span if math.isfinite(self._span) else self._seen
        widest = 0.0
        # A group that was not seen may be one of such samples as move it most.
        units = statistics.units_of(None, len(self.candidate)) if self.grouped else self.units
        for rows in (self.candidate, self.first):
            if rows is not None:
                _, influence, groups = statistics.jackknife(partial(_at, self.metric, rows), units)
                each = influence / [len(group) for group in groups] * (len(rows) / len(groups))
                widest = max(widest, float(each.max() - each.min()))
        return widest

    def _told(
        self,
        interval: Interval,
        influence: Floats,
        lowest: float,
        highest: float,
        called: Callable[[int], Any],
    ) -> Interval:
        """The interval within what is possible, and with the samples that dominate it named, `called` by position."""
        clipped = replace(interval, low=max(interval.low, lowest), high=min(interval.high, highest))
        dominant = grouping.dominant if self._few else statistics.dominant
        few = dominant(influence) if np.isfinite(influence).all() else {}
        if not few:
            return clipped
        shares = ", ".join(f"{called(at)} ({share:.0%})" for at, share in few.items() if share >= 0.005)
        cure = "so few say little of others"
        if not math.isfinite(self._span):
            robust = getattr(self.metric, "robust", "the share of samples within a tolerance")
            cure = f"look at them, or judge by {robust}"
        what, where = ("groups", "those of items") if self.grouped else ("samples", "items")
        told = f"{len(few)} of {len(influence):,} {what} decide how far it may lie, {where} {shares}: {cure}"
        return replace(clipped, note=told)

    def _worst(self, estimate: Callable[[Indices], float], value: float, rows: Indices) -> Any:
        """What the row is called whose absence moves the estimate farthest from its value; of equal ones the first."""
        if len(rows) == 1:
            return self.names[rows[0]]
        every = np.arange(len(self.candidate))
        moved = [abs(value - float(estimate(np.delete(every, row)))) for row in rows]
        return self.names[rows[int(np.argmax(moved))]]


def _at(metric: Metric, rows: Floats, at: Indices) -> float:
    return metric.compute(rows[at])


def _worse(metric: Metric, first: float, candidate: float) -> float:
    return first - candidate if metric.higher_is_better else candidate - first


def _discordant(candidate: Floats, first: Floats) -> tuple[int, int]:
    """How many samples only the first model, and only the candidate, scored 1."""
    candidate, first = mean_of_each(candidate), mean_of_each(first)
    return int(((first == 1) & (candidate == 0)).sum()), int(((first == 0) & (candidate == 1)).sum())


def _zero_one(rows: Floats) -> bool:
    return rows.size == len(rows) and bool(np.all((rows == 0.0) | (rows == 1.0)))


def _checked(
    metric: Metric, candidate: ArrayLike, first: ArrayLike | None
) -> tuple[Floats, Floats | None, NDArray[np.bool_]]:
    """(both models' statistics of the samples that count, which of all these are, (n,))."""
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
    return found[0], found[1] if first is not None else None, counted


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
