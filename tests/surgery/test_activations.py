"""Functions that are written out are known for what they are; placement asks a runtime's rules for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boildown.domain.rules import Rules
from boildown.surgery.calibrate import calibrate
from boildown.surgery.graph import capture
from boildown.surgery.plan import TANH, place
from boildown.surgery.simulate import simulate

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
INTEGERS = Rules(
    joins=("add", "concatenate", "multiply", "average"),
    activations=("aten.hardswish.default", "aten.silu.default", "aten.sigmoid.default", "aten.tanh.default"),
)


class Net(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), function
        self.six = nn.Buffer(torch.tensor(6.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


def operators(function, **options) -> list[str]:
    """The operators between the two convolutions."""
    graph = capture(Net(function), (X,), **options)
    names = [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]
    first, second = (n for n, name in enumerate(names) if "conv" in name)
    return [name.split(".")[1] for name in names[first + 1 : second]]


@pytest.mark.parametrize(
    ("function", "known"),
    [
        (lambda x: F.relu6(x + 3) / 6, "hardsigmoid"),
        (lambda x: (3.0 + x).clamp_(0, 6).div_(6), "hardsigmoid"),
        (lambda x: nn.functional.hardtanh(x + 3, 0.0, 6.0) * (1 / 6), "hardsigmoid"),
        (lambda x: torch.clamp(x * 0.16666667 + 0.5, min=0, max=1), "hardsigmoid"),
        (lambda x: x * F.relu6(x + 3) / 6, "hardswish"),
        (lambda x: F.relu6(x + 3) / 6 * x, "hardswish"),
        (lambda x: x * F.hardsigmoid(x), "hardswish"),
        (lambda x: x.mul(F.relu6(x + 3)).mul(1 / 6), "hardswish"),
        (lambda x: x * torch.sigmoid(x), "silu"),
        (lambda x: torch.sigmoid(x).mul_(x), "silu"),
        (lambda x: torch.multiply(x, torch.divide(torch.clip(x + 3, 0, 6), 6)), "hardswish"),
    ],
)
def test_what_is_written_out_becomes_one_operator(function, known):
    assert operators(function) == [known]
    assert len(operators(function, version=2)) > 1
    capture(Net(function), (X,))  # holds its outputs against the model's


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.relu6(x + 2) / 6,
        lambda x: torch.clamp(x + 3, 0, 5) / 6,
        lambda x: torch.clamp(x * 0.2 + 0.5, 0, 1),
        lambda x: x * torch.sigmoid(x + 1),
        lambda x: x * torch.sigmoid(2 * x),
        lambda x: (x + 1) * F.relu6(x + 3) / 6,
        lambda x: torch.sub(F.relu6(x + 3) / 6, (s := torch.sigmoid(x)) * x) + s,
    ],
)
def test_what_only_looks_like_it_stays(function):
    found = operators(function)
    assert not {"hardswish", "silu"} & {*found}
    assert len(found) > 1


def test_a_product_spreads_the_smaller_factor_itself():
    assert operators(lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x)) == ["mean", "mul"]
    assert operators(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 6, 6) * x) == ["mean", "mul"]


def activations(function, rules=INTEGERS):
    return place(capture(Net(function), (X,)), rules).activations


def test_functions_are_quantized_where_the_rules_name_them_and_a_layer_reads_them():
    assert activations(F.hardswish) == ("x", "conv2d", "hardswish")
    assert activations(lambda x: torch.sigmoid(F.gelu(x))) == ("x", "conv2d", "sigmoid")
    assert activations(lambda x: F.gelu(torch.sigmoid(x))) == ("x", "conv2d", "gelu"), "no layer reads its integers"
    assert activations(lambda x: torch.sigmoid(F.silu(x))) == ("x", "conv2d", "silu", "sigmoid")
    assert activations(lambda x: torch.sigmoid(F.silu(x)), Rules()) == ("x", "conv2d", "sigmoid")
    never = replace(INTEGERS, never=("aten.silu.default",))
    assert activations(lambda x: torch.sigmoid(F.silu(x)), never) == ("x", "conv2d", "sigmoid")


def test_products_and_averages():
    gated = ("x", "conv2d", "mean", "mul")
    assert activations(lambda x: x * x.mean((2, 3), keepdim=True)) == gated
    assert activations(lambda x: x * F.gelu(x.mean(1, keepdim=True))) == ("x", "conv2d", "gelu", "mul")
    assert activations(lambda x: x * F.gelu(x)) == ("x", "conv2d", "mul"), "as large as the product: left float"
    assert activations(lambda x: x * x.mean((2, 3), keepdim=True), Rules()) == ("x", "conv2d", "mul")
    assert activations(lambda x: x * 2.0) == ("x", "conv2d", "mul")


def test_what_is_fused_has_its_grid_behind_it():
    rules = Rules(fuses=("aten.gelu.default", "aten.hardswish.default", "aten.prelu.default"))
    assert activations(F.gelu, rules) == ("x", "gelu")
    assert activations(nn.PReLU(4), rules) == ("x", "prelu")
    assert activations(F.silu, rules) == ("x", "conv2d", "silu")
    assert activations(lambda x: F.gelu(x) + x, rules) == ("x", "conv2d", "add"), "something else reads the layer"
    pooled = activations(lambda x: F.gelu(F.max_pool2d(x, 2)), rules)
    assert pooled == ("x", "conv2d", "max_pool2d", "gelu"), "a grid behind it does not fit what is before it"


def test_the_grid_of_a_hyperbolic_tangent_is_that_of_a_sigmoid():
    graph = capture(Net(torch.tanh), (X,))
    placement = place(graph, INTEGERS)
    assert placement.ranges == {"tanh": TANH}
    plan = calibrate(graph, placement, [((X,), {})], rules=INTEGERS)
    assert plan.activations["tanh"].scale[0] == pytest.approx(1 / 127)
    assert plan.activations["tanh"].zero_point == (127,)
    assert place(graph, replace(INTEGERS, signed=True)).ranges == {}


def test_the_simulation_rounds_what_a_value_is_multiplied_by():
    graph = capture(Net(F.hardswish), (X,))
    plan = calibrate(graph, place(graph, INTEGERS), [((X,), {})], rules=INTEGERS)
    module = simulate(graph, plan)
    rounded = [node for node in module.graph.nodes if node.target is torch.fake_quantize_per_tensor_affine]
    assert len(rounded) == len(plan.activations) + 1
    signed = replace(INTEGERS, signed=True)
    plan = calibrate(graph, place(graph, signed), [((X,), {})], rules=signed)
    module = simulate(graph, plan)
    assert sum(node.target is torch.ops.aten.hardswish.default for node in module.graph.nodes) == 1


def test_rules_that_name_none_have_the_keys_they_had():
    assert not {"activations", "fuses"} & {*Rules().to_json()}
    assert INTEGERS.to_json()["activations"][0] == "aten.hardswish.default"


def test_a_narrow_start_stays_float_where_it_is_large_and_smooth():
    """Few products for each of many numbers, and a function behind: on integers that is slower."""

    class Mobile(nn.Module):
        def __init__(self, function, width=16) -> None:
            super().__init__()
            self.stem, self.each = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, groups=width)
            self.wide, self.last, self.function = nn.Conv2d(width, 64, 1), nn.Conv2d(64, 8, 1), function

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.wide(self.function(self.each(self.function(self.stem(x))))).relu())

    rules, large = replace(INTEGERS, narrow=16), torch.randn(2, 3, 32, 32)
    placement = place(capture(Mobile(F.hardswish), (large,)), rules)
    assert placement.weights == ("wide.weight", "last.weight")
    assert set(placement.left.values()) == {"it is narrow and at the start: float is faster"}
    assert placement.activations == ("hardswish_1", "relu")
    for other, image in ((Mobile(F.relu), large), (Mobile(F.hardswish), X), (Mobile(F.hardswish, 24), large)):
        assert len(place(capture(other, (image,)), rules).layers) == 4
    assert len(place(capture(Mobile(F.hardswish), (large,)), INTEGERS).layers) == 4
