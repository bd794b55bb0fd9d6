"""quantize-static: what it must change, what it must leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.errors import AttemptError
from boildown.methods.base import Context, Data
from boildown.methods.quantize_static import QuantizeStatic
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
