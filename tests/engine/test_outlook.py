"""Training is given up only where this run's own trainings say that it must leave too much lost."""

from __future__ import annotations

import pytest
from engine_fakes import DROP, SIZE, judged

from boildown.domain.measurement import Measurement
from boildown.domain.target import Target
from boildown.engine.forecast import Forecast
from boildown.engine.outlook import Trained, expected, outlook
from boildown.engine.rung import parse_rung
from boildown.journal.rows import AttemptRow

QUALITY = frozenset({"accuracy"})


def climbed(minutes, drop, share=0.1, rung="prune(ratio=0.1) + distill", notes=()):
    """A journalled attempt of so many forecast minutes."""
    verdict = judged(1, rung, size=0.02, drop=drop, target=Target((DROP, SIZE))).verdict.to_json()
    quote = {"minutes": minutes, "macs": {"value": share * 1e6, "ratio": share}}
    return AttemptRow(1, rung, quote=quote, verdict=verdict, notes=notes)


def asked(minutes=20.0, share=0.1, rung="progressive(ratio=0.1)"):
    return Forecast(parse_rung(rung), minutes, {"macs": Measurement("macs", share * 1e6, ratio=share)})


FAR = [climbed(5.0, 0.18), climbed(10.0, 0.15)]


def test_what_training_leaves_falls_as_a_power_of_its_minutes():
    curve = [Trained(5.0, 0.2), Trained(10.0, 0.1)]
    assert expected(curve, 20.0).lost == pytest.approx(0.05)
    assert expected(curve, 10.0).lost == pytest.approx(0.1)


def test_the_arithmetic_is_told():
    assert outlook(asked(), FAR, QUALITY) == (
        "hopeless by forecast: training networks as large has left a drop of 18.00 pp after 5 min and of 15.00 pp "
        "after 10 min; it would be about 12.50 pp after 20 min, where accuracy drop <= 1 pp is asked"
    )


@pytest.mark.parametrize(
    ("forecast", "rows"),
    [
        (asked(), FAR[:1]),
        (asked(), [climbed(5.0, 0.18), climbed(6.0, 0.15)]),
        (asked(), [climbed(5.0, 0.04), climbed(10.0, 0.02)]),
        (asked(), [*FAR, climbed(8.0, 0.005)]),
        (asked(), [climbed(5.0, 0.18), climbed(10.0, 0.15, notes=("reused from run a, attempt 1",))]),
        (asked(), [climbed(0.5, 0.4, rung="prune(ratio=0.1)"), climbed(5.0, 0.18)]),
        (asked(share=0.5), FAR),
        (asked(rung="prune(ratio=0.1)"), FAR),
        (Forecast(parse_rung("distill"), 20.0), FAR),
    ],
    ids=["one", "too near", "fast", "met", "reused", "untrained", "larger", "no training", "nothing known"],
)
def test_what_may_be_enough_is_climbed(forecast, rows):
    assert outlook(forecast, rows, QUALITY) == ""


def test_a_smaller_network_is_no_better():
    assert outlook(asked(share=0.05), FAR, QUALITY)


@pytest.mark.parametrize(("drop", "hopeless"), [(0.95, True), (0.18, False)])
def test_one_training_alone_says_enough_where_it_lost_far_too_much(drop, hopeless):
    found = outlook(asked(minutes=20.0), [climbed(5.0, drop)], QUALITY)
    assert ("it would be at least" in found) == hopeless
