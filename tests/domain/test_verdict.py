"""Measurements are held against a target as promised: by the point, or proven."""

import json
import math
from dataclasses import replace

import pytest

from boildown.domain.measurement import Interval, Measurement
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import Status, Verdict, judge, relaxations

DROP = Condition("accuracy", "drop", "<=", 0.01, "accuracy drop <= 1 pp")
FLOOR = Condition("accuracy", "value", ">=", 0.93, "accuracy >= 93 %")
SIZE = Condition("size", "ratio", "<=", 0.25, "size <= 0.25x")
LATENCY = Condition("latency", "ratio", "<", 0.5, "latency < 0.5x")


def accuracy(drop, low, high, *, error=0.004, samples=1000, level=0.95):
    return Measurement(
        "accuracy",
        0.94 - drop,
        "fraction",
        first=0.94,
        drop=drop,
        standard_error=error,
        intervals={"drop": Interval(low, high, level, "tango")},
        samples=samples,
        data="verdict",
    )


def size(ratio):
    return Measurement("size", 1e6 * ratio, "B", first=1e6, ratio=ratio)


def latency(ratio, low, high):
    return Measurement("latency", ratio, "s", 1.0, ratio=ratio, intervals={"ratio": Interval(low, high, 0.95, "b")})


def find(condition, measurement, confidence=None):
    (finding,) = judge(Target((condition,)), {measurement.metric: measurement}, confidence, "cpu").findings
    return finding


@pytest.mark.parametrize(
    ("drop", "low", "high", "point", "lucky", "proven"),
    [
        (0.002, -0.004, 0.008, Status.MET, False, Status.MET),
        (0.005, -0.001, 0.012, Status.MET, True, Status.UNDECIDED),
        (0.013, 0.006, 0.020, Status.MISSED, True, Status.UNDECIDED),
        (0.030, 0.021, 0.041, Status.MISSED, False, Status.MISSED),
        (0.010, 0.010, 0.010, Status.MET, True, Status.MET),
    ],
)
def test_the_point_decides_unless_proof_is_asked_for(drop, low, high, point, lucky, proven):
    measured = accuracy(drop, low, high)
    found = find(DROP, measured)
    assert (found.status, found.lucky) == (point, lucky)
    found = find(DROP, measured, 0.95)
    assert (found.status, found.lucky) == (proven, False)


def test_a_lower_bound_is_proven_by_the_low_end():
    measured = Measurement("accuracy", 0.94, intervals={"value": Interval(0.931, 0.95, 0.95, "w")})
    assert find(FLOOR, measured, 0.95).status is Status.MET
    measured = Measurement("accuracy", 0.94, intervals={"value": Interval(0.929, 0.95, 0.95, "w")})
    assert find(FLOOR, measured, 0.95).status is Status.UNDECIDED
    measured = Measurement("accuracy", 0.91, intervals={"value": Interval(0.90, 0.929, 0.95, "w")})
    assert find(FLOOR, measured, 0.95).status is Status.MISSED


def test_strict_bounds_exclude_themselves():
    assert find(LATENCY, latency(0.5, 0.5, 0.5)).status is Status.MISSED
    assert find(LATENCY, latency(0.4, 0.3, 0.5), 0.95).status is Status.UNDECIDED
    assert find(LATENCY, latency(0.6, 0.5, 0.7), 0.95).status is Status.MISSED


def test_counted_costs_need_no_proof_and_timings_do():
    assert find(SIZE, size(0.25), 0.99).status is Status.MET
    assert find(LATENCY, latency(0.49, 0.47, 0.51), 0.95).status is Status.UNDECIDED
    assert find(LATENCY, Measurement("latency", 0.4, "s", 1.0, ratio=0.4), 0.95).status is Status.MET


def test_an_interval_of_lower_level_or_none_proves_nothing():
    weak = find(DROP, accuracy(0.0, -0.001, 0.001, level=0.9), 0.95)
    assert weak.status is Status.UNDECIDED
    assert "90 %" in weak.note
    bare = find(DROP, Measurement("accuracy", 0.94, first=0.94, drop=0.0), 0.95)
    assert bare.status is Status.UNDECIDED
    assert "interval" in bare.note


def test_what_was_not_measured_is_undecided_and_never_met():
    verdict = judge(Target((DROP, SIZE)), {"size": size(0.2)})
    assert verdict.status is Status.UNDECIDED
    assert not verdict.met
    assert verdict.excess == math.inf
    assert "was not measured" in verdict.sentence()


def test_a_number_that_is_none_misses():
    assert find(DROP, Measurement("accuracy", math.nan, drop=math.nan)).status is Status.MISSED


def test_a_ratio_follows_from_the_two_values():
    better = Condition("rmse", "ratio", "<=", 1.1, "rmse <= 1.1x")
    assert find(better, Measurement("rmse", 0.55, first=0.5)).observed == pytest.approx(1.1)
    assert find(better, Measurement("rmse", 0.55)).observed is None


def test_a_cost_that_refused_its_ratio_is_not_compared_all_the_same():
    half = Condition("memory", "ratio", "<=", 0.5, "memory <= 0.5x")
    finding = find(half, Measurement("memory", 4e5, "B", first=1e6, notes=("no ratio: 0.40 MB is below 2 MB",)))
    assert finding.status is Status.UNDECIDED
    assert "below 2 MB" in finding.sentence()


def test_one_missed_misses_all_and_undecided_comes_before_met():
    good, open_, bad = (
        accuracy(0.002, -0.004, 0.008),
        accuracy(0.005, -0.001, 0.012),
        accuracy(0.03, 0.02, 0.04),
    )
    target = Target((DROP, SIZE))
    for measured, ratio, expected in (
        (good, 0.2, Status.MET),
        (open_, 0.2, Status.UNDECIDED),
        (open_, 0.3, Status.MISSED),
        (bad, 0.2, Status.MISSED),
    ):
        assert judge(target, {"accuracy": measured, "size": size(ratio)}, 0.95).status is expected


def test_excess_measures_distance_and_noise_does_not_look_like_it():
    assert find(SIZE, size(0.3)).excess == pytest.approx(0.2)
    assert find(SIZE, size(0.2)).excess == pytest.approx(-0.2)
    assert find(DROP, accuracy(0.015, 0, 0, error=0.004)).excess == pytest.approx(0.5)
    assert find(DROP, accuracy(0.015, 0, 0, error=0.02)).excess == pytest.approx(0.25)
    # A floor 1 pp below the first model's value is the same wish as a drop of at most 1 pp.
    assert find(FLOOR, accuracy(0.015, 0, 0)).excess == pytest.approx(0.5)
    strict = Condition("accuracy", "drop", "<=", 0.0, "accuracy drop <= 0 pp")
    assert find(strict, accuracy(0.008, 0, 0, error=0.004)).excess == pytest.approx(2)
    assert math.isfinite(find(strict, accuracy(0.008, 0, 0, error=None)).excess)
    both = judge(Target((DROP, SIZE)), {"accuracy": accuracy(0.015, 0, 0), "size": size(0.3)})
    assert both.excess == pytest.approx(0.5)


def test_needed_samples_follow_the_square_root_law():
    # z = 1.645, se = 0.004 at 1,000 samples, gap = 0.005: 1000 * (1.645 * 0.004 / 0.005)^2 = 1732.
    found = find(DROP, accuracy(0.005, -0.00158, 0.01158), 0.95)
    assert found.needed == pytest.approx(1732, rel=0.01)
    assert "would decide" in found.sentence()
    assert find(DROP, accuracy(0.0025, -0.001, 0.012), 0.95).needed < found.needed * 2
    assert find(DROP, accuracy(0.01, 0.0, 0.02), 0.95).needed is None  # at the bound no number decides
    assert find(DROP, accuracy(0.002, -0.004, 0.008), 0.95).needed is None  # decided already
    # No disagreement at all has standard error 0; the interval's width still asks for more.
    assert find(DROP, accuracy(0.0, -0.02, 0.02, error=0.0, samples=100), 0.95).needed == 400
    assert find(DROP, accuracy(0.0, -1.0, 1.0, error=0.0), 0.95).needed is None  # nothing has been seen to vary


def test_sentences_name_what_fails_and_what_may_be_luck():
    target = Target((DROP, SIZE))
    missed = judge(target, {"accuracy": accuracy(0.002, -0.004, 0.008), "size": size(0.2501)})
    assert missed.sentence() == ("size <= 0.25x is missed: size is 0.25x, 0.04 % too much; 1 of 2 conditions met.")
    lucky = judge(target, {"accuracy": accuracy(0.005, -0.0016, 0.0116), "size": size(0.2)})
    assert lucky.sentence().startswith(
        "All 2 conditions are met, 1 of them by less than the noise: accuracy drop <= 1 pp is met:"
    )
    assert "could be luck" in lucky.sentence()
    proven = judge(target, {"accuracy": accuracy(0.002, -0.004, 0.008), "size": size(0.2)}, 0.95)
    assert proven.sentence() == "All 2 conditions are met at 95 % confidence."


def test_a_verdict_survives_json():
    for measured in ({}, {"accuracy": accuracy(0.005, -0.001, 0.012), "size": size(0.3)}):
        verdict = judge(Target((DROP, SIZE)), measured, 0.95, "AMD EPYC")
        text = json.dumps(verdict.to_json(), allow_nan=False)
        assert Verdict.from_json(json.loads(text)) == verdict


def test_the_cheapest_single_relaxation_is_named():
    target = Target((DROP, SIZE))

    def verdict(drop, ratio, confidence=None):
        measured = {"accuracy": accuracy(drop, drop - 0.006, drop + 0.006), "size": size(ratio)}
        return judge(target, measured, confidence)

    attempts = [
        ("attempt 1", verdict(0.002, 1.0)),
        ("attempt 2", verdict(0.002, 0.31)),
        ("attempt 5", verdict(0.03, 0.5)),
        ("attempt 7", verdict(0.0121, 0.2)),
        ("attempt 8", verdict(0.02, 0.2)),
    ]
    found = relaxations(target, attempts)
    assert [str(r) for r in found] == [
        "accuracy drop <= 1.3 pp would be met by attempt 7",
        "size <= 0.31x would be met by attempt 2",
    ]
    assert found[0].excess < found[1].excess
    relaxed_target = Target((found[0].condition, SIZE))
    assert judge(relaxed_target, attempts[3][1].measurements).met
    searched = {"accuracy": replace(accuracy(0.0121, 0.006, 0.018), data="search"), "size": size(0.2)}
    (told,) = relaxations(target, [("attempt 9", judge(target, searched))])
    assert str(told) == "accuracy drop <= 1.3 pp would be met by attempt 9, by the search samples"
    (told,) = relaxations(target, [("attempt 9", judge(target, searched)), attempts[3]])
    assert (told.label, told.searched) == ("attempt 7", False), "a verdict says more than the search"
    # With confidence the weaker bound is one that is proven.
    (proven,) = relaxations(target, [("attempt 7", verdict(0.0121, 0.2, 0.95))])
    assert proven.condition.text == "accuracy drop <= 1.9 pp"
    assert judge(Target((proven.condition, SIZE)), attempts[3][1].measurements, 0.95).met


def test_two_conditions_are_relaxed_together_where_neither_alone_is_enough():
    target = Target((DROP, SIZE, LATENCY))

    def verdict(drop, ratio, latency=0.4):
        slow = Measurement("latency", latency, "s", first=1.0, ratio=latency)
        return judge(
            target, {"accuracy": accuracy(drop, drop - 0.006, drop + 0.006), "size": size(ratio), "latency": slow}
        )

    both, one, three = verdict(0.02, 0.3), verdict(0.002, 0.28), verdict(0.02, 0.3, 0.9)
    assert [str(r) for r in relaxations(target, [("attempt 1", both)])] == [
        "accuracy drop <= 2 pp and size <= 0.3x together would be met by attempt 1"
    ]
    assert [r.label for r in relaxations(target, [("attempt 1", both), ("attempt 2", one)])] == ["attempt 2"]
    far = verdict(0.002, 0.9)
    assert [r.label for r in relaxations(target, [("a", both), ("b", far)])] == ["a", "b"], "cheaper together"
    assert relaxations(target, [("attempt 3", three)]) == ()
    unmeasured = judge(target, {"size": size(0.3), "latency": verdict(0, 1).measurements["latency"]})
    assert relaxations(target, [("attempt 4", unmeasured)]) == ()


@pytest.mark.parametrize(("operator", "status"), [("<=", Status.MET), ("<", Status.MISSED)])
def test_a_drop_of_just_the_bound_is_not_decided_by_the_last_bit(operator, status):
    drop = 0.90 - 0.89
    assert drop > 0.01
    condition = Condition("accuracy", "drop", operator, 0.01, f"accuracy drop {operator} 1 pp")
    assert find(condition, accuracy(drop, 0.0, 0.02)).status is status


FAST = Condition("throughput", "ratio", ">=", 2.0, "throughput >= 2x")


def throughput(ratio, low=None, high=None):
    intervals = {} if low is None else {"ratio": Interval(low, high, 0.95, "t")}
    return Measurement("throughput", 100 * ratio, "samples/s", 100.0, ratio=ratio, intervals=intervals)


@pytest.mark.parametrize(
    ("found", "point", "lucky", "proven"),
    [
        (throughput(2.5, 2.2, 2.8), Status.MET, False, Status.MET),
        (throughput(2.1, 1.9, 2.3), Status.MET, True, Status.UNDECIDED),
        (throughput(1.5, 1.4, 1.6), Status.MISSED, False, Status.MISSED),
    ],
)
def test_a_cost_that_should_be_large_is_proven_by_its_low_end(found, point, lucky, proven):
    finding = find(FAST, found)
    assert (finding.status, finding.lucky) == (point, lucky)
    assert find(FAST, found, 0.95).status is proven


def test_half_the_throughput_is_as_far_as_twice_the_latency():
    assert find(FAST, throughput(1.0)).excess == pytest.approx(1.0)
    assert find(FAST, throughput(4.0)).excess == pytest.approx(-0.5)
    assert "5.3 % too little" in find(FAST, throughput(1.9)).sentence()


def test_what_was_reached_of_a_large_cost_is_the_relaxation():
    verdict = judge(Target((FAST,)), {"throughput": throughput(1.46)})
    (found,) = relaxations(Target((FAST,)), [("attempt 3", verdict)])
    assert found.condition.text == "throughput >= 1.4x"


def test_a_score_without_an_interval_says_so_and_why():
    told = Measurement("map", 0.4, first=0.41, drop=0.01, data="verdict", notes=("evaluate takes no indices",))
    condition = Condition("map", "drop", "<=", 0.02, "map drop <= 0.02")
    assert "no confidence interval; evaluate takes no indices" in find(condition, told).sentence()
    assert find(condition, told).status is Status.MET
    proven = find(condition, told, 0.95)
    assert (proven.status, proven.lucky) == (Status.UNDECIDED, False)
    assert "evaluate takes no indices" in proven.sentence()
