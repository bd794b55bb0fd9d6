"""What a run says about its own figures: what was forecast, and how far search was from the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from boildown.domain.grammar import COSTS, format_measurement, format_value
from boildown.domain.measurement import Measurement


def forecast(quote: Mapping[str, Any]) -> str:
    """What was expected of an attempt, from the journal's quote; empty where nothing was."""
    figures = [f"{metric} {ratio}" for metric, ratio in ratios(quote).items()]
    minutes = [f"{quote['minutes']:.1f} min"] if quote.get("minutes") is not None else []
    return f"forecast: {', '.join([*minutes, *figures])}" if figures or minutes else ""


def ratios(quote: Mapping[str, Any]) -> dict[str, str]:
    """The ratios of costs that were expected, in words."""
    return {
        metric: format_measurement(Measurement(metric, 0.0, ratio=told["ratio"], spread=told.get("spread")), "ratio")
        for metric in COSTS
        if (told := quote.get(metric)) and told.get("ratio") is not None
    }


def gap(found: Mapping[int, Sequence[Measurement]]) -> tuple[str, ...]:
    """How much more the verdict's samples showed lost than the search's, per metric of quality, over all attempts.

    found: all measurements of every attempt, by its number.
    """
    drops: dict[str, dict[int, float]] = {}
    units: dict[str, str] = {}
    for number, metric, unit, more in _pairs(found):
        drops.setdefault(metric, {})[number] = more
        units[metric] = unit
    return tuple(_told(metric, units[metric], by_number) for metric, by_number in drops.items())


def _pairs(found: Mapping[int, Sequence[Measurement]]) -> Iterator[tuple[int, str, str, float]]:
    """(attempt, metric, unit, verdict's drop - search's drop) where both were measured."""
    for number, measured in found.items():
        drops = {(m.metric, m.data): m.drop for m in measured if m.drop is not None}
        for m in measured:
            searched = drops.get((m.metric, "search"))
            if number and m.data == "verdict" and m.drop is not None and searched is not None:
                yield number, m.metric, m.unit, m.drop - searched


def _told(metric: str, unit: str, gaps: Mapping[int, float]) -> str:
    mean = format_value(fmean(gaps.values()), unit, "drop")
    farthest = max(gaps, key=lambda number: abs(gaps[number]))
    most = f", {format_value(gaps[farthest], unit, 'drop')} at most (attempt {farthest})" if len(gaps) > 1 else ""
    count = "1 attempt" if len(gaps) == 1 else f"{len(gaps)} attempts"
    return f"{metric} drop in the verdict minus in the search: {mean} over {count}{most}"
