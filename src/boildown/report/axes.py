"""What attempts are compared by: costs as ratios to the first model's, and losses of quality. Less is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boildown.domain.front import DIVERGENCE
from boildown.domain.grammar import COSTS, FRACTION, LARGER, format_value
from boildown.domain.measurement import Measurement
from boildown.domain.target import Condition

NOT_SHOWN = (DIVERGENCE,)
"""What is measured and no score: compared by only where there is none."""


@dataclass(frozen=True)
class Axis:
    """A cost as a ratio to the first model's, or a metric of quality as how much worse than the first model.

    A cost that should be large has the inverse of its ratio. bound: the target's, in the same terms; None where it has
    none.
    """

    metric: str
    unit: str
    bound: float | None

    @property
    def cost(self) -> bool:
        """Whether it is a ratio of costs, not a drop in quality."""
        return self.metric in COSTS

    @property
    def name(self) -> str:
        """What it shows, in a word or two."""
        if self.metric in LARGER:
            return f"1 / {self.metric}"
        return self.metric if self.cost or self.metric == DIVERGENCE else f"{self.metric} drop"

    @property
    def label(self) -> str:
        """What it shows, with its unit."""
        if self.cost:
            return f"{self.name} (times the first model's)"
        if self.metric == DIVERGENCE:
            return "divergence from the first model's outputs (search samples, no labels)"
        unit = "pp" if self.unit == FRACTION else self.unit
        return self.name + (f" ({unit})" if unit else "")

    def value(self, measured: Mapping[str, Measurement], number: int) -> float | None:
        """Where an attempt lies; the first model lost nothing, whatever was recorded of it."""
        found = measured.get(self.metric)
        value = None if found is None else _less(self.metric, found.ratio) if self.cost else found.drop
        if found is not None and self.metric == DIVERGENCE:
            value = found.value
        if value is None and found is not None and number == 0 and not self.cost:
            value = 0.0
        return value if value is not None and math.isfinite(value) else None

    def words(self, value: float) -> str:
        """A value on this axis for people."""
        return format_value(value, COSTS.get(self.metric, self.unit), "ratio" if self.cost else "drop")


def axes(
    conditions: Sequence[Condition], metrics: Mapping[str, Any], measured: Mapping[int, Mapping[str, Measurement]],
    by: Sequence[str] = (),
) -> tuple[Axis, ...]:  # fmt: skip
    """The axes that attempts have a place on: costs, those of the target first, then metrics of quality.

    by: what attempts are compared in; the divergence of outputs has an axis, the first of quality, where it is of them.
    """
    shown = [name for name in NOT_SHOWN if name in by]
    seen = {
        name: found[name] for found in measured.values() for name in found if name in shown or name not in NOT_SHOWN
    }
    asked = {condition.metric for condition in conditions} | set(by)
    costs = [name for name in dict.fromkeys((*(n for n in COSTS if n in asked), *COSTS)) if name in seen]
    named = [condition.metric for condition in conditions]
    qualities = [n for n in dict.fromkeys((*shown, *named, *metrics, *seen)) if n in seen and n not in COSTS]
    return tuple(
        Axis(name, seen[name].unit, _tightest(_bound(c, seen[name]) for c in conditions if c.metric == name))
        for name in (*costs, *qualities)
    )


def _less(metric: str, ratio: float | None) -> float | None:
    """A ratio of costs of which less is better."""
    return 1 / ratio if metric in LARGER and ratio else ratio


def _tightest(bounds: Iterable[float | None]) -> float | None:
    return min((bound for bound in bounds if bound is not None and math.isfinite(bound)), default=None)


def _bound(condition: Condition, measurement: Measurement) -> float | None:
    """The bound of a condition, as a ratio of costs or as a drop from the first model."""
    first = measurement.first
    if condition.metric in COSTS:
        if condition.form == "ratio":
            return _less(condition.metric, condition.bound)
        return _less(condition.metric, condition.bound / first) if first else None
    if condition.form == "drop":
        return condition.bound
    if first is None:
        return None
    bound = condition.bound * (first if condition.form == "ratio" else 1.0)
    return first - bound if condition.operator in (">=", ">") else bound - first
