"""The main loop: when it stops, what it hands back, and what it calls that."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_fakes import TARGET, FakeClimber, Rungs, failed, judged

from boildown.domain.measurement import Interval, Measurement
from boildown.domain.outcome import Outcome, State
from boildown.domain.verdict import relaxations
from boildown.engine.attempt import Attempt, slower
from boildown.engine.budget import Budget
from boildown.engine.climb import choose, climb
from boildown.errors import Cancelled

FIRST = judged(0, "first")


def test_a_first_model_that_meets_the_target_wins_at_once():
    climber = FakeClimber(judged(0, "first", size=0.2))
    climbed = climb(climber, Rungs(3), attempts := [])
    assert (climbed.outcome, climbed.best, len(attempts)) == (Outcome.TARGET_MET, attempts[0], 1)


@pytest.mark.parametrize("goal", ["smallest", "fastest", "best"])
def test_a_first_model_that_meets_the_target_wins_whatever_the_goal(goal):
    climber = FakeClimber(judged(0, "first", size=0.2), goal=goal)
    assert climb(climber, Rungs(3), []).outcome is Outcome.TARGET_MET
    assert (climber.asked, climber.anew) == (["first"], [])


def test_the_goal_first_stops_at_the_first_met_verdict():
    climber = FakeClimber(FIRST, judged(1, size=0.5), judged(2, size=0.2), judged(3, size=0.1))
    climbed = climb(climber, Rungs(3), [])
    assert climbed.outcome is Outcome.TARGET_MET
    assert climbed.best.number == 2
    assert climber.asked == ["first", "rung 1", "rung 2"]
    assert climber.in_full == []


@pytest.mark.parametrize(("goal", "number"), [("smallest", 3), ("fastest", 2), ("best", 1)])
def test_other_goals_climb_to_the_top_and_choose_among_the_met(goal, number):
    climber = FakeClimber(
        FIRST,
        judged(1, size=0.2, drop=-0.002, latency=0.9),
        judged(2, size=0.22, drop=0.005, latency=0.4),
        judged(3, size=0.15, drop=0.004, latency=0.8),
        judged(4, size=0.1, drop=0.1, latency=0.1),
        goal=goal,
    )
    climbed = climb(climber, Rungs(4), [])
    assert climbed.outcome is Outcome.TARGET_MET
    assert climbed.best.number == number
    assert climber.anew == ([2] if goal == "fastest" else [])


def test_nothing_met_is_missed_and_the_nearest_is_judged_in_full():
    climber = FakeClimber(FIRST, judged(1, size=0.5), failed(2), judged(3, size=0.3), judged(4, size=0.24, drop=0.2))
    climbed = climb(climber, Rungs(4), [])
    assert climbed.outcome is Outcome.TARGET_MISSED
    assert climbed.best.number == 3
    assert climber.in_full == [3]


def test_when_all_rungs_fail_the_first_model_is_handed_back():
    climbed = climb(FakeClimber(FIRST, failed(1), failed(2, state=State.SKIPPED)), Rungs(2), [])
    assert (climbed.outcome, climbed.best) == (Outcome.TARGET_MISSED, FIRST)


def test_undecided_is_an_outcome_of_its_own_and_is_preferred_to_missed():
    doubtful = judged(1, size=0.2, drop=0.009, confidence=0.95, spread=0.01)
    assert doubtful.state is State.UNDECIDED
    climbed = climb(FakeClimber(FIRST, doubtful, judged(2, size=0.26)), Rungs(2), [])
    assert climbed.outcome is Outcome.UNDECIDED
    assert climbed.best is doubtful


def test_met_beats_undecided():
    doubtful = judged(1, size=0.2, drop=0.009, confidence=0.95, spread=0.01)
    climbed = climb(FakeClimber(FIRST, doubtful, judged(2, size=0.2)), Rungs(2), [])
    assert (climbed.outcome, climbed.best.number) == (Outcome.TARGET_MET, 2)


class Running:
    """A clock that a climb moves by ten seconds per look."""

    def __init__(self):
        self.now = -10.0

    def __call__(self):
        self.now += 10
        return self.now


def test_a_budget_that_ends_before_the_top_is_out_of_budget():
    climber = FakeClimber(FIRST, judged(1, size=0.5), judged(2, size=0.2), budget=Budget(15, clock=Running()))
    climbed = climb(climber, Rungs(9), [])
    assert climbed.outcome is Outcome.OUT_OF_BUDGET
    assert climbed.best.number == 1


def test_a_budget_that_ends_at_the_top_leaves_nothing_to_resume():
    climber = FakeClimber(FIRST, judged(1, size=0.5), budget=Budget(15, clock=Running()))
    assert climb(climber, Rungs(1), []).outcome is Outcome.TARGET_MISSED


def test_met_is_met_even_if_the_budget_ended_it():
    climber = FakeClimber(FIRST, judged(1, size=0.2), goal="smallest", budget=Budget(15, clock=Running()))
    assert climb(climber, Rungs(9), []).outcome is Outcome.TARGET_MET


def test_a_cancelled_run_hands_back_the_best_so_far():
    climber = FakeClimber(FIRST, judged(1, size=0.4), raises=Cancelled())
    climbed = climb(climber, Rungs(5), attempts := [])
    assert (climbed.outcome, climbed.best.number, len(attempts)) == (Outcome.CANCELLED, 1, 2)
    assert climb(FakeClimber(raises=Cancelled()), Rungs(1), []).best is None


def test_what_earlier_sittings_finished_is_not_climbed_again():
    attempts = [FIRST, judged(1, size=0.5)]
    climber = FakeClimber(judged(2, size=0.2))
    climbed = climb(climber, Rungs(3), attempts)
    assert climber.asked == ["rung 2"]
    assert (climbed.best.number, len(attempts)) == (2, 3)


def test_the_nearest_has_the_smallest_largest_excess():
    near = [judged(1, size=0.275), judged(2, size=0.2, drop=0.03), judged(3, size=0.3, drop=0.011)]
    assert choose(near, "smallest", "accuracy").number == 1
    assert choose([], "first", "accuracy") is None


def test_the_cheapest_relaxation_is_told_of_the_nearest_candidate():
    attempts = [judged(1, "a", size=0.3), judged(2, "b", size=0.26), judged(3, "c", size=0.1, drop=0.05)]
    eased = relaxations(
        TARGET,
        [(f"attempt {a.number} ({a.rung})", a.verdict) for a in attempts],
    )
    assert str(eased[0]) == "size <= 0.26x would be met by attempt 2 (b)"
    assert "accuracy drop <= 5" in str(eased[1])


def cut(number, rung):
    """An attempt whose time was up."""
    return Attempt(number, rung, "", Path(), state=State.FAILED, failure="out of time: it ran past its limit")


def test_a_rung_cut_by_the_budget_ends_the_run_out_of_budget():
    short = Budget(1000.0)
    climbed = climb(FakeClimber(FIRST, cut(1, "rung 1"), budget=short), Rungs(1), [])
    assert climbed.outcome is Outcome.OUT_OF_BUDGET
    assert climb(FakeClimber(FIRST, cut(1, "rung 1")), Rungs(1), []).outcome is Outcome.TARGET_MISSED


def test_with_more_time_a_rung_that_was_cut_is_climbed_again_before_the_others():
    attempts = [FIRST, cut(1, "quantize-static"), judged(2, "quantize-dynamic", size=0.5)]
    climber = FakeClimber(judged(3, "quantize-static", size=0.2))
    climbed = climb(climber, Rungs(0), attempts, again=True)
    assert climber.asked == ["quantize-static"]
    assert (climbed.outcome, climbed.best.number) == (Outcome.TARGET_MET, 3)


def test_what_is_slower_or_no_faster_is_said_out_loud():
    def found(macs, latency, spread):
        interval = Interval(latency - spread, latency + spread, 0.95, "order statistics")
        return {
            "macs": Measurement("macs", macs, ratio=macs),
            "latency": Measurement("latency", latency, "s", first=1.0, ratio=latency, intervals={"ratio": interval}),
        }

    assert slower(found(0.5, 0.98, 0.05)) == "MACs fell to 0.50x, time did not: 0.98x"
    assert slower(found(1.0, 1.3, 0.1)) == "slower than the first model: 1.30x of its time"
    assert slower(found(1.0, 1.05, 0.1)) == slower(found(0.5, 0.6, 0.1)) == slower({}) == ""
