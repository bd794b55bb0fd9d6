"""Functions between quantized layers: on integers where that is claimed, and always as the simulation says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runtime_networks import Exported, run, sqnr
from torch import Tensor, nn

from boildown.domain.candidate import Plan
from boildown.domain.rules import Rules
from boildown.runtimes import get
from boildown.runtimes.base import Written
from boildown.surgery.aware import Aware
from boildown.surgery.calibrate import calibrate, correct_biases
from boildown.surgery.graph import capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate
from boildown.testing import digits

Function = Callable[[Tensor], Tensor]
RULES = get("onnxruntime").rules
INTEGER = {
    *("QLinearConv", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearGlobalAveragePool"),
    *("QGemm", "QuantizeLinear", "Transpose", "Flatten", "Reshape", "Squeeze"),
}


def _slopes(low: float, high: float) -> nn.PReLU:
    function = nn.PReLU(8)
    function.weight.data = torch.linspace(low, high, 8)
    return function


CLAIMED: dict[str, Function] = {
    "hardswish": F.hardswish,
    "hardswish in place": nn.Hardswish(inplace=True),
    "hardswish written out": lambda x: x * F.relu6(x + 3) / 6,
    "hardswish of a hard-sigmoid": lambda x: x * (torch.clamp(x + 3.0, 0, 6) / 6),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardsigmoid by a clip": lambda x: torch.clip(x * (1 / 6) + 0.5, 0, 1),
    "silu": nn.SiLU(inplace=True),
    "silu written out": lambda x: x * torch.sigmoid(x),
    "sigmoid": torch.sigmoid,
    "tanh": nn.Tanh(),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu in place": nn.LeakyReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "prelu": nn.PReLU(),
    "prelu by channel": _slopes(0.1, 0.3),
    "prelu with any slopes": _slopes(-0.5, 1.5),
}
OTHERS: dict[str, Function] = {"gelu": nn.GELU(), "gelu, tanh": nn.GELU("tanh"), "elu": F.elu}


class Branches(nn.Module):
    """A function of each kind between two convolutions, each with an output of its own."""

    def __init__(self, functions: dict[str, Function]) -> None:
        super().__init__()
        self.functions = [*functions.values()]
        self.modules_of = nn.ModuleList(each for each in self.functions if isinstance(each, nn.Module))
        self.first = nn.ModuleList(nn.Conv2d(3, 8, 3, padding=1) for _ in functions)
        self.second = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in functions)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        layers = zip(self.first, self.functions, self.second, strict=True)
        return tuple(torch.relu(second(function(first(x)))) for first, function, second in layers)


class Excite(nn.Module):
    """Squeeze and excitation between convolutions, its gate made in several ways."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        self.gate = gate
        self.stem, self.out, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 4)
        linear = gate == "linear"
        self.down, self.up = (
            (nn.Linear(16, 4), nn.Linear(4, 16)) if linear else (nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        inner = x.mean((2, 3)) if self.gate == "linear" else F.adaptive_avg_pool2d(x, 1)
        inner = self.up(F.relu(self.down(inner)))
        if self.gate == "linear":
            x = x * torch.sigmoid(inner).view(-1, 16, 1, 1).expand_as(x)
        elif self.gate == "other":
            x = x * torch.clamp(0.2 * inner + 0.5, 0, 1)
        else:
            x = x * F.hardsigmoid(inner)
        return self.head(F.hardswish(self.out(x)).mean((2, 3)))


class Readers(nn.Module):
    """A function that two layers read, one module called twice, a value that is read beside its function, and ends."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(inputs, 8, 3, padding=1) for inputs in (3, 8, 8))
        self.c, self.act = nn.Conv2d(8, 8, 1), nn.Hardswish(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.silu(self.stem(x))
        before = self.a(x) + self.b(x)
        x = before + self.act(before.clone())
        return self.act(self.c(x)), F.hardsigmoid(self.c(before))


def written(tmp_path: Path, network: nn.Module, rules: Rules = RULES) -> tuple[Exported, Plan, Written]:
    """A network with weights of a seed, its plan by the rules, and what is written of it as `int8.onnx`."""
    made = Exported(capture(network.eval(), (images(2),)), tmp_path / "exported.onnx")
    runtime = get("onnxruntime")
    runtime.export(made.graph.serialize(), made.path)
    placement, calls = place(made.graph, rules), [((images(64, seed=1),), {})]
    plan = correct_biases(made.graph, placement, calibrate(made.graph, placement, calls, rules=rules), calls)
    return made, plan, runtime.write(made.path, tmp_path / "int8.onnx", plan)


def images(count: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def agreement(tmp_path: Path, made: Exported, plan: Plan) -> list[float]:
    """How well each output of the file is that of the simulation, in dB."""
    x = images(64, seed=2)
    with torch.no_grad():
        wanted = simulate(made.graph, plan)(x)
    session = get("onnxruntime").open(tmp_path / "int8.onnx")
    outputs = session.run([x.numpy()])
    return [sqnr(w.numpy(), o) for w, o in zip(wanted if isinstance(wanted, tuple) else [wanted], outputs, strict=True)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_functions_that_are_claimed_are_integers_and_as_simulated(tmp_path: Path) -> None:
    made, plan, found = written(tmp_path, Branches(CLAIMED))
    decibel = dict(zip(CLAIMED, agreement(tmp_path, made, plan), strict=True))
    assert min(decibel.values()) >= 30, decibel
    kernels = found.facts["kernels"]
    assert kernels["QLinearConv"] == len(CLAIMED)  # the last of each branch gives floats
    assert kernels["QLinearSigmoid"] == 4
    assert kernels["QLinearLeakyRelu"] == 2
    assert kernels["QLinearMul"] == 6 + 3
    assert kernels["QLinearAdd"] == 6 + 2 * 3
    assert (
        set(kernels) & {"HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "PRelu", "Mul", "Add", "Clip"}
        == set()
    )


def test_functions_that_are_not_stay_float_and_agree(tmp_path: Path) -> None:
    made, plan, found = written(tmp_path, Branches(OTHERS))
    decibel = dict(zip(OTHERS, agreement(tmp_path, made, plan), strict=True))
    assert min(decibel.values()) >= 30, decibel
    assert found.facts["kernels"]["QLinearConv"] == len(OTHERS)


@pytest.mark.parametrize("gate", ["convolution", "linear", "other"])
def test_squeeze_and_excitation_is_integer_but_for_a_small_gate(gate: str, tmp_path: Path) -> None:
    made, plan, found = written(tmp_path, Excite(gate))
    assert agreement(tmp_path, made, plan)[0] >= 30
    kernels = found.facts["kernels"]
    assert kernels["QLinearMul"] == 3
    assert kernels["QLinearGlobalAveragePool"] == 2
    if gate == "convolution":
        assert set(kernels) <= INTEGER, kernels


def test_values_with_other_readers_and_ends(tmp_path: Path) -> None:
    made, plan, found = written(tmp_path, Readers())
    assert min(agreement(tmp_path, made, plan)) >= 30
    kernels = found.facts["kernels"]
    assert kernels["QLinearAdd"] == 3  # two sums and a hard-sigmoid
    assert kernels["QLinearMul"] == 2
    assert "hardswish_1" not in plan.activations, "an end stays float"


def test_both_forms_give_the_same(tmp_path: Path) -> None:
    import onnx_ir as ir

    from boildown.runtimes.onnx import between, lean, qdq, qoperator

    made, plan, _ = written(tmp_path, Excite("convolution"))
    model, results = ir.load(made.path), []
    lean.clean(model)
    qdq.insert(model, plan)
    between.rewrite(model)
    for form in ("qdq", "qoperator"):
        if form == "qoperator":
            qoperator.convert(model)
        proto = ir.to_proto(model)
        lean.strip(proto)
        (tmp_path / form).write_bytes(proto.SerializeToString())
        results.append(run(tmp_path / form, images(16)))
    np.testing.assert_array_equal(*results)


def test_a_runtime_without_them_gets_floats_between_two_grids_only_where_it_must(tmp_path: Path) -> None:
    """By rules that name no function each is read as floats, and quantized behind."""
    made, plan, _ = written(tmp_path, Excite("convolution"), Rules())
    assert not {"sigmoid", "hardsigmoid"} & {*plan.activations}
    assert agreement(tmp_path, made, plan)[0] >= 30


class Digits(nn.Module):
    """A depthwise network with hard-swish, a gate and a hyperbolic tangent."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.down, self.up = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.depthwise, self.point = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 32, 1)
        self.last, self.head = nn.Conv2d(32, 32, 3, 2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.stem(x)))
        x = x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        x = F.silu(self.point(F.leaky_relu(self.depthwise(x))))
        return self.head(torch.tanh(self.last(x)).mean((2, 3)))


def test_accuracy_on_digits_is_kept(tmp_path: Path) -> None:
    network, (x, y), (images, labels) = Digits(), digits.training_set().tensors, digits.validation_set().tensors
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(8):
        for chosen in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(network(x[chosen]), y[chosen]).backward()
            optimizer.step()
    graph = capture(network.eval(), (x[:2],))
    placement, calls, runtime = place(graph, RULES), [((x[:256],), {})], get("onnxruntime")
    plan = correct_biases(graph, placement, calibrate(graph, placement, calls, rules=RULES), calls)
    runtime.export(graph.serialize(), tmp_path / "exported.onnx")
    found = runtime.write(tmp_path / "exported.onnx", tmp_path / "int8.onnx", plan)
    assert set(found.facts["kernels"]) <= INTEGER, found.facts["kernels"]
    result = run(tmp_path / "int8.onnx", images)
    with torch.no_grad():
        first, simulated = network(images), simulate(graph, plan)(images)
    accuracy = [float((each.argmax(1) == labels).double().mean()) for each in (first, torch.from_numpy(result))]
    assert accuracy[0] > 0.9
    assert accuracy[1] > accuracy[0] - 0.01
    assert sqnr(simulated.numpy(), result) >= 30


def test_grids_are_learned_but_for_those_that_are_known(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 1), nn.Tanh(), nn.Conv2d(8, 8, 1), nn.Hardsigmoid(),
        nn.Conv2d(8, 4, 1), nn.Flatten(),
    )  # fmt: skip
    graph = capture(network.eval(), (images(2),))
    placement, calls = place(graph, RULES), [((images(64, seed=1),), {})]
    plan = calibrate(graph, placement, calls, rules=RULES)
    aware, x = Aware(graph, placement, plan), images(16, seed=3)
    module: Any = aware.module()
    torch.testing.assert_close(module(x), simulate(graph, plan)(x))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (module(x) - graph.module(x)).square().mean().backward()
        optimizer.step()
    folded: Any = graph.copy()
    learned = aware.settle(module, folded)
    assert learned.activations["tanh"].scale == plan.activations["tanh"].scale
    assert learned.activations["hardswish"].scale != plan.activations["hardswish"].scale
    assert learned.activations["hardsigmoid"].scale[0] <= 1 / 255
