"""Ordinary layers in place of what means the same: what must become one, and what must stay as it is."""

from __future__ import annotations

import warnings

import pytest
import torch
from surgery_zoo import Net, image
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.surgery import fold
from boildown.surgery import trainable as graphs
from boildown.surgery.edits import apply_edits
from boildown.surgery.graph import capture, captured
from boildown.surgery.plan import place
from boildown.surgery.trainable import trainable

X = image(4, 3, 8, 8)


class Positive(nn.Module):
    """A parametrization of a user's own."""

    def forward(self, x):
        return F.softplus(x)


def positive(layer):
    parametrize.register_parametrization(layer, "weight", Positive())
    return layer


def masked(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


KINDS = {
    "weight norm": parametrizations.weight_norm,
    "weight norm as a hook": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm as a hook": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": positive,
    "mask": masked,
}


def network(kind):
    """A convolution and a linear layer whose weights are computed, and a plain one behind them."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        conv, mid = (KINDS[kind](layer) for layer in (nn.Conv2d(3, 8, 3), nn.Linear(8, 6)))

    def forward(net, x):
        return net.head(F.relu(net.mid(F.relu(net.conv(x)).mean((2, 3)))))

    return Net(forward, conv=conv, mid=mid, head=nn.Linear(6, 2)).eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_computed_weight_becomes_a_parameter(kind):
    model = network(kind)
    expected = model(X)
    module, _ = trainable(model, (X,), {})
    names = {f"{layer}.{part}" for layer in ("conv", "mid", "head") for part in ("weight", "bias")}
    assert {name for name, _ in module.named_parameters()} == set(module.state_dict()) == names
    assert all(parameter.requires_grad for parameter in module.parameters())
    torch.testing.assert_close(module(X), expected, rtol=0, atol=1e-6)
    graph = capture(model, (X,))
    assert set(graph.program.state_dict) == names
    torch.testing.assert_close(graph.module(X), expected, rtol=0, atol=1e-6)
    assert place(graph).weights == ("conv.weight", "mid.weight", "head.weight")
    assert torch.equal(model(X), expected)


class GptLayer(nn.Module):
    """GPT-2's `Conv1D`."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        flat = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], -1)


def as_gpt(net, x):
    return net.layer(x)


def as_product(net, x):
    return x @ net.matrix


def with_bias(net, x):
    return net.bias + torch.matmul(x, net.matrix)


def transposed(net, x):
    return x @ net.turned.transpose(0, 1) + net.bias


@pytest.mark.parametrize("forward", [as_gpt, as_product, with_bias, transposed])
@torch.no_grad()
def test_a_product_with_a_matrix_of_the_models_own_is_a_linear_layer(forward):
    torch.manual_seed(0)
    parts = {"matrix": nn.Parameter(torch.randn(6, 5)), "turned": nn.Parameter(torch.randn(5, 6))}
    net = Net(forward, layer=GptLayer(6, 5), bias=nn.Parameter(torch.randn(5)), **parts)
    graph = capture(net, (image(2, 4, 6),))
    x = image(3, 4, 6)
    torch.testing.assert_close(graph.module(x), net(x), rtol=0, atol=1e-6)
    operators = [node for node in graph.module.graph.nodes if node.op == "call_function"]
    assert [node.target for node in operators if "sym_size" not in node.name] == [torch.ops.aten.linear.default]
    assert not graph.static_batch
    (layer,) = place(graph).layers
    assert graph.parameter(layer.weight).shape == (5, 6)
    assert (layer.bias is None) == (forward is as_product)


def test_weights_of_a_layer_that_is_called_twice_stay_one():
    torch.manual_seed(0)
    net = Net(lambda net, x: net.mid(F.relu(net.mid(x))), mid=parametrizations.weight_norm(nn.Linear(6, 6)))
    module, _ = trainable(net, (image(2, 6),), {})
    assert [name for name, _ in module.named_parameters()] == ["mid.weight", "mid.bias"]


def other_use(net, x):
    return net.mid(x) + net.mid.parametrizations.weight.original0.sum()


def other_orientation(net, x):
    return F.linear(F.relu(F.linear(x, net.matrix)), net.matrix.t())


@pytest.mark.parametrize("forward", [other_use, other_orientation])
def test_parameters_that_make_more_than_weights_stay(forward):
    torch.manual_seed(0)
    parts = {"mid": parametrizations.weight_norm(nn.Linear(6, 5)), "matrix": nn.Parameter(torch.randn(5, 6))}
    net = Net(forward, **parts).eval()
    graph = capture(net, (image(2, 6),))
    assert set(graph.program.state_dict) <= set(net.state_dict())
    assert torch.equal(graph.module(image(3, 6)), net(image(3, 6)))


def test_buffers_are_not_made_to_learn():
    net = Net(lambda net, x: F.conv2d(x, net.kernel.repeat(3, 1, 1, 1), groups=3), kernel=image(1, 1, 3, 3))
    graph = capture(net, (X,))
    assert not list(graph.module.parameters())
    assert "computed or constant" in place(graph).left["conv2d"]


def test_frozen_weights_stay_frozen():
    model = network("weight norm")
    for parameter in model.conv.parameters():
        parameter.requires_grad_(False)
    module, _ = trainable(model, (X,), {})
    assert {name for name, p in module.named_parameters() if not p.requires_grad} == {"conv.weight", "conv.bias"}


@pytest.mark.parametrize("op", [graphs.OP, fold.OP])
@torch.no_grad()
def test_edits_and_plans_of_the_first_version_mean_what_they_meant(op):
    model = network("weight norm")
    example = {"args": [{"tensor": [2, 3, 8, 8], "dtype": "float32"}], "kwargs": {}}
    old, new = (apply_edits(model, [Edit(op, version, example)]) for version in (1, 2))
    assert "conv.parametrizations.weight.original0" in old.state_dict()
    assert "conv.weight" in new.state_dict()
    torch.testing.assert_close(old(X), new(X), rtol=0, atol=1e-6)
    first, second = [captured(Candidate(model, plan=Plan(version=version)), (X,), {}) for version in (1, 2)]
    assert "conv.weight" not in first.program.state_dict
    assert "conv.weight" in second.program.state_dict
