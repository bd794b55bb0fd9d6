"""How candidates were trained: the course of the loss, and how losses stood in tournaments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boildown.journal.rows import Record

_POINTS, _FEWEST = 8000, 8
"""Points of all curves together, and of each at least: the report has to stay small."""


@dataclass(frozen=True)
class Curve:
    """The loss over one training: (step, mean loss since the step before)."""

    title: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Ranking:
    """One tournament: every contestant with its score, best first, None for one that failed; who won."""

    round: int | None
    steps: int
    scores: tuple[tuple[str, float | None], ...]
    winners: tuple[str, ...]

    def __str__(self) -> str:
        told = ", ".join(f"{loss} {'failed' if score is None else format(score, '.4g')}" for loss, score in self.scores)
        return f"losses after {self.steps:,} steps: {told}"


def curves(records: Sequence[Record]) -> dict[int | None, tuple[Curve, ...]]:
    """The trainings of every attempt; one that went on after it was killed is told again, and replaces itself."""
    found: dict[int | None, dict[str, Curve]] = {}
    for record in records:
        points = tuple(
            (int(step), float(loss)) for step, loss in _list(record.data, "points") if math.isfinite(float(loss))
        )
        if record.kind == "curve" and len(points) > 1:
            losses = " + ".join(map(str, record.data["losses"])) or "task loss alone"
            title = f"{losses}, {int(record.data['of']):,} steps, learning rate {float(record.data['lr']):g}"
            titled = found.setdefault(record.attempt, {})
            titled.pop(title, None)
            titled[title] = Curve(title, points)
    count = sum(map(len, found.values()))
    most = max(_FEWEST, _POINTS // max(count, 1))
    return {a: tuple(Curve(c.title, _thinned(c.points, most)) for c in told.values()) for a, told in found.items()}


def rankings(records: Sequence[Record]) -> dict[int | None, tuple[Ranking, ...]]:
    """The tournaments of every attempt by round; what was told again replaces what was told."""
    found: dict[int | None, dict[int | None, Ranking]] = {}
    for record in records:
        ranked = found.setdefault(record.attempt, {}) if record.kind in ("survivors", "loss") else {}
        if record.kind == "survivors":
            data = record.data
            scores = sorted(
                data["scores"].items(), key=lambda item: -math.inf if item[1] is None else item[1], reverse=True
            )
            ranked[None] = Ranking(None, int(data["step"]), tuple(scores), tuple(map(str, data["losses"])))
        elif record.kind == "loss" and None in ranked:  # the round's end: now its number is known
            held, number = ranked.pop(None), int(record.data["round"])
            ranked[number] = Ranking(number, held.steps, held.scores, held.winners)
    return {attempt: tuple(told.values()) for attempt, told in found.items() if told}


def _thinned(points: tuple[tuple[int, float], ...], most: int) -> tuple[tuple[int, float], ...]:
    """At most so many of the points, the first and the last among them."""
    if len(points) <= most:
        return points
    return tuple(points[round(at * (len(points) - 1) / (most - 1))] for at in range(most))


def _list(data: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = data.get(name, ())
    return value if isinstance(value, list) else ()
