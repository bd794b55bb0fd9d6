"""The Pareto front: what no other candidate beats."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from boildown.domain.grammar import COSTS
from boildown.domain.measurement import Measurement
from boildown.domain.target import Condition


def front(found: Mapping[int, Mapping[str, Measurement]], metrics: Collection[str]) -> tuple[int, ...]:
    """The numbers of the candidates that no other beats: as good in every metric, and better in one.

    found: measurements by metric, by number. Costs are compared by value, quality by drop (the first model's is 0);
    a candidate of which one of `metrics` is not known, or no number, has no place.
    """
    places = {
        number: place
        for number, measured in found.items()
        if all(metric in measured for metric in metrics)
        and not any(map(math.isnan, place := tuple(_badness(measured[metric]) for metric in metrics)))
    }
    return tuple(
        number for number, ours in places.items() if not any(_beats(theirs, ours) for theirs in places.values())
    )


def compared(conditions: Collection[Condition], quality: str) -> tuple[str, ...]:
    """The metrics that candidates of a run are compared in: the target's, and size and `quality` where it has none."""
    asked = list(dict.fromkeys(condition.metric for condition in conditions))
    costs = [metric for metric in asked if metric in COSTS] or ["size"]
    return (*([metric for metric in asked if metric not in COSTS] or [quality]), *costs)


def _badness(measurement: Measurement) -> float:
    return measurement.value if measurement.metric in COSTS else measurement.drop or 0.0


def _beats(theirs: tuple[float, ...], ours: tuple[float, ...]) -> bool:
    return theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True))
