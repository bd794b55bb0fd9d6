"""Why a verdict missed, in one sentence, and what kind of method should come next."""

from __future__ import annotations

from dataclasses import dataclass

from boildown.domain.verdict import Finding, Status, Verdict
from boildown.methods.base import Card


@dataclass(frozen=True)
class Diagnosis:
    """`lower` are the cost metrics still too high; `recover` says that quality was missed."""

    sentence: str
    lower: frozenset[str] = frozenset()
    recover: bool = False

    def suits(self, card: Card, tried: Card) -> int:
        """How well a method answers the miss of another: higher is better, read from their cards."""
        answers = len(self.lower & set(card.lowers))
        if self.recover:
            answers += 2 * (tried.name in card.recovers)
            if self.lower:
                answers += card.family != tried.family
        return answers


def diagnose(verdict: Verdict, quality: frozenset[str]) -> Diagnosis:
    """Read a missed verdict; `quality` are the task's metric names."""
    missed = [finding for finding in verdict.findings if finding.status is Status.MISSED]
    lower = frozenset(finding.condition.metric for finding in missed) - quality
    recover = any(finding.condition.metric in quality for finding in missed)
    told = " and ".join(_told(finding) for finding in missed)
    if recover and lower:
        return Diagnosis(f"{told}: a stronger family is needed", lower, True)
    if recover:
        return Diagnosis(f"{told}: recover quality at the same compression", lower, True)
    if lower:
        return Diagnosis(f"{told}: compress harder", lower)
    return Diagnosis("nothing was missed")


def _told(finding: Finding) -> str:
    return f"{finding.condition.text} missed with {finding.shown}"
