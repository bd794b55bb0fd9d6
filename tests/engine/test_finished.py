"""What was made is finished: it is judged, and what had too little time is climbed again with what is left."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

import boildown as bd
from boildown.domain.measurement import Measurement
from boildown.engine.bench import Bench
from boildown.engine.budget import Budget
from boildown.engine.forecast import Forecast, Forecaster
from boildown.engine.rung import parse_rung
from boildown.errors import DeadlineError
from boildown.journal.journal import Journal
from boildown.methods.base import Pace

TARGET = ["accuracy drop <= 2 pp", "size <= 0.3x"]


@pytest.fixture
def climbed(plugged, still, tmp_path):
    """Runs a ladder on the fakes with a budget."""

    def run(*rungs, target=TARGET, budget="3 min", **options):
        return bd.compress(
            plugged.model(), plugged.task(), target, ladder=list(rungs), budget=budget, runtime="mirror",
            runs=tmp_path, **options,
        )  # fmt: skip

    return run


def test_what_was_made_and_cut_while_it_was_scored_is_not_made_again(climbed, plugged, monkeypatch):
    made, scored, apply, quality = [], [], plugged.Shrink.apply, Bench.quality

    def counted(self, candidate, task, context):
        made.append(str(self.size))
        return apply(self, candidate, task, context)

    def cut_once(self, candidate, artifact, which, **options):
        if candidate.rewrite is not None and not scored:
            scored.append(artifact.digest)
            raise DeadlineError("The attempt ran past its time limit.")
        return quality(self, candidate, artifact, which, **options)

    monkeypatch.setattr(plugged.Shrink, "apply", counted)
    monkeypatch.setattr(Bench, "quality", cut_once)
    run = climbed("shrink(size=0.2)")
    assert [result.state.value for result in run.candidates] == ["missed", "failed", "met"]
    assert made == ["0.2"]
    assert (run.best.number, run.outcome) == (2, bd.Outcome.TARGET_MET)
    assert run.best.files.digest == scored[0]
    assert "made by attempt 1" in run.best.notes


def test_making_is_limited_and_judging_is_not(climbed, monkeypatch):
    """A limit that has gone by when a candidate is made does not take its verdict away."""
    agree = Bench.agree

    def slow(self, candidate, artifact):
        if candidate.rewrite is not None:
            left.append(self.deadline - limited[0])
        return agree(self, candidate, artifact)

    limited, left, limit = [], [], Budget.limit

    def noted(self, *arguments, **options):
        limited.append(time.monotonic())
        return min(20.0, limit(self, *arguments, **options))

    monkeypatch.setattr(Budget, "limit", noted)
    monkeypatch.setattr(Bench, "agree", slow)
    assert climbed("shrink(size=0.2)").outcome is bd.Outcome.TARGET_MET
    assert left[0] > 60, "the budget's end counts once it is made"


def test_a_rung_that_was_cut_is_climbed_again_at_the_top_with_all_that_is_left(climbed, tmp_path, monkeypatch):
    limit = Budget.limit
    monkeypatch.setattr(
        Budget, "limit", lambda self, *a, last=False, **k: limit(self, *a, last=last, **k) if last else 0.3
    )
    waits = f"shrink(size=0.2, how='wait once', marker='{tmp_path / 'marker'}')"
    run = climbed(waits, "shrink(size=0.6)")
    assert [result.state.value for result in run.candidates] == ["missed", "failed", "missed", "met"]
    assert (run.candidates[3].rung, run.outcome) == (run.candidates[1].rung, bd.Outcome.TARGET_MET)


def test_small_data_gives_every_attempt_a_quality_on_the_search_samples(climbed):
    run = climbed("shrink(size=0.6)", "shrink(size=0.2, flips=0.3)", "shrink(size=0.5)")
    assert all({"accuracy", "divergence"} & result.measurements.keys() for result in run.candidates), (
        "labels, or how far outputs diverge"
    )
    with Journal.open(run.path, readonly=True) as journal:
        looked = [look.attempt for look in journal.looks() if not look.timed]
    read = {r.number for r in run.candidates if r.measurements.get("accuracy", Measurement("", 0)).data == "verdict"}
    assert read == {0, run.best.number, *looked}
    assert len(run.front) > 1
    text = str(run)
    assert "Pareto front (size, " in text
    assert ("divergence" in text) == any("accuracy" not in result.measurements for result in run.candidates)


class Journalled:
    """A journal that keeps records alone."""

    def __init__(self):
        self.kept = []

    def record(self, attempt, kind, data):
        self.kept.append(SimpleNamespace(attempt=attempt, kind=kind, data=data))

    def records(self, kind):
        return [record for record in self.kept if record.kind == kind]


def forecaster(journal):
    made = Forecaster(SimpleNamespace(journal=journal, job=SimpleNamespace(splits=None)), Budget(600))
    made._pace = Pace(0.001, 1.0, train=10_000, calibration=1000)
    return made


def test_forecasts_are_corrected_by_what_attempts_took_and_remember_it():
    found = forecaster(journal := Journalled())
    prune, chain = (Forecast(parse_rung(rung), 1.0) for rung in ("prune", "prune + quantize-static"))
    before, static = found.making(prune), found.making(chain) - found.making(prune)
    found.learn(1, prune, 3 * before, cut=False)
    assert found.making(prune) == pytest.approx(3 * before)
    assert found.making(chain) == pytest.approx(3 * before + static), "the other link was not seen"
    found.learn(2, chain, 1.5 * (3 * before + static), cut=False)
    assert found.making(chain) == pytest.approx(1.5 * (3 * before + static), rel=0.2)
    assert found.making(prune) > 1.3 * 3 * before, "most of what was off is the long link's"
    assert forecaster(journal).making(chain) == found.making(chain), "resumed"


def test_what_was_cut_takes_longer_than_it_had_and_never_less_than_expected():
    found = forecaster(Journalled())
    prune = Forecast(parse_rung("prune"), 1.0)
    before = found.making(prune)
    found.learn(1, prune, before / 2, cut=True)
    assert found.making(prune) == before
    found.learn(2, prune, 4 * before, cut=True)
    assert found.making(prune) == pytest.approx(5 * before)


def test_what_an_attempt_takes_beside_its_methods_is_known_from_the_first_model():
    found = forecaster(journal := Journalled())
    found.judged_first(40.0)
    found.judged(3.0)  # recalled
    assert found.beside == 40.0
    found.judged(55.0)
    assert found.beside == 55.0
    assert forecaster(journal).beside == 40.0
