"""Which rung comes next, and why, from cards and verdicts alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
from engine_fakes import DROP, LATENCY, SIZE, failed, job, judged

from boildown.domain.outcome import State
from boildown.domain.target import Target
from boildown.engine.diagnosis import Diagnosis, diagnose
from boildown.engine.ladder import LADDERS, Auto, Fixed, ladder
from boildown.engine.rung import parse_rungs
from boildown.errors import InputError
from boildown.methods import registry
from boildown.methods.base import Card


def card(name, lowers=("size",), order=100, family="quantization", recovers=()):
    return Card(name, 1, family, "-", "-", "-", "-", lowers, order=order, recovers=recovers)


def method(a_card):
    @dataclass(frozen=True)
    class Fake:
        card: ClassVar[Card] = a_card

    return Fake


@pytest.fixture
def plugged(monkeypatch):
    """Adds methods as a foreign package does: by entry points."""

    def plug(*cards):
        module = SimpleNamespace(**{f"m{i}": method(c) for i, c in enumerate(cards)})
        monkeypatch.setitem(sys.modules, "foreign_methods", module)
        points = [
            SimpleNamespace(name=c.name, value=f"foreign_methods:m{i}", load=lambda i=i: getattr(module, f"m{i}"))
            for i, c in enumerate(cards)
        ]
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "boildown.methods" else [])
        registry.installed.cache_clear()

    yield plug
    registry.installed.cache_clear()


def test_a_fixed_ladder_goes_in_the_users_order_whatever_happened():
    steps = Fixed(parse_rungs(["quantize-static(ranges=mse)", "quantize-dynamic"]))
    first = judged(0, "first")
    rung, reason = steps.next([first])
    assert (str(rung), reason) == ("quantize-static(ranges=mse)", "rung 1 of 2 of the ladder given")
    assert str(steps.next([first, failed(1)])[0]) == "quantize-dynamic"
    assert steps.next([first, failed(1), judged(2)]) is None


def test_ready_ladders_single_rungs_and_lists_are_told_apart():
    assert isinstance(ladder("auto", job()), Auto)
    assert [str(r) for r in ladder("quick", job()).rungs] == ["quantize-static"]
    assert [str(r) for r in ladder("quantize-static(samples=5)", job()).rungs] == ["quantize-static(samples=5)"]
    assert len(ladder([{"method": "quantize-static"}, "quantize-dynamic"], job()).rungs) == 2
    with pytest.raises(InputError, match="neither a ready ladder nor a rung") as caught:
        ladder("quik", job())
    assert "post-training" in str(caught.value)


@pytest.mark.parametrize("name", LADDERS)
def test_ready_ladders_can_be_climbed(name):
    assert len(ladder(name, job()).rungs) == len(LADDERS[name])


def test_auto_begins_with_the_cheapest_that_lowers_what_is_asked_for(plugged):
    plugged(card("faster", ("latency",), order=1), card("smaller", ("size",), order=2))
    rung, reason = Auto(job(Target((DROP, SIZE)))).next([judged(0, "first")])
    assert str(rung) == "smaller"
    assert "cheapest" in reason
    assert str(Auto(job(Target((LATENCY,)))).next([judged(0, "first")])[0]) == "faster"


def test_auto_never_tries_a_method_twice_and_ends(plugged):
    steps, attempts = Auto(job()), [judged(0, "first")]
    while (step := steps.next(attempts)) is not None:
        attempts.append(failed(len(attempts), str(step[0]), State.SKIPPED))
    tried = [attempt.rung for attempt in attempts[1:]]
    assert len(tried) == len(set(tried))
    lowering = [name for name, c in registry.cards().items() if "size" in c.lowers]
    assert tried == lowering, "skipped attempts say nothing, so the cards' order decides"


def test_a_foreign_method_is_chosen_because_of_its_card(plugged):
    plugged(
        card("cheap-foreign", order=500),
        card("healer", order=900, recovers=("quantize-static",)),
    )
    attempts = [judged(0, "first"), judged(1, "quantize-static", size=0.2, drop=0.05)]
    rung, reason = Auto(job()).next(attempts)
    recovering = [name for name, c in registry.cards().items() if "quantize-static" in c.recovers]
    assert str(rung) in recovering
    assert "recover quality" in reason

    registry.installed()  # and where no shipped method recovers it, the foreign one does
    attempts += [failed(n, name) for n, name in enumerate(recovering, 2) if name != "healer"]
    assert str(Auto(job()).next(attempts)[0]) == "healer"


def test_settings_that_compress_harder_are_climbed_only_where_a_cost_was_missed():
    first, bulky = judged(0, "first"), judged(1, "quantize-static", size=0.28)
    assert str(Auto(job()).next([first, bulky])[0]) == "learned-rounding(bits=4)"
    other = judged(1, "quantize-dynamic", size=0.6)
    assert str(Auto(job()).next([first, other])[0]) == "quantize-static", "the gentler method comes first"
    worse = judged(1, "quantize-static", size=0.2, drop=0.05)
    attempts = [first, worse]
    while (step := Auto(job()).next(attempts)) is not None:
        assert "bits=4" not in str(step[0])
        attempts.append(failed(len(attempts), str(step[0]), State.SKIPPED))


def test_after_a_student_that_is_too_large_a_smaller_one_comes():
    first, large = judged(0, "first"), judged(1, "distill", size=0.3)
    reason = Auto(job()).next([first, large])
    assert str(reason[0]) == "distill(student=narrower, width=0.25)"
    bad = judged(1, "retrain", size=0.2, drop=0.05)
    assert str(Auto(job()).next([first, bad])[0]) == "distill", "a teacher helps where labels alone did not"


def test_two_methods_of_one_name_are_refused(plugged):
    plugged(card("quantize-static"))
    with pytest.raises(InputError, match="Two methods are called 'quantize-static'"):
        registry.installed()


def test_a_plug_in_that_cannot_be_loaded_is_named(monkeypatch):
    def load():
        raise ImportError("No module named 'gone'")

    point = SimpleNamespace(name="theirs", value="theirs:Method", load=load)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry.installed.cache_clear()
    with pytest.raises(InputError, match=r"'theirs' \(theirs:Method\) cannot be loaded: ImportError"):
        registry.installed()
    monkeypatch.setattr(point, "load", lambda: object)
    with pytest.raises(InputError, match="has no card"):
        registry.installed()
    monkeypatch.undo()
    registry.installed.cache_clear()


def told(**figures):
    return diagnose(judged(1, target=Target((DROP, SIZE, LATENCY)), **figures).verdict, frozenset({"accuracy"}))


def test_quality_missed_and_compression_met_asks_to_recover():
    found = told(size=0.2, latency=0.4, drop=0.05)
    assert (found.lower, found.recover) == (frozenset(), True)
    assert found.sentence == "accuracy drop <= 1 pp missed with 5.00 pp: recover quality at the same compression"


def test_compression_missed_and_quality_met_asks_to_compress_harder():
    found = told(size=0.5, latency=0.9)
    assert (found.lower, found.recover) == ({"size", "latency"}, False)
    assert found.sentence.endswith("compress harder")


def test_both_missed_ask_for_a_stronger_family():
    found = told(size=0.5, latency=0.4, drop=0.05)
    assert (found.lower, found.recover) == ({"size"}, True)
    assert found.sentence.endswith("a stronger family is needed")


def test_how_well_a_card_answers_a_miss():
    tried = card("tried", ("size",))
    healer, other = card("healer", recovers=("tried",)), card("other", ("latency", "size"), family="pruning")
    assert Diagnosis("", frozenset(), True).suits(healer, tried) > Diagnosis("", frozenset(), True).suits(other, tried)
    faster = Diagnosis("", frozenset({"latency"}))
    assert faster.suits(other, tried) > faster.suits(healer, tried)
    both = Diagnosis("", frozenset({"size"}), True)
    assert both.suits(other, tried) > both.suits(card("same", ("size",)), tried)


def test_a_target_without_costs_leaves_every_method_open():
    assert str(Auto(job(Target((DROP,)))).next([judged(0, "first")])[0]) in registry.cards()
