"""A measurement: value, unit, raw samples, spread, environment."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Form = Literal["value", "drop", "ratio"]
"""What a condition or an interval is about: the value itself, how much worse than the first
model (positive is worse), or the ratio to the first model."""

NOISY = 0.25
"""A timing whose blocks spread by more is marked wherever it is shown."""

NOISE = f"noisy: its blocks spread by more than {100 * NOISY:g} %, or other work ran beside it"
MARK = "~"
LEGEND = f"{MARK} {NOISE}"
"""What the mark means."""


def spread(values: Sequence[float]) -> float | None:
    """The distance of the quartiles over the median; None for fewer than two values or a median of zero."""
    if len(values) < 2 or not (middle := statistics.median(values)):
        return None
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return (upper - lower) / middle


@dataclass(frozen=True)
class Interval:
    """`low` and `high` are one-sided bounds, each holding with confidence `level` (0..1).

    note: why they are as wide as they are, where few samples decide.
    """

    low: float
    high: float
    level: float
    method: str
    note: str = ""

    def __contains__(self, bound: float) -> bool:
        return self.low <= bound <= self.high


@dataclass(frozen=True)
class Measurement:
    """One metric of one artifact.

    `value` and `first` (the first model's value, measured the same way) are in base units: bytes,
    seconds, counts, or the metric's own unit. `drop` is how much worse than the first model.
    `standard_error` belongs to `drop` where there is one, else to `value`. `raw` keeps the samples
    behind a timing (seconds or ratios of blocks), `spread` how far they lie apart.
    """

    metric: str
    value: float
    unit: str = ""
    first: float | None = None
    drop: float | None = None
    ratio: float | None = None
    standard_error: float | None = None
    intervals: Mapping[Form, Interval] = field(default_factory=dict)
    samples: int = 0
    data: str = ""
    """Which samples: "verdict", "search", or empty where no data is involved."""
    raw: tuple[float, ...] = ()
    spread: float | None = None
    look: int = 0
    """Which timing for a verdict this is, from 1: the k-th is held to a stricter level. 0 for anything else."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    alone: bool = True
    """Whether nothing of any run computed beside it, as far as is known."""
    slices: tuple[Measurement, ...] = ()
    """Of the worst of some slices: each of them."""
    simultaneous: Mapping[Form, Interval] = field(default_factory=dict)
    """Of one of several slices: intervals whose bounds hold for all of them together."""
    groups: int | None = None
    """In how many groups the samples are, which count in their place; None where every sample counts."""

    def __post_init__(self) -> None:
        if self.spread is None and self.unit == "s":  # journals did not always keep it
            object.__setattr__(self, "spread", spread(self.raw))

    @property
    def noisy(self) -> bool:
        """Whether it is a timing whose figure should not stand alone: its blocks lie far apart, or it had company."""
        return not self.alone or (self.spread is not None and self.spread > NOISY)

    def observed(self, form: Form) -> float | None:
        """The number a condition of this form is about."""
        return {"value": self.value, "drop": self.drop, "ratio": self.ratio}[form]

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the journal and `--json`."""
        return {
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
            "first": self.first,
            "drop": self.drop,
            "ratio": self.ratio,
            "standard_error": self.standard_error,
            "intervals": _plain(self.intervals),
            "samples": self.samples,
            "data": self.data,
            "raw": list(self.raw),
            "spread": self.spread,
            "noisy": self.noisy,
            "look": self.look,
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "alone": self.alone,
            **({"slices": [each.to_json() for each in self.slices]} if self.slices else {}),
            **({"simultaneous": _plain(self.simultaneous)} if self.simultaneous else {}),
            "groups": self.groups,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """The inverse of `to_json`."""
        return cls(
            **{
                **{name: value for name, value in data.items() if name != "noisy"},
                "intervals": {form: Interval(**i) for form, i in data["intervals"].items()},
                "simultaneous": {form: Interval(**i) for form, i in data.get("simultaneous", {}).items()},
                "slices": tuple(cls.from_json({**each, "slices": ()}) for each in data.get("slices", ())),
                "raw": tuple(data["raw"]),
                "notes": tuple(data["notes"]),
            }
        )


def _plain(intervals: Mapping[Form, Interval]) -> dict[str, Any]:
    return {
        form: {"low": i.low, "high": i.high, "level": i.level, "method": i.method, "note": i.note}
        for form, i in intervals.items()
    }
