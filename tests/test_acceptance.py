"""The sentences that say what escalating lightweighting must do, one test each."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import boildown as bd
import no_clock
from boildown.engine.bench import Bench
from boildown.journal.journal import Journal
from boildown.surgery.weights import weights_hash
from boildown.testing import digits

pytestmark = pytest.mark.usefixtures("still")

METHODS = ("retrain", "quantize-static", "distill")
"""Training a small model, quantization of the first model, distillation from it."""

ORDERS = list(permutations(METHODS))


def perceptron(hidden):
    """An untrained network of two linear layers: quick to export."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


@pytest.fixture(scope="module")
def first_model():
    """A trained perceptron of 19,000 parameters."""
    model, (x, y) = perceptron(256), digits.training_set().tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where runs find what earlier ones have made."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(first_model, folder):
    """A run for every order of the methods."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "latency", no_clock.latency)
        return {
            order: bd.compress(
                first_model, digits.task(), ["accuracy drop <= 3 pp", "size <= 0.01x"], ladder=list(order),
                students=[perceptron(32)], runs=folder,
            )
            for order in ORDERS
        }  # fmt: skip


@pytest.mark.parametrize("order", ORDERS, ids=" > ".join)
def test_any_method_may_be_first_second_or_third(runs, order):
    run = runs[order]
    assert [result.rung for result in run.candidates] == ["first", *order]
    assert all(result.verdict is not None for result in run.candidates)
    assert all(result.measurements["size"].ratio < 0.3 for result in run.candidates[1:])
    assert run.outcome is bd.Outcome.TARGET_MISSED


def test_the_second_lightweight_model_is_made_from_the_first_model(runs, first_model):
    for run in runs.values():
        first, *lightweight = run.candidates
        assert [result.parent for result in lightweight] == [first.key] * 3
        assert len({result.key for result in lightweight}) == 3
        assert weights_hash(run.first.model) == weights_hash(first_model)


def test_the_order_changes_no_candidate(runs):
    made = [{result.rung: result.key for result in run.candidates} for run in runs.values()]
    assert all(each == made[0] for each in made)


def test_a_first_lightweight_model_that_meets_the_condition_is_the_target_model(plugged, tmp_path):
    run = bd.compress(
        plugged.model(), plugged.task(), ["accuracy drop <= 2 pp", "size <= 0.3x"], runtime="mirror", runs=tmp_path,
        ladder=["shrink(size=0.25)", "shrink(size=0.1)"],
    )  # fmt: skip
    assert run.outcome is bd.Outcome.TARGET_MET
    assert [result.rung for result in run.candidates] == ["first", "shrink(size=0.25)"]


def test_a_run_may_end_at_its_third_method(plugged, tmp_path):
    run = bd.compress(
        plugged.model(), plugged.task(), ["accuracy drop <= 2 pp", "size <= 0.3x"], runtime="mirror", runs=tmp_path,
        ladder=["shrink(size=0.6)", "shrink(size=0.2, flips=0.3)", "shrink(size=0.25)", "shrink(size=0.1)"],
    )  # fmt: skip
    assert run.outcome is bd.Outcome.TARGET_MET
    assert run.best.number == 3
    assert [result.state.value for result in run.candidates] == ["missed", "missed", "missed", "met"]
    assert "size <= 0.3x is missed" in run.candidates[1].sentence
    assert "accuracy drop <= 2 pp is missed" in run.candidates[2].sentence


def test_a_distillation_round_obtains_its_method_from_several(runs):
    run = runs[METHODS]
    number = len(METHODS)
    with Journal.open(run.path, readonly=True) as journal:
        records = [record for record in journal.records() if record.attempt == number]
    standings = [r.data for r in records if r.kind == "standing"]
    assert len({standing["loss"] for standing in standings}) == 4
    winner = [r.data for r in records if r.kind == "survivors"][-1]["losses"]
    assert [r.data["loss"] for r in records if r.kind == "loss"] == [" + ".join(winner)]
    assert any(f"taught with {' + '.join(winner)}, the best of 4 losses" in n for n in run.candidates[number].notes)
    assert "losses after " in str(run)


def test_a_run_of_real_methods_may_end_at_its_third(runs, first_model, folder):
    run = bd.compress(
        first_model, digits.task(), ["accuracy drop <= 10 pp", "size <= 0.25x"], students=[perceptron(32)],
        ladder=["retrain(steps=4)", "quantize-static", "distill", "quantize-dynamic"], runs=folder,
    )  # fmt: skip
    assert run.outcome is bd.Outcome.TARGET_MET
    with Journal.open(run.path, readonly=True) as journal:
        first, *rows = journal.attempts()
        assert journal.ending.best_attempt == 3
    assert [row.state.value for row in rows] == ["missed", "missed", "met"]
    assert {row.parent for row in rows} == {first.candidate_key}
    assert "accuracy drop <= 10 pp is missed" in rows[0].sentence
    assert "size <= 0.25x is missed" in rows[1].sentence
    assert not (run.path / "training").exists(), "what a finished training went on from is gone"


def test_a_first_model_that_meets_the_condition_already_is_handed_back(plugged, tmp_path):
    run = bd.compress(
        plugged.model(), plugged.task(), ["accuracy >= 85 %", "size <= 1 MB"], runtime="mirror", runs=tmp_path,
        ladder=["shrink"],
    )  # fmt: skip
    assert (run.outcome, run.best.number, len(run.candidates)) == (bd.Outcome.TARGET_MET, 0, 1)
    assert "nothing was climbed" in run.to_json()["sentence"]


def test_a_condition_that_nothing_meets_comes_with_what_would_have_to_give(plugged, tmp_path):
    run = bd.compress(
        plugged.model(), plugged.task(), ["accuracy drop <= 2 pp", "size <= 0.1x"], runtime="mirror", runs=tmp_path,
        ladder=["shrink(size=0.6)", "shrink(size=0.4)", "shrink(size=0.05, flips=0.2)"],
    )  # fmt: skip
    assert run.outcome is bd.Outcome.TARGET_MISSED
    assert "size <= 0.4x would be met by attempt 2" in run.to_json()["sentence"]


def test_a_foreign_method_takes_part_in_the_auto_ladder(plugged, tmp_path):
    run = bd.compress(
        plugged.model(), plugged.task(), ["accuracy drop <= 2 pp", "size <= 0.6x"], runtime="mirror", runs=tmp_path
    )
    tried = [result.rung for result in run.candidates]
    assert tried[-1] == "shrink"
    assert run.outcome is bd.Outcome.TARGET_MET
    assert "quantize-static" in tried, "the shipped methods come first, and fail on a runtime that cannot quantize"


def test_with_labels_search_and_verdict_use_different_samples(plugged, tmp_path):
    run = bd.compress(
        plugged.model(), plugged.large_task(), ["accuracy drop <= 2 pp", "size <= 0.3x"], runtime="mirror",
        runs=tmp_path, ladder=["shrink(size=0.2, flips=0.3)", "shrink(size=0.25)"],
    )  # fmt: skip
    rejected, met = run.candidates[1:]
    assert rejected.measurements["accuracy"].data == "search", "a candidate that search rejects never sees the verdict"
    assert met.measurements["accuracy"].data == "verdict"
    assert met.measurements["accuracy"].samples == 600
    assert run.best.number == 2


def test_confidence_asks_for_proof(plugged, tmp_path):
    options = {"runtime": "mirror", "runs": tmp_path, "ladder": ["shrink(size=0.2, flips=0.01)"]}
    target = ["accuracy drop <= 1 pp", "size <= 0.3x"]
    observed = bd.compress(plugged.model(), plugged.task(), target, **options)
    assert observed.outcome is bd.Outcome.TARGET_MET
    assert "could be luck" in str(observed.best.sentence)
    asked = bd.compress(plugged.model(), plugged.task(), target, confidence=0.95, **options)
    assert asked.outcome is bd.Outcome.UNDECIDED
    assert "samples would decide" in asked.best.sentence


@pytest.mark.parametrize(("goal", "rung"), [("first", 1), ("smallest", 3), ("best", 2)])
def test_the_goal_says_which_of_the_met_is_handed_back(plugged, tmp_path, goal, rung):
    ladder = ["shrink(size=0.28, flips=0.01)", "shrink(size=0.25)", "shrink(size=0.2, flips=0.01)"]
    run = bd.compress(
        plugged.model(), plugged.task(), ["accuracy drop <= 2 pp", "size <= 0.3x"], goal=goal, ladder=ladder,
        runtime="mirror", runs=tmp_path,
    )  # fmt: skip
    assert run.best.number == rung
