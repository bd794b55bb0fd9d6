from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from boildown.domain.front import compared, costs, front, lighter
from boildown.domain.measurement import Interval, Measurement
from boildown.domain.target import Condition

SIZE = Condition("size", "ratio", "<=", 0.25, "size <= 0.25x")
DROP = Condition("accuracy", "drop", "<=", 0.01, "accuracy drop <= 1 pp")


def measured(size, drop):
    return {"size": Measurement("size", size, "B"), "accuracy": Measurement("accuracy", 0.9 - drop, drop=drop)}


def test_what_another_beats_in_everything_is_not_on_the_front():
    found = {0: measured(4, 0.0), 1: measured(1, 0.01), 2: measured(2, 0.02), 3: measured(0.5, 0.3)}
    assert front(found, ("accuracy", "size")) == (0, 1, 3)


def test_equal_candidates_share_their_place_and_unmeasured_ones_have_none():
    found = {0: measured(1, 0.0), 1: measured(1, 0.0), 2: {"size": Measurement("size", 0.1, "B")}}
    found[3] = measured(0.1, float("nan"))
    assert front(found, ("accuracy", "size")) == (0, 1)


def test_the_first_model_has_lost_nothing():
    first = {"size": Measurement("size", 4, "B"), "accuracy": Measurement("accuracy", 0.9)}
    assert front({0: first, 1: measured(4, 0.01)}, ("accuracy", "size")) == (0,)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_every_candidate_is_on_the_front_or_beaten_by_one_that_is(places):
    found = {number: measured(size, drop) for number, (size, drop) in enumerate(places)}
    kept = front(found, ("accuracy", "size"))
    for number, (size, drop) in enumerate(places):
        better = [k for k in kept if places[k] != (size, drop) and places[k][0] <= size and places[k][1] <= drop]
        assert (number in kept) == (not better)


def test_candidates_are_compared_in_what_was_asked_or_in_size_and_quality():
    assert compared((DROP, SIZE), "f1") == ("accuracy", "size")
    assert compared((DROP,), "f1") == ("accuracy", "size")
    assert compared((SIZE,), "f1") == ("f1", "size")


def test_a_goal_is_about_a_cost_of_its_own_and_a_run_about_size_where_nothing_is_named():
    assert costs((DROP,)) == costs((DROP,), "best") == costs((DROP,), "smallest") == ("size",)
    assert costs((DROP,), "fastest") == ("latency",)
    assert costs((DROP, SIZE), "fastest") == ("size", "latency")
    assert compared((DROP,), "f1", "fastest") == ("accuracy", "latency")


def test_where_some_candidates_have_no_score_all_are_compared_by_their_divergence():
    diverged = {"size": Measurement("size", 1, "B"), "divergence": Measurement("divergence", 0.3)}
    first = {"divergence": Measurement("divergence", 0.0), **measured(4, 0.0)}
    assert compared((DROP, SIZE), "f1", judged=[first, diverged]) == ("divergence", "size")
    assert compared((DROP, SIZE), "f1", judged=[first]) == ("accuracy", "size")
    worse = {"size": Measurement("size", 2, "B"), "divergence": Measurement("divergence", 0.4)}
    assert front({0: first, 1: diverged, 2: worse}, ("divergence", "size")) == (0, 1)


def test_lighter_is_smaller_or_faster_by_more_than_noise():
    def timed(low, high):
        middle = (low + high) / 2
        return Measurement("latency", middle, "s", ratio=middle, intervals={"ratio": Interval(low, high, 0.95, "-")})

    size = Measurement("size", 1.1, "B", ratio=1.1)
    assert lighter({"size": size, "latency": timed(0.7, 0.9)}, ("size", "latency")) == ("latency",)
    assert lighter({"size": size, "latency": timed(0.9, 1.05)}, ("size", "latency")) == ()
    assert lighter({"latency": timed(0.7, 0.9)}, ("size",)) == (), "nobody asked for it"


def test_of_throughput_more_is_better():
    def fast(rate, low, size=1.0):
        interval = {"ratio": Interval(low, 2 * rate, 0.95, "t")}
        return {
            "throughput": Measurement("throughput", 100 * rate, "samples/s", first=100, ratio=rate, intervals=interval),
            "size": Measurement("size", size, "B"),
        }

    found = {0: fast(1.0, 1.0, 4), 1: fast(2.0, 1.8, 1), 2: fast(1.5, 1.4, 2), 3: fast(3.0, 2.5, 3)}
    assert front(found, ("throughput", "size")) == (1, 3)
    assert lighter(found[1], ["throughput"]) == ("throughput",)
    assert lighter(fast(1.1, 0.9), ["throughput"]) == ()
