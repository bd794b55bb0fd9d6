"""quantize-static: what it must change, what it must leave alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.engine.bench import signal_to_noise
from boildown.errors import AttemptError
from boildown.methods.base import Context, Data, keyed_settings, settings_of
from boildown.methods.quantize_static import QuantizeStatic
from boildown.runtimes import get
from boildown.surgery.graph import captured
from boildown.surgery.simulate import simulate
from boildown.testing.method import MethodSuite


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()  # fmt: skip


def images():
    x = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return bd.Classification(calibration=(x, torch.arange(30) % 3), validation=(x, torch.arange(30) % 3))


class TestConformance(MethodSuite):
    @pytest.fixture(params=["minmax", "percentile", "mse"])
    def method(self, request):
        return QuantizeStatic(ranges=request.param)

    @pytest.fixture
    def model(self):
        return convolutional()

    @pytest.fixture
    def task(self):
        return images()

    @pytest.fixture
    def alone(self):
        return nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten())


def test_every_layer_gets_integers_and_every_value_between_them():
    task, candidate = images(), Candidate(convolutional())
    made = QuantizeStatic().apply(candidate, task, Context(Data(None, task.calibration)))
    assert set(made.plan.weights) == {"0.weight", "5.weight"}
    assert all(q.bits == 8 and q.signed and len(q.scale) > 1 for q in made.plan.weights.values())
    assert all(q.bits == 8 and not q.signed and len(q.scale) == 1 for q in made.plan.activations.values())
    assert made.model is candidate.model, "the float weights are the first model's own"


def test_no_more_samples_are_read_than_asked_for(monkeypatch):
    read = []

    class Counting(torch.utils.data.Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, index):
            read.append(index)
            return torch.zeros(1, 8, 8) + index, index % 3

    task = bd.Classification(calibration=Counting(), validation=images().validation)
    read.clear()
    QuantizeStatic(samples=7).apply(Candidate(convolutional()), task, Context(Data(None, task.calibration)))
    assert set(read) == set(range(7))


def test_a_quantized_model_is_left_alone():
    for candidate in (Candidate(convolutional(), plan=Plan()), Candidate(convolutional(), rewrite=Edit("x"))):
        assert QuantizeStatic().applies_to(candidate, images()) == "the model is quantized already"


def test_without_samples_it_fails_in_words():
    with pytest.raises(AttemptError, match="needs calibration samples"):
        QuantizeStatic().apply(Candidate(convolutional()), images(), Context(Data(None, None)))


class Attending(nn.Module):
    """One layer of attention over six rows of sixteen numbers, some of them hidden by a mask."""

    def __init__(self, masked=True):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.norm, self.head, self.masked = nn.LayerNorm(16), nn.Linear(16, 3), masked

    def forward(self, x):
        q, k, v = (f(x).unflatten(2, (2, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mask = (x[:, None, None, :, 0] > -1.5) if self.masked else None
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.head(self.norm(x + self.o(y.transpose(1, 2).flatten(2))).mean(1))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("products", [True, False])
def test_attention_is_computed_on_integers_where_that_is_asked_for(products, masked, tmp_path):
    torch.manual_seed(0)
    x, runtime = torch.randn(60, 6, 16), get("onnxruntime")
    task = bd.Classification(calibration=(x, torch.arange(60) % 3), validation=(x, torch.arange(60) % 3))
    candidate, context = Candidate(Attending(masked).eval()), Context(Data(None, task.calibration), rules=runtime.rules)
    plan = QuantizeStatic(products=products).apply(candidate, task, context).plan
    graph = captured(replace(candidate, plan=plan), *task.example())
    runtime.export(graph.serialize(), tmp_path / "exported.onnx")
    kernels = runtime.write(tmp_path / "exported.onnx", tmp_path / "int8.onnx", plan).facts["kernels"]
    assert kernels["MatMulIntegerToFloat"] == (6 if products else 4)
    assert kernels.get("MatMul", 0) + kernels.get("FusedMatMul", 0) == (0 if products else 2)
    (found,) = runtime.open(tmp_path / "int8.onnx").run([x.numpy()])
    with torch.no_grad():
        wanted, exact = simulate(graph, plan)(x).numpy(), candidate.model(x).numpy()
    assert signal_to_noise(wanted, found) > 40
    assert signal_to_noise(exact, found) > 20


def test_a_setting_that_came_later_leaves_keys_as_they_were_at_its_default():
    assert "products" not in keyed_settings(QuantizeStatic())
    assert keyed_settings(QuantizeStatic(products=True))["products"] is True
    assert set(settings_of(QuantizeStatic())) - set(keyed_settings(QuantizeStatic())) == {"products", "recurrent"}
