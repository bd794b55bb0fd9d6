"""Samples in groups, from the task to the verdict, the report and the run that goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import boildown as bd

IDS = np.arange(1200) // 3


def compressed(mirror, runs, groups, rung="shrink(size=0.6, flips=0.02)", **options):
    told = []
    x, y = mirror.samples(1200, 2)
    task = bd.Classification(calibration=mirror.samples(50, 1), validation=(x, y), groups=groups)
    run = bd.compress(
        mirror.model(), task, ["accuracy drop <= 5 pp", "size <= 0.9x"], ladder=[rung], runtime="mirror", runs=runs,
        callbacks=[told.append], **options,
    )  # fmt: skip
    return run, [event.data["text"] for event in told if event.kind == "notice"]


def test_a_run_counts_groups_and_says_so_everywhere(mirror, tmp_path):
    run, notices = compressed(mirror, tmp_path, IDS, confidence=0.95)
    measured = run.best.measurements["accuracy"]
    assert (measured.samples, measured.groups) == (1200, 400)
    told = "1,200 samples in 400 groups"
    assert f"Quality stands on {told}." in run.best.verdict.sentence()
    assert told in run.best.notes
    assert "1,200 in 400 groups" in " ".join(str(run).split())
    assert "The 1,200 validation samples are in 400 groups, never parted, which count in their place." in notices
    assert "400 groups of validation items are too few" in " ".join(notices)
    card = json.loads((run.best.artifact.parent / "card.json").read_text())
    assert card["measured"]["accuracy"]["groups"] == 400
    assert "in 400 groups" in (run.best.artifact.parent / "README.md").read_text()
    assert "in 400 groups" in run.report().read_text()


def test_what_was_measured_without_groups_is_not_recalled_with_them(mirror, tmp_path):
    alone, _ = compressed(mirror, tmp_path, None)
    together, _ = compressed(mirror, tmp_path, IDS)
    assert alone.best.measurements["accuracy"].groups is None
    assert together.best.measurements["accuracy"].groups == 400
    assert "reused" in " ".join(together.best.notes), "the candidate is the same"


def test_a_run_goes_on_with_the_groups_that_it_began_with(mirror, tmp_path):
    run, _ = compressed(mirror, tmp_path, IDS, rung="shrink(size=0.95)")
    x, y = mirror.samples(1200, 2)
    given = {"calibration": mirror.samples(50, 1), "validation": (x, y)}
    for groups in (None, np.arange(1200) // 4):
        with pytest.raises(bd.InputError, match="groups of the data to judge on are not what run"):
            bd.resume(run.path, mirror.model(), bd.Classification(**given, groups=groups))
    renamed = [f"video {i}" for i in IDS]
    assert bd.resume(run.path, mirror.model(), bd.Classification(**given, groups=renamed)).outcome is run.outcome


def test_measure_proves_less_of_samples_in_groups(mirror, tmp_path):
    run, _ = compressed(mirror, tmp_path, IDS)
    x, y = mirror.samples(20, 3)
    noise = np.random.default_rng(0).normal(0, 1e-2, (1000, x.shape[1])).astype(np.float32)
    frames = (x.repeat_interleave(50, 0) + torch.from_numpy(noise), y.repeat_interleave(50))
    widths = []
    for groups in (None, np.arange(1000) // 50):
        task = bd.Classification(validation=frames, groups=groups)
        verdict = bd.measure(run.best.artifact, task, ["accuracy >= 50 %"], runtime="mirror")
        interval = verdict.findings[0].interval
        widths.append(interval.high - interval.low)
    assert widths[1] > 3 * widths[0]
    assert "1,000 samples in 20 groups" in verdict.sentence()
