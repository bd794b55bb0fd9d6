"""half: what it must change, what it must leave alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.methods.base import Context, Data
from boildown.methods.half import Half
from boildown.testing.method import MethodSuite


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 3)).eval()


def images():
    x = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return bd.Classification(calibration=(x, torch.arange(30) % 3), validation=(x, torch.arange(30) % 3))


class TestConformance(MethodSuite):
    @pytest.fixture
    def method(self):
        return Half()

    @pytest.fixture
    def model(self):
        return convolutional()

    @pytest.fixture
    def task(self):
        return images()

    @pytest.fixture
    def alone(self):
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())


def test_it_works_on_the_file_alone():
    candidate = Candidate(convolutional())
    made = Half().apply(candidate, images(), Context(Data(None, None)))
    assert (made.rewrite, made.plan, made.edits) == (Edit("half"), None, ())
    assert made.model is candidate.model


def test_a_quantized_model_is_left_alone():
    for candidate in (Candidate(convolutional(), plan=Plan()), Candidate(convolutional(), rewrite=Edit("x"))):
        assert Half().applies_to(candidate, images()) == "the model is quantized already"


def test_a_weight_that_is_no_parameter_counts():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.randn(64, 3)

        def forward(self, x):
            return x.flatten(1) @ self.weight

    assert Half().applies_to(Candidate(Fixed().eval()), images()) is None


def test_half_the_bytes_of_what_others_made_smaller_are_handed_over(digits_model, digits_task, still, tmp_path):
    """Alone, and behind a method that takes channels out; the double model is a float one."""
    run = bd.compress(
        copy.deepcopy(digits_model).double(), digits_task, ["accuracy drop <= 50 pp", "size <= 0.6x"],
        ladder=["half", "prune(ratio=0.5, of='params', samples=64) + half"], goal="smallest", runs=tmp_path,
    )  # fmt: skip
    first, half, both = run.candidates
    size = {attempt.number: attempt.measurements["size"].ratio for attempt in (half, both)}
    assert 0.5 < size[1] < 0.6
    assert size[2] < 0.65 * size[1]
    assert abs(half.measurements["accuracy"].drop) <= 0.005
    assert first.measurements["size"].value > 1.6 * half.measurements["size"].value
    assert "judged by its scores alone" in str(half.notes)
