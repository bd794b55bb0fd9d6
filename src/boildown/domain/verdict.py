"""Measurements held against a target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from statistics import NormalDist
from typing import Any

from boildown.domain.grammar import COSTS, FRACTION, LARGER, format_value, marked, relaxed, says_nothing
from boildown.domain.measurement import NOISE, Interval, Measurement
from boildown.domain.names import name_of
from boildown.domain.target import Condition, Target

_EXACT = ("size", "params", "macs", "planned memory")
"""Costs that are counted, not sampled: their point is the truth."""


class Status(Enum):
    """How a condition, or a whole target, stands.

    UNDECIDED: not measured, or with a confidence asked for neither proven nor disproven.
    """

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Finding:
    """One condition held against its measurement.

    observed: the number the condition is about, in base units; None where it was not measured.
    excess: how far the condition is missed, relative; zero or below when it holds, infinite when
        it was not measured.
    lucky: the point decided although the bound lies inside the interval: could be luck.
    needed: about how many samples would decide, where more samples can; groups of them where `grouped`.
    shown: `observed` for people.
    noisy: it was timed in blocks that lie far apart.
    slice: of a condition on the worst of some slices: the one that decides, which the figures are of.
    """

    condition: Condition
    status: Status
    observed: float | None
    interval: Interval | None = None
    excess: float = math.inf
    lucky: bool = False
    needed: int | None = None
    note: str = ""
    shown: str = "not measured"
    noisy: bool = False
    slice: str = ""
    grouped: bool = False

    def sentence(self) -> str:
        """What was found, in words."""
        name = self.slice or self.condition.metric
        subject = f"{name} drop" if self.condition.form == "drop" else name
        asked = self.condition.text
        if self.observed is None:
            return f"{asked} is open: {self.note}"
        if self.status is Status.MISSED:
            close = self.condition.metric in COSTS and 0 < self.excess < 0.1
            much = "little" if self.condition.metric in LARGER else "much"
            far = f", {100 * self.excess:.2g} % too {much}" if close else ""
            words = f"{asked} is missed: {subject} is {self.shown}{far}"
        elif self.status is Status.MET:
            words = f"{asked} is met: {subject} is {self.shown}"
        else:
            words = f"{asked} is undecided: {subject} is {self.shown} as measured"
        extra = [self.note] if self.note else []
        if self.lucky:
            extra.append("could be luck")
        if self.noisy:
            extra.append(NOISE)
        if self.more:
            extra.append(self.more)
        return words + (f" ({'; '.join(extra)})" if extra else "")

    @property
    def by_chance(self) -> bool:
        """Whether it is of slices and says little against a candidate on the search's samples: a point past the bound
        by luck, as of many slices some are, or no sample at all."""
        name = name_of(self.condition.metric)
        return name is not None and bool(name.key) and (self.lucky or self.observed is None)

    @property
    def more(self) -> str:
        """How many more would decide, in words; empty where that is not known."""
        what = f"{'groups' if self.grouped else 'samples'}{' of it' * bool(self.slice)}"
        return "" if self.needed is None else f"about {self.needed:,} {what} would decide"

    def to_json(self) -> dict[str, Any]:
        """Plain data; an infinite excess is None."""
        data = asdict(self)
        data["status"] = self.status.value
        data["excess"] = self.excess if math.isfinite(self.excess) else None
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """The inverse of `to_json`."""
        return cls(
            **{
                **data,
                "condition": Condition(**data["condition"]),
                "status": Status(data["status"]),
                "interval": None if data["interval"] is None else Interval(**data["interval"]),
                "excess": math.inf if data["excess"] is None else data["excess"],
            }
        )


@dataclass(frozen=True)
class Verdict:
    """All findings on one artifact, with the measurements behind them.

    confidence: the level (0..1) every condition had to be proven at; None where the point decides.
    hardware: the machine that the timings hold for. runtime: what ran the artifact, where it is not what ran
        the first model's.
    """

    findings: tuple[Finding, ...]
    measurements: Mapping[str, Measurement]
    confidence: float | None = None
    hardware: str = ""
    runtime: str = ""

    @property
    def status(self) -> Status:
        """Missed if any condition is missed, else undecided if any is, else met."""
        found = {finding.status for finding in self.findings}
        return next((s for s in (Status.MISSED, Status.UNDECIDED) if s in found), Status.MET)

    @property
    def met(self) -> bool:
        """Whether every condition holds."""
        return self.status is Status.MET

    @property
    def missed(self) -> frozenset[str]:
        """The metrics of the conditions that are missed."""
        return frozenset(finding.condition.metric for finding in self.findings if finding.status is Status.MISSED)

    @property
    def excess(self) -> float:
        """The largest excess: how far the farthest condition is from being met."""
        return max((finding.excess for finding in self.findings), default=-math.inf)

    def sentence(self) -> str:
        """What came out, in words: everything that does not hold, or what could be luck; and groups that count."""
        grouped = [m for m in self.measurements.values() if m.groups is not None]
        judged = max(grouped, key=lambda measurement: measurement.samples, default=None)
        on = "" if judged is None else f" Quality stands on {judged.samples:,} samples in {judged.groups:,} groups."
        return f"{self._said()}{on}"

    def _said(self) -> str:
        count = len(self.findings)
        open_ = [f.sentence() for f in self.findings if f.status is not Status.MET]
        if open_:
            held = count - len(open_)
            rest = f"; {held} of {count} conditions met" if held else ""
            return f"{f'in {self.runtime}, ' if self.runtime else ''}{'; '.join(open_)}{rest}."
        where = f" in {self.runtime}" if self.runtime else ""
        how = "" if self.confidence is None else f" at {100 * self.confidence:g} % confidence"
        luck = [f.sentence() for f in self.findings if f.lucky]
        all_ = f"{'The condition is' if count == 1 else f'All {count} conditions are'} met{where}{how}"
        if not luck:
            return f"{all_}."
        which = "by less than the noise" if count == 1 else f"{len(luck)} of them by less than the noise"
        return f"{all_}, {which}: {'; '.join(luck)}."

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the journal and `--json`."""
        return {
            "status": self.status.value,
            "findings": [finding.to_json() for finding in self.findings],
            "measurements": {name: m.to_json() for name, m in self.measurements.items()},
            "confidence": self.confidence,
            "hardware": self.hardware,
            **({"runtime": self.runtime} if self.runtime else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_json`; the status is found again from the findings."""
        return cls(
            tuple(Finding.from_json(finding) for finding in data["findings"]),
            {name: Measurement.from_json(m) for name, m in data["measurements"].items()},
            data["confidence"],
            data["hardware"],
            data.get("runtime", ""),
        )


@dataclass(frozen=True)
class Relaxation:
    """A weaker condition, or two, which in the place of those that were missed make the target met.

    label: who meets it. excess: how far the original conditions were missed in all, the price. searched: whether only
    the search's samples say so.
    """

    condition: Condition
    label: str
    excess: float
    also: Condition | None = None
    searched: bool = False

    def __str__(self) -> str:
        asked = self.condition.text if self.also is None else f"{self.condition.text} and {self.also.text} together"
        return f"{asked} would be met by {self.label}{', by the search samples' if self.searched else ''}"


def judge(
    target: Target,
    measurements: Mapping[str, Measurement],
    confidence: float | None = None,
    hardware: str = "",
    runtime: str = "",
) -> Verdict:
    """Hold measurements (by metric name) against the target.

    Without `confidence` (0..1) the point decides and a bound inside the interval is marked as lucky.
    With it, a condition is met only if its one-sided interval proves it and missed only if the
    interval disproves it. Size, params and MACs have no sampling noise: their point always decides,
    as does that of any cost measured without an interval.

    The worst of k slices is met if every slice is, each at the plain level: that all hold is then claimed falsely no
    more often than that one does (R. L. Berger, Technometrics 24, 1982, intersection-union tests). It is missed if some
    slice is by an interval that holds for all k together, at (1 - level) / k (the first step of S. Holm, Scandinavian
    Journal of Statistics 6, 1979). Without `confidence` a point on the wrong side that such an interval leaves
    room for is marked as lucky: of k slices at the bound the worst looks as bad as often.
    """
    held = ((condition, measurements.get(condition.metric)) for condition in target.conditions)
    findings = tuple(_marked(_find(condition, found, confidence), found) for condition, found in held)
    return Verdict(findings, measurements, confidence, hardware, runtime)


def relaxations(target: Target, verdicts: Sequence[tuple[str, Verdict]]) -> tuple[Relaxation, ...]:
    """Every way to meet the target by weakening one condition, or two, for a candidate that exists, cheapest first.

    verdicts: (label, verdict) pairs, such as ("attempt 7", verdict). The best candidate for each condition and each
    pair is kept, and no pair of which one condition alone is enough; candidates that fail more cannot help. A candidate
    whose quality only the search's samples tell is named where no verdict is as good, and says so.
    """
    best: dict[tuple[Condition, ...], Relaxation] = {}
    for label, verdict in verdicts:
        failed = [f for f in verdict.findings if f.status is not Status.MET]
        weaker = [_weaker(f, verdict) for f in failed]
        if not 1 <= len(failed) <= 2 or any(f.condition not in target.conditions for f in failed) or None in weaker:
            continue
        (condition, excess), *others = (each for each in weaker if each is not None)
        also, price = (others[0][0], excess + others[0][1]) if others else (None, excess)
        found, asked = Relaxation(condition, label, price, also, _searched(verdict)), tuple(f.condition for f in failed)
        if asked not in best or (price, found.searched) < (best[asked].excess, best[asked].searched):
            best[asked] = found
    enough = {condition: found.excess for (condition, *others), found in best.items() if not others}
    kept = [
        found
        for asked, found in best.items()
        if len(asked) == 1 or not any(enough.get(condition, math.inf) <= found.excess for condition in asked)
    ]
    return tuple(sorted(kept, key=lambda relaxation: relaxation.excess))


def _weaker(finding: Finding, verdict: Verdict) -> tuple[Condition, float] | None:
    """(a condition in the place of a failed one that is met, how far the failed one was missed); None without any."""
    measurement = verdict.measurements.get(finding.condition.metric)
    if measurement is None:
        return None
    each = _of_slices(finding.condition, measurement, verdict.confidence) or [(measurement, finding)]
    values = [_worst(found, verdict.confidence) for _, found in each]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(each):
        return None
    value = (max if _is_upper(finding.condition) else min)(known)
    weaker = relaxed(finding.condition, value)
    excess = max(_excess(finding.condition, of, own) for (of, _), own in zip(each, known, strict=True))
    return None if says_nothing(weaker) else (weaker, excess)


def _searched(verdict: Verdict) -> bool:
    """Whether a condition was held against the search's samples."""
    measured = (verdict.measurements.get(finding.condition.metric) for finding in verdict.findings)
    return any(measurement is not None and measurement.data == "search" for measurement in measured)


def _find(condition: Condition, measurement: Measurement | None, confidence: float | None) -> Finding:
    if measurement is not None and measurement.slices:
        return _find_worst(condition, measurement, confidence)
    observed = None if measurement is None else _observed(measurement, condition)
    if measurement is None or observed is None:
        what = {"value": condition.metric, "drop": f"the drop in {condition.metric}"}.get(
            condition.form, f"the ratio of {condition.metric} to the first model's"
        )
        told = "; ".join((f"{what} was not measured", *(() if measurement is None else measurement.notes)))
        return Finding(condition, Status.UNDECIDED, None, note=told)
    shown = format_value(observed, COSTS.get(condition.metric, measurement.unit), condition.form)
    if not math.isfinite(observed):
        why = "; ".join(("not a number" if math.isnan(observed) else "not finite", *measurement.notes))
        return Finding(condition, Status.MISSED, observed, note=why, shown=shown)
    excess = _excess(condition, measurement, observed)
    interval = None if condition.metric in _EXACT else measurement.intervals.get(condition.form)
    point = Status.MET if _holds(condition, observed) else Status.MISSED
    unbounded = "" if condition.metric in COSTS else "; ".join(("it has no confidence interval", *measurement.notes))
    if confidence is None:
        lucky = interval is not None and condition.bound in interval
        needed = _needed(condition, measurement, observed, interval) if lucky else None
        note = interval.note if interval is not None and lucky else ""
        if interval is None and measurement.notes:
            note = unbounded
        return Finding(condition, point, observed, interval, excess, lucky, needed, note, shown)
    if interval is None:
        if condition.metric in COSTS:
            return Finding(condition, point, observed, None, excess, shown=shown)
        return Finding(condition, Status.UNDECIDED, observed, None, excess, note=unbounded, shown=shown)
    if interval.level < confidence - 1e-9:
        note = f"its interval holds with {100 * interval.level:g} % only"
        return Finding(condition, Status.UNDECIDED, observed, interval, excess, note=note, shown=shown)
    worst, best = (interval.high, interval.low) if _is_upper(condition) else (interval.low, interval.high)
    if _holds(condition, worst):
        return Finding(condition, Status.MET, observed, interval, excess, shown=shown)
    if not _holds(condition, best) and not math.isnan(best):
        return Finding(condition, Status.MISSED, observed, interval, excess, shown=shown)
    needed = _needed(condition, measurement, observed, interval)
    return Finding(
        condition, Status.UNDECIDED, observed, interval, excess, needed=needed, note=interval.note, shown=shown
    )


def _find_worst(condition: Condition, measurement: Measurement, confidence: float | None) -> Finding:
    """A condition on the worst of some slices; the figures are those of the slice that decides."""
    found = _of_slices(condition, measurement, confidence)
    if unknown := [finding for _, finding in found if finding.observed is None]:
        return replace(unknown[0], condition=condition)
    sign = 1.0 if _is_upper(condition) else -1.0

    def point(each: tuple[Measurement, Finding]) -> float:
        value = sign * (each[1].observed or 0.0)
        return math.inf if math.isnan(value) else value

    def end(each: tuple[Measurement, Finding]) -> float:
        interval = each[1].interval
        return math.inf if interval is None else sign * (interval.high if sign > 0 else interval.low)

    sure = [each for each in found if _disproven(condition, *each)]
    past = sure or [each for each in found if not _holds(condition, each[1].observed or 0.0)]
    open_ = [each for each in found if each[1].status is not Status.MET or each[1].lucky]
    if sure or (past and confidence is None):
        status, (own, decides) = Status.MISSED, max(past, key=point)
    else:
        status = Status.UNDECIDED if open_ and confidence is not None else Status.MET
        own, decides = max(open_ or found, key=end)
    lucky = confidence is None and not sure and bool(open_)
    assert decides.observed is not None
    interval = decides.interval
    if not _holds(condition, decides.observed):
        interval = own.simultaneous.get(condition.form, interval)
    needed = _needed(condition, own, decides.observed, interval) if lucky or status is Status.UNDECIDED else None
    note = f"of {len(found):,} slices it decides, with {own.samples:,} sample{'s' * (own.samples != 1)}"
    return replace(
        decides, condition=condition, status=status, interval=interval, lucky=lucky, needed=needed, slice=own.metric,
        excess=max(finding.excess for _, finding in found), note="; ".join(filter(None, (note, decides.note))),
    )  # fmt: skip


def _of_slices(
    condition: Condition, measurement: Measurement, confidence: float | None
) -> list[tuple[Measurement, Finding]]:
    """Every slice of a worst, with the condition held against it alone."""
    return [(each, _find(replace(condition, metric=each.metric), each, confidence)) for each in measurement.slices]


def _disproven(condition: Condition, measurement: Measurement, finding: Finding) -> bool:
    """Whether a slice misses a condition by an interval that holds for all slices together, or by no number at all."""
    interval = measurement.simultaneous.get(condition.form)
    if interval is None or finding.observed is None or not math.isfinite(finding.observed):
        return finding.status is Status.MISSED and finding.interval is None
    best = interval.low if _is_upper(condition) else interval.high
    return not math.isnan(best) and not _holds(condition, best)


def _marked(finding: Finding, measurement: Measurement | None) -> Finding:
    """The finding, marked where groups count, and its figure where the blocks that it was timed in lie far apart."""
    if measurement is not None and measurement.groups is not None:
        finding = replace(finding, grouped=True)
    if measurement is None or not measurement.noisy or finding.observed is None:
        return finding
    return replace(finding, shown=marked(finding.shown, noisy=True), noisy=True)


def _observed(measurement: Measurement, condition: Condition) -> float | None:
    """The number a condition is about; a ratio of quality follows from two positive values.

    A cost without a ratio has none on purpose: its values are too small to be compared.
    """
    observed, first = measurement.observed(condition.form), measurement.first
    quality = condition.metric not in COSTS
    if observed is None and quality and condition.form == "ratio" and first is not None and first > 0:
        return measurement.value / first
    return observed


def _is_upper(condition: Condition) -> bool:
    return condition.operator in ("<=", "<")


def _holds(condition: Condition, value: float) -> bool:
    """Whether it holds; a drop from 0.90 to 0.89 is one of 0.01, although their floats differ by a little more."""
    same = math.isclose(value, condition.bound, rel_tol=1e-9, abs_tol=1e-12)
    return {
        "<=": same or value < condition.bound,
        "<": not same and value < condition.bound,
        ">=": same or value > condition.bound,
        ">": not same and value > condition.bound,
    }[condition.operator]


def _excess(condition: Condition, measurement: Measurement, observed: float) -> float:
    """How far `observed` is past the bound, relative.

    Costs and ratios: to the bound. Quality: to the loss allowed (from the first model's value to the
    bound) or the standard error, whichever is larger, so that noise does not look like distance.
    """
    past = observed - condition.bound if _is_upper(condition) else condition.bound - observed
    if condition.metric in LARGER:  # twice too slow is as far, however it is said
        return condition.bound / observed - 1 if observed > 0 else math.inf
    if condition.metric in COSTS or condition.form == "ratio":
        return past / condition.bound
    if condition.form == "drop":
        allowed = condition.bound
    elif measurement.first is not None:
        allowed = condition.bound - measurement.first
        allowed = allowed if _is_upper(condition) else -allowed
    else:
        allowed = abs(condition.bound)
    scale = max(allowed, measurement.standard_error or 0.0)
    if scale > 0:
        return past / scale
    # Neither a loss is allowed nor an error known: one percent of the first model's value.
    return past / (0.01 * abs(measurement.first or 0.0) or 1.0)


def _needed(condition: Condition, measurement: Measurement, observed: float, interval: Interval | None) -> int | None:
    """About how many samples, or groups, bring the interval's end to the bound: its width falls with their root."""
    gap, count = abs(observed - condition.bound), measurement.groups or measurement.samples
    if interval is None or condition.metric in COSTS or count <= 0 or gap == 0:
        return None
    holds = _holds(condition, observed)
    end = interval.high if holds == _is_upper(condition) else interval.low
    if measurement.unit == FRACTION and condition.form == "drop" and abs(end) >= 1:
        return None  # all that is possible: nothing tells yet how wide it is
    margin = abs(end - observed)
    error_form = "value" if measurement.drop is None else "drop"
    if condition.form == error_form and measurement.standard_error and 0.5 < interval.level < 1:
        margin = max(margin, NormalDist().inv_cdf(interval.level) * measurement.standard_error)
    needed = count * (margin / gap) ** 2
    return math.ceil(needed) if math.isfinite(needed) and needed > count else None


def _worst(finding: Finding, confidence: float | None) -> float | None:
    """The value that a weaker bound must let in: the point, or with confidence the end that proves it."""
    if confidence is None or finding.observed is None or finding.condition.metric in _EXACT:
        return finding.observed
    if finding.interval is None:
        return finding.observed if finding.condition.metric in COSTS else None
    if finding.interval.level < confidence - 1e-9:
        return None
    return finding.interval.high if _is_upper(finding.condition) else finding.interval.low
