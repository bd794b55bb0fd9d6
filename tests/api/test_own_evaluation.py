"""An evaluation of one's own judges exported files: scikit-learn's metrics, detections, and all that goes wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn

import boildown as bd
from boildown.domain.verdict import Status
from boildown.engine.evaluation import Exported
from boildown.errors import InputError
from boildown.testing import digits

pytestmark = pytest.mark.usefixtures("still")

X, Y = digits.validation_set().tensors


def scored(model: Any, indices: Any = None) -> dict[str, float]:
    """As it is written for scikit-learn, for a torch module or a file."""
    at = np.arange(len(X)) if indices is None else indices
    logits = model.eval()(X[at]).detach()
    chances = logits.double().softmax(1).numpy()
    return {
        "f1_macro": f1_score(Y[at], chances.argmax(1), average="macro"),
        "ovr": roc_auc_score(Y[at], chances, multi_class="ovr", labels=range(10)),
    }


def run(model: nn.Module, evaluate: Any, target: list[str], tmp_path: Any, **options: Any) -> bd.Run:
    metrics = options.pop("metrics", None)
    task = bd.Classification(
        calibration=digits.training_set(), validation=X, evaluate=evaluate, metrics=metrics
    )  # the data has no labels: evaluate has its own
    return bd.compress(model, task, target, ladder=["quantize-static"], runs=tmp_path, verbose=False, **options)


def test_with_indices_its_numbers_are_proven(digits_model, tmp_path):
    target = ["f1_macro drop <= 3 pp", "ovr drop <= 3 pp", "size <= 0.35x"]
    made = run(digits_model, scored, target, tmp_path, confidence=0.95)
    assert made.outcome is bd.Outcome.TARGET_MET
    found, first = made.best.measurements, scored(digits_model)
    assert found["f1_macro"].first == pytest.approx(first["f1_macro"], abs=0.002)
    assert found["f1_macro"].samples == len(X)
    assert found["f1_macro"].intervals["drop"].low < found["f1_macro"].drop < found["f1_macro"].intervals["drop"].high
    assert "10 parts" in found["ovr"].intervals["value"].method
    assert made.best.artifact is not None
    again = bd.measure(made.best.artifact, made.job.task, ["f1_macro drop <= 3 pp"], confidence=0.95)
    assert again.status is Status.MET
    assert again.measurements["f1_macro"].value == found["f1_macro"].value


def test_without_indices_the_verdict_says_so_and_nothing_is_asked_twice(digits_model, tmp_path):
    calls = []

    def counted(model: Any) -> float:
        calls.append(0)
        return scored(model)["f1_macro"]

    made = run(digits_model, counted, ["score drop <= 0.03", "size <= 0.35x"], tmp_path)
    (finding, _) = made.best.verdict.findings
    assert finding.status is Status.MET
    assert "no confidence interval" in finding.sentence()
    assert "takes no indices" in finding.sentence()
    assert "first model: " in str(made)
    assert " n = 0" not in str(made)
    assert len(calls) == 2
    again = run(digits_model, counted, ["score drop <= 0.03", "size <= 0.4x"], tmp_path)
    assert len(calls) == 3  # the first model's, with which the rest is known
    assert again.best.measurements["score"].value == made.best.measurements["score"].value


@pytest.mark.parametrize(
    ("evaluate", "says"),
    [
        (lambda model: 1 / 0, "evaluate raised ZeroDivisionError"),
        (lambda model: {"map": 0.4}, "evaluate returned map, and not score"),
        (lambda model: setattr(model, "weight", 0), "the exported file cannot be changed"),
    ],
)
def test_what_goes_wrong_with_the_first_model_is_the_users_input(evaluate, says, digits_model, tmp_path):
    with pytest.raises(InputError) as caught:
        run(digits_model, evaluate, ["score >= 0.5", "size <= 0.35x"], tmp_path)
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


class Second:
    """Behaves for the first model, and otherwise for the second file."""

    def __init__(self, then: Any) -> None:
        self.calls, self.then = 0, then

    def __call__(self, model: Any) -> Any:
        self.calls += 1
        return {"score": 0.9} if self.calls == 1 else self.then()


def test_what_goes_wrong_later_is_a_named_failure_and_nothing_is_lost(digits_model, tmp_path):
    made = run(digits_model, Second(lambda: {"recall": 0.9}), ["score >= 0.5", "size <= 0.35x"], tmp_path)
    failed = made.candidates[1]
    assert failed.state is bd.State.FAILED
    assert "evaluate returned recall, and not score" in failed.sentence
    assert made.candidates[0].measurements["score"].value == 0.9
    assert failed.artifact is not None


def test_arrays_and_extra_numbers_are_taken(digits_model, tmp_path):
    def evaluate(model: Any) -> dict[str, Any]:
        right = np.asarray(model(X.numpy().astype(np.float64))).argmax(1) == Y.numpy()
        return {"accuracy": right.mean(), "each": right, "wrong": int((~right).sum())}

    made = run(
        digits_model, evaluate, ["accuracy drop <= 3 pp", "size <= 0.35x"], tmp_path, expected={"accuracy": 0.98}
    )
    first = made.candidates[0].measurements
    assert first["accuracy"].value == pytest.approx(1 - first["wrong"].value / len(X))


# -- agreement, on data without labels --------------------------------------------------------------


def test_agreement_and_costs_alone_judge_data_without_labels(digits_model, tmp_path):
    task = bd.Classification(calibration=digits.training_set(), validation=X)
    target = ["agreement >= 95 %", "divergence <= 0.05", "size <= 0.35x"]
    made = bd.compress(digits_model, task, target, ladder=["quantize-static"], runs=tmp_path, verbose=False)
    assert made.outcome is bd.Outcome.TARGET_MET
    found = made.best.measurements
    with torch.no_grad():
        same = made.best.module()(X).argmax(1) == digits_model(X).argmax(1)
    assert found["agreement"].value == pytest.approx(float(same.double().mean()), abs=0.004)
    assert found["agreement"].intervals["value"].method.startswith("Wilson")
    assert found["divergence"].data == "verdict"
    assert made.candidates[0].measurements["agreement"].value == 1.0
    assert "agreement" in str(made)
    assert [result.number for result in made.front] == [0, 1]
    held = bd.measure(made.best.artifact, task, ["agreement >= 95 %"])
    assert held.measurements["agreement"].value == found["agreement"].value


def test_agreement_stands_beside_scores_and_the_search_sees_it(tmp_path):
    model, x = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 3)).eval(), torch.randn(1300, 12)
    with torch.no_grad():
        y = torch.where(torch.rand(1300) < 0.9, model(x).argmax(1), 0)
    task = bd.Classification(calibration=(x[:50], y[:50]), validation=(x, y), metrics=["accuracy", "ece"])
    target = ["accuracy drop <= 5 pp", "agreement >= 80 %", "ece drop <= 5 pp", "size <= 0.8x"]
    made = bd.compress(model, task, target, ladder=["quantize-static"], runs=tmp_path, verbose=False)
    assert made.outcome is bd.Outcome.TARGET_MET
    assert {m.metric for m in made.best.verdict.measurements.values()} >= {"accuracy", "agreement", "ece"}


# -- lists of detections ----------------------------------------------------------------------------


class Boxes(nn.Module):
    """Sixteen boxes and their scores for every picture."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.boxes, self.scores = nn.Linear(64, 64), nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(x)
        return self.boxes(hidden).reshape(-1, 16, 4), self.scores(hidden)


def detections(model: Any, inputs: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    boxes, scores = model(inputs)
    return [{"boxes": b[s > 0], "scores": s[s > 0]} for b, s in zip(boxes, scores, strict=True)]


def padded(items: list[Any]) -> Any:
    return torch.stack([picture for picture, _ in items]), [target for _, target in items]


class Found:
    """The share of images with as many boxes as there are objects."""

    name, higher_is_better, unit, range, decomposable = "found", True, "", (0.0, 1.0), True

    def statistic(self, output: Any, target: Any) -> Any:
        assert isinstance(output, list)
        return [float(len(each["boxes"]) == len(wanted["boxes"])) for each, wanted in zip(output, target, strict=True)]

    def compute(self, statistics: Any) -> float:
        return float(np.mean(statistics))


class Scores:
    """The mean of all scores, from rows that are as long as there are boxes."""

    name, higher_is_better, unit, range, decomposable = "scores", True, "", (0.0, math.inf), False

    def statistic(self, output: Any, target: Any) -> Any:
        return [[len(each["scores"]), *each["scores"].tolist()] for each in output]

    def compute(self, statistics: Any) -> float:
        return float(statistics[:, 1:].sum() / statistics[:, 0].sum())


def test_lists_of_dicts_of_any_length_reach_metrics(tmp_path):
    model, pictures = Boxes().eval(), torch.randn(129, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        targets = detections(model, pictures)
    items = list(zip(pictures, targets, strict=True))
    assert len({len(target["boxes"]) for target in targets}) > 3
    task = bd.Task(metrics=[Found(), Scores()], validation=items, collate=padded, forward=detections)
    made = bd.compress(
        model, task, ["found drop <= 40 pp", "scores drop <= 0.2", "size <= 0.6x"], ladder=["quantize-static"],
        runs=tmp_path, verbose=False,
    )  # fmt: skip
    assert made.candidates[0].measurements["found"].value == 1.0
    assert made.outcome is bd.Outcome.TARGET_MET
    drop = made.best.measurements["scores"]
    assert drop.intervals["drop"].low <= drop.drop <= drop.intervals["drop"].high


def test_coco_scores_ragged_detections(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    model, pictures = Boxes().eval(), torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def as_coco(found: list[dict[str, torch.Tensor]], at: Any) -> list[dict[str, Any]]:
        return [
            {"image_id": int(i), "category_id": 1, "bbox": [*box[:2].tolist(), 4.0, 4.0], "score": float(score)}
            for i, each in zip(at, found, strict=True)
            for box, score in zip(each["boxes"], each["scores"], strict=True)
        ]  # fmt: skip

    with torch.no_grad():
        truth = as_coco(detections(model, pictures), range(90))
    ground = coco.COCO()
    ground.dataset = {
        "images": [{"id": i} for i in range(90)], "categories": [{"id": 1}],
        "annotations": [{**each, "id": n, "area": 16.0, "iscrowd": 0} for n, each in enumerate(truth, 1)],
    }  # fmt: skip
    ground.createIndex()

    def evaluate(model: Any, indices: Any = None) -> dict[str, float]:
        at = list(range(90)) if indices is None else indices
        judged = cocoeval.COCOeval(ground, ground.loadRes(as_coco(detections(model, pictures[at]), at)), "bbox")
        judged.params.imgIds = at
        for step in (judged.evaluate, judged.accumulate, judged.summarize):
            step()
        return {"map": float(judged.stats[0])}

    task = bd.Task(validation=pictures, evaluate=evaluate, metrics={"map": "higher"})
    made = bd.compress(
        model, task, ["map drop <= 0.5", "size <= 0.6x"], ladder=["quantize-static"], runs=tmp_path, verbose=False
    )
    assert made.candidates[0].measurements["map"].value > 0.9
    assert "drop" in made.best.measurements["map"].intervals


def test_the_file_can_be_called_and_nothing_else() -> None:
    model = Exported(lambda x: 2 * x, (torch.zeros(1, dtype=torch.float32),))
    assert model.eval().to("cpu").train(False) is model
    assert model(np.ones(2)).dtype == torch.float32
    assert model(torch.ones(2)).tolist() == [2, 2]
    for misuse, says in (
        (lambda: model.train(), "cannot be trained"),
        (lambda: setattr(model, "weight", 0), "cannot be changed"),
        (lambda: model.parameters(), "has no parameters"),
    ):
        with pytest.raises(AttributeError, match=says):
            misuse()
