"""The main loop: next rung, attempt, verdict, until the target is met or nothing is left to try."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from boildown.domain.front import lighter
from boildown.domain.grammar import COSTS
from boildown.domain.outcome import Outcome, State
from boildown.engine.attempt import AGAIN, Attempt, Climber
from boildown.engine.job import Job
from boildown.engine.ladder import Ladder
from boildown.engine.rung import Rung, parse_rung
from boildown.errors import BudgetError, Cancelled

_LESS = {"size": "smaller", "latency": "faster", "throughput": "of more throughput"}
_TOLD = 6.0
"""Seconds of a budget that are worth a word."""


@dataclass(frozen=True)
class Climbed:
    """How the climb ended, and the attempt to hand back; None only if not even attempt 0 was measured.

    left: the seconds of a budget that were too few for any rung that is open.
    """

    outcome: Outcome
    best: Attempt | None
    left: float = 0.0


def climb(climber: Climber, ladder: Ladder, attempts: list[Attempt], *, again: bool = False) -> Climbed:
    """Climb until done. `attempts` holds what earlier sittings finished, and receives the new ones.

    Rungs that had too little time are climbed once more at the top, where there is enough now; with `again`, those
    of earlier sittings first.
    """
    job, budget, topped = climber.job, climber.budget, False
    try:
        if not attempts:
            attempts.append(climber.measure_first())
        while again and not enough(attempts, job) and budget.remaining > 0:
            if (step := _again(climber, attempts)) is None:
                break
            attempts.append(climber.climb(len(attempts), *step))
        while not enough(attempts, job):
            step, skip = ladder.next(attempts), ladder.skips
            topped, last = step is None, ladder.ends(attempts) and not cut(attempts)
            if step is None:
                step, skip, last = _again(climber, attempts), False, len(cut(attempts)) == 1
            if step is None or budget.remaining <= 0:
                break
            attempts.append(climber.climb(len(attempts), *step, skip=skip, last=last))
        best = choose(attempts, job, climber.quality)
        looked = [0]  # the first model is known in full
        while best is not None and best.number not in looked:
            looked.append(best.number)
            if best.state is State.MET and job.goal == "fastest":
                climber.time_anew(best)
            elif best.state is not State.MET:
                climber.judge_in_full(best)
                if best.verdict is not None:
                    break  # the verdict's samples are read for what is handed back, not for the next nearest too
            best = choose(attempts, job, climber.quality)
    except Cancelled:
        return Climbed(Outcome.CANCELLED, choose(attempts, job, climber.quality))
    except BudgetError:
        return run_out(attempts, job, climber.quality)
    left = budget.remaining if topped and budget.seconds is not None else 0.0
    return Climbed(_outcome(attempts, topped, budget.seconds is not None), best, max(0.0, left))


def run_out(attempts: Sequence[Attempt], job: Job, quality: str) -> Climbed:
    """What there is when the budget has ended."""
    return Climbed(_outcome(attempts, topped=False, limited=True), choose(attempts, job, quality))


def _again(climber: Climber, attempts: Sequence[Attempt]) -> tuple[Rung, str] | None:
    """A rung whose time was up, and is enough now; None where there is none."""
    rung = climber.climbable(cut(attempts))
    return None if rung is None else (parse_rung(rung), AGAIN)


def choose(attempts: Sequence[Attempt], job: Job, quality: str) -> Attempt | None:
    """The best attempt: among the met ones by the goal, else the one with the smallest largest excess.

    The first model is chosen only where nothing that was made is: what is no lighter than the first model is no
    better. `quality` names the metric that the goal `best` looks at.
    """
    first = next((attempt for attempt in attempts if attempt.number == 0), None)
    made = [attempt for attempt in attempts if attempt.number and attempt.verdict is not None]
    light = [attempt for attempt in made if lighter(attempt.measurements, job.costs)]
    if first is not None and first.state is State.MET:
        made = light
    if met := [attempt for attempt in made if attempt.state is State.MET]:
        return met[0] if job.goal == "first" else min(met, key=lambda attempt: _rank(attempt, job, quality))
    if first is not None and first.state is State.MET:
        return first
    undecided = [attempt for attempt in light if attempt.state is State.UNDECIDED]
    return min(undecided or light, key=distance, default=first)


def distance(attempt: Attempt) -> float:
    """The largest excess of what was measured: search may have rejected an attempt before the rest was."""
    assert attempt.verdict is not None
    known = [finding.excess for finding in attempt.verdict.findings if finding.observed is not None]
    return max(known, default=math.inf)


def sentence(climbed: Climbed, attempts: Sequence[Attempt], job: Job) -> str:
    """How the run ended, what to try next, and that it is the first model that is handed over, where it is."""
    outcome, best = climbed.outcome, climbed.best
    told = outcome.sentence
    if outcome is Outcome.OUT_OF_BUDGET and climbed.left >= _TOLD:
        left, rungs = f"{climbed.left / 60:.1f} min", " and ".join(cut(attempts))
        told = (
            f"What is left of the budget, {left}, is too little for {rungs}: resume the run with a larger budget; "
            "nothing finished is done again."
        )
    if best is None or best.number:
        return told
    itself = "best/ holds the first model itself"
    if best.state is State.MET and enough(attempts[:1], job):
        return f"The first model meets the target as it is: {itself}, and nothing was climbed."
    if best.state is State.MET and len(attempts) == 1:
        return f"Nothing was climbed before the run ended: {itself}, which meets the target."
    less = " or ".join(_LESS.get(metric, f"cheaper in {metric}") for metric in job.costs)
    if best.state is State.MET:
        return f"No candidate meets the target and is {less} than the first model, which meets it: {itself}."
    return f"{told} No candidate is {less} than the first model: {itself}."


def cut(attempts: Sequence[Attempt]) -> list[str]:
    """The rungs that were never climbed to their verdict because their time was up."""
    climbed = {attempt.rung for attempt in attempts if not attempt.cut}
    return [rung for rung in dict.fromkeys(a.rung for a in attempts if a.cut) if rung not in climbed]


def enough(attempts: Sequence[Attempt], job: Job) -> bool:
    """With the goal `first`, any attempt that is met is; the first model only where a cost is asked for."""
    if job.goal != "first":
        return False
    first, asked = attempts[0], any(condition.metric in COSTS for condition in job.target.conditions)
    met = [attempt for attempt in attempts if attempt.state is State.MET]
    return any(
        asked if attempt is first else first.state is not State.MET or lighter(attempt.measurements, job.costs)
        for attempt in met
    )


def _rank(attempt: Attempt, job: Job, quality: str) -> float:
    found = attempt.measurements
    if job.goal == "best":
        return (found[quality].drop if quality in found else None) or 0.0
    cost = found["size" if job.goal == "smallest" else "latency"]
    return cost.value if cost.ratio is None else cost.ratio  # beside the first model: it was not timed at one time


def _outcome(attempts: Sequence[Attempt], topped: bool, limited: bool) -> Outcome:
    if any(attempt.state is State.MET for attempt in attempts):
        return Outcome.TARGET_MET
    if not topped or (limited and cut(attempts)):
        return Outcome.OUT_OF_BUDGET
    if any(attempt.state is State.UNDECIDED for attempt in attempts):
        return Outcome.UNDECIDED
    return Outcome.TARGET_MISSED
