"""Blocks out of a trained residual network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from boildown.domain.candidate import Candidate
from boildown.errors import AttemptError
from boildown.methods import depth
from boildown.methods.base import Context, Data
from boildown.methods.depth import Depth
from boildown.surgery.edits import apply_edits
from boildown.surgery.graph import capture
from boildown.tasks import Classification
from boildown.testing import digits
from boildown.testing.method import MethodSuite


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class Deep(nn.Module):
    def __init__(self, width=12, blocks=4):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def deep():
    torch.manual_seed(0)
    model, (x, y) = Deep(), digits.training_set().tensors
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(6):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


class TestDepth(MethodSuite):
    @pytest.fixture
    def method(self):
        return Depth(ratio=0.8, samples=64)

    @pytest.fixture
    def model(self, deep):
        return deep

    @pytest.fixture
    def task(self):
        return digits.task()

    @pytest.fixture
    def alone(self, digits_model):
        return digits_model


def accuracy(model):
    x, y = digits.validation_set().tensors
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def test_blocks_go_until_the_ratio_is_met_and_the_rest_is_repaired(deep):
    task, records = digits.task(), []
    told = Context(Data(task.train, task.train), record=lambda kind, data: records.append((kind, data)))
    made = Depth(ratio=0.5, samples=256).apply(Candidate(deep), task, told)
    broken = Depth(ratio=0.5, samples=256, repair=False).apply(Candidate(deep), task, told)
    macs = [capture(model, *task.example()).macs() for model in (made.model, deep)]
    assert macs[0] / macs[1] == pytest.approx(0.5, abs=0.02)
    dropped = [data["block"] for kind, data in records if kind == "block"][:2]
    assert len(dropped) == 2
    assert all(name.startswith("blocks.") for name in dropped)
    assert not any(name.startswith(f"{block}.") for name in made.model.state_dict() for block in dropped)
    assert accuracy(made.model) > accuracy(broken.model)
    rebuilt = apply_edits(deep, made.edits)
    rebuilt.load_state_dict(made.model.state_dict())
    assert accuracy(rebuilt.eval()) == accuracy(made.model)


def test_a_block_is_more_than_may_go(deep):
    task = digits.task()
    with pytest.raises(AttemptError, match="No block can go"):
        Depth(ratio=0.95).apply(Candidate(deep), task, Context(Data(task.train, task.train)))


def test_another_ratio_measures_no_block_again(deep, monkeypatch):
    task, measured = digits.task(), []
    first, context = Candidate(copy.deepcopy(deep)), Context(Data(task.train, task.train))
    errors = depth.errors_without
    monkeypatch.setattr(depth, "errors_without", lambda *given: measured.append(given) or errors(*given))
    fewer = Depth(ratio=0.5, samples=64, repair=False).apply(first, task, context)
    assert len(measured) >= 2
    so_far = len(measured)
    more = Depth(ratio=0.75, samples=64, repair=False).apply(first, task, context)
    assert len(measured) == so_far
    assert fewer.edits[-1].args["blocks"][:1] == more.edits[-1].args["blocks"]
    with torch.no_grad():
        next(first.model.parameters()).mul_(2.0)
    Depth(ratio=0.75, samples=64, repair=False).apply(first, task, context)
    assert len(measured) > so_far, "other weights are another model"


def test_blocks_inside_of_blocks_stay_when_those_are_alone():
    torch.manual_seed(0)
    pairs = (nn.Sequential(*(nn.Sequential(nn.Linear(12, 12), nn.ReLU()) for _ in range(2))) for _ in range(2))
    model = nn.Sequential(nn.Linear(12, 12), nn.Sequential(*pairs), nn.Linear(12, 3)).eval()
    x = torch.randn(64, 12)
    task = Classification(train=(x, torch.arange(64) % 3), validation=(x, torch.arange(64) % 3))
    made = Depth(ratio=0.1).apply(Candidate(model), task, Context(Data(task.train, task.train)))
    assert len(made.edits[-1].args["blocks"]) == 1
    assert apply_edits(model, made.edits)(x).shape == (64, 3)
