"""NaN is no answer, whatever a metric makes of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import boildown as bd
from boildown.domain.measurement import Measurement
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import Status, judge
from boildown.engine.answers import blanked, held_wrong, kinds
from boildown.tasks.metrics import F1, Accuracy, Mae

NAN, INF = math.nan, math.inf


class ErrorRate(Accuracy):
    name, higher_is_better = "error_rate", False

    def statistic(self, output, target):
        return 1 - super().statistic(output, target)


class Picky(Accuracy):
    """Stops at what is not finite, as those of scikit-learn do."""

    name = "picky"

    def statistic(self, output, target):
        assert bool(torch.isfinite(output).all())
        return super().statistic(output, target)


def file(folder, **facts):
    path = folder / f"{len(list(folder.glob('*')))}.mirror"
    path.write_text(json.dumps(facts))
    return path


def measured(path, target, *metrics, data, **options):
    task = bd.Classification(validation=data, metrics=list(metrics))
    return bd.measure(path, task, target, runtime="mirror", **options)


@pytest.fixture
def data(plugged):
    x, _ = plugged.samples(200, 4)
    return x, torch.where(x[:, 0] > 1.0, 1, 0)  # most are of class 0, as the largest of nothing but NaN is


def test_a_file_that_answers_nothing_meets_nothing(plugged, data, tmp_path):
    path = file(tmp_path, poison=NAN)
    target = ["accuracy >= 10 %", "error_rate <= 99 %", "f1 >= 1 %"]
    verdict = measured(path, target, "accuracy", ErrorRate(), Picky(), "f1", data=data)
    found = {name: verdict.measurements[name].value for name in ("accuracy", "error_rate", "picky")}
    assert found == {"accuracy": 0.0, "error_rate": 1.0, "picky": 0.0}
    assert math.isnan(verdict.measurements["f1"].value)
    assert [finding.status for finding in verdict.findings] == [Status.MISSED] * 3
    assert "NaN or infinity on 200 of 200 samples, first on item 0" in str(verdict.measurements["accuracy"].notes)
    assert "not a number; no answer, NaN or infinity on 200" in verdict.sentence()
    json.dumps(verdict.to_json())


def test_only_samples_without_an_answer_are_wrong(plugged, data, tmp_path):
    none = data[0][:, 0] > 1.5
    whole, holed = (measured(file(tmp_path, **facts), "accuracy >= 1 %", Picky(), Accuracy(), data=data).measurements
                    for facts in ({}, {"poison": NAN, "above": 1.5}))  # fmt: skip
    right = (data[0].argmax(1) == data[1]) & ~none
    for name in ("accuracy", "picky"):
        assert holed[name].value == pytest.approx(float(right.double().mean()))
        assert whole[name].value > holed[name].value
        assert whole[name].notes == ()
        assert f"on {int(none.sum())} of 200 samples, first on item {int(none.nonzero()[0])}" in holed[name].notes[0]


def test_one_number_that_is_none_makes_an_error_no_number(plugged, data, tmp_path):
    x = data[0]
    path, first = file(tmp_path, poison=NAN, above=float(x[:, 0].sort().values[-2])), file(tmp_path)
    task = bd.Regression(validation=(x, x + 1), metrics=["rmse", "mae"])
    target = ["rmse <= 1e9", "rmse <= 1e9x", "mae drop <= 1e9"]
    verdict = bd.measure(path, task, target, runtime="mirror", first=first)
    assert [finding.status for finding in verdict.findings] == [Status.MISSED] * 3
    assert "on 1 of 200" in verdict.sentence()
    assert bd.measure(path, task, target, runtime="mirror", first=first, confidence=0.9).status is Status.MISSED
    assert bd.measure(first, task, target, runtime="mirror", first=first).met


def test_an_infinity_is_none_where_the_first_model_has_none(plugged, data, tmp_path):
    scored = {}
    for sign in (INF, -INF):
        path, first = file(tmp_path, poison=sign, above=1.5), file(tmp_path)
        scored[sign] = measured(path, "accuracy >= 1 %", "accuracy", data=data, first=first).measurements["accuracy"]
        assert "NaN or infinity on" in scored[sign].notes[0]
    assert scored[INF].value == scored[-INF].value
    masked = torch.tensor([[1.0, -INF], [-INF, -INF], [INF, 0.0], [1.0, 2.0]])
    assert kinds(masked, 4).tolist() == [0, -1, -1, 1]
    assert kinds(masked, 4, np.array([0.0, 0.0, 1.0, 1.0])).tolist() == [0, 0, -1, 1]


def test_a_search_with_labels_counts_it_too(plugged, still, tmp_path):
    run = bd.compress(
        plugged.model(), plugged.large_task(), ["accuracy drop <= 50 pp", "size <= 0.5x"], runs=tmp_path,
        ladder=["shrink(size=0.2, how='nan')"], runtime="mirror",
    )  # fmt: skip
    found = run.candidates[1].measurements["accuracy"]
    assert found.drop == pytest.approx(found.first)
    assert run.outcome is not bd.Outcome.TARGET_MET
    assert any("no answer" in note for note in found.notes)


def test_outputs_of_any_form_are_looked_at():
    output = {"a": torch.ones(3, 2), "b": [np.ones((3, 1)), "text", np.array(["a", "b", "c"])], "c": torch.arange(3)}
    assert kinds(output, 3).tolist() == [1, 1, 1]
    output["b"][0][1] = NAN
    found = kinds(output, 3)
    assert found.tolist() == [1, -1, 1]
    seen = blanked(output, found)
    assert seen["a"].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert seen["b"][0].ravel().tolist() == [1, 0, 1]
    assert kinds((torch.ones(3, 2), torch.tensor(NAN)), 3).tolist() == [-1, -1, -1]  # it belongs to none, so to all


def test_a_sample_without_a_label_stays_out():
    rows, found = np.array([1.0, NAN, 1.0]), np.array([-1.0, -1.0, 1.0])
    assert held_wrong(Accuracy(), rows, found) == pytest.approx([0, NAN, 1], nan_ok=True)
    assert held_wrong(Mae(), rows, found) == pytest.approx([NAN, NAN, 1], nan_ok=True)
    assert np.isnan(held_wrong(F1(), np.ones((3, 2)), found)).all(1).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("value", "condition"), [(INF, "value >="), (-INF, "value <="), (-INF, "drop <="), (NAN, "drop <=")]
)
def test_what_is_not_finite_is_never_met(value, condition):
    form, operator = condition.split()
    measurement = Measurement("score", value, first=0.5, drop=value)
    verdict = judge(
        Target((Condition("score", form, operator, 0.4, f"score {condition} 0.4"),)), {"score": measurement}
    )
    assert verdict.status is Status.MISSED
    assert "not" in verdict.sentence()
