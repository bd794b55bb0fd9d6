"""Runs and measurements whose target names slices, from the condition to the report."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import boildown as bd
from boildown.journal.journal import Journal
from boildown.report.junit import junit
from boildown.testing import digits

pytestmark = pytest.mark.usefixtures("still")

SITES = np.array(["north", "south", "east, or so", "west"])
COUNT = 800


def half(path, index):
    """A network that answers with one half of its four input columns: the logits of two classes."""
    nodes = [helper.make_node("Gather", ["x", "index"], ["y"], axis=1)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", k]) for name, k in (("x", 4), ("y", 2))]
    constant = helper.make_tensor("index", TensorProto.INT64, [2], [2 * index, 2 * index + 1])
    graph = helper.make_graph(nodes, "half", ports[:1], ports[1:], [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The first model's file and a candidate's."""
    folder = tmp_path_factory.mktemp("halves")
    return half(folder / "first.onnx", 0), half(folder / "own.onnx", 1)


def right_or_wrong(lost, **options):
    """A task whose first model is always right, and the candidate in all but a share of the samples of each site."""
    random = np.random.default_rng(0)
    place = np.arange(COUNT) % 4
    y = random.integers(0, 2, COUNT)
    right, wrong = np.eye(2)[y], np.eye(2)[1 - y]
    own = np.where((np.arange(COUNT) // 4 < COUNT / 4 * np.array(lost)[place])[:, None], wrong, right)
    noise = random.random((COUNT, 4)) / 10  # no two samples are alike
    inputs = torch.tensor(np.concatenate([right, own], 1) + noise, dtype=torch.float32)
    return bd.Classification(validation=(inputs, torch.tensor(y)), **{"slices": {"site": SITES[place]}, **options})


TARGET = ["accuracy drop <= 5 pp", "worst site accuracy drop <= 5 pp", 'accuracy[site="east, or so"] >= 90 %']


def test_one_slice_that_breaks_misses_where_the_average_passes(files):
    first, own = files
    task = right_or_wrong([0, 0, 0.12, 0])
    for confidence in (None, 0.95):
        verdict = bd.measure(own, task, TARGET, first=first, confidence=confidence)
        assert [finding.status.value for finding in verdict.findings][:2] == ["met", "missed"]
        assert verdict.findings[1].slice == 'accuracy[site="east, or so"]'
        assert "drop is 12.00 pp" in verdict.sentence()
        assert "with 200 samples" in verdict.sentence()
    assert verdict.findings[2].status is bd.Status.UNDECIDED
    assert verdict.missed == {"worst site accuracy"}
    table = json.loads(json.dumps(verdict.to_json()))["measurements"]["worst site accuracy"]["slices"]
    assert [(each["metric"], each["samples"]) for each in table][2:] == [
        ("accuracy[site=south]", 200), ("accuracy[site=west]", 200),
    ]  # fmt: skip
    found = {each["metric"]: each for each in table}['accuracy[site="east, or so"]']
    assert found["drop"] == pytest.approx(0.12)
    assert found["simultaneous"]["drop"]["level"] == pytest.approx(1 - 0.025 / 4)
    assert found["simultaneous"]["drop"]["low"] < found["intervals"]["drop"]["low"] < 0.12


def test_what_every_slice_proves_is_met_and_what_one_leaves_open_is_not(files):
    first, own = files
    asked = ["worst site accuracy drop <= 5 pp"]
    good, some = right_or_wrong([0.01, 0, 0.005, 0]), right_or_wrong([0.01, 0.03, 0.01, 0])
    assert bd.measure(own, good, asked, first=first, confidence=0.95).met
    verdict = bd.measure(own, some, asked, first=first, confidence=0.95)
    assert verdict.status is bd.Status.UNDECIDED
    assert verdict.findings[0].slice == "accuracy[site=south]"
    assert verdict.findings[0].needed > 200
    bare = bd.measure(own, some, asked, first=first)
    assert (bare.status, bare.findings[0].lucky) == (bd.Status.MET, True)


def test_values_need_no_first_model(files):
    verdict = bd.measure(files[1], right_or_wrong([0, 0, 0.12, 0]), ["worst site accuracy >= 90 %"])
    worst = verdict.measurements["worst site accuracy"]
    assert (verdict.status.value, worst.value, worst.drop) == ("missed", pytest.approx(0.88), None)
    assert all(each.drop is None for each in worst.slices)


def test_every_slice_is_a_property_for_ci(files):
    verdict = bd.measure(files[1], right_or_wrong([0, 0, 0.12, 0]), TARGET[1:], first=files[0])
    suite = ElementTree.fromstring(junit(verdict, "own.onnx"))
    told = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert told["accuracy[site=south] drop"] == "0"
    assert told["worst site accuracy drop"] == "0.12"


def test_a_metric_without_a_value_in_a_slice_is_told(files):
    kinds = {"one": lambda inputs, target: "yes" if int(target) else "no"}
    task = right_or_wrong([0, 0, 0.12, 0], metrics=["accuracy", "auc"], slices=kinds)
    verdict = bd.measure(files[1], task, ["worst one auc >= 50 %"])
    assert verdict.status is bd.Status.MISSED
    assert "the metric has no value for these samples" in verdict.sentence()


# -- a run ---------------------------------------------------------------------------------------------


def task():
    x, y = digits.validation_set().tensors
    return bd.Classification(
        train=digits.training_set(), validation=(x, y), classes="0123456789",
        slices={"ink": lambda image: "much" if image.mean() > -0.35 else "little"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_model):
    """A run whose target is about slices."""
    return bd.compress(
        digits_model, task(), ["worst class accuracy drop <= 15 pp", "size <= 0.35x"],
        ladder=["quantize-static"], runs=tmp_path_factory.mktemp("runs"), verbose=False,
    )  # fmt: skip


def test_a_run_steers_by_the_worst_class(run):
    assert run.outcome is bd.Outcome.TARGET_MET
    worst = run.best.measurements["worst class accuracy"]
    assert [each.metric for each in worst.slices] == [f"accuracy[class={name}]" for name in "0123456789"]
    assert sum(each.samples for each in worst.slices) == 797
    assert worst.drop == max(each.drop for each in worst.slices)
    assert run.best.measurements["worst ink accuracy"].slices, "what the task was given is measured too"
    first = run.candidates[0].measurements["worst class accuracy"]
    assert first.drop == 0
    assert [result.number for result in run.front]


def test_the_report_and_the_table_show_every_slice(run):
    text = str(run)
    assert "accuracy by class: intervals of the drop hold for all together (each end 99.5 %)" in text
    assert "accuracy by ink: intervals of the drop hold for all together (each end 97.5 %)" in text
    html = run.report().read_text(encoding="utf-8")
    assert 'id="slices"' in html
    assert "accuracy by class: 10 slices" in html
    for table in run.to_json()["attempts"][1]["slices"]:
        for each in table["slices"]:
            assert each["interval"]["of"] == "drop"
            assert each["interval"]["low"] <= each["drop"] <= each["interval"]["high"]
    changed = {each["slice"]: each for table in run.to_json()["attempts"][1]["slices"] for each in table["slices"]}
    with Journal.open(run.path, readonly=True) as journal:
        told = next(record.data for record in journal.records("changed"))
    by_class = [changed[f"accuracy[class={name}]"] for name in "0123456789"]
    assert sum(each["worse"] for each in by_class) == told["worse"]
    assert sum(each["better"] for each in by_class) == told["better"]
    labels = digits.validation_set().tensors[1]
    for name, each in zip("0123456789", by_class, strict=True):
        assert all(str(int(labels[place])) == name for place in each["changed"])
    card = json.loads((run.path / "best" / "card.json").read_text())
    assert [table["key"] for table in card["slices"]] == ["class", "ink"]
    assert "worst class accuracy" not in (run.path / "best" / "README.md").read_text().split("---")[1]


def test_the_command_line_shows_it(run, command):
    shown = command("show", run.path)
    assert "accuracy by class" in shown.out
    assert re.search(r"worst class accuracy drop <= 15 pp +met", shown.out)
    data = command("show", run.path, "--json").data
    assert [table["metric"] for table in data["attempts"][1]["slices"]] == ["accuracy", "accuracy"]


def test_a_verification_measures_the_slices_again(run, digits_model):
    found = bd.verify(run.path, digits_model, task())
    assert found.agrees, str(found)
    assert any(check.what == "worst class accuracy" for check in found.checks)


def test_other_slices_are_another_question(run, digits_model, tmp_path):
    x, y = digits.validation_set().tensors
    other = bd.Classification(
        train=digits.training_set(), validation=(x, y), classes="0123456789", slices={"class": (y // 2).tolist()}
    )  # fmt: skip
    with pytest.raises(bd.InputError, match="slices are not what run"):
        bd.resume(run.path, digits_model, other, verbose=False)


# -- search ---------------------------------------------------------------------------------------------


def hit(inputs):
    """Whether the fake file of `shrink(flips=0.05)` gives another answer."""
    return "hit" if (np.abs(inputs.numpy()[None]).sum(1) * 1000)[0] % 1 < 0.05 else "safe"


def searched(plugged, runs, target, ladder, slices):
    x, y = plugged.samples(2400, 2)
    found = bd.Classification(train=plugged.samples(100, 1), validation=(x, y), slices=slices)
    return bd.compress(plugged.model(), found, target, runtime="mirror", ladder=ladder, runs=runs, verbose=False)


def test_search_rejects_by_a_slice_what_the_average_would_let_pass(plugged, tmp_path):
    slices = {"kind": hit}
    ladder = ["shrink(size=0.2, flips=0.05)"]
    easy = searched(plugged, tmp_path / "easy", ["accuracy drop <= 8 pp", "size <= 0.3x"], ladder, slices)
    assert easy.outcome is bd.Outcome.TARGET_MET
    target = ["accuracy drop <= 8 pp", "worst kind accuracy drop <= 20 pp", "size <= 0.3x"]
    run = searched(plugged, tmp_path / "runs", target, [*ladder, "shrink(size=0.25, flips=0.0)"], slices)
    rejected, met = run.candidates[1:]
    assert rejected.measurements["worst kind accuracy"].data == "search"
    assert rejected.verdict.missed == {"worst kind accuracy"}
    assert rejected.verdict.findings[1].slice == "accuracy[kind=hit]"
    assert met.measurements["worst kind accuracy"].data == "verdict"
    assert run.best.number == 2
    with Journal.open(run.path, readonly=True) as journal:
        assert all(record.data["scored"] == 1200 for record in journal.records("search"))
        assert [look.attempt for look in journal.looks()] == [2]


def test_slices_with_next_to_nothing_in_search_do_not_crash_it(plugged, tmp_path):
    rare = np.where(np.arange(2400) < 4, "rare", "usual")
    target = ["accuracy[id=usual] >= 1 %", "worst id accuracy drop <= 90 pp", "size <= 0.3x"]
    run = searched(plugged, tmp_path, target, ["shrink(size=0.2, flips=0.02)"], {"id": rare})
    assert run.candidates[1].verdict is not None
    with Journal.open(run.path, readonly=True) as journal:
        assert "few samples to judge on are in the slices" in " ".join(journal.facts["notices"])


# -- what is wrong ---------------------------------------------------------------------------------------


def test_everything_wrong_with_slices_is_told_before_a_run_begins(plugged, tmp_path):
    x, y = plugged.samples(1500, 2)
    wrong = bd.Classification(validation=(x, y), slices={"id": np.arange(1500) // 3})
    with pytest.raises(bd.InputError) as caught:
        bd.compress(
            plugged.model(), wrong,
            ["accuracy[clas=1] >= 50 %", "accuracy[class=10] >= 50 %", "size >= 0.5x"],
            runtime="mirror", runs=tmp_path / "runs", goal="fast",
        )  # fmt: skip
    told = str(caught.value)
    assert "no slices by 'clas'" in told
    assert "no slice class=10" in told
    assert "wrong side" in told
    assert "goal = 'fast'" in told
    with pytest.raises(bd.InputError, match="Give 73 samples of each"):
        bd.compress(
            plugged.model(), wrong, "worst id accuracy drop <= 5 pp", confidence=0.95, runtime="mirror",
            runs=tmp_path / "runs",
        )  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_metric_without_meaning_in_a_slice_is_refused_before_a_run_begins(plugged, tmp_path):
    x, _ = plugged.samples(400, 2)
    binary = bd.Classification(
        validation=(x[:, :2], (x[:, 1] > x[:, 0]).long()), metrics=["accuracy", "auc"],
        slices={"side": lambda inputs, target: int(target)},
    )  # fmt: skip
    model = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    for condition, said in (
        ("worst side auc drop <= 5 pp", "auc of the first model has no value in auc[side=0], auc[side=1]"),
        ("worst class auc drop <= 5 pp", "within one it has no meaning"),
    ):
        with pytest.raises(bd.InputError, match=re.escape(said)):
            bd.compress(model, binary, condition, runs=tmp_path / "runs", verbose=False)
    assert not (tmp_path / "runs").exists()
