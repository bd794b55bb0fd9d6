"""Which rung comes next, and why, from cards and verdicts alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
from engine_fakes import DROP, LATENCY, SIZE, TARGET, failed, job, judged

from boildown.domain.measurement import Measurement
from boildown.domain.outcome import State
from boildown.domain.target import Target
from boildown.engine.auto import Knowledge
from boildown.engine.diagnosis import Diagnosis, diagnose
from boildown.engine.forecast import Forecast, held_against, unknown
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


@pytest.mark.parametrize(
    ("conditions", "goal", "climbed_first"),
    [
        ((replace(SIZE, bound=0.55),), "first", True),
        ((DROP, replace(SIZE, bound=0.55)), "first", True),
        ((replace(SIZE, form="value", bound=6e5),), "first", True),
        ((DROP,), "smallest", True),
        ((SIZE,), "first", False),
        ((replace(SIZE, form="value", bound=4e5),), "first", False),
        ((replace(SIZE, bound=0.55), replace(LATENCY, bound=0.9)), "first", False),
        ((replace(SIZE, bound=0.55),), "fastest", False),
        ((DROP,), "first", False),
    ],
)
def test_what_compresses_gently_is_for_who_asks_for_no_more(conditions, goal, climbed_first):
    """`half` leaves half the bytes and all of the time."""
    steps, attempts = Auto(job(Target(conditions), goal=goal)), [judged(0, "first")]
    tried = []
    while (step := steps.next(attempts)) is not None:
        tried.append(str(step[0]))
        attempts.append(failed(len(attempts), tried[-1]))
    assert (tried[0] == "half") is climbed_first
    assert ("half" in tried) is climbed_first


def test_parts_go_out_before_a_stronger_quantization_than_half():
    target = Target((DROP, replace(SIZE, bound=0.52)))
    attempts = [judged(0, "first"), judged(1, "half", size=0.53), judged(2, "quantize-static", size=0.55)]
    rungs = climbed(attempts, target=target, size=0.55)
    assert "prune + quantize-static" in rungs
    assert not any("+ half" in rung for rung in rungs)


def test_auto_never_tries_a_method_twice_and_ends(plugged):
    steps, attempts = Auto(job()), [judged(0, "first")]
    while (step := steps.next(attempts)) is not None:
        attempts.append(failed(len(attempts), str(step[0]), State.SKIPPED))
    tried = [attempt.rung for attempt in attempts[1:]]
    assert len(tried) == len(set(tried))
    cards = {name: c for name, c in registry.cards().items() if "size" in c.lowers and not c.leaves}
    assert set(tried) == set(cards)
    stages = [(cards[name].trains, "macs" in cards[name].lowers) for name in tried]
    assert stages == sorted(stages), "what trains comes last, and before it what takes parts out"
    whole = [name for name in tried if "macs" not in cards[name].lowers and not cards[name].trains]
    assert whole == sorted(whole, key=lambda name: cards[name].minutes), "skipped attempts say nothing: minutes decide"


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
    refused = failed(2, "quantize-dynamic", State.SKIPPED)
    assert str(Auto(job()).next([first, bulky, refused])[0]) == "learned-rounding(bits=4)"
    other = [
        judged(n, rung, size=0.6) for n, rung in enumerate(("quantize-dynamic", "quantize-dynamic(embeddings=4)"), 1)
    ]
    assert str(Auto(job()).next([first, other[0]])[0]) == "quantize-dynamic(embeddings=4)"
    assert str(Auto(job()).next([first, *other])[0]) == "quantize-static", "the gentler method comes first"
    worse = judged(1, "quantize-static", size=0.2, drop=0.05)
    attempts = [first, worse]
    while (step := Auto(job()).next(attempts)) is not None:
        assert "bits=4" not in str(step[0])
        attempts.append(failed(len(attempts), str(step[0]), State.SKIPPED))


def climbed(attempts, forecast=unknown, target=TARGET, **figures):
    """The rungs that `auto` climbs if every one of them ends with the same figures, after some attempts."""
    steps, attempts = Auto(job(target), Knowledge(forecast)), list(attempts)
    while (step := steps.next(attempts)) is not None:
        attempts.append(judged(len(attempts), str(step[0]), target=target, **figures))
    return [attempt.rung for attempt in attempts[1:]]


def test_a_smaller_student_comes_only_after_one_that_was_too_large():
    large = climbed([judged(0, "first")], size=0.3)
    assert any("distill(student=narrower, width=0.25)" in rung for rung in large)
    bad = climbed([judged(0, "first")], size=0.2, drop=0.05)
    assert not any("width=0.25" in rung for rung in bad)


def test_size_that_int8_misses_calls_for_fewer_parts_in_int8():
    rungs = climbed([judged(0, "first"), judged(1, "quantize-static", size=0.3)], size=0.3)
    assert "prune + quantize-static" in rungs
    assert rungs.index("learned-rounding(bits=4)") < rungs.index("prune + quantize-static")
    assert rungs.index("prune + quantize-static") < rungs.index("progressive + quantize-static")
    assert "prune" not in rungs, "int8 goes with it, since its quality held"


def test_nothing_is_taken_out_where_the_costs_are_met_and_quality_is_not():
    rungs = climbed([judged(0, "first"), judged(1, "quantize-static", size=0.2, drop=0.05)], size=0.2, drop=0.05)
    before = rungs[: rungs.index("quantize-aware")]
    assert not {"prune", "depth", "low-rank"} & {link for rung in before for link in rung.split(" + ")}


def test_what_lost_too_much_is_climbed_again_with_training_at_the_ratio_that_was_found():
    first, bulky = judged(0, "first"), judged(1, "quantize-static", size=0.3)
    lossy = judged(2, "prune + quantize-static", size=0.2, drop=0.05)
    lossy.quote = {"rung": "prune(ratio=0.47) + quantize-static"}
    rungs = climbed([first, bulky, lossy], size=0.2, drop=0.05)
    assert "progressive(ratio=0.47) + quantize-static" in rungs
    assert "prune(ratio=0.47) + distill + quantize-static" in rungs
    assert "prune(ratio=0.47) + retrain + quantize-static" in rungs
    assert "prune(ratio=0.47) + quantize-aware" in rungs


def test_of_what_meets_the_costs_by_forecast_that_which_keeps_most_comes_first():
    kept = {"prune + quantize-static": 0.4, "depth + quantize-static": 0.8, "low-rank + quantize-static": 0.9}

    def forecast(rung):
        macs, size = kept.get(str(rung), 0.1), 0.3 if "low-rank" in str(rung) else 0.2
        found = {"macs": Measurement("macs", macs, ratio=macs), "size": Measurement("size", size, ratio=size)}
        return Forecast(rung, 1.0, found, held_against(job(), found))

    steps, attempts = Auto(job(), Knowledge(forecast)), [judged(0, "first"), judged(1, "quantize-static", size=0.3)]
    found = []
    while (step := steps.next(attempts)) is not None and len(found) < 3:
        if "+" in str(step[0]):
            found.append(str(step[0]))
        attempts.append(failed(len(attempts), str(step[0])))
    assert found == ["depth + quantize-static", "prune + quantize-static", "low-rank + quantize-static"]


@pytest.mark.parametrize(("latency", "corrected"), [(0.6, True), (0.7, False), (0.45, False)])
def test_a_ratio_that_was_a_little_too_large_is_corrected_by_what_was_missed(latency, corrected):
    target, first = Target((DROP, LATENCY)), judged(0, "first")
    near = judged(1, "depth + quantize-static", latency=latency, drop=0.005, target=target)
    near.quote = {"rung": "depth(ratio=0.8) + quantize-static"}
    steps, attempts = Auto(job(target)), [first, near]
    while (step := steps.next(attempts)) is not None:
        attempts.append(failed(len(attempts), str(step[0])))
    found = [attempt.rung for attempt in attempts]
    expected = "depth(ratio=0.647) + quantize-static"  # 0.97 * 0.8 / 1.2
    assert (expected in found) is corrected
    if corrected:
        assert found.index(expected) < found.index("progressive")


@pytest.mark.parametrize(("falls", "corrected"), [(0.02, 2), (0.0, 1)])
def test_a_ratio_is_corrected_twice_and_no_more_and_not_where_latency_falls_no_longer(falls, corrected):
    target, latency = Target((DROP, LATENCY)), 0.56
    steps, attempts = Auto(job(target)), [judged(0, "first")]
    while (step := steps.next(attempts)) is not None:
        latency -= falls * str(step[0]).startswith("progressive(ratio=")
        attempts.append(judged(len(attempts), str(step[0]), latency=latency, target=target))
    rungs = [attempt.rung for attempt in attempts]
    assert sum(rung.startswith("progressive(ratio=") for rung in rungs) == 1 + corrected, "harder, and corrected"


@pytest.mark.parametrize(
    ("goal", "holds", "ratios"),
    [
        ("smallest", 0.45, [0.8, 0.6, 0.45, 0.338, 0.39, 0.419]),
        ("smallest", 0.9, [0.8, 0.894, 0.946]),
        ("first", 0.45, [0.8]),
    ],
)
def test_the_smallest_is_looked_for_where_quality_still_holds(goal, holds, ratios):
    steps, attempts = Auto(job(goal=goal)), [judged(0, "first"), judged(1, "quantize-static", size=0.3)]
    tried = []
    while (step := steps.next(attempts)) is not None:
        rung, number = str(step[0]), len(attempts)
        if not rung.startswith("prune") or not rung.endswith("+ quantize-static") or rung.count("+") > 1:
            attempts.append(failed(number, rung))
            continue
        ratio = step[0].methods[0].ratio or 0.8
        tried.append(ratio)
        attempts.append(judged(number, rung, size=0.25 * ratio, drop=0.0 if ratio >= holds else 0.05))
        attempts[-1].quote = {"rung": f"prune(ratio={ratio:g}) + quantize-static"}
    assert tried == ratios


@pytest.mark.parametrize(("goal", "harder"), [("smallest", True), ("first", False), ("best", False)])
def test_harder_settings_are_tried_for_the_smallest_though_gentler_ones_met(goal, harder):
    steps, attempts = Auto(job(goal=goal)), [judged(0, "first"), judged(1, "quantize-static", size=0.2)]
    tried = []
    while (step := steps.next(attempts)) is not None:
        tried.append(str(step[0]))
        attempts.append(failed(len(attempts), tried[-1]))
    assert ("learned-rounding(bits=4)" in tried) == harder


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


def test_a_lossy_rung_that_meets_the_costs_does_not_close_off_what_could_win():
    """int8 holds quality and is too large, 4 bits are small and lossy: fewer parts in int8 may be both."""
    attempts = [
        judged(0, "first"), judged(1, "quantize-static", size=0.3),
        judged(2, "learned-rounding(bits=4)", size=0.13, drop=0.05),
    ]  # fmt: skip
    assert "prune + quantize-static" in climbed(attempts, size=0.13, drop=0.05)


def test_methods_that_continue_each_other_end(plugged):
    plugged(
        replace(card("heal-a", ("size",), order=200), trains=True, continues=("prune", "heal-b")),
        replace(card("heal-b", ("size",), order=201), trains=True, continues=("prune", "heal-a")),
    )
    first, bulky = judged(0, "first"), judged(1, "quantize-static", size=0.3)
    rungs = climbed([first, bulky], size=0.2, drop=0.05)
    assert len(rungs) < 60
    assert all(rung.split(" + ").count("heal-a") < 2 for rung in rungs)


def test_nothing_is_put_behind_what_works_on_the_file(plugged):
    plugged(replace(card("cut", ("size", "macs"), order=200), terminal=True))
    rungs = climbed([judged(0, "first"), judged(1, "quantize-static", size=0.3)], size=0.3)
    assert "cut" in rungs
    assert not any("cut +" in rung for rung in rungs)


def test_a_ratio_that_is_not_known_is_not_passed_on():
    first, bulky = judged(0, "first"), judged(1, "quantize-static", size=0.3)
    lossy = judged(2, "prune + quantize-static", size=0.2, drop=0.05)  # reused: nothing was sketched
    assert not any("ratio=0.0" in rung for rung in climbed([first, bulky, lossy], size=0.2, drop=0.05))
