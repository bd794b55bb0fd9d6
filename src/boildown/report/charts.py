"""The chart of a run as geometry: where things lie; the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from boildown.domain.grammar import FRACTION, format_value
from boildown.report.read import AttemptLine, Axes

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 72, 20, 18, 52
_FAR = 4.0  # times the allowed drop: what lost more is drawn at the edge, so that the rest can be told apart


@dataclass(frozen=True)
class Point:
    """An attempt in the chart; `beyond` is its value where it lies past the upper edge."""

    x: float
    y: float
    attempt: AttemptLine
    title: str
    beyond: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, in pixels, and its number."""

    at: float
    text: str


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Scatter:
    """Cost against loss of quality: each attempt a point, the target a shaded region."""

    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str
    region: Box | None
    zero: float
    plot: Box


def scatter(axes: Axes | None, attempts: Sequence[AttemptLine]) -> Scatter | None:
    """Lay out the chart; None if fewer than two attempts have a place in it."""
    placed = [
        (a, a.x, a.y)
        for a in attempts
        if a.x is not None and a.y is not None and math.isfinite(a.x) and math.isfinite(a.y)
    ]
    if axes is None or len(placed) < 2:
        return None
    right = 1.05 * max([1.0, axes.x_bound or 0.0, *(x for _, x, _ in placed)])
    x_ticks = _ticks(0.0, right)
    low, high = _drops([y for _, _, y in placed], axes.y_bound)
    y_ticks = _ticks(low, high)
    plot = Box(LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)

    def across(x: float) -> float:
        return round(plot.x + plot.width * x / right, 1)

    def down(y: float) -> float:
        return round(plot.y + plot.height * (high - min(max(y, low), high)) / (high - low), 1)

    points = []
    for attempt, x, y in placed:
        drop = format_value(y, axes.unit, "drop")
        title = f"{attempt.number} {attempt.rung}: {axes.cost} {x:.3g}x, {axes.quality} drop {drop}, {attempt.state}"
        points.append(Point(across(x), down(y), attempt, title, drop if y > high else ""))
    region = None
    if axes.x_bound is not None or axes.y_bound is not None:
        edge = plot.x + plot.width if axes.x_bound is None else across(axes.x_bound)
        top = plot.y if axes.y_bound is None else down(axes.y_bound)
        region = Box(plot.x, top, round(edge - plot.x, 1), round(plot.y + plot.height - top, 1))
    scale, unit = (100.0, "pp") if axes.unit == FRACTION else (1.0, axes.unit)
    return Scatter(
        points=tuple(points),
        x_ticks=tuple(Tick(across(x), f"{x:g}") for x in x_ticks),
        y_ticks=tuple(Tick(down(y), f"{round(scale * y, 6) + 0.0:g}") for y in y_ticks),
        x_label=f"{axes.cost} (times the first model's)",
        y_label=f"{axes.quality} drop" + (f" ({unit})" if unit else ""),
        region=region,
        zero=down(0.0),
        plot=plot,
    )


def _drops(values: Sequence[float], bound: float | None) -> tuple[float, float]:
    """The range of drops that is drawn, zero and the bound always in it."""
    low, high = min(0.0, *values), max(0.0, bound or 0.0, *values)
    if bound is not None and bound > 0:
        high = min(high, _FAR * bound)
    margin = 0.08 * (high - low) or 0.01
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers from `low` to `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    start, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(start, end + 1)]
