"""Second data sets and corruptions in whole runs: searched, judged, shown, verified, and part of what a run is."""

from __future__ import annotations

import pytest
import torch

import boildown as bd
from boildown.engine.diagnosis import diagnose
from boildown.journal.journal import Journal

pytestmark = pytest.mark.usefixtures("still")

TARGET = ["accuracy drop <= 2 pp", "accuracy[night] drop <= 2 pp", "accuracy[glare:2] drop <= 2 pp", "size <= 0.9x"]
LADDER = ["shrink(size=0.5, flips=0.05)", "shrink(size=0.6)"]


def parted(plugged, count, seed):
    """(samples that shrinking by 5 % of flips leaves right, samples half of which it makes wrong)."""
    x, y = plugged.samples(20 * count, seed)
    place = (x.abs().sum(1) * 1000) % 1
    return [(x[where][:count], y[where][:count]) for where in ((place > 0.06) & (place < 0.98), place < 0.1)]


def glare(inputs, severity, generator):
    return inputs + 0.01 * severity * torch.rand(inputs.shape, generator=generator)


def task_of(plugged, count=1200, seed=2, **options):
    clean, night = parted(plugged, count, seed)
    return bd.Classification(
        train=tuple(part[:30] for part in night), calibration=plugged.samples(50, 1),
        validation={"clean": clean, "night": night, "fog": night},
        corruptions={"glare": glare}, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture
def night_run(mirror, tmp_path, told):
    return compressed(mirror, task_of(mirror), tmp_path, told)


def compressed(mirror, task, runs, told=None, target=TARGET, **options):
    return bd.compress(
        mirror.model(), task, target, ladder=LADDER, runtime="mirror", runs=runs,
        callbacks=[] if told is None else [told.append], **options,
    )  # fmt: skip


def test_a_second_set_decides_what_the_main_one_would_let_pass(mirror, night_run, told, tmp_path):
    run = night_run
    assert run.outcome is bd.Outcome.TARGET_MET
    assert run.best.number == 2
    dark = run.candidates[1]
    by = {finding.condition.metric: finding.status.value for finding in dark.verdict.findings}
    assert (by["accuracy"], by["accuracy[night]"]) == ("met", "missed")
    found = dark.measurements["accuracy[night]"]
    assert (found.data, found.metric) == ("search", "accuracy[night]")
    assert found.drop > 0.3
    assert found.notes[0].startswith("night: stopped after")
    assert diagnose(dark.verdict, run.job.quality).recover
    for name in ("accuracy", "accuracy[night]", "accuracy[glare:2]"):
        first, best = (run.candidates[number].measurements[name] for number in (0, 2))
        assert (first.data, first.drop, best.data, best.drop) == ("verdict", 0.0, "verdict", 0.0)
        assert best.samples == 600
    with Journal.open(run.path, readonly=True) as journal:
        records = [record.data for record in journal.records("search")]
        sizes = journal.facts["data"]
        looks = [look for look in journal.looks() if not look.timed]
    assert [record.get("set") for record in records[:3]] == [None, "night", "glare:2"]
    assert (sizes["search"], sizes["search[night]"], sizes["verdict[night]"], sizes["verdict[glare:2]"]) == (600,) * 4
    assert len(looks) == 1, "one look reads all sets"
    notices = [event.data["text"] for event in told if event.kind == "notice"]
    assert "no condition names fog: such a set is not scored" in notices
    assert "30 of 1200 samples to judge on (night) are also in train: scores may flatter every model" in notices
    assert "accuracy[night] drop <= 2 pp" in str(run)
    shown = run.to_json()
    assert "accuracy[night]" in str(shown)
    assert "accuracy[night]" in (run.path / "report.html").read_text()
    checked = bd.verify(run.path, mirror.model(), task_of(mirror))
    assert checked.agrees, str(checked)
    assert {"accuracy[night]", "accuracy[glare:2]"} <= {check.what for check in checked.checks}
    again = compressed(mirror, task_of(mirror), tmp_path)
    with Journal.open(again.path, readonly=True) as journal:
        assert list(journal.records("search")) == [], "known by the same keys"
    assert again.best.measurements["accuracy[glare:2]"].value == run.best.measurements["accuracy[glare:2]"].value


def test_without_labels_to_search_on_the_verdict_alone_reads_the_sets(mirror, tmp_path):
    run = compressed(mirror, task_of(mirror, 400), tmp_path)
    dark = run.candidates[1].measurements
    assert dark["accuracy[night]"].data == "verdict"
    assert run.best.number == 2
    eased = compressed(mirror, task_of(mirror, 400), tmp_path, target=[*TARGET[:3], "size <= 0.55x"])
    assert eased.outcome is bd.Outcome.TARGET_MISSED
    assert "accuracy[night] drop <= " in str(eased).partition("What would have to give:")[2]


def test_a_set_large_enough_is_searched_though_the_main_one_is_not(mirror, tmp_path):
    clean, _ = parted(mirror, 400, 2)
    _, night = parted(mirror, 1200, 3)
    task = bd.Classification(calibration=mirror.samples(50, 1), validation={"clean": clean, "night": night})
    run = compressed(mirror, task, tmp_path, target=["accuracy[night] drop <= 2 pp", "size <= 0.9x"])
    dark = run.candidates[1].measurements
    assert dark["accuracy[night]"].data == "search"
    assert "accuracy" not in dark, "the verdict's samples were not read"
    assert run.best.number == 2
    assert run.best.measurements["accuracy"].data == "verdict"


def test_measure_scores_the_sets_that_conditions_name(mirror, night_run):
    artifact, first = night_run.candidates[1].artifact, night_run.candidates[0].artifact
    verdict = bd.measure(artifact, task_of(mirror), TARGET[:3], first=first, runtime="mirror")
    by = {finding.condition.metric: finding for finding in verdict.findings}
    found = [finding.status.value for finding in by.values()]
    assert found == ["met", "missed", "missed"], "glare changes which answers are wrong"
    assert verdict.measurements["accuracy[night]"].samples == 1200
    verdict = bd.measure(artifact, task_of(mirror), "accuracy[shift:1] >= 10 %", first=first, runtime="mirror")
    (finding,), found = verdict.findings, verdict.measurements["accuracy[shift:1]"]
    assert (finding.status.value, found.samples) == ("met", 1200)
    assert found.notes == ("inputs of shape (10,) are taken for rows of a table",)
    assert "accuracy[fog]" not in verdict.measurements


def test_other_sets_are_part_of_what_a_run_began_with(mirror, tmp_path):
    run = compressed(mirror, task_of(mirror, 300), tmp_path)
    assert bd.resume(run.path, mirror.model(), task_of(mirror, 300)).best.number == 2
    moved, brighter = task_of(mirror, 300), task_of(mirror, 300)
    x, y = parted(mirror, 300, 2)[1]
    moved.others["night"] = bd.Classification(validation=(x + 0.001, y)).validation
    brighter.corruptions["glare"] = lambda inputs, severity, generator: inputs * severity
    for other in (moved, brighter):
        with pytest.raises(bd.InputError, match="The other data to judge on is not what run"):
            bd.resume(run.path, mirror.model(), other)


def test_what_cannot_be_applied_is_refused_before_a_folder_is_made(mirror, tmp_path):
    with pytest.raises(bd.InputError) as refused:
        compressed(mirror, task_of(mirror, 300), tmp_path, target=["accuracy[blur:3] drop <= 2 pp", "size <= 0.9x"])
    assert "the inputs are rows of a table" in refused.value.mistakes[0].cause
    assert "missing, shift" in refused.value.mistakes[0].cure
    assert list(tmp_path.iterdir()) == []


def test_a_first_model_that_has_no_answer_on_a_set_is_refused_by_its_name(mirror, tmp_path):
    class Bare(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.sqrt(1e4 - x.abs().amax(1, keepdim=True)) * 0

    clean, (x, _) = parted(mirror, 100, 2)
    x = torch.cat([x[:50], 1e5 + x[50:]])
    model = Bare(10, 10, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(10))
    task = bd.Regression(
        calibration=(clean[0][:50], clean[0][:50]), validation={"clean": (clean[0], 1.01 * clean[0]), "far": (x, x)}
    )
    with pytest.raises(
        bd.InputError, match="gives no answer on some of the data to judge on: far, NaN or infinity on 50"
    ):
        bd.compress(model, task, ["rmse[far] <= 1.1x"], runtime="eager", runs=tmp_path)
    assert not any(path for path in tmp_path.iterdir() if not path.name.startswith("."))


def test_digits_are_judged_on_blurred_and_noisy_ones_too(digits_model, digits_task, tmp_path):
    run = bd.compress(
        digits_model, digits_task,
        ["accuracy drop <= 3 pp", "accuracy[noise:5] drop <= 5 pp", "accuracy[contrast:5] >= 10 %", "size <= 0.35x"],
        ladder=["quantize-static"], runs=tmp_path,
    )  # fmt: skip
    found = {name: run.best.measurements[f"accuracy{name}"].first for name in ("", "[noise:5]", "[contrast:5]")}
    assert found["[noise:5]"] > 0.5
    assert found[""] > found["[contrast:5]"]
    with Journal.open(run.path, readonly=True) as journal:
        told = journal.facts["notices"]
    assert any("are taken for pictures, black -1, white 1, by what is seen" in notice for notice in told)


def test_the_command_line_names_sets_and_tells_what_cannot_be_read(command, project):
    said = command("compress", project / "boildown.toml", "--validation", "night=x.csv", "--validation", "fog")
    assert (said.code, "--validation fog names no set." in said.err) == (2, True)
    said = command("compress", project / "boildown.toml", "--validation", "night=x.csv")
    assert said.code == 2
    assert "The task does not say how" in said.err
    said = command("compress", project / "boildown.toml", "--target", "accuracy[night] >= 50 %")
    assert said.code == 2
    assert "there is no data set 'night'" in said.err
