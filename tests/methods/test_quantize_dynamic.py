"""quantize-dynamic: what it must change, what it must leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.methods.base import Context, Data
from boildown.methods.quantize_dynamic import QuantizeDynamic
from boildown.surgery.graph import exported
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


def test_nothing_may_follow_it():
    assert QuantizeDynamic.card.terminal
