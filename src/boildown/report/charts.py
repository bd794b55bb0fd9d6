"""The charts of a run as geometry: where things lie; the template draws them as SVG, a script moves them.

A scale places all attempts on one axis, whatever is on the other: the script only combines two of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from boildown.domain.grammar import FRACTION, marked
from boildown.report.attempts import AttemptLine
from boildown.report.axes import Axis
from boildown.report.course import Curve

WIDTH, HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 28, 26, 52
_FAR = 4.0  # times the allowed drop: what lost more is drawn at the edge, so that the rest can be told apart
_DEAR = 2.0  # times the first model's cost: likewise
_LOGARITHMIC = 10.0  # times the lowest loss, from where a logarithmic scale shows more


@dataclass(frozen=True)
class Tick:
    """A mark on an axis and its number; `at` runs from 0 (low) to 1 (high)."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """One axis: where every attempt lies on it (0 low to 1 high, None nowhere), and its value in words.

    beyond: whether an attempt lies past the end and is drawn there. bound: where the target's bound is. zero: where
    the first model is.
    """

    axis: Axis
    ticks: tuple[Tick, ...]
    places: tuple[float | None, ...]
    words: tuple[str, ...]
    beyond: tuple[bool, ...]
    bound: float | None
    zero: float


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float

    def across(self, at: float) -> float:
        """The pixel of a place on the horizontal axis."""
        return round(self.x + self.width * at, 1)

    def down(self, at: float) -> float:
        """The pixel of a place on the vertical axis: high is up."""
        return round(self.y + self.height * (1 - at), 1)


@dataclass(frozen=True)
class Point:
    """An attempt in the chart, in pixels; `away` where it has no place on these axes, `beyond` past the end of one."""

    attempt: AttemptLine
    x: float
    y: float
    beyond: bool
    away: bool
    title: str


PLOT = Box(_LEFT, _TOP, WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM)


@dataclass(frozen=True)
class Chart:
    """Attempts as points on two of the scales; the target a shaded region, the Pareto front a line."""

    attempts: tuple[AttemptLine, ...]
    scales: tuple[Scale, ...]
    x: Scale
    y: Scale

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of all methods that were tried."""
        return tuple(dict.fromkeys(name for attempt in self.attempts for name in attempt.methods))

    @property
    def region(self) -> Box | None:
        """Where the bounds of both axes hold."""
        if self.x.bound is None and self.y.bound is None:
            return None
        right = PLOT.across(1.0 if self.x.bound is None else self.x.bound)
        top = PLOT.down(1.0 if self.y.bound is None else self.y.bound)
        return Box(PLOT.x, top, round(right - PLOT.x, 1), round(PLOT.y + PLOT.height - top, 1))

    def points(self) -> list[Point]:
        """Every attempt, in order."""
        return [
            Point(
                attempt,
                PLOT.across(x or 0.0),
                PLOT.down(y or 0.0),
                self.x.beyond[n] or self.y.beyond[n],
                x is None or y is None,
                self.title(n),
            )
            for n, (attempt, x, y) in enumerate(zip(self.attempts, self.x.places, self.y.places, strict=True))
        ]

    def title(self, number: int) -> str:
        """An attempt in one line: what it is and all that is known of it."""
        known = ", ".join(f"{scale.axis.name} {words}" for scale in self.scales if (words := scale.words[number]))
        attempt = self.attempts[number]
        return f"{attempt.number} {attempt.rung}, {attempt.state}: {known}"

    def front(self) -> str:
        """The points that none beats on both axes, as the `d` of a path of steps; empty for fewer than two."""
        return steps(
            [(x, y) for x, y in zip(self.x.places, self.y.places, strict=True) if x is not None and y is not None]
        )

    def data(self) -> dict[str, Any]:
        """What the script needs to draw any pair of axes."""
        return {
            "plot": [PLOT.x, PLOT.y, PLOT.width, PLOT.height],
            "shown": [self.scales.index(self.x), self.scales.index(self.y)],
            "points": [[a.number, f"{a.number} {a.rung}", a.state, list(a.methods)] for a in self.attempts],
            "scales": [
                {
                    "name": scale.axis.name,
                    "label": scale.axis.label,
                    "ticks": [[tick.at, tick.text] for tick in scale.ticks],
                    "places": scale.places,
                    "words": scale.words,
                    "beyond": [int(past) for past in scale.beyond],
                    "bound": scale.bound,
                    "zero": scale.zero,
                }
                for scale in self.scales
            ],
        }


def chart(axes: Sequence[Axis], attempts: Sequence[AttemptLine]) -> Chart | None:
    """The chart of a run: quality against the first cost; None if fewer than two attempts have a place in it."""
    scales = tuple(found for axis in axes if (found := scale(axis, attempts)) is not None)
    x = next((scale for scale in scales if scale.axis.cost), None)
    y = next((scale for scale in scales if not scale.axis.cost), None)
    if x is None or y is None or sum(None not in both for both in zip(x.places, y.places, strict=True)) < 2:
        return None
    return Chart(tuple(attempts), scales, x, y)


def scale(axis: Axis, attempts: Sequence[AttemptLine]) -> Scale | None:
    """One axis laid out; None if fewer than two attempts have a place on it."""
    values = [(attempt.places or {}).get(axis.metric) for attempt in attempts]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < 2:
        return None
    low, high = (_costs if axis.cost else _drops)(known, axis.bound)
    unit = 100.0 if axis.unit == FRACTION and not axis.cost else 1.0

    def at(value: float) -> float:
        return round((min(max(value, low), high) - low) / (high - low), 5)

    placed = [value if value is not None and math.isfinite(value) else None for value in values]
    return Scale(
        axis,
        tuple(Tick(at(tick), f"{round(unit * tick, 6) + 0.0:g}") for tick in _ticks(low, high)),
        tuple(None if value is None else at(value) for value in placed),
        tuple(
            "" if value is None else marked(axis.words(value), noisy=axis.metric in attempt.noisy)
            for attempt, value in zip(attempts, placed, strict=True)
        ),
        tuple(value is not None and value > high for value in placed),
        None if axis.bound is None else at(axis.bound),
        at(1.0 if axis.cost else 0.0),
    )


def steps(places: Sequence[tuple[float, float]]) -> str:
    """The Pareto front of places, less being better on both axes, as the `d` of a path."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(places):
        if not kept or y < kept[-1][1]:
            kept.append((x, y))
    if len(kept) < 2:
        return ""
    (x, y), *rest = kept
    return f"M{PLOT.across(x)} {PLOT.down(y)}" + "".join(f"H{PLOT.across(x)}V{PLOT.down(y)}" for x, y in rest)


def _costs(values: Sequence[float], bound: float | None) -> tuple[float, float]:
    """The range of ratios that is drawn, from nothing to somewhat more than the first model's."""
    most = max(_DEAR, bound or 0.0)
    return 0.0, 1.05 * min(most, max(1.0, bound or 0.0, *values))


def _drops(values: Sequence[float], bound: float | None) -> tuple[float, float]:
    """The range of drops that is drawn, zero and the bound always in it."""
    low, high = min(0.0, bound or 0.0, *values), max(0.0, bound or 0.0, *values)
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


# -- training curves ---------------------------------------------------------------------------------

LOSS = Box(52, 10, 640, 130)
"""Where the curves of an attempt are drawn."""


@dataclass(frozen=True)
class Lines:
    """Training curves on shared axes: (title, `d` of the path, first and last loss in words) each, the last in bold."""

    paths: tuple[tuple[str, str, str], ...]
    y_ticks: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]


def lines(curves: Sequence[Curve]) -> Lines | None:
    """The curves of one attempt; None without any. The loss is on a logarithmic scale where it falls far."""
    losses = [loss for curve in curves for _step, loss in curve.points]
    if not losses:
        return None
    logarithmic = min(losses) > 0 and max(losses) > _LOGARITHMIC * min(losses)
    shown = math.log10 if logarithmic else float
    low, high = shown(min(losses)), shown(max(losses))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    most = max(step for curve in curves for step, _loss in curve.points)

    def path(curve: Curve) -> str:
        places = [
            (LOSS.across(step / most), LOSS.down((shown(loss) - low) / (high - low))) for step, loss in curve.points
        ]
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)

    ends = [(0.0, 10**low if logarithmic else low), (1.0, 10**high if logarithmic else high)]
    return Lines(
        tuple((c.title, path(c), f"{c.points[0][1]:.3g} to {c.points[-1][1]:.3g}") for c in curves),
        tuple(Tick(at, f"{value:.2g}") for at, value in ends),
        (Tick(0.0, "0"), Tick(1.0, f"{most:,} steps")),
    )
