"""Why a verdict missed, in one sentence, and what kind of method should come next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from boildown.domain.grammar import FOLLOWS
from boildown.domain.verdict import Finding, Status, Verdict
from boildown.engine.probe import culprit
from boildown.methods.base import Card

_NONE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Diagnosis:
    """Why a verdict missed.

    lower: the cost metrics still too high. recover: whether quality was missed. culprit: whether the quantization of
    the `weights` or of the `activations` lost most of it, where a probe tells.
    """

    sentence: str
    lower: frozenset[str] = frozenset()
    recover: bool = False
    culprit: str | None = None

    def suits(self, card: Card, tried: Card) -> int:
        """How well a method answers the miss of another: higher is better, read from their cards."""
        answers = len(self.lower & set(card.lowers))
        if self.recover:
            answers += 2 * (tried.name in card.recovers) * (1 + (self.culprit in card.mends))
            if self.lower:
                answers += card.family != tried.family
        return answers


def diagnose(verdict: Verdict, quality: frozenset[str], probed: Mapping[str, float] = _NONE) -> Diagnosis:
    """Read a missed verdict; `quality` are the task's metric names, `probed` is what a probe found."""
    missed = [finding for finding in verdict.findings if finding.status is Status.MISSED]
    costs = {finding.condition.metric for finding in missed} - quality
    lower = frozenset(FOLLOWS.get(metric, metric) for metric in costs)
    recover = any(finding.condition.metric in quality for finding in missed)
    told = " and ".join(_told(finding) for finding in missed)
    if recover and lower:
        return Diagnosis(f"{told}: a stronger family is needed", lower, True)
    if recover:
        found = culprit(probed)
        where = f", which mostly the {found} lost" if found else ""
        return Diagnosis(f"{told}: recover quality at the same compression{where}", lower, True, found)
    if lower:
        return Diagnosis(f"{told}: compress harder", lower)
    return Diagnosis("nothing was missed")


def _told(finding: Finding) -> str:
    return f"{finding.condition.text} missed with {finding.shown}"
