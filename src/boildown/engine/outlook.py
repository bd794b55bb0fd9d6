"""Whether more training can still be enough: how this run's own trainings came out, carried further."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from boildown.domain.grammar import format_value
from boildown.domain.target import Condition
from boildown.domain.verdict import Status, Verdict
from boildown.engine.forecast import Forecast
from boildown.engine.rung import parse_rung
from boildown.journal.rows import AttemptRow

_AS_LARGE = 0.9
"""The share of a network's multiply-accumulates that another has to have to say what that one may learn."""
_SPAN = 1.5
"""How many times longer the longest of the trainings has to be than the shortest."""
_DOUBT, _DOUBT_ALONE = 3.0, 20.0
"""How many times too large the loss of quality may be that is expected; by the word of one training alone."""


@dataclass(frozen=True)
class Trained:
    """How an attempt that trained came out: minutes by its forecast, and the quality it lost, in the metric's unit."""

    minutes: float
    lost: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{format_value(self.lost, self.unit, 'drop')} after {self.minutes:.0f} min"


def outlook(forecast: Forecast, rows: Iterable[AttemptRow], quality: frozenset[str]) -> str:
    """Why training for so long must leave too much lost, in words; empty where it may be enough, or nothing is known.

    A loss of quality falls as a power of the time that is spent on training (Hestness et al., Deep learning scaling is
    predictable, empirically, arXiv 1712.00409; extrapolated to end what cannot win as by Domhan et al., Speeding up
    automatic hyperparameter optimization of deep neural networks by extrapolation of learning curves, IJCAI 2015). The
    curve goes through the best of this run's attempts that trained networks at least as large; only what would miss by
    several times is given up. One training gives no curve: the loss is taken to fall as fast as time grows, which none
    was seen to, and must be many times too large even so. Conditions on drops alone are looked at.
    """
    macs = forecast.costs.get("macs")
    if macs is None or macs.ratio is None or not _trains(str(forecast.rung)):
        return ""
    found: dict[Condition, list[Trained]] = {}
    enough: set[Condition] = set()
    for row in rows:
        share = row.quote.get("macs", {}).get("ratio") or 0.0
        if row.verdict is None or share < _AS_LARGE * macs.ratio or not _trains(row.rung):
            continue
        if any(note.startswith("reused") for note in row.notes):  # what it took is not known here
            continue
        verdict = Verdict.from_json(row.verdict)
        for finding in verdict.findings:
            condition = finding.condition
            if condition.metric not in quality or condition.form != "drop":
                continue
            if finding.status is not Status.MISSED:
                enough.add(condition)
            elif finding.observed is not None and finding.observed > 0:
                unit = verdict.measurements[condition.metric].unit
                found.setdefault(condition, []).append(Trained(row.quote["minutes"], finding.observed, unit))
    for condition, trained in found.items():
        curve = _best(trained)
        known = len(curve) > 1 and curve[-1].minutes >= _SPAN * curve[0].minutes
        left = expected(curve if known else curve[-1:], forecast.minutes)
        if condition in enough or not left.lost > (_DOUBT if known else _DOUBT_ALONE) * condition.bound > 0:
            continue
        told = f"{curve[0]} and of {curve[-1]}; it would be about" if known else f"{curve[-1]}; it would be at least"
        return (
            f"hopeless by forecast: training networks as large has left a drop of {told} {left}, "
            f"where {condition.text} is asked"
        )
    return ""


def expected(curve: Sequence[Trained], minutes: float) -> Trained:
    """What would be lost after so many minutes, by the power law through a curve's ends; of one training, inversely."""
    first, last = curve[0], curve[-1]
    power = -1.0
    if last.minutes > first.minutes:
        power = math.log(last.lost / first.lost) / math.log(last.minutes / first.minutes)
    return replace(last, minutes=minutes, lost=last.lost * (minutes / last.minutes) ** power)


def _best(trained: Sequence[Trained]) -> list[Trained]:
    """Those that lost less than all that took no longer, by minutes."""
    curve: list[Trained] = []
    for each in sorted(trained, key=lambda each: (each.minutes, each.lost)):
        if not curve or each.lost < curve[-1].lost:
            curve.append(each)
    return curve


def _trains(rung: str) -> bool:
    return any(method.card.trains for method in parse_rung(rung).methods)
