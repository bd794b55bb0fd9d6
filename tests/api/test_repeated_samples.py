"""Samples given many times are one sample each, in runs and for `measure`; perfect first models are asked about."""

from __future__ import annotations

import boildown as bd
from boildown.journal.journal import Journal

ASKED = "was it trained on them?"


def repeated(data, times):
    return tuple(part.repeat(times, *[1] * (part.ndim - 1)) for part in data)


def compressed(mirror, runs, **data):
    told = []
    run = bd.compress(
        mirror.model(), bd.Classification(calibration=mirror.samples(50, 1), **data),
        ["accuracy drop <= 5 pp", "size <= 0.9x"], ladder=["shrink(size=0.6, flips=0.02)"],
        runtime="mirror", runs=runs, callbacks=[told.append],
    )  # fmt: skip
    return run, [event.data["text"] for event in told if event.kind == "notice"]


def test_a_run_counts_equal_samples_once_in_search_and_verdict(mirror, tmp_path):
    run, notices = compressed(mirror, tmp_path, validation=repeated(mirror.samples(1200, 2), 3))
    assert run.outcome is bd.Outcome.TARGET_MET
    assert run.best.measurements["accuracy"].samples == 600
    with Journal.open(run.path, readonly=True) as journal:
        sizes = journal.facts["data"]
        assert [record.data["of"] for record in journal.records("search")] == [1800]
    assert sizes["search"] == sizes["verdict"] == 1800
    assert any("3,600 validation samples are 1,200 different ones" in notice for notice in notices)
    assert not any(ASKED in notice for notice in notices)


def test_a_perfect_first_model_is_asked_about_and_measure_counts_equal_samples_once(mirror, tmp_path):
    x, _ = mirror.samples(400, 2)
    perfect = x, x.argmax(1)
    run, notices = compressed(mirror, tmp_path, validation=perfect, test=(x[:250], x[:250].argmax(1)))
    asked = f"The first model's accuracy is 100.00 % on all 250 samples: {ASKED}"
    assert sum(asked in notice for notice in notices) == 1
    assert asked in " ".join(str(run).split())
    assert "250 of 250 samples to judge on are also in validation, on which candidates are chosen" in notices
    task = bd.Classification(validation=perfect, test=repeated(mirror.samples(30, 3), 50))
    verdict = bd.measure(run.best.artifact, task, ["accuracy >= 0.6"], runtime="mirror")
    assert verdict.findings[0].interval.high - verdict.findings[0].interval.low > 0.1  # of 1,500 samples: 0.03
