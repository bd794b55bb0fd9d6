"""What is expected of a rung before it is climbed: what counts as missed, what is kept, how long it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from engine_fakes import DROP, LATENCY, SIZE, job

from boildown.domain.measurement import Measurement
from boildown.domain.target import Condition, Target
from boildown.engine.forecast import Forecast, from_quote, held_against, seconds_of, shared, sketchable
from boildown.engine.rung import Rung, parse_rung
from boildown.methods.base import Card, Pace
from boildown.methods.distill import Distill
from boildown.methods.quantize_static import QuantizeStatic

ASKED = job(Target((DROP, SIZE, LATENCY)))
PACE = Pace(0.001, 1.0, train=10_000, calibration=1000)


def expected(size=0.2, latency=0.4, rung="quantize-static"):
    costs = {
        "size": Measurement("size", size * 1e6, "B", ratio=size),
        "latency": Measurement("latency", latency, "s", ratio=latency),
        "macs": Measurement("macs", 5e6, "", ratio=0.5),
    }
    return Forecast(parse_rung(rung), 1.5, costs, held_against(ASKED, costs))


def missed(**figures):
    return {finding.condition.metric for finding in expected(**figures).misses}


def test_what_a_sketch_may_be_off_by_is_no_miss():
    assert missed() == set()
    assert missed(size=0.254) == set()
    assert missed(size=0.256) == {"size"}
    assert missed(latency=0.54) == set()
    assert missed(latency=0.56, size=0.5) == {"size", "latency"}


@pytest.mark.parametrize(("seconds", "hopeless"), [(0.0024, False), (0.0026, True)])
def test_a_bound_in_seconds_gives_more_room_than_a_ratio_measured_side_by_side(seconds, hopeless):
    asked = job(Target((Condition("latency", "value", "<=", 0.002, "latency <= 2 ms"),)))
    costs = {"latency": Measurement("latency", seconds, "s", ratio=0.5)}
    assert bool(Forecast(parse_rung("prune"), 1.0, costs, held_against(asked, costs)).misses) == hopeless


def test_a_hopeless_rung_is_told_with_its_figures():
    assert expected().sentence() == ""
    told = expected(size=0.5, rung="prune(ratio=0.9) + quantize-static").sentence()
    assert told == (
        "hopeless by forecast: prune(ratio=0.9) + quantize-static would have size 0.5x where size <= 0.25x is asked"
    )


@pytest.mark.parametrize("figures", [{}, {"size": 0.5}, {"latency": 0.9}])
def test_a_quote_is_read_back(figures):
    found = expected(**figures)
    again = from_quote(found.quote(), ASKED)
    assert (again.rung, again.minutes, again.left) == (found.rung, found.minutes, found.left)
    assert [f.condition for f in again.misses] == [f.condition for f in found.misses]
    assert again.sentence() == found.sentence()


def foreign(minutes):
    @dataclass(frozen=True)
    class Foreign:
        card: ClassVar[Card] = Card("foreign", 1, "pruning", "-", "-", "-", "-", ("size",), minutes=minutes)

    return Foreign()


def test_a_method_that_says_nothing_takes_what_its_card_says_and_is_not_sketched():
    rung = Rung((foreign(2.0),))
    assert seconds_of(rung, PACE) == 120
    assert not sketchable(rung)
    assert not sketchable(Rung((foreign(2.0), QuantizeStatic())))
    assert sketchable(parse_rung("prune + quantize-static"))


def test_a_chain_takes_the_time_of_its_links():
    links = [seconds_of(Rung((method,)), PACE) for method in parse_rung("prune(ratio=0.5) + quantize-static").methods]
    assert seconds_of(parse_rung("prune(ratio=0.5) + quantize-static"), PACE) == pytest.approx(sum(links))


def test_training_takes_what_its_samples_take_and_no_more_than_its_minutes():
    short = Distill(loss="kd", epochs=1)
    assert seconds_of(Rung((short,)), PACE) == pytest.approx(5 + 10_000 * 0.001 * 4)
    assert seconds_of(Rung((short,)), replace(PACE, share=0.25)) == pytest.approx(5 + 10_000 * 0.001 * 1.75)
    assert seconds_of(Rung((replace(short, epochs=0, minutes=3),)), PACE) == pytest.approx(5 + 180)
    assert seconds_of(Rung((replace(short, steps=100, batch=10),)), PACE) == pytest.approx(5 + 4)
    assert seconds_of(Rung((replace(short, loss="tournament"),)), PACE) > 1.5 * seconds_of(Rung((short,)), PACE)


@pytest.mark.parametrize(
    ("rung", "metric", "other"),
    [
        ("learned-rounding", "latency", "quantize-static"),
        ("learned-rounding(bits=4)", "latency", "quantize-static"),
        ("learned-rounding(bits=4)", "size", None),
        ("learned-rounding(activations=float)", "latency", "first"),
        ("quantize-aware(bits=4)", "size", "learned-rounding(bits=4)"),
        ("quantize-mixed", "latency", None),
        ("quantize-static", "macs", "first"),
        ("prune(ratio=0.5) + quantize-aware", "latency", "prune(ratio=0.5) + quantize-static"),
        ("prune(ratio=0.5) + distill + quantize-static", "size", "prune(ratio=0.5) + quantize-static"),
        ("distill", "size", None),
        ("prune(ratio=0.5) + distill(student=narrower)", "size", None),
    ],
)
def test_what_costs_as_much_as_something_else_says_so(rung, metric, other):
    assert shared(parse_rung(rung), metric) == other


def test_a_method_that_says_nothing_shares_nothing():
    assert shared(Rung((foreign(2.0),)), "macs") is None


def test_why_latency_falls_no_longer_is_told():
    told = replace(expected(latency=0.62), why="latency no longer falls below 0.6x")
    assert told.sentence().endswith("where latency <= 0.5x is asked: latency no longer falls below 0.6x")
    assert from_quote(told.quote(), ASKED).sentence() == told.sentence()
