"""Every kind of task goes from model to judged file: numbers, pairs, named inputs, another runtime."""

from __future__ import annotations

import json
import runpy

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import boildown as bd

pytestmark = pytest.mark.usefixtures("still")


def perceptron(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, outputs)).eval()


def inputs(count=300, seed=1):
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def test_regression(tmp_path):
    model, x = perceptron(1), inputs()
    with torch.no_grad():
        y = model(x) + 0.1 * torch.randn(300, 1, generator=torch.Generator().manual_seed(2))
    task = bd.Regression(calibration=(x[:50], y[:50]), validation=(x, y))
    run = bd.compress(model, task, ["rmse drop <= 0.02", "size <= 0.7x"], ladder="quick", runs=tmp_path)
    assert run.outcome is bd.Outcome.TARGET_MET
    found = run.best.measurements["rmse"]
    assert found.first == pytest.approx(0.1, abs=0.02)
    assert 0 <= abs(found.drop) < 0.02
    assert "rmse drop <= 0.02 is met" in " ".join(f.sentence() for f in run.best.verdict.findings)


def test_embedding(tmp_path):
    model, a, b = perceptron(8), inputs(seed=3), inputs(seed=4)
    b = a + 0.7 * b
    with torch.no_grad():
        score = F.cosine_similarity(model(a), model(b)) + 0.02 * torch.randn(300)
    pairs = [((a[i], b[i]), score[i]) for i in range(300)]
    run = bd.compress(
        model, bd.Embedding(validation=pairs), ["spearman drop <= 0.05", "size <= 0.7x"], ladder="quick", runs=tmp_path
    )
    assert run.outcome is bd.Outcome.TARGET_MET
    assert run.best.measurements["spearman"].first > 0.9
    session = onnxruntime.InferenceSession(run.best.artifact)
    assert len(session.get_inputs()) == 1, "the file embeds one side"


class Two(nn.Module):
    """Two named inputs, a dict of outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.out = nn.Linear(12, 32), nn.Linear(12, 32), nn.Linear(32, 3)

    def forward(self, right, *, left):
        hidden = F.relu(self.left(left) + self.right(right))
        return {"logits": self.out(hidden), "hidden": hidden}


def test_named_inputs_and_a_forward_of_the_users_own(tmp_path):
    model, left, right = Two().eval(), inputs(seed=5), inputs(seed=6)
    with torch.no_grad():
        label = model(right, left=left)["logits"].argmax(1)
    items = [{"left": left[i], "right": right[i], "label": int(label[i])} for i in range(300)]
    task = bd.Task(
        "cross_entropy", ["accuracy"], train=items[:100], validation=items,
        forward=lambda model, x: model(x["right"], left=x["left"])["logits"],
    )  # fmt: skip
    run = bd.compress(model, task, ["accuracy drop <= 5 pp", "size <= 0.9x"], ladder="quick", runs=tmp_path)
    assert run.candidates[0].measurements["accuracy"].value == 1.0
    assert run.outcome is bd.Outcome.TARGET_MET
    ports = json.loads((run.path / "best" / "ports.json").read_text())
    assert [port["name"] for port in ports["inputs"]] == ["right", "left"]
    assert len(ports["outputs"]) == 2
    session = onnxruntime.InferenceSession(run.best.artifact)
    logits = session.run(None, {"left": left.numpy(), "right": right.numpy()})[0]
    assert np.mean(logits.argmax(1) == label.numpy()) > 0.95
    assert set(run.best.module()(right, left=left)) == {"logits", "hidden"}


def test_the_eager_runtime_runs_what_no_other_can_and_says_that_it_cannot_quantize(tmp_path):
    class Eigen(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = perceptron(3)

        def forward(self, x):
            return self.linear(x) * torch.linalg.svdvals(self.linear[0].weight).max()

    model, x = Eigen().eval(), inputs()
    with torch.no_grad():
        y = model(x).argmax(1)
    task = bd.Classification(train=(x, y), validation=(x, y))
    run = bd.compress(model, task, ["accuracy drop <= 1 pp", "size <= 0.5x"], ladder="quick", runtime="eager",
                      runs=tmp_path)  # fmt: skip
    assert run.outcome is bd.Outcome.TARGET_MISSED
    assert [result.state.value for result in run.candidates] == ["missed", "skipped"]
    assert "float candidates only" in run.candidates[1].sentence
    loaded = torch.export.load(run.path / "best" / "model.pt2").module()
    assert torch.allclose(loaded(x), model(x), atol=1e-5)
    runpy.run_path(str(run.path / "best" / "load.py"), run_name="__main__")


def test_samples_with_an_ignored_label_count_neither_in_search_nor_in_verdict(plugged, tmp_path):
    x, y = plugged.samples(1200, 2)
    y[::3] = -100
    task = bd.Classification(calibration=(x[:50], y[:50]), validation=(x, y))
    run = bd.compress(
        plugged.model(), task, ["accuracy drop <= 5 pp", "size <= 0.9x"],
        ladder=["shrink"], goal="best", confidence=0.9, runtime="mirror", runs=tmp_path,
    )  # fmt: skip
    assert run.outcome is bd.Outcome.TARGET_MET
    found = run.best.measurements["accuracy"]
    assert found.samples == pytest.approx(400, abs=2)
    assert found.first == pytest.approx(0.9, abs=0.05)
