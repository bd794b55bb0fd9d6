"""The honest baseline: how a small network trained on the labels alone compares with what came out."""

from __future__ import annotations

from collections.abc import Sequence

from boildown.domain.outcome import State
from boildown.engine.attempt import Attempt
from boildown.engine.climb import distance
from boildown.engine.rung import parse_rung
from boildown.methods.base import Method


def baseline(attempts: Sequence[Attempt], best: Attempt | None) -> str:
    """What the run says about it, in a sentence; empty where nothing was trained."""
    trained = [a for a in attempts[1:] if a.verdict is not None and any(m.card.trains for m in _methods(a))]
    rivals = [a for a in trained if any(m.card.family == "training" for m in _methods(a))]
    if best is not None and best in rivals:
        return f"The baseline won: attempt {best.number} ({best.rung}) learned from the labels alone."
    if rivals:
        nearest = min(rivals, key=distance)
        told = "met the target too." if nearest.state is State.MET else f"did not win: {nearest.sentence}"
        return f"The baseline, attempt {nearest.number} ({nearest.rung}), learned from the labels alone and {told}"
    if failed := [a for a in attempts[1:] if a.cut and any(m.card.family == "training" for m in _methods(a))]:
        return (
            f"The baseline, attempt {failed[-1].number} ({failed[-1].rung}), came to no verdict: {failed[-1].sentence}"
        )
    if best is not None and best in trained:
        return "No small network was trained on the labels alone to compare with: the run had ended before."
    return ""


def _methods(attempt: Attempt) -> tuple[Method, ...]:
    return parse_rung(attempt.rung).methods
