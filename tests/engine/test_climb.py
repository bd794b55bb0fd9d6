"""The main loop: when it stops, what it hands back, and what it calls that."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_fakes import DROP, LATENCY, SIZE, TARGET, FakeClimber, Rungs, failed, job, judged

from boildown.domain.measurement import Interval, Measurement
from boildown.domain.outcome import Outcome, State
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import relaxations
from boildown.engine.attempt import Attempt, slower
from boildown.engine.budget import Budget
from boildown.engine.climb import choose, climb, sentence
from boildown.errors import Cancelled

FIRST = judged(0, "first")


def test_a_first_model_that_meets_the_target_wins_at_once():
    climber = FakeClimber(judged(0, "first", size=0.2))
    climbed = climb(climber, Rungs(3), attempts := [])
    assert (climbed.outcome, climbed.best, len(attempts)) == (Outcome.TARGET_MET, attempts[0], 1)


@pytest.mark.parametrize("goal", ["smallest", "fastest", "best"])
def test_other_goals_are_climbed_though_the_first_model_meets_the_target(goal):
    lighter = judged(1, size=0.15, latency=0.7, drop=0.002)
    climber = FakeClimber(judged(0, "first", size=0.2), lighter, judged(2, size=0.3), goal=goal)
    climbed = climb(climber, Rungs(2), [])
    assert (climbed.outcome, climbed.best) == (Outcome.TARGET_MET, lighter)
    assert climber.anew == ([1] if goal == "fastest" else [])


@pytest.mark.parametrize("goal", ["first", "smallest", "fastest", "best"])
def test_with_a_condition_on_quality_alone_what_is_lighter_is_looked_for(goal):
    only = Target((DROP,))
    first = judged(0, "first", target=only)
    lossy, same = judged(1, size=0.3, drop=0.1, target=only), judged(2, size=1.0, target=only)
    light = judged(3, size=0.3, latency=0.8, drop=0.004, target=only)
    climber = FakeClimber(first, lossy, same, light, goal=goal, target=only)
    assert climb(climber, Rungs(3), []).best is light
    climber = FakeClimber(first, lossy, same, goal=goal, target=only)
    climbed = climb(climber, Rungs(2), attempts := [])
    assert (climbed.outcome, climbed.best) == (Outcome.TARGET_MET, first)
    assert climber.anew == climber.in_full == []
    less = "faster" if goal == "fastest" else "smaller"
    assert f"is {less} than the first model" in (told := sentence(climbed, attempts, climber.job))
    assert "best/ holds the first model itself" in told


def test_a_first_model_that_wins_at_once_is_told_to_be_itself():
    climber = FakeClimber(judged(0, "first", size=0.2))
    climbed = climb(climber, Rungs(3), attempts := [])
    assert "nothing was climbed" in sentence(climbed, attempts, climber.job)


def test_a_budget_that_ended_before_anything_was_climbed_is_told():
    only = Target((DROP,))
    climber = FakeClimber(judged(0, "first", target=only), target=only, budget=Budget(5, clock=Running()))
    climbed = climb(climber, Rungs(3), attempts := [])
    assert sentence(climbed, attempts, climber.job).startswith("Nothing was climbed before the run ended")


def test_what_is_no_lighter_is_not_handed_over_in_place_of_the_first_model():
    both = Target((DROP, SIZE, LATENCY))
    first = judged(0, "first", target=both)
    heavy = judged(1, size=1.2, latency=1.1, target=both)
    climber = FakeClimber(first, heavy, target=both)
    climbed = climb(climber, Rungs(1), attempts := [])
    assert (climbed.outcome, climbed.best, climber.in_full) == (Outcome.TARGET_MISSED, first, [])
    assert "No candidate is smaller or faster than the first model" in sentence(climbed, attempts, climber.job)
    faster = judged(1, size=1.2, latency=0.9, drop=0.3, target=both)
    climbed = climb(FakeClimber(first, faster, target=both), Rungs(1), attempts := [])
    assert climbed.best is faster, "however much it lost"
    assert sentence(climbed, attempts, climber.job) == Outcome.TARGET_MISSED.sentence


def test_a_met_candidate_is_handed_over_though_it_is_no_lighter_where_the_first_model_missed():
    better = Target((Condition("accuracy", "value", ">=", 0.95, "accuracy >= 95 %"),))
    met = judged(1, drop=-0.06, target=better)
    climber = FakeClimber(judged(0, "first", target=better), met, target=better)
    assert climb(climber, Rungs(3), []).best is met


def test_the_verdict_samples_are_read_for_one_that_missed_and_no_other():
    class Worse(FakeClimber):
        def judge_in_full(self, attempt):
            super().judge_in_full(attempt)
            attempt.verdict = judged(attempt.number, size=0.3, drop=0.5).verdict

    climber = Worse(FIRST, judged(1, size=0.4), judged(2, size=0.3))
    assert climb(climber, Rungs(2), []).best.number == 2
    assert climber.in_full == [2]


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
    assert choose(near, job(goal="smallest"), "accuracy").number == 1
    assert choose([], job(), "accuracy") is None


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
    climber = FakeClimber(FIRST, cut(1, "rung 1"), budget=short)
    climbed = climb(climber, Rungs(1), attempts := [])
    assert climbed.outcome is Outcome.OUT_OF_BUDGET
    assert "15.0 min, is too little for rung 1" in sentence(climbed, attempts, climber.job)
    spent = Budget(1000.0, used=899.0)
    climber = FakeClimber(FIRST, cut(1, "rung 1"), budget=spent)
    assert "budget ended" in sentence(climb(climber, Rungs(1), attempts := []), attempts, climber.job)
    assert climb(FakeClimber(FIRST, cut(1, "rung 1")), Rungs(1), []).outcome is Outcome.TARGET_MISSED


def test_with_more_time_a_rung_that_was_cut_is_climbed_again_before_the_others():
    attempts = [FIRST, cut(1, "quantize-static"), judged(2, "quantize-dynamic", size=0.5)]
    climber = FakeClimber(judged(3, "quantize-static", size=0.2), again=["quantize-static"])
    climbed = climb(climber, Rungs(9), attempts, again=True)
    assert climber.asked == ["quantize-static"]
    assert (climbed.outcome, climbed.best.number) == (Outcome.TARGET_MET, 3)


def test_at_the_top_rungs_that_were_cut_are_climbed_again_with_what_is_left():
    attempts = [FIRST, cut(1, "quantize-static"), cut(2, "quantize-dynamic")]
    climber = FakeClimber(
        judged(3, "quantize-dynamic", size=0.5), judged(4, "quantize-static", size=0.4), budget=Budget(1000.0),
        again=["quantize-dynamic", "quantize-static"],
    )  # fmt: skip
    climbed = climb(climber, Rungs(2), attempts)
    assert climber.asked == ["quantize-dynamic", "quantize-static"]
    assert climber.last == [4], "the last may take all that is left"
    assert climbed.outcome is Outcome.TARGET_MISSED


def test_the_last_rung_may_take_what_is_left_unless_another_was_cut():
    climber = FakeClimber(FIRST, judged(1, size=0.5), judged(2, size=0.4))
    climb(climber, Rungs(2), [])
    assert climber.last == [2]
    climber = FakeClimber(FIRST, cut(1, "quantize-static"), judged(2, size=0.4))
    climb(climber, Rungs(2), [])
    assert climber.last == []


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
