"""What climbing a rung is expected to gain per minute, and what earlier runs have to say about it."""

from __future__ import annotations

import json

import pytest
from engine_fakes import DROP, TARGET, job, judged

from boildown.domain.measurement import Measurement
from boildown.domain.target import Target
from boildown.engine.auto import Auto, Knowledge
from boildown.engine.choice import CHOICE, Option, expect, in_vain
from boildown.engine.experience import Earlier, Lesson, earlier_runs
from boildown.engine.forecast import Forecast, held_against
from boildown.engine.rung import parse_rung
from boildown.journal.journal import Journal


def forecast(rung, minutes=1.0, **costs):
    found = {name: Measurement(name, ratio, ratio=ratio) for name, ratio in costs.items()}
    return Forecast(parse_rung(rung), minutes, found, held_against(job(), found))


def option(rung="prune(ratio=0.5)", chance=0.5, shrinks=False):
    return Option(parse_rung(rung), "because", chance, shrinks)


def rate(found, goal="first", best=None, earlier=None, **told):
    return expect(option(**told), found, job(goal=goal), best, earlier or Earlier()).rate


def test_what_is_quick_likely_and_keeps_more_gains_more_a_minute():
    assert rate(forecast("prune", minutes=1.0)) == 2 * rate(forecast("prune", minutes=2.0))
    assert rate(forecast("prune"), chance=0.8) > rate(forecast("prune"), chance=0.4)
    more, less = forecast("prune", macs=0.8, size=0.2), forecast("prune", macs=0.4, size=0.2)
    assert rate(more, shrinks=True) == 2 * rate(less, shrinks=True)
    assert rate(forecast("prune", size=0.5)) == 0, "what must miss a cost gains nothing"


def test_what_earlier_runs_met_and_lost_counts():
    rungs = frozenset({"prune(ratio=0.5)"})
    met, lost = (Earlier([Lesson(rungs, judged(1, size=0.2, drop=drop).verdict)]) for drop in (0.0, 0.3))
    assert rate(forecast("prune"), earlier=met) > rate(forecast("prune")) > rate(forecast("prune"), earlier=lost)
    assert met.held("quantize-static", TARGET) == (0, 0)


@pytest.mark.parametrize(
    ("goal", "size", "best", "vain"),
    [("smallest", 0.2, 0.2, True), ("smallest", 0.15, 0.2, False), ("smallest", 0.2, None, False),
     ("first", 0.2, 0.2, False)],
)  # fmt: skip
def test_what_is_no_smaller_than_what_met_is_in_vain_for_the_smallest(goal, size, best, vain):
    assert bool(in_vain(forecast("prune", size=size), job(goal=goal), best)) == vain


@pytest.mark.parametrize(("drop", "climbed"), [(0.0, False), (0.05, True)])
def test_the_same_kernels_are_not_climbed_for_the_fastest_unless_quality_was_missed(drop, climbed):
    def known(rung):
        return forecast(str(rung), latency=0.45) if "rounding" in str(rung) else forecast(str(rung))

    records, target = [], Target((DROP,))
    steps = Auto(job(target, goal="fastest"), Knowledge(known, known, record=lambda *told: records.append(told)))
    attempts = [judged(0, "first", target=target)]
    attempts.append(judged(1, "quantize-static", drop=drop, latency=0.45, target=target))
    while (step := steps.next(attempts)) is not None and len(attempts) < 12:
        attempts.append(judged(len(attempts), str(step[0]), drop=0.05, latency=0.9, target=target))
    assert ("learned-rounding" in [attempt.rung for attempt in attempts]) is climbed
    left_out = {rung for kind, data in records if kind == CHOICE for rung in data["left out"]}
    assert ("learned-rounding" in left_out) is not climbed


def test_a_choice_is_journalled_with_its_figures():
    records = []
    Auto(job(), Knowledge(record=lambda *told: records.append(told))).next([judged(0, "first")])
    ((kind, data),) = records
    assert kind == CHOICE
    assert data["rung"] == data["candidates"][0]["rung"]
    rates = [each["per minute"] for each in data["candidates"]]
    assert rates == sorted(rates, reverse=True)
    assert json.loads(json.dumps(data)) == data


def test_earlier_runs_of_the_kind_teach_and_hostile_ones_do_not(tmp_path):
    facts = {"first": "a", "model": {"class": "Net"}, "deployment": {"runtime": "onnxruntime"}}
    for name, told, factor in (("1", facts, 2.0), ("2", {**facts, "model": 3, "first": "b"}, 9.0), ("3", facts, "x")):
        with Journal.create(tmp_path / name, told) as journal:
            journal.record(1, "took", {"factors": {"prune": factor}})
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "journal.db").write_text("no journal")
    found = earlier_runs(tmp_path, "other", "Net", "onnxruntime", tmp_path / "5")
    assert found.factors == {"prune": 2.0}
    assert earlier_runs(tmp_path, "other", "Other", "onnxruntime", tmp_path / "5") == Earlier([], {})
