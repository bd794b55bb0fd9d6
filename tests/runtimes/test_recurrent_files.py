"""Files with integer recurrent layers: their kernels, their bytes, and what they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from runtime_networks import sqnr
from torch import Tensor, nn

from boildown.domain.candidate import Plan
from boildown.domain.rules import Rules
from boildown.runtimes import get
from boildown.surgery.calibrate import calibrate, correct_biases
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import place
from boildown.surgery.quantize import with_recurrent
from boildown.surgery.simulate import simulate

WIDTH = 48
RULES = replace(get("onnxruntime").rules, dynamic_from=0)


def signals(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 24, generator=torch.Generator().manual_seed(seed))


class Hybrid(nn.Module):
    """A convolution along time, a recurrent layer, and a head on all its steps."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.conv, self.layer, self.head = nn.Conv1d(4, 24, 3, 4, 1), layer, nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        steps = F.relu(self.conv(x)).permute(*((0, 2, 1) if self.layer.batch_first else (2, 0, 1)))
        outputs = self.head(self.layer(steps)[0])
        return (outputs if self.layer.batch_first else outputs.transpose(0, 1)).flatten(1)


class Stepping(nn.Module):
    """Two cells, and a step that is written out, in one loop."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, 24, 3, 4, 1), nn.Linear(WIDTH, 5)
        self.lstm, self.gru, self.own = nn.LSTMCell(24, WIDTH), nn.GRUCell(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        one = memory = other = third = x.new_zeros(len(x), WIDTH)
        for now in x.unbind(2):
            one, memory = self.lstm(now, (one, memory))
            other = self.gru(one, other)
            third = self.own(torch.cat([other, third], 1)).tanh()
        return self.head(third)


def both_ways(kind: type[nn.RNNBase]) -> nn.Module:
    return Hybrid(kind(24, WIDTH // 2, num_layers=2, bidirectional=True, batch_first=True))


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "lstm": (lambda: Hybrid(nn.LSTM(24, WIDTH, bias=False)), {"DynamicQuantizeLSTM": 1}),
    "lstm, both ways": (lambda: both_ways(nn.LSTM), {"DynamicQuantizeLSTM": 2}),
    "gru, both ways": (lambda: both_ways(nn.GRU), {"GRU": 2}),
    "rnn": (lambda: Hybrid(nn.RNN(24, WIDTH, batch_first=True)), {"DynamicQuantizeMatMul": 7}),
    "in a loop": (Stepping, {"DynamicQuantizeMatMul": 30}),
}


@cache
def captured(name: str) -> tuple[Graph, Path]:
    """A network, and its export."""
    torch.manual_seed(0)
    graph = capture(CASES[name][0]().eval(), (signals(2),))
    path = Path(mkdtemp()) / "exported.onnx"
    get("onnxruntime").export(graph.serialize(), path)
    return graph, path


def made(name: str, rules: Rules = RULES) -> tuple[Graph, Plan, Path]:
    """A captured network, its plan by these rules, and its export."""
    graph, path = captured(name)
    calls = [((signals(64, seed=1),), {})]
    placement = place(graph, rules)
    plan = correct_biases(graph, placement, calibrate(graph, placement, calls, rules=rules), calls)
    return graph, plan, path


def run(path: Path, x: Tensor) -> np.ndarray:
    return get("onnxruntime").open(path).run([x.numpy()])[0]


@pytest.mark.parametrize("name", CASES)
def test_convolutions_and_recurrent_layers_are_integers_in_one_file(name: str, tmp_path: Path) -> None:
    graph, plan, exported = made(name)
    runtime = get("onnxruntime")
    lean, written = (runtime.write(exported, tmp_path / f"{at}.onnx", each) for at, each in enumerate((None, plan)))
    kernels = written.facts["kernels"]
    assert kernels.items() >= {**CASES[name][1], "QLinearConv": 1}.items()
    assert not kernels.keys() & {"LSTM", "Cast", "Gemm"}, "nothing that could be in integers is in float"
    assert written.size < 0.45 * lean.size
    x = signals(32, seed=2)
    with torch.no_grad():
        simulated = simulate(graph, plan)(x).numpy()
    found = run(tmp_path / "1.onnx", x)
    assert sqnr(simulated, found) >= 30
    assert sqnr(run(tmp_path / "0.onnx", x), found) >= 25
    onnx.checker.check_model(onnx.load(tmp_path / "1.onnx"))


@pytest.mark.parametrize("name", CASES)
def test_weights_alone_are_for_size_only(name: str, tmp_path: Path) -> None:
    """Nothing of it is left to do at an inference: the weights are floats when a session is made."""
    graph, plan, exported = made(name, with_recurrent(RULES, "weights"))
    assert plan.dynamic == ()
    runtime = get("onnxruntime")
    lean, written = (runtime.write(exported, tmp_path / f"{at}.onnx", each) for at, each in enumerate((None, plan)))
    assert written.size < 0.5 * lean.size
    optimized = optimized_by_runtime(tmp_path / "1.onnx", tmp_path)
    assert not {node.op_type for node in optimized.node} & {"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "Cast"}
    stored = {tensor.name for tensor in optimized.initializer}
    assert not [node for node in optimized.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
    x = signals(32, seed=2)
    with torch.no_grad():
        assert sqnr(simulate(graph, plan)(x).numpy(), run(tmp_path / "1.onnx", x)) >= 30


def test_recurrent_layers_can_be_left_alone(tmp_path: Path) -> None:
    _, plan, exported = made("lstm", with_recurrent(RULES, "float"))
    assert set(plan.weights) == {"conv.weight", "head.weight"}
    assert get("onnxruntime").write(exported, tmp_path / "x.onnx", plan).facts["kernels"]["LSTM"] == 1


def test_states_may_be_inputs_and_outputs(tmp_path: Path) -> None:
    class Streaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 40, batch_first=True), nn.Linear(40, 2)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            outputs, (h, c) = self.lstm(x, (h.transpose(0, 1), c.transpose(0, 1)))
            return self.head(outputs[:, -1]), h.transpose(0, 1), c.transpose(0, 1)

    torch.manual_seed(0)
    x, h, c = torch.randn(6, 5, 8), torch.randn(6, 1, 40), torch.randn(6, 1, 40)
    graph = capture(Streaming().eval(), (x, h, c))
    plan = calibrate(graph, place(graph, RULES), [((x, h, c), {})], rules=RULES)
    runtime = get("onnxruntime")
    runtime.export(graph.serialize(), tmp_path / "exported.onnx")
    assert runtime.write(tmp_path / "exported.onnx", tmp_path / "x.onnx", plan).facts["kernels"]["DynamicQuantizeLSTM"]
    found = runtime.open(tmp_path / "x.onnx").run([x.numpy(), h.numpy(), c.numpy()])
    with torch.no_grad():
        for ours, theirs in zip(simulate(graph, plan)(x, h, c), found, strict=True):
            assert sqnr(ours.numpy(), theirs) >= 30


def test_layers_with_equal_weights_become_integers_each(tmp_path: Path) -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = (nn.LSTM(8, 32, batch_first=True) for _ in range(2))
            self.one, self.other, self.head = nn.GRUCell(32, 32), nn.GRUCell(32, 32), nn.Linear(32, 2)
            self.right.load_state_dict(self.left.state_dict())
            self.other.load_state_dict(self.one.state_dict())

        def forward(self, x: Tensor) -> Tensor:
            x = self.left(x)[0][:, -1] - self.right(x.flip(1))[0][:, -1]
            return self.head(self.one(x, x) + self.other(-x, x))

    torch.manual_seed(0)
    x = torch.randn(6, 5, 8)
    graph = capture(Twins().eval(), (x,))
    plan = calibrate(graph, place(graph, RULES), [((x,), {})], rules=RULES)
    runtime = get("onnxruntime")
    runtime.export(graph.serialize(), tmp_path / "exported.onnx")
    kernels = runtime.write(tmp_path / "exported.onnx", tmp_path / "x.onnx", plan).facts["kernels"]
    assert (kernels["DynamicQuantizeLSTM"], kernels["DynamicQuantizeMatMul"]) == (2, 4)
    with torch.no_grad():
        assert sqnr(simulate(graph, plan)(x).numpy(), run(tmp_path / "x.onnx", x)) >= 30


def test_a_plan_of_4_bits_keeps_recurrent_layers_at_8(tmp_path: Path) -> None:
    _, plan, exported = made("lstm")
    four = {name: replace(q, bits=4) for name, q in plan.weights.items() if name not in plan.dynamic}
    written = get("onnxruntime").write(exported, tmp_path / "x.onnx", replace(plan, weights={**plan.weights, **four}))
    assert written.facts["kernels"]["DynamicQuantizeLSTM"] == 1


def optimized_by_runtime(path: Path, folder: Path) -> onnx.GraphProto:
    """The graph that ONNX Runtime ends up running."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx").graph
