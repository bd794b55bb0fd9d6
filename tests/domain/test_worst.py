"""The worst of some slices: met where each proves it, missed where one disproves it for all together."""

import json
import math
from dataclasses import replace

import pytest

from boildown.domain.measurement import Interval, Measurement
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import Finding, Status, Verdict, judge, relaxations

WORST = "worst class accuracy"
DROP = Condition(WORST, "drop", "<=", 0.05, "worst class accuracy drop <= 5 pp")
FLOOR = Condition(WORST, "value", ">=", 0.9, "worst class accuracy >= 90 %")


def one(name, drop, spread, together=None, samples=200):
    """A slice that lost `drop`; its own interval is `spread` to each side, that for all together wider."""
    wide, value = together or 1.5 * spread, 0.95 - drop
    return Measurement(
        f"accuracy[class={name}]", value, "fraction",
        first=0.95, drop=drop, ratio=value / 0.95, standard_error=spread / 2,
        intervals={
            "drop": Interval(drop - spread, drop + spread, 0.95, "tango"),
            "value": Interval(value - spread, value + spread, 0.95, "wilson"),
        },
        simultaneous={
            "drop": Interval(drop - wide, drop + wide, 0.99, "tango"),
            "value": Interval(value - wide, value + wide, 0.99, "wilson"),
        },
        samples=samples, data="verdict",
    )  # fmt: skip


def worst(*slices):
    bad = max(slices, key=lambda each: math.inf if math.isnan(each.drop) else each.drop)
    return replace(bad, metric=WORST, slices=slices, simultaneous={}, value=min(each.value for each in slices))


def find(condition, measurement, confidence=None):
    (finding,) = judge(Target((condition,)), {WORST: measurement}, confidence, "cpu").findings
    return finding


GOOD = [one(name, 0.001, 0.01) for name in "abcdefgh"]


@pytest.mark.parametrize("condition", [DROP, FLOOR])
@pytest.mark.parametrize(
    ("last", "point", "lucky", "proven"),
    [
        (one("z", 0.002, 0.01), Status.MET, False, Status.MET),
        (one("z", 0.010, 0.06), Status.MET, True, Status.UNDECIDED),  # its own interval is too wide
        (one("z", 0.060, 0.005, 0.02), Status.MISSED, True, Status.UNDECIDED),  # sure alone, not among nine
        (one("z", 0.200, 0.03, 0.05), Status.MISSED, False, Status.MISSED),
        (one("z", 0.060, 0.2), Status.MISSED, True, Status.UNDECIDED),
    ],
)
def test_each_proves_it_alone_and_one_disproves_it_for_all(condition, last, point, lucky, proven):
    measured = worst(*GOOD, last)
    found = find(condition, measured)
    assert (found.status, found.lucky) == (point, lucky)
    strict = find(condition, measured, 0.95)
    assert (strict.status, strict.lucky) == (proven, False)
    assert find(condition, worst(last, *GOOD), 0.95) == strict, "in whatever order"


def test_a_proof_takes_every_slice_at_the_plain_level_and_no_more():
    # Together the intervals would reach beyond the bound; each alone does not.
    assert find(DROP, worst(*(one(name, 0.01, 0.03, 0.2) for name in "abcdefgh")), 0.95).status is Status.MET


def test_the_finding_names_the_slice_that_decides_and_its_samples():
    small = one("rare", 0.0, 0.2, samples=12)
    found = find(DROP, worst(*GOOD, small), 0.95)
    assert found.slice == "accuracy[class=rare]"
    assert found.observed == 0.0
    assert found.interval == small.intervals["drop"]
    assert "accuracy[class=rare] drop is 0.00 pp" in found.sentence()
    assert "of 9 slices it decides, with 12 samples" in found.sentence()
    assert found.needed == 12 * 16  # its end comes from 20 pp to 5
    assert f"about {found.needed} samples of it would decide" in found.sentence()
    bad = one("stop", 0.2, 0.03, 0.05, samples=80)
    found = find(DROP, worst(*GOOD, bad, small), 0.95)
    assert (found.status, found.slice, found.interval) == (Status.MISSED, bad.metric, bad.simultaneous["drop"])
    assert "with 80 samples" in found.sentence()


def test_the_excess_is_that_of_the_farthest_slice():
    assert find(DROP, worst(*GOOD, one("z", 0.15, 0.01))).excess == pytest.approx(2.0)
    near, far = (find(DROP, worst(*GOOD, one("z", drop, 0.01))).excess for drop in (0.06, 0.07))
    assert 0 < near < far
    assert find(DROP, worst(*GOOD)).excess < 0


def test_what_has_no_number_in_a_slice_misses_and_what_was_not_compared_is_open():
    none = replace(one("z", 0.0, 0.01), value=math.nan, drop=math.nan, intervals={}, simultaneous={})
    for confidence in (None, 0.95):
        found = find(DROP, worst(*GOOD, none), confidence)
        assert (found.status, found.lucky, found.slice) == (Status.MISSED, False, none.metric)
        assert found.excess == math.inf
    alone = replace(one("z", 0.0, 0.01), first=None, drop=None, ratio=None)
    assert find(DROP, worst(*GOOD[:1], replace(alone, drop=0.0))).status is Status.MET
    unknown = find(DROP, replace(worst(*GOOD), slices=(*GOOD, alone)))
    assert (unknown.status, unknown.observed, unknown.condition) == (Status.UNDECIDED, None, DROP)


def test_without_intervals_for_all_together_nothing_is_disproven():
    bare = replace(one("z", 0.2, 0.03), simultaneous={})
    assert find(DROP, worst(*GOOD, bare), 0.95).status is Status.UNDECIDED


def test_a_relaxation_lets_every_slice_in():
    measured = worst(*GOOD, one("stop", 0.08, 0.004, 0.006), one("rare", 0.02, 0.1))
    for confidence, end in ((None, 0.08), (0.95, 0.12)):
        verdict = judge(Target((DROP,)), {WORST: measured}, confidence)
        (found,) = relaxations(Target((DROP,)), [("attempt 1", verdict)])
        assert end <= found.condition.bound <= end + 0.011
        assert found.condition.text == f"worst class accuracy drop <= {100 * found.condition.bound:g} pp"
        assert judge(Target((found.condition,)), {WORST: measured}, confidence).met
    floor = judge(Target((FLOOR,)), {WORST: measured}, 0.95)
    (found,) = relaxations(Target((FLOOR,)), [("attempt 1", floor)])
    assert found.condition.bound == pytest.approx(0.83, abs=0.0011)


def test_search_holds_nothing_against_a_slice_that_may_be_luck():
    single = Condition("accuracy[class=z]", "drop", "<=", 0.05, "accuracy[class=z] drop <= 5 pp")
    unlucky, bad = one("z", 0.06, 0.2), one("z", 0.3, 0.05)
    assert find(DROP, worst(*GOOD, unlucky)).by_chance
    assert not find(DROP, worst(*GOOD, bad)).by_chance
    for measured, chance in ((unlucky, True), (bad, False)):
        (finding,) = judge(Target((single,)), {"accuracy[class=z]": measured}).findings
        assert finding.by_chance is chance
    (unseen,) = judge(Target((single,)), {}).findings
    assert unseen.by_chance
    plain = Condition("accuracy", "drop", "<=", 0.05, "accuracy drop <= 5 pp")
    (whole,) = judge(Target((plain,)), {"accuracy": replace(unlucky, metric="accuracy")}).findings
    assert whole.lucky
    assert not whole.by_chance


def test_everything_survives_the_journal():
    measured = worst(*GOOD, one("z", 0.06, 0.005, 0.02))
    assert Measurement.from_json(json.loads(json.dumps(measured.to_json()))) == measured
    verdict = judge(Target((DROP, FLOOR)), {WORST: measured}, 0.95)
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict
    old = {name: value for name, value in verdict.findings[0].to_json().items() if name != "slice"}
    assert Finding.from_json(old).slice == ""
    assert "slices" not in one("z", 0, 1).to_json()
    assert "simultaneous" not in measured.to_json()
