"""Layers of a trained network as two: how much is left, and what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from boildown.domain.candidate import Candidate, Plan
from boildown.engine.rung import Rung
from boildown.engine.search import Variant, search
from boildown.errors import AttemptError
from boildown.methods.base import Context, Data, Standing
from boildown.methods.low_rank import LowRank
from boildown.methods.prune import Prune
from boildown.methods.quantize_dynamic import QuantizeDynamic
from boildown.methods.quantize_static import QuantizeStatic
from boildown.runtimes import get
from boildown.surgery.edits import apply_edits
from boildown.surgery.graph import capture
from boildown.testing import digits
from boildown.testing.method import MethodSuite


class TestLowRank(MethodSuite):
    @pytest.fixture
    def method(self):
        return LowRank(ratio=0.6, samples=64)

    @pytest.fixture
    def model(self, digits_model):
        return digits_model

    @pytest.fixture
    def task(self):
        return digits.task()

    @pytest.fixture
    def alone(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))

    def test_it_tells_the_arithmetic(self, method, alone, task):
        arithmetic = "1.weight: 9x64 at rank 8 costs 8 x (9 + 64) = 584, the layer 576"
        assert arithmetic in method.applies_to(Candidate(alone), task)


@pytest.fixture(scope="module")
def task():
    return digits.task()


@pytest.fixture(scope="module")
def halved(digits_model, task):
    """A candidate of half the MACs, and what was recorded of it."""
    records = {}
    told = context(task, record=lambda kind, data: records.setdefault(kind, data))
    return LowRank(ratio=0.5, samples=256, multiple=4).apply(Candidate(digits_model), task, told), records


def context(task, **told):
    return Context(Data(task.train, task.train), **told)


def accuracy(model):
    x, y = digits.validation_set().tensors
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def test_half_the_macs_without_training(halved, digits_model, task):
    made, records = halved
    macs = [capture(model, *task.example()).macs() for model in (made.model, digits_model)]
    assert macs[0] / macs[1] == pytest.approx(0.5, abs=0.03)
    assert records["factorized"]["ratio"] == pytest.approx(macs[0] / macs[1], abs=1e-3)
    assert all(
        rank is None or (rank < full and rank % 4 == 0) for full, rank in records["factorized"]["ranks"].values()
    )
    assert accuracy(made.model) >= accuracy(digits_model) - 0.03


def test_it_is_rebuilt_from_its_edits_and_weights(halved, digits_model):
    made, _ = halved
    rebuilt = apply_edits(digits_model, made.edits)
    rebuilt.load_state_dict(made.model.state_dict())
    x = digits.validation_set().tensors[0][:50]
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(x), made.model(x))


def test_quantized_behind_it_exports_and_agrees(halved, task, tmp_path):
    made, _ = halved
    quantized = QuantizeStatic(samples=128).apply(made, task, context(task))
    runtime, x = get("onnxruntime"), digits.validation_set().tensors[0]
    runtime.export(capture(quantized.model, *task.example()).serialize(), tmp_path / "exported.onnx")
    facts = runtime.write(tmp_path / "exported.onnx", tmp_path / "model.onnx", quantized.plan).facts
    logits = torch.from_numpy(runtime.open(tmp_path / "model.onnx").run([x.numpy()])[0])
    with torch.no_grad():
        assert (logits.argmax(1) == made.model(x).argmax(1)).double().mean() > 0.97
    layers = [name for name in made.model.state_dict() if name.endswith(("reduce.weight", "expand.weight"))]
    assert layers
    assert set(layers) <= set(quantized.plan.weights)
    assert facts


def test_what_is_pruned_can_be_factorized(digits_model, task):
    pruned = Prune(ratio=0.7, samples=64, widths="uniform").apply(Candidate(digits_model), task, context(task))
    made = LowRank(ratio=0.7, samples=64, multiple=2).apply(pruned, task, context(task))
    assert [edit.op for edit in made.edits] == ["capture", "remove-channels", "factorize"]
    macs = [capture(model, *task.example()).macs() for model in (made.model, digits_model)]
    assert macs[0] / macs[1] == pytest.approx(0.49, abs=0.03)
    assert accuracy(made.model) >= accuracy(digits_model) - 0.1


class Tokens(nn.Module):
    """Two sentences of pads and words; the pads count for nothing."""

    def __init__(self):
        super().__init__()
        self.table, self.first, self.second = nn.Embedding(300, 32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, ids):
        shown = (ids > 0).unsqueeze(-1).float()
        return (self.second(torch.relu(self.first(self.table(ids)))) * shown).sum(1) / shown.sum(1)


@pytest.fixture(scope="module")
def sentences():
    from boildown import Regression

    torch.manual_seed(0)
    ids = torch.randint(1, 40, (96, 20)) * (torch.arange(20) < 6)
    model = Tokens().eval()
    with torch.no_grad():
        model.table.weight.copy_(torch.randn(300, 12) @ torch.randn(12, 32))
        scores = model(ids).sum(1)
    return model, Regression(calibration=(ids, scores), validation=(ids, scores), loss="mse"), ids


@pytest.mark.parametrize("embeddings", [True, False])
def test_tables_are_factorized_where_parameters_are_counted(sentences, embeddings):
    model, task, ids = sentences
    told = Context(Data(None, task.calibration))
    method = LowRank(ratio=0.7, of="params", multiple=4, embeddings=embeddings)
    made = method.apply(Candidate(model), task, told)
    names = set(made.model.state_dict())
    assert ("table.reduce.weight" in names) == embeddings
    assert QuantizeDynamic().applies_to(made, task) is None
    if embeddings:
        sizes = [sum(p.numel() for p in m.parameters()) for m in (made.model, model)]
        assert sizes[0] / sizes[1] == pytest.approx(0.7, abs=0.05)
        with torch.no_grad():
            assert (made.model(ids) - model(ids)).square().mean() < 0.02 * model(ids).var()
    assert "no multiplications" in LowRank(multiple=64).applies_to(Candidate(model), task)


def test_nothing_can_go_is_said_with_a_cure(digits_model, task):
    with pytest.raises(AttemptError, match="smaller ratio"):
        LowRank(ratio=0.99, samples=64, multiple=16).apply(Candidate(digits_model), task, context(task))


def test_a_quantized_model_is_left_alone(digits_model, task):
    assert "quantized already" in (LowRank().applies_to(Candidate(digits_model, plan=Plan()), task) or "")


def test_no_samples_is_said(digits_model, task):
    with pytest.raises(AttemptError, match="calibration"):
        LowRank(ratio=0.5).apply(Candidate(digits_model), task, Context(Data(None, None)))


def test_latency_is_searched_on_measurements(digits_model, task):
    searching = LowRank(ratio=0.7, of="latency").search(Candidate(digits_model), task, context(task))
    tried = []

    def make(method):
        tried.append(method.ratio)
        assert method.of == "macs"
        return Variant(Rung((method,)), Path(), Standing(method.ratio, 0.5 + 0.5 * method.ratio, 0.0, excess=0.0))

    assert search(searching, make, lambda _variant: None).ratio == pytest.approx(0.4, abs=0.02)
    assert len(tried) <= 4, "the line through two measurements leads there"
