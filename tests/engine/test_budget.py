"""Budgets are read as people write them, and shared out so that a verdict always fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boildown.engine.budget import Budget, parse_time
from boildown.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30 min", 1800), ("2h", 7200), ("90 s", 90), ("1 h 30 min", 5400), ("1.5 hours", 5400), ("2 days", 172800),
        ("45 Minutes", 2700), (60, 60), (0.5, 0.5), ("10 secs", 10),
    ],
)  # fmt: skip
def test_times_are_read(text, seconds):
    assert parse_time(text) == seconds


@given(st.integers(0, 99), st.integers(0, 59), st.integers(1, 59))
def test_parts_of_a_time_add_up(hours, minutes, seconds):
    assert parse_time(f"{hours} h {minutes} min {seconds} s") == 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs", "5", "min", "-3 min", "3 min ago", True, None, [1]])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(InputError) as caught:
        parse_time(text)
    assert "30 min" in caught.value.mistakes[0].cure


@pytest.mark.parametrize("text", [0, -1, "0 s", float("inf"), float("nan")])
def test_no_time_at_all_is_refused(text):
    with pytest.raises(InputError, match="leaves no time"):
        parse_time(text)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_tenth_is_kept_for_the_verdict_and_earlier_sittings_count():
    clock = Clock()
    budget = Budget(1000.0, used=100.0, clock=clock)
    assert (budget.elapsed, budget.remaining) == (100.0, 800.0)
    clock.now = 850.0
    assert budget.elapsed == 950.0
    assert budget.remaining < 0


def test_an_attempt_gets_three_times_its_quote_and_at_most_half_of_what_is_left():
    budget = Budget(10_000.0, clock=Clock())
    assert budget.limit(15) == 3 * 900
    assert budget.limit(1000) == 4500, "it cannot be done, and others may"
    assert budget.limit(90) == 1.5 * 5400, "half of what remains would end it in vain"
    assert budget.limit(0.01) == 2250, "cards know small models: a short quote gets a quarter"
    assert Budget(300.0, clock=Clock()).limit(0.01) == 120, "and two minutes where there are two"
    assert Budget(10.0, clock=Clock()).limit(10) == 4.5
    assert Budget(None, clock=Clock()).limit(10) == 3600, "without a budget only a hang has to be ended"


def test_making_leaves_time_for_judging_and_the_last_may_take_all_the_rest():
    clock = Clock()
    budget = Budget(1000.0, clock=clock)
    assert (budget.room(50), budget.room(300)) == (900, 700), "the tenth that is kept covers the first 100"
    assert budget.limit(1, 300, last=True) == 700
    assert budget.limit(4, 300) == 360, "1.5 times what needs half of the room"
    assert budget.limit(1, 300) == 180
    clock.now = 950.0
    assert budget.left == 50
    clock.now = 2000.0
    assert budget.left == 1, "what was made may at least begin"
    assert Budget(None, clock=Clock()).limit(10, 300, last=True) == 3600


@given(st.floats(1, 1e6), st.floats(0, 1e4))
def test_a_limit_takes_no_more_than_half_of_a_budget_or_what_is_quoted(seconds, minutes):
    budget = Budget(seconds, clock=Clock())
    most = 90 * minutes if 60 * minutes <= budget.remaining else 0.0
    assert 1.0 <= budget.limit(minutes) <= max(1.0, seconds / 2, min(most, seconds)) * (1 + 1e-9)
