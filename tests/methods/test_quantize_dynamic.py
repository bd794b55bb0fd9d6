"""quantize-dynamic: what it must change, what it must leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.methods.base import Context, Data
from boildown.methods.quantize_dynamic import QuantizeDynamic
from boildown.runtimes import get
from boildown.surgery.graph import capture, exported
from boildown.testing.method import MethodSuite


class Recurrent(nn.Module):
    """An LSTM over eight rows of eight numbers."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x):
        return self.out(self.lstm(x)[0][:, -1])


def rows():
    x = torch.randn(30, 8, 8, generator=torch.Generator().manual_seed(1))
    return bd.Classification(train=(x, torch.arange(30) % 3), validation=(x, torch.arange(30) % 3))


class TestConformance(MethodSuite):
    @pytest.fixture
    def method(self):
        return QuantizeDynamic()

    @pytest.fixture(params=["recurrent", "attention"])
    def model(self, request):
        torch.manual_seed(0)
        if request.param == "recurrent":
            return Recurrent()
        return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    @pytest.fixture
    def task(self):
        return rows()

    @pytest.fixture
    def alone(self):
        return nn.Sequential(nn.Conv2d(1, 32, 3), nn.Flatten(), nn.Linear(32, 2))


def test_it_works_on_the_file_alone():
    candidate = Candidate(Recurrent().eval())
    made = QuantizeDynamic(per_channel=False).apply(candidate, rows(), Context(Data(None, None)))
    assert made.rewrite == Edit("quantize-dynamic", 1, {"per_channel": False, "embeddings": 8})
    assert (made.plan, made.edits) == (None, ())
    assert made.model is candidate.model


def test_a_quantized_model_is_left_alone():
    for candidate in (Candidate(Recurrent(), plan=Plan()), Candidate(Recurrent(), rewrite=Edit("x"))):
        assert QuantizeDynamic().applies_to(candidate, rows()) == "the model is quantized already"


def test_four_bits_are_for_models_with_an_embedding_table():
    harder = QuantizeDynamic(**QuantizeDynamic.card.harder)
    assert harder.applies_to(Candidate(Recurrent()), rows()) == "the model has no embedding table"
    texts = nn.Sequential(nn.Embedding(300, 8), nn.Linear(8, 3)).eval()
    assert harder.applies_to(Candidate(texts), rows()) is None
    assert harder.applies_to(Candidate(exported(texts, (torch.zeros(2, 4).long(),), {})), rows()) is None


class Step(nn.Module):
    """A recurrent layer, then a convolution: all but 2 % of the parameters lie in the first."""

    def __init__(self, kind):
        super().__init__()
        self.first, self.last = kind(8, 16), nn.Conv1d(1, 2, 3)

    def forward(self, x):
        found = self.first(x)
        return self.last((found[0] if isinstance(found, tuple) else found).unsqueeze(1)).mean(2)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, lambda *sizes: nn.Bilinear(8, *sizes)])
def test_cells_and_bilinear_layers_become_integer(kind, tmp_path):
    model = Step(kind).eval()
    if isinstance(model.first, nn.Bilinear):
        model.first.forward = lambda x: nn.functional.bilinear(x, x, model.first.weight, model.first.bias)
    for candidate in (model, exported(model, (torch.zeros(2, 8),), {})):
        assert QuantizeDynamic().applies_to(Candidate(candidate), rows()) is None
    runtime = get("onnxruntime")
    runtime.export(capture(model, (torch.zeros(2, 8),)).serialize(), tmp_path / "float.onnx")
    written = runtime.write(tmp_path / "float.onnx", tmp_path / "int8.onnx", rewrite=Edit("quantize-dynamic", 1, {}))
    assert written.facts["integer_operators"]["MatMulInteger"] >= 1


def test_a_gru_which_the_runtime_keeps_in_float_is_told():
    model = nn.Sequential(nn.GRU(8, 16), nn.Linear(16, 2)).eval()
    told = QuantizeDynamic().applies_to(Candidate(model), rows())
    assert told == (
        "only 3% of the parameters lie in linear, LSTM, RNN, cell or embedding layers; convolutions and GRU would stay "
        "float"
    )


def test_nothing_may_follow_it():
    assert QuantizeDynamic.card.terminal
