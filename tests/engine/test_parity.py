"""A file is held against its simulation layer by layer: rounding that a network amplifies is no fault, one is named."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

import boildown as bd
from boildown.domain.candidate import Plan
from boildown.domain.target import Target
from boildown.engine import parity
from boildown.engine.bench import Bench
from boildown.engine.job import Job
from boildown.engine.parity import first_apart
from boildown.errors import ParityError
from boildown.runtimes import get
from boildown.runtimes.onnx import lean, qdq, qoperator
from boildown.runtimes.onnx.runtime import _values
from boildown.surgery.calibrate import calibrate
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import place
from boildown.tasks.splits import resolve


class Sensitive(nn.Module):
    """Waves of waves: what differs by one rounding at their start has nothing in common at their end."""

    def __init__(self, gain: float = 600.0) -> None:
        super().__init__()
        self.layers, self.head, self.gain = nn.ModuleList(nn.Linear(48, 48) for _ in range(6)), nn.Linear(48, 4), gain

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.gain * layer(x))
        return self.head(x)


class Seeing(nn.Module):
    """Convolutions with a residual sum, then attention, and a mean of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x.unsqueeze(1)))
        x = F.relu(x + self.b(F.relu(self.a(x)))).flatten(2).transpose(1, 2)
        q, k, v = (f(x).unflatten(2, (2, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = self.norm(x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


KINDS = {"sensitive": (Sensitive, (48,)), "seeing": (Seeing, (6, 6))}
WEIGHT = {"sensitive": "layers.3.weight", "seeing": "v.weight"}
"""A square weight in the middle."""


def inputs(name: str, count: int = 32) -> Tensor:
    return torch.randn(count, *KINDS[name][1], generator=torch.Generator().manual_seed(count))


@cache
def made(name: str) -> tuple[nn.Module, Graph, Plan]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = KINDS[name][0]().eval()
    graph = capture(model, (inputs(name, 2),))
    return model, graph, calibrate(graph, place(graph), [((inputs(name, 64),), {})])


def turned(model: onnx.ModelProto, weight: str) -> None:
    """Swap the axes of a weight."""
    for tensor in model.graph.initializer:
        if tensor.name.removesuffix(lean.TRANSPOSED) == weight:
            array = numpy_helper.to_array(tensor).T.copy()
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def stretched(model: onnx.ModelProto, names: dict[str, str], weight: str) -> None:
    """Let the scales of a weight be wrong, its integers as they are."""
    (scale,) = (names[name] for name in names if re.fullmatch(re.escape(weight) + r"(\^T)?/q/scale", name))
    for tensor in model.graph.initializer:
        if tensor.name == scale:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.4), scale))


def coarser(plan: Plan, name: str) -> Plan:
    """The plan with a larger step for a weight or a value."""
    part = "weights" if name in plan.weights else "activations"
    known = dict(getattr(plan, part))
    known[name] = replace(known[name], scale=tuple(1.4 * step for step in known[name].scale))
    return replace(plan, **{part: known})


def written(
    name: str, form: str, plan: Plan, folder: Path, *, turn: str | None = None, stretch: str | None = None
) -> dict[str, str]:
    """Write a file in one of the two forms, perhaps with a fault; what its values are called in it."""
    get("onnxruntime").export(made(name)[1].serialize(), folder / "exported.onnx")
    exported = onnx.load(folder / "exported.onnx")
    if turn is not None:
        turned(exported, turn)
    onnx.save(exported, folder / "exported.onnx")
    model = ir.load(folder / "exported.onnx")
    lean.clean(model)
    qdq.insert(model, plan)
    if form == "qoperator":
        qoperator.convert(model)
    proto = ir.to_proto(model)
    names = lean.strip(proto)
    if stretch is not None:
        stretched(proto, names, stretch)
    onnx.save(proto, folder / "model.onnx")
    return _values(names, plan)


def compared(name: str, names: dict[str, str], folder: Path) -> str | None:
    x, runtime = inputs(name, 8), get("onnxruntime")
    looks = []

    def look(wanted):
        looks.append(len(wanted))
        return runtime.inside(folder / "model.onnx", wanted, [x.numpy()])

    found = first_apart(made(name)[1], made(name)[2], names, [x], len(x), look)
    assert looks
    assert max(looks) > 0
    return found


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("name", KINDS)
def test_every_layer_of_a_faultless_file_agrees_whatever_the_outputs_do(name, form, tmp_path):
    assert compared(name, written(name, form, made(name)[2], tmp_path), tmp_path) == ""


@pytest.mark.parametrize("fault", ["scale", "axis", "bias", "grid"])
@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("name", KINDS)
def test_the_first_layer_with_a_fault_is_named(name, form, fault, tmp_path):
    model, graph, plan = made(name)
    weight, wrong = WEIGHT[name], plan
    if fault == "bias":
        bias = model.get_parameter(weight.replace("weight", "bias")).detach()
        wrong = replace(plan, biases={weight: tuple((-bias).tolist())})
    elif fault == "grid":
        wrong = coarser(plan, next(layer.input for layer in place(graph).layers if layer.weight == weight))
    names = written(
        name, form, wrong, tmp_path,
        turn=weight if fault == "axis" else None, stretch=weight if fault == "scale" else None,
    )  # fmt: skip
    found = compared(name, names, tmp_path)
    if fault == "grid":
        assert re.search(r"differs by up to \d+ steps of its grid", found)
    else:
        assert weight in found


def test_values_are_looked_at_in_groups(tmp_path, monkeypatch):
    names = written("seeing", "qoperator", made("seeing")[2], tmp_path)
    x, runtime, looks = inputs("seeing", 8), get("onnxruntime"), []

    def look(wanted):
        looks.append(len(wanted))
        return runtime.inside(tmp_path / "model.onnx", wanted, [x.numpy()])

    monkeypatch.setattr(parity, "_MOST_BYTES", 20_000)
    assert first_apart(made("seeing")[1], made("seeing")[2], names, [x], len(x), look) == ""
    assert len(looks) > 3
    assert first_apart(made("seeing")[1], made("seeing")[2], names, [x], len(x), lambda wanted: None) is None


# ---- in a run ----------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    x = inputs("sensitive", 200)
    task = bd.Classification(validation=(x, torch.arange(200) % 4))
    bench = Bench(
        Job(task, resolve(task, 0), Target(())), tmp_path, check=lambda: None, progress=lambda *_: None
    )  # fmt: skip
    yield bench
    bench.close()


def test_a_file_whose_rounding_is_amplified_is_kept_and_told(bench, tmp_path):
    model, _, plan = made("sensitive")
    candidate = bd.Candidate(model, plan=plan)
    artifact, _ = bench.write(candidate, "weights", tmp_path / "artifact")
    told = bench.agree(candidate, artifact)
    assert float(re.search(r"agree to (-?[\d.]+) dB", told)[1]) < 20
    assert "the network amplifies rounding" in told


def test_a_file_with_a_fault_is_refused_with_the_layer(bench, tmp_path):
    model, _, plan = made("sensitive")
    artifact, _ = bench.write(
        bd.Candidate(model, plan=coarser(plan, "layers.2.weight")), "weights", tmp_path / "faulty"
    )
    expected = r"given equal inputs, `linear_2` \(of layers.2.weight, .*bias\) .*`sin_2` .* differs by up to \d+ steps"
    with pytest.raises(ParityError, match=expected):
        bench.agree(bd.Candidate(model, plan=plan), artifact)


def test_a_float_file_of_another_network_is_refused_with_the_layer(bench, tmp_path):
    model = made("sensitive")[0]
    other = Sensitive().eval()
    other.load_state_dict(model.state_dict())
    other.layers[1].weight.data.mul_(1.1)
    artifact, _ = bench.write(bd.Candidate(other), "other weights", tmp_path / "faulty")
    with pytest.raises(ParityError, match=r"dB of agreement .* The first that differs given equal inputs: `linear_1`"):
        bench.agree(bd.Candidate(model), artifact)
