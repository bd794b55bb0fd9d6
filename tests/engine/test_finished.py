"""What was made is finished: it is judged, and what had too little time is climbed again with what is left."""

from __future__ import annotations

import time

import pytest

import boildown as bd
from boildown.domain.measurement import Measurement
from boildown.engine.bench import Bench
from boildown.engine.budget import Budget
from boildown.engine.forecast import BESIDE
from boildown.errors import DeadlineError
from boildown.journal.journal import Journal

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
    assert "(size, divergence)" in text
    assert text.count("  divergence ") == sum("accuracy" not in result.measurements for result in run.candidates) > 0
    assert "divergence from the first model" in run.report().read_text(encoding="utf-8")


def test_what_judging_takes_is_known_from_the_first_model(climbed):
    run = climbed("shrink(size=0.2)")
    with Journal.open(run.path, readonly=True) as journal:
        ((beside,), first) = journal.records(BESIDE), journal.attempts()[0]
        spent = journal.facts["seconds"]
    assert first.timings["total"] < beside.data["seconds"] < spent["all"], "its export and its scores count"
