"""What makes an earlier measurement another one, and what becomes of runs whose data or donors fail late."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import boildown as bd
from boildown.domain.measurement import Measurement
from boildown.domain.target import Target
from boildown.engine.bench import Bench
from boildown.engine.job import Job
from boildown.journal.journal import Journal
from boildown.tasks.splits import resolve

TARGET = ["score >= 0.5", "size <= 0.7x"]
RUNG = "shrink(size=0.6, flips=0.4)"


class Score:
    """Accuracy, or what a mistake makes of it."""

    name, higher_is_better, unit, range, decomposable = "score", True, "", (0.0, 1.0), True

    def __init__(self, of):
        self.of = of

    def statistic(self, output, target):
        return np.asarray(self.of((output.argmax(1) == target).double().numpy()))

    def compute(self, statistics):
        return float(statistics.mean())


def climbed(mirror, runs, score, *rungs, target=TARGET, **options):
    data = {"train": mirror.samples(100, 1), "validation": mirror.samples(400, 2), **options.pop("data", {})}
    task = bd.Classification(metrics=[Score(score)], **data)
    return bd.compress(
        mirror.model(), task, target, ladder=list(rungs or [RUNG]), runs=runs, runtime="mirror", **options
    )


def test_a_mended_metric_measures_anew(mirror, tmp_path):
    hopeful = climbed(mirror, tmp_path, lambda right: 0.5 + right / 2)
    assert hopeful.outcome is bd.Outcome.TARGET_MET
    honest = climbed(mirror, tmp_path, np.asarray)
    assert "reused" in str(honest.candidates[1].notes)
    scores = [run.candidates[1].measurements["score"].value for run in (hopeful, honest)]
    assert scores[1] < 0.8
    assert scores[0] == pytest.approx(0.5 + scores[1] / 2)
    assert climbed(mirror, tmp_path, np.asarray).candidates[1].measurements == honest.candidates[1].measurements


def test_time_and_memory_are_those_of_a_call(plugged, tmp_path):
    def keys(count=64, where=None, **options):
        task = bd.Classification(validation=plugged.samples(count, 2))
        job = Job(task, resolve(task, 0), Target(()), deployment=bd.Deployment("mirror", **where or {}), **options)
        bench = Bench(job, tmp_path, check=lambda: None, progress=lambda *_: None)
        (tmp_path / "first").write_text("")
        bench.first = bd.Artifact.read("mirror", tmp_path / "first")
        known = []
        bench.recall = lambda key: known.append(key) or Measurement("latency", 1.0, "s")
        bench.latency(bench.first)
        bench.memory(bench.first)
        return known

    usual = keys()
    assert keys() == usual
    for other in (keys(where={"batch": 4}), keys(where={"threads": 2})):
        assert all(a != b for a, b in zip(usual, other, strict=True))
    surer = keys(confidence=0.99)
    assert surer[0] != usual[0]


def test_a_run_goes_on_when_an_earlier_one_is_deleted(mirror, tmp_path):
    earlier = climbed(mirror, tmp_path, np.asarray)

    def delete(event):
        if event.kind == "verdict" and event.data["attempt"].number == 1:
            shutil.rmtree(earlier.path, ignore_errors=True)

    run = climbed(mirror, tmp_path, np.asarray, RUNG, "shrink(size=0.65)", target="size <= 0.01x", callbacks=[delete])
    assert "reused" in str(run.candidates[1].notes)
    assert run.outcome is bd.Outcome.TARGET_MISSED
    assert [attempt.state for attempt in run.candidates[1:]] == [bd.State.MISSED] * 2


def test_an_attempt_that_fails_in_its_full_judgement_gives_way_to_the_next(mirror, tmp_path):
    def fragile(right):
        if len(right) and right.mean() < 0.75:
            fragile.met += 1
            if fragile.met > 1:
                raise ArithmeticError("cannot stand so many mistakes")
        return right

    fragile.met = 0
    data = {"validation": mirror.samples(2000, 2)}
    run = climbed(
        mirror, tmp_path, fragile, "shrink(size=0.55, flips=0.4)", "shrink(size=0.9)", data=data, batch_size=5000,
        target=["score drop <= 0.02", "size <= 0.5x"],
    )  # fmt: skip
    assert run.outcome is bd.Outcome.TARGET_MISSED
    assert run.candidates[1].state is bd.State.FAILED
    assert "cannot stand so many mistakes" in run.candidates[1].sentence
    assert run.best.number == 2
    with Journal.open(run.path, readonly=True) as journal:
        assert journal.attempts()[1].verdict is None


def test_calibration_data_that_cannot_be_read_is_named_before_the_run_begins(mirror, tmp_path):
    x, y = mirror.samples(300, 1)

    class Torn:
        def __len__(self):
            return 300

        def __getitem__(self, index):
            if index >= 280:
                raise OSError("image file is truncated")
            return x[index], y[index]

    with pytest.raises(bd.InputError, match="image file is truncated"):
        climbed(mirror, tmp_path, np.asarray, data={"calibration": Torn()})
    assert not list(tmp_path.iterdir())
