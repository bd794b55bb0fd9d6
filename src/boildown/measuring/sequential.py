"""Search that stops early: what all samples would say of the conditions on quality, told from some of them.

Samples are scored in a random order fixed beforehand, those first where the first model is in doubt more
often than not. What is to be known is a total over a finite population: the first model's part of it is
known, the candidate's is seen bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boildown.domain.measurement import Form, Interval, Measurement
from boildown.domain.target import Condition, Target
from boildown.domain.task import Metric
from boildown.domain.verdict import Status, judge
from boildown.measuring.clusters import effective
from boildown.measuring.quality import compared, mean_of_each
from boildown.measuring.statistics import quantile_of_normal, units_of

Floats = NDArray[np.float64]

ERROR = 0.01
"""The largest chance that stopping decides otherwise than all samples would have."""

LEAST = 128
"""Samples scored before anything is told: fewer say too little of how far a condition is missed."""

_DOUBTFUL = 0.2  # share of the samples that are scored more readily, and how much more readily
_READILY = 4.0
_FEW = 0.05  # a smaller share is not worth the distinction
_BETS = (2.0, 1.0, 0.5)
_STAKE = 0.95  # of the wealth, the most that one sample may cost
_TOLERANCE = 1e-9
_STATUS = {1: Status.MET, -1: Status.MISSED, 0: Status.UNDECIDED}


def reading_order(doubt: ArrayLike, *seeds: int) -> tuple[NDArray[np.intp], Floats]:
    """(the order in which samples are scored, the weight of each in this order), both of shape (N,).

    doubt, (N,): how easily the first model's score of each sample would change; the more doubtful
    fifth gets four times the weight of the rest. Every next sample is drawn from those that are left
    with a probability in proportion to its weight (P. Efraimidis and P. Spirakis, Information
    Processing Letters 97, 2006). Where doubt does not tell samples apart, all weigh the same. Seeds
    that no other candidate has keep the promise even if candidates are chosen by what was told before.
    """
    given = np.asarray(doubt, np.float64)
    doubtful = given > np.quantile(given, 1 - _DOUBTFUL)
    weights = np.where(doubtful & (doubtful.mean() >= _FEW), _READILY, 1.0)
    order = np.argsort(np.random.default_rng(seeds).exponential(size=len(given)) / weights)
    return order, weights[order]


def log_wealth(drawn: ArrayLike, weights: Floats, total: float, lowest: float, highest: float) -> Floats:
    """How strongly the values drawn so far speak against `total` or more: the log of a gambler's wealth.

    drawn, (..., n), are the first n of N values between lowest <= 0 and highest >= 0, drawn one by one
    without replacement and in proportion to `weights`, (..., N), given in the order of drawing. The
    largest wealth up to each is returned, (..., n). If all values together reach `total`, it reaches
    1 / error with probability at most `error` (Ville's inequality), so that one may look as often as
    one likes. The gambler starts with 1 and bets that every value, divided by the probability of
    drawing it, is less than what is missing to `total`, which it would be on average. A third of the
    money each follows a large, a middle and a small bet; all grow as the values run out.

    I. Waudby-Smith and A. Ramdas, Estimating means of bounded random variables by betting, J. Royal
    Statistical Society B 86 (2024): without replacement, diversified over constant bets. S. Shekhar,
    Z. Xu, Z. Lipton, P. Liang and A. Ramdas, Risk-limiting financial audits via weighted sampling
    without replacement, UAI 2023: the weights.
    """
    values = np.asarray(drawn, np.float64)
    n, size = values.shape[-1], weights.shape[-1]
    left = (size - np.arange(size))[:n]
    weighing = (np.cumsum(weights[..., ::-1], axis=-1)[..., ::-1])[..., :n] / left
    expected = (total - (np.cumsum(values, axis=-1) - values)) / left
    gain = expected - values * weighing / weights[..., :n]
    affordable = _STAKE / np.maximum(highest * weighing / weights.min() - expected, _TOLERANCE)
    wealth = np.full_like(gain, -math.inf)
    for bet in _BETS:
        stake = np.minimum(bet / (highest - lowest) * size / left, affordable)
        wealth = np.logaddexp(wealth, np.cumsum(np.log1p(stake * gain), axis=-1) - math.log(len(_BETS)))
    largest: Floats = np.maximum.accumulate(wealth, axis=-1)
    return largest


@dataclass(frozen=True)
class Question:
    """Whether a total over N samples is small enough.

    met: a total up to this one is. missed: one from this on is not; no total lies between them.
    floor, ceiling: what each sample adds at least and at most. weights: how readily each is drawn. All
    of shape (..., N), in the order in which the samples are read.
    """

    met: float
    missed: float
    floor: Floats
    ceiling: Floats
    weights: Floats

    def answers(self, read: ArrayLike, *, met: float = ERROR, missed: float = ERROR) -> NDArray[np.int8]:
        """What is known after each of the first n samples, (..., n): 1 for met, -1 for missed, 0 for neither.

        An answer is certain where it would stand even if all of the rest went one way. Any other is
        wrong, whenever it is given, with probability at most `met` or `missed`.
        """
        values = np.asarray(read, np.float64)
        n, so_far = values.shape[-1], np.cumsum(values, axis=-1)
        slack, middle = _TOLERANCE * self.floor.shape[-1], (self.met + self.missed) / 2
        lowest, highest = float(self.floor.min()), float(self.ceiling.max())
        found = np.zeros(values.shape, np.int8)
        found[log_wealth(-values, self.weights, -self.met, -highest, -lowest) >= -math.log(missed)] = -1
        found[log_wealth(values, self.weights, self.missed, lowest, highest) >= -math.log(met)] = 1
        found[so_far + _rest(self.floor, n) > middle + slack] = -1
        found[so_far + _rest(self.ceiling, n) < middle - slack] = 1
        return found


@dataclass(frozen=True)
class Asked:
    """A condition on the mean of a bounded statistic, as a question about differences from the first model.

    sign: 1 if the condition is missed by large statistics, -1 if by small ones. first: (N,). whole:
    statistics are taken to be whole numbers.
    """

    condition: Condition
    sign: int
    first: Floats
    whole: bool
    question: Question

    def status(self, rows: Floats, missed: float) -> Status:
        """What the candidate's statistics of the first n samples tell: nothing if one is not what it is taken to be."""
        n, means = len(rows), mean_of_each(rows)
        worse = self.sign * (means - self.first[:n])
        floor, ceiling = self.question.floor[:n] - _TOLERANCE, self.question.ceiling[:n] + _TOLERANCE
        if not np.all((floor <= worse) & (worse <= ceiling)) or (self.whole and np.any(means % 1.0)):
            return Status.UNDECIDED
        return _STATUS[int(self.question.answers(worse, missed=missed)[-1])]


class EarlyStop:
    """Tells from the samples scored so far whether all of them would meet the conditions on quality.

    metrics, and the first model's statistics of all N samples, by name; weights, (N,); groups, (N,): the label
    of each sample's group, where there are any. All are in the order in which the candidate is scored, that
    of `reading_order`. Missed is told once one condition is, met once all are: where all samples would decide
    otherwise, each is told with probability at most `ERROR` (the conditions share it for missed; met would
    have to be told of one that fails). That holds in groups too: what all samples would decide is asked.
    """

    def __init__(
        self,
        conditions: Sequence[Condition],
        metrics: Mapping[str, Metric],
        first: Mapping[str, Floats],
        weights: Floats,
        groups: NDArray[np.intp] | None = None,
    ) -> None:
        self.target, self.metrics, self.first, self.weights = Target(tuple(conditions)), metrics, first, weights
        self.groups = groups
        found = [
            ask(c, metrics[c.metric], first[c.metric], weights) if c.metric in metrics else None for c in conditions
        ]
        self._asked = [asked for asked in found if asked is not None]
        self.possible = len(self._asked) == len(found) > 0
        """Whether there are conditions, all of them on means of bounded statistics of all samples."""

    def status(self, scored: Mapping[str, Floats]) -> Status:
        """MET or MISSED where the rest need not be scored, else UNDECIDED.

        scored: the candidate's statistics of the first n samples. What is told is also what these
        samples show by themselves: their measurement is judged the same.
        """
        n = min(map(len, scored.values()))
        kinds, counts = np.unique(self.weights[:n], return_counts=True)
        if not self.possible or n < LEAST or len(kinds) < len(np.unique(self.weights)) or counts.min() < 2:
            return Status.UNDECIDED
        found = {asked.status(scored[asked.condition.metric], ERROR / len(self._asked)) for asked in self._asked}
        told = next((status for status in (Status.MISSED, Status.UNDECIDED) if status in found), Status.MET)
        if told is Status.UNDECIDED:
            return told
        shown = {asked.condition.metric: self.measure(asked.condition.metric, scored) for asked in self._asked}
        return told if judge(self.target, shown).status is told else Status.UNDECIDED

    def measure(
        self, name: str, scored: Mapping[str, Floats], level: float = 0.95, environment: Mapping[str, Any] | None = None
    ) -> Measurement:
        """A metric that is a mean, estimated for all samples from the first n, drawn at random within each weight.

        The drop is the stratified mean of the paired differences, and the value is what the first model
        loses by it. Bounds are one-sided at `level` and those of the normal distribution; the variance
        of every stratum counts one difference of the largest size more than was seen, so that none
        seen among a few is not taken for certainty. Samples in groups are worth fewer (`measuring.clusters`).
        """
        metric, n = self.metrics[name], len(scored[name])
        (low, high), first = metric.range, mean_of_each(self.first[name])
        own = mean_of_each(scored[name])
        mean, error = _stratified(own - first[:n], self.weights, high - low)
        error_of_value = _stratified(own, self.weights, high - low)[1]
        groups = None
        if self.groups is not None:
            units = units_of(self.groups[:n], n)
            groups, error = len(units), error * _design(own - first[:n], units, high - low)
            error_of_value *= _design(own, units, high - low)
        base = float(self.metrics[name].compute(self.first[name]))
        point = compared(metric, min(max(base + mean, low), high), base)
        assert point.drop is not None
        spread: dict[Form, tuple[float, float, float, float]] = {
            "value": (point.value, error_of_value, low, high),
            "drop": (point.drop, error, low - high, high - low),
        }
        if point.ratio is not None:
            spread["ratio"] = (point.ratio, error / base, 0.0, math.inf)
        z, size = quantile_of_normal(level), len(first)
        told = f"stopped after {n:,} of {size:,} search samples: the rest could not change it ({100 * ERROR:g} % error)"
        return replace(
            point,
            standard_error=error,
            intervals={
                form: Interval(max(at - z * off, least), min(at + z * off, most), level, "stratified normal")
                for form, (at, off, least, most) in spread.items()
            },
            samples=n,
            groups=groups,
            data="search",
            environment=dict(environment or {}),
            notes=(told,),
        )


def ask(condition: Condition, metric: Metric, first: Floats, weights: Floats) -> Asked | None:
    """The question that decides a condition on all N samples; None unless the metric is a bounded mean.

    first: the first model's statistics, (N, ...). Where they are all 0 or 1, of a metric from 0 to 1,
    so are the candidate's taken to be: totals are whole numbers then.
    """
    lowest, highest = metric.range
    if not (metric.decomposable and math.isfinite(highest - lowest) and np.all((first >= lowest) & (first <= highest))):
        return None
    size, base, means = len(first), metric.compute(first), mean_of_each(first)

    def fate(total: float) -> Status:
        return judge(Target((condition,)), {metric.name: compared(metric, total / size, base)}).status

    ends = [size * lowest, size * highest]
    fates = [fate(end) for end in ends]
    if Status.UNDECIDED in fates:
        return None
    whole = (lowest, highest) == (0.0, 1.0) and first.size == size and bool(np.all((first == 0.0) | (first == 1.0)))
    if fates[0] is fates[1]:  # every total has the same fate
        met, missed = (ends[1], ends[1] + size) if fates[0] is Status.MET else (ends[0] - size, ends[0])
    else:
        met, missed = ends if fates[0] is Status.MET else ends[::-1]
        while abs(missed - met) > (1.0 if whole else _TOLERANCE * (ends[1] - ends[0])):
            middle = (met + missed) // 2 if whole else (met + missed) / 2
            met, missed = (middle, missed) if fate(middle) is Status.MET else (met, middle)
    sign = 1 if met < missed else -1
    bounds = sign * (lowest - means), sign * (highest - means)
    known = float(means.sum())
    question = Question(
        sign * (met - known), sign * (missed - known), np.minimum(*bounds), np.maximum(*bounds), weights
    )
    return Asked(condition, sign, means, whole, question)


def _rest(bounds: Floats, n: int) -> Floats:
    """What the samples after each of the first n add at least or at most, (..., n)."""
    rest: Floats = bounds.sum(axis=-1, keepdims=True) - np.cumsum(bounds, axis=-1)
    return rest[..., :n]


def _design(values: Floats, units: list[NDArray[np.intp]], span: float) -> float:
    """By how much groups widen the standard error of a mean of n values."""
    return math.sqrt(len(values) / max(1.0, effective((values - values.mean()) / span, units)))


def _stratified(values: Floats, weights: Floats, span: float) -> tuple[float, float]:
    """(mean, its standard error) of N samples from the first n, where samples of one weight are alike."""
    mean = variance = 0.0
    for weight in np.unique(weights):
        share, seen = float(np.mean(weights == weight)), values[weights[: len(values)] == weight]
        mean += share * float(seen.mean())
        variance += (share / len(seen)) ** 2 * (float(np.square(seen - seen.mean()).sum()) + span**2)
    return mean, math.sqrt(variance)
