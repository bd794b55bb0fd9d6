"""Search data is scored only until its decision is clear; verdicts and other metrics read all of theirs."""

from __future__ import annotations

from itertools import count

import pytest

import boildown as bd
from boildown.domain.target import Target
from boildown.domain.verdict import Status, judge
from boildown.engine.bench import Bench
from boildown.journal.journal import Journal
from boildown.tasks.metrics import Accuracy

pytestmark = pytest.mark.usefixtures("still")

SIZE = 4000
"""Validation samples: half of them are searched."""


class Whole(Accuracy):
    """Accuracy that does not say that it is a mean."""

    name, decomposable = "whole", False


def climbed(plugged, runs, target, ladder, metrics=None, size=SIZE, **options):
    """A run that searches half of its samples."""
    task = plugged.task(size)
    if metrics is not None:
        task = bd.Classification(train=plugged.samples(100, 1), validation=plugged.samples(size, 2), metrics=metrics)
    return bd.compress(plugged.model(), task, target, runtime="mirror", runs=runs, ladder=ladder, **options)


def searched(run):
    """(scored, of) for every candidate that the run has scored on search samples."""
    with Journal.open(run.path, readonly=True) as journal:
        return [(record.data["scored"], record.data["of"]) for record in journal.records("search")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


TARGET = ["accuracy drop <= 2 pp", "size <= 0.3x"]
LADDER = ["shrink(size=0.2, flips=0.2)", "shrink(size=0.25, flips=0.002)"]


def test_search_stops_where_its_decision_is_clear_and_the_verdict_reads_everything(plugged, runs):
    run = climbed(plugged, runs, TARGET, LADDER)
    rejected, met = run.candidates[1:]
    (few, _), (more, of) = searched(run)
    assert 128 <= few < more < of == SIZE // 2
    measured = rejected.measurements["accuracy"]
    assert (measured.data, measured.samples) == ("search", few)
    assert measured.notes[0].startswith(f"stopped after {few} of 2,000 search samples")
    assert measured.drop == pytest.approx(0.18, abs=0.08)
    asked = Target(tuple(finding.condition for finding in rejected.verdict.findings))
    assert judge(asked, {"accuracy": measured}).findings[0].status is Status.MISSED
    assert (met.measurements["accuracy"].data, met.measurements["accuracy"].samples) == ("verdict", SIZE // 2)
    assert run.best.number == 2


def test_the_same_target_reuses_what_was_scored_and_a_relaxed_one_does_not(plugged, runs):
    again = climbed(plugged, runs, TARGET, LADDER)
    assert searched(again) == []
    relaxed = climbed(plugged, runs, ["accuracy drop <= 19.9 pp", "size <= 0.3x"], LADDER[:1])
    ((scored, _),) = searched(relaxed)
    assert scored > again.candidates[1].measurements["accuracy"].samples, "nearer to the bound, more must be seen"
    assert "reused from run" in " ".join(relaxed.candidates[1].notes)


@pytest.mark.parametrize(
    ("target", "metrics"),
    [(["whole drop <= 2 pp", "size <= 0.3x"], [Whole(), "accuracy"]), (["size <= 0.01x"], ["accuracy"])],
)
def test_metrics_that_are_no_means_and_targets_without_quality_are_scored_in_full(plugged, tmp_path, target, metrics):
    run = climbed(plugged, tmp_path, target, ["shrink(size=0.2, flips=0.3)"], metrics, size=1200)
    assert searched(run) == [(600, 600)]
    assert run.candidates[1].measurements["accuracy"].notes == ()


def test_metrics_that_nobody_asks_for_are_left_out_of_a_part(plugged, tmp_path):
    run = climbed(plugged, tmp_path, TARGET, LADDER, metrics=["top5", "accuracy"])
    rejected, met = (result.measurements for result in run.candidates[1:])
    assert rejected["accuracy"].samples < SIZE // 2
    assert "top5" not in rejected
    assert met["top5"].samples == SIZE // 2


def test_the_batches_after_the_decision_are_not_even_run(plugged, tmp_path, monkeypatch):
    calls, model = count(), Bench.model

    def counted(self, candidate, artifact):
        run = model(self, candidate, artifact)
        return lambda *args, **kwargs: (next(calls), run(*args, **kwargs))[1]

    monkeypatch.setattr(Bench, "model", counted)
    climbed(plugged, tmp_path, TARGET, LADDER[:1], batch_size=50)
    # First model: 40 batches of either half; the candidate: what search needed, and a verdict once, for it is the best.
    assert next(calls) < 40 + 40 + 15 + 40 + 40
