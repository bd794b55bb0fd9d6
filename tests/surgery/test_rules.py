"""Placement and calibration do what a runtime's rules say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import boildown as bd
from boildown.domain.rules import FLOAT, MOVES, Rules
from boildown.errors import AttemptError
from boildown.journal import plain
from boildown.methods.base import Context, Data
from boildown.methods.learned_rounding import LearnedRounding
from boildown.methods.quantize_aware import QuantizeAware
from boildown.methods.quantize_mixed import QuantizeMixed
from boildown.methods.quantize_static import QuantizeStatic
from boildown.surgery.calibrate import calibrate
from boildown.surgery.graph import capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate


class Both(nn.Module):
    """Two convolutions, a sum of theirs, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.hidden = nn.Linear(8 * 16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.first(x))
        both = torch.relu(first + torch.relu(self.second(first)))
        return self.head(torch.relu(self.hidden(torch.flatten(both, 1))))


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return capture(Both().eval(), (torch.randn(2, 3, 4, 4),))


@pytest.fixture(scope="module")
def calls():
    return [((torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(1)),), {})]


def layers(graph, rules):
    return [layer.weight for layer in place(graph, rules).layers]


def test_by_default_they_are_those_of_onnx_runtime(graph):
    assert place(graph, Rules()) == place(graph)
    assert layers(graph, Rules()) == ["first.weight", "second.weight", "hidden.weight", "head.weight"]


def test_kinds_of_layers_that_are_no_integers_stay_float(graph):
    placement = place(graph, Rules(layers=("linear",)))
    assert placement.weights == ("hidden.weight", "head.weight")
    assert set(placement.left.values()) == {"the runtime computes it in float"}
    assert layers(graph, FLOAT) == layers(graph, Rules(never=("aten.conv2d.default", "aten.linear.default"))) == []


def test_what_must_be_on_a_grid_what_joins_and_what_is_fused(graph):
    assert place(graph).activations == ("x", "relu", "relu_1", "relu_2", "view", "relu_3")
    assert {"conv2d", "conv2d_1"} <= set(place(graph, Rules(fused=False)).activations)
    unjoined = Rules(layers=("convolution",), joins=())
    assert place(graph, unjoined).activations == ("x", "relu", "relu_1")
    assert place(graph, replace(unjoined, grids=())).activations == ("x", "relu")


def test_an_operator_that_keeps_no_grid_gets_one_of_its_own(graph):
    assert "view" in place(graph).shares
    assert "view" in place(graph, Rules(moves=tuple(name for name in MOVES if "view" not in name))).measured


def test_signs_and_one_scale_per_tensor(graph, calls):
    rules = Rules(signed=True, per_channel=False)
    plan = calibrate(graph, place(graph, rules), calls, rules=rules)
    assert all(quantizer.signed for quantizer in plan.activations.values())
    assert all(len(q.scale) == 1 and q.axis is None and q.zero_point == (0,) for q in plan.weights.values())
    x = calls[0][0][0]
    found, wanted = simulate(graph, plan)(x), graph.module(x)
    usual = simulate(graph, calibrate(graph, place(graph), calls))(x)
    error, least = (((output - wanted).norm() / wanted.norm()).item() for output in (found, usual))
    assert least < error < 0.1


@pytest.mark.parametrize("method", [QuantizeStatic(), QuantizeMixed(prefix=1, layers=0)], ids=lambda m: m.card.name)
def test_methods_follow_the_rules_of_the_runtime(method):
    candidate, task, context = setting(Rules(layers=("convolution",), per_channel=False))
    plan = method.apply(candidate, task, context).plan
    assert set(plan.weights) <= {"first.weight", "second.weight"}
    assert all(quantizer.axis is None for quantizer in plan.weights.values())


@pytest.mark.parametrize(
    "method", [QuantizeStatic(), QuantizeMixed(prefix=1), QuantizeAware(minutes=0.01), LearnedRounding()],
    ids=lambda m: m.card.name,
)  # fmt: skip
def test_methods_tell_a_runtime_that_quantizes_nothing_of_the_model(method):
    candidate, task, context = setting(FLOAT)
    with pytest.raises(AttemptError, match=r"quantizes no layer|all 0 layers float"):
        method.apply(candidate, task, context)


@pytest.mark.parametrize("method", [QuantizeAware(minutes=0.01), LearnedRounding()], ids=lambda m: m.card.name)
@pytest.mark.parametrize("rules", [Rules(signed=True), Rules(per_channel=False)], ids=["signed", "per tensor"])
def test_grids_that_cannot_be_learned_are_refused_before_any_work(method, rules):
    candidate, task, context = setting(rules)
    with pytest.raises(AttemptError, match="the runtime has others"):
        method.apply(candidate, task, context)


def setting(rules):
    """A candidate, its task, and what a method gets for a runtime with these rules."""
    torch.manual_seed(0)
    x = torch.randn(64, 3, 4, 4)
    task = bd.Classification(train=(x, torch.arange(64) % 4), validation=(x, torch.arange(64) % 4))
    return bd.Candidate(Both().eval()), task, Context(Data(task.train, task.train), rules=rules)


def test_rules_are_plain_data():
    assert plain.loads(plain.dumps(Rules().to_json()))["layers"] == ["convolution", "linear"]
