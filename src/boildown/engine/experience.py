"""What earlier runs took and lost, with the same first model or one of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from boildown.domain.deployment import Deployment
from boildown.domain.outcome import State
from boildown.domain.target import Target
from boildown.domain.verdict import Status, Verdict, judge
from boildown.journal.journal import Journal
from boildown.journal.rows import AttemptRow
from boildown.journal.runs import look_over

TOOK = "took"
"""The journal's records of what methods took beside their forecast."""
_RUNS = 20
"""How many of the newest runs are looked at."""
_MOST = 10.0
"""How many times longer or shorter than it says a method is expected to take at most."""


@dataclass(frozen=True)
class Lesson:
    """How a rung came out: as it was asked for, and with the settings that were found."""

    rungs: frozenset[str]
    verdict: Verdict


@dataclass(frozen=True)
class Earlier:
    """What runs before this one teach. factors: how many times as long as they say methods took, by name."""

    lessons: Sequence[Lesson] = ()
    factors: Mapping[str, float] = field(default_factory=dict)

    def held(self, rung: str, target: Target) -> tuple[int, int]:
        """(how many attempts at a rung would meet the target's relative conditions, of how many)."""
        met = of = 0
        for lesson in self.lessons:
            found = lesson.verdict.measurements
            known = tuple(c for c in target.conditions if c.metric in found and c.form in ("ratio", "drop"))
            if rung in lesson.rungs and known:
                of += 1
                met += judge(Target(known), found).status is Status.MET
        return met, of


def earlier_runs(runs: Path, first_key: str, kind: str, runtime: str, exclude: Path) -> Earlier:
    """What the newest runs teach with the same first runtime: with the same first model, or one of the same class.

    Journals that no run of ours wrote teach nothing.
    """

    def look(journal: Journal) -> tuple[list[Lesson], dict[str, float]] | None:
        facts = journal.facts
        same = facts.get("first") == first_key or facts["model"]["class"] == kind
        if not same or Deployment(**facts["deployment"]).first != runtime:
            return None
        factors: dict[str, float] = {}
        for record in journal.records(TOOK):
            factors |= {str(name): float(factor) for name, factor in record.data["factors"].items() if factor > 0}
        return list(_lessons(journal.attempts())), factors

    lessons: list[Lesson] = []
    factors: dict[str, list[float]] = {}
    for told, took in look_over(runs, exclude, look, most=_RUNS):
        lessons += told
        for name, factor in took.items():
            factors.setdefault(name, []).append(min(max(factor, 1 / _MOST), _MOST))
    return Earlier(lessons, {name: median(each) for name, each in factors.items()})


def _lessons(rows: Sequence[AttemptRow]) -> Iterator[Lesson]:
    for row in rows:
        if row.number and row.verdict is not None and row.state in (State.MET, State.MISSED, State.UNDECIDED):
            yield Lesson(frozenset((row.rung, str(row.quote.get("rung", row.rung)))), Verdict.from_json(row.verdict))
