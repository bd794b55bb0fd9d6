"""A measurement: value, unit, raw samples, spread, environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Form = Literal["value", "drop", "ratio"]
"""What a condition or an interval is about: the value itself, how much worse than the first
model (positive is worse), or the ratio to the first model."""


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
    behind a timing (seconds or ratios).
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
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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
            "intervals": {
                form: {"low": i.low, "high": i.high, "level": i.level, "method": i.method, "note": i.note}
                for form, i in self.intervals.items()
            },
            "samples": self.samples,
            "data": self.data,
            "raw": list(self.raw),
            "environment": dict(self.environment),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """The inverse of `to_json`."""
        return cls(
            **{
                **data,
                "intervals": {form: Interval(**i) for form, i in data["intervals"].items()},
                "raw": tuple(data["raw"]),
                "notes": tuple(data["notes"]),
            }
        )
