"""The main loop: next rung, attempt, verdict, until the target is met or nothing is left to try."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from boildown.domain.outcome import Outcome, State
from boildown.engine.attempt import Attempt, Climber
from boildown.engine.job import Goal
from boildown.engine.ladder import AGAIN, Ladder
from boildown.engine.rung import parse_rung
from boildown.errors import BudgetError, Cancelled


@dataclass(frozen=True)
class Climbed:
    """How the climb ended, and the attempt to hand back; None only if not even attempt 0 was measured."""

    outcome: Outcome
    best: Attempt | None


def climb(climber: Climber, ladder: Ladder, attempts: list[Attempt], *, again: bool = False) -> Climbed:
    """Climb until done. `attempts` holds what earlier sittings finished, and receives the new ones.

    With `again` the rungs that earlier sittings had too little time for are climbed once more, first.
    """
    job, budget, topped = climber.job, climber.budget, False
    try:
        if not attempts:
            attempts.append(climber.measure_first())
        for rung in _cut(attempts) if again else ():
            if not _enough(attempts, job.goal) and budget.remaining > 0:
                attempts.append(climber.climb(len(attempts), parse_rung(rung), AGAIN))
        while not _enough(attempts, job.goal):
            step = ladder.next(attempts)
            topped = step is None
            if step is None or budget.remaining <= 0:
                break
            attempts.append(climber.climb(len(attempts), *step, skip=ladder.skips))
        best = choose(attempts, job.goal, climber.quality)
        raced = job.goal == "fastest" and len(attempts) > 1
        looked: list[int] = []
        while best is not None and best.number not in looked and (raced or best.state is not State.MET):
            (climber.time_anew if best.state is State.MET else climber.judge_in_full)(best)
            looked.append(best.number)
            best = choose(attempts, job.goal, climber.quality)
    except Cancelled:
        return Climbed(Outcome.CANCELLED, choose(attempts, job.goal, climber.quality))
    except BudgetError:
        return run_out(attempts, job.goal, climber.quality)
    return Climbed(_outcome(attempts, topped, budget.seconds is not None), best)


def run_out(attempts: Sequence[Attempt], goal: Goal, quality: str) -> Climbed:
    """What there is when the budget has ended."""
    return Climbed(_outcome(attempts, topped=False, limited=True), choose(attempts, goal, quality))


def choose(attempts: Sequence[Attempt], goal: Goal, quality: str) -> Attempt | None:
    """The best attempt: among the met ones by the goal, else the one with the smallest largest excess.

    `quality` names the metric that the goal `best` looks at.
    """
    met = [attempt for attempt in attempts if attempt.state is State.MET]
    if met:
        return met[0] if goal == "first" else min(met, key=lambda attempt: _rank(attempt, goal, quality))
    judged = [attempt for attempt in attempts if attempt.verdict is not None]
    undecided = [attempt for attempt in judged if attempt.state is State.UNDECIDED]
    return min(undecided or judged, key=_distance, default=None)


def _distance(attempt: Attempt) -> float:
    """The largest excess of what was measured: search may have rejected an attempt before the rest was."""
    assert attempt.verdict is not None
    known = [finding.excess for finding in attempt.verdict.findings if finding.observed is not None]
    return max(known, default=math.inf)


def _enough(attempts: Sequence[Attempt], goal: Goal) -> bool:
    """Attempt 0 wins at once; with the goal `first`, so does any."""
    return attempts[0].state is State.MET or (goal == "first" and any(a.state is State.MET for a in attempts))


def _rank(attempt: Attempt, goal: Goal, quality: str) -> float:
    found = attempt.measurements
    if goal == "best":
        return found[quality].drop or 0.0
    cost = found["size" if goal == "smallest" else "latency"]
    return cost.value if cost.ratio is None else cost.ratio  # beside the first model: it was not timed at one time


def _cut(attempts: Sequence[Attempt]) -> list[str]:
    """The rungs that were never climbed to their verdict because their time was up."""
    climbed = {attempt.rung for attempt in attempts if not attempt.cut}
    return [rung for rung in dict.fromkeys(a.rung for a in attempts if a.cut) if rung not in climbed]


def _outcome(attempts: Sequence[Attempt], topped: bool, limited: bool) -> Outcome:
    if any(attempt.state is State.MET for attempt in attempts):
        return Outcome.TARGET_MET
    if not topped or (limited and _cut(attempts)):
        return Outcome.OUT_OF_BUDGET
    if any(attempt.state is State.UNDECIDED for attempt in attempts):
        return Outcome.UNDECIDED
    return Outcome.TARGET_MISSED
