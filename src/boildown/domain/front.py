"""The Pareto front: what no other candidate beats."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from boildown.domain.grammar import COSTS, LARGER
from boildown.domain.measurement import Measurement
from boildown.domain.target import Condition

GOALS: Mapping[str, str] = {"smallest": "size", "fastest": "latency"}
"""The costs that goals are about, whatever the target names."""
DIVERGENCE = "divergence"
"""How far outputs lie from the first model's on the search's samples, without labels."""


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


def costs(conditions: Iterable[Condition], goal: str = "first") -> tuple[str, ...]:
    """The costs that a run is about: those of its target and its goal's own; size where neither names one."""
    asked = [condition.metric for condition in conditions if condition.metric in COSTS]
    own = [GOALS[goal]] if goal in GOALS else []
    return tuple(dict.fromkeys((*asked, *own))) or ("size",)


def lighter(found: Mapping[str, Measurement], costs: Iterable[str]) -> tuple[str, ...]:
    """Those of some costs in which a candidate is better than the first model, timings by more than their noise."""
    return tuple(metric for metric in costs if metric in found and _is_lighter(found[metric]))


def compared(
    conditions: Collection[Condition],
    quality: str,
    goal: str = "first",
    judged: Iterable[Mapping[str, Measurement]] = (),
) -> tuple[str, ...]:
    """The metrics that candidates of a run are compared in: the costs it is about, and the target's quality.

    Where the target asks for no quality that is `quality`; where some candidates that were `judged` have no score,
    since search had no labels, it is what every one has: how far its outputs diverge from the first model's.
    """
    asked = list(dict.fromkeys(condition.metric for condition in conditions if condition.metric not in COSTS))
    asked = asked or [quality]
    if any(DIVERGENCE in found and not found.keys() >= set(asked) for found in judged):
        asked = [DIVERGENCE]
    return (*asked, *costs(conditions, goal))


def _is_lighter(measurement: Measurement) -> bool:
    if measurement.ratio is None:
        return False
    interval = measurement.intervals.get("ratio")
    if measurement.metric in LARGER:
        return (measurement.ratio if interval is None else interval.low) > 1
    return (measurement.ratio if interval is None else interval.high) < 1


def _badness(measurement: Measurement) -> float:
    if measurement.metric in COSTS or measurement.metric == DIVERGENCE:
        return -measurement.value if measurement.metric in LARGER else measurement.value
    return measurement.drop or 0.0


def _beats(theirs: tuple[float, ...], ours: tuple[float, ...]) -> bool:
    return theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True))
