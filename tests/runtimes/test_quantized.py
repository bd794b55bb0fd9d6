from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from runtime_networks import Exported, batch, exported, plan_of, run, sqnr
from torch import Tensor, nn

from boildown.domain.candidate import Edit, Plan, Quantizer
from boildown.errors import ExportError
from boildown.runtimes import get
from boildown.runtimes.base import Written
from boildown.runtimes.onnx import lean, qdq, qoperator
from boildown.surgery.graph import capture
from boildown.surgery.simulate import simulate

INTEGER = {
    "residual": {"QLinearConv": 3, "QLinearAdd": 1, "QGemm": 1},
    "encoder": {"MatMulIntegerToFloat": 6, "QGemm": 1, "SkipLayerNormalization": 2},
    "joined": {"QLinearConv": 3},
    "waves": {"QLinearConv": 2, "QGemm": 1},
    "film": {"QLinearConv": 2, "QGemm": 1},
}


def _write(made: Exported, path: Path, plan: Plan | None = None) -> Written:
    return get("onnxruntime").write(made.path, path, plan)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", INTEGER)
def test_the_file_computes_what_the_simulation_says(name: str, bits: int, tmp_path: Path) -> None:
    made, plan = exported(name), plan_of(name, bits)
    written = _write(made, tmp_path / "int.onnx", plan)
    x = batch(name, 256, seed=2)
    with torch.no_grad():
        simulated = simulate(made.graph, plan)(x).numpy()
    result = run(tmp_path / "int.onnx", x)
    assert sqnr(simulated, result) >= 30
    assert (simulated.argmax(1) == result.argmax(1)).mean() >= 0.99
    assert written.size == (tmp_path / "int.onnx").stat().st_size == min(written.facts["forms"].values())
    assert written.facts["kernels"].items() >= INTEGER[name].items()
    assert written.facts["quantized_convolutions"] == INTEGER[name].get("QLinearConv", 0)
    onnx.checker.check_model(onnx.load(tmp_path / "int.onnx"), full_check=True)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", INTEGER)
def test_both_forms_give_the_same_bits(name: str, bits: int, tmp_path: Path) -> None:
    """Except behind a 3-D linear layer, whose float bias one form adds inside its kernel: a last bit."""
    model = ir.load(exported(name).path)
    lean.clean(model)
    qdq.insert(model, plan_of(name, bits))
    x, results = batch(name, 64, seed=2), []
    for form in ("qdq", "qoperator"):
        if form == "qoperator":
            qoperator.convert(model)
        proto = ir.to_proto(model)
        lean.strip(proto)
        (tmp_path / form).write_bytes(proto.SerializeToString())
        results.append(run(tmp_path / form, x))
    if name == "encoder":
        assert sqnr(*results) > 50
    else:
        np.testing.assert_array_equal(*results)


def test_four_bits_halve_the_file_and_keep_the_kernels(tmp_path: Path) -> None:
    """Weights of 4 bits are widened when the session is made, not at every inference."""
    made = exported("residual")
    eight, four = (_write(made, tmp_path / f"{bits}.onnx", plan_of("residual", bits)) for bits in (8, 4))
    assert four.size < 0.7 * eight.size
    assert four.facts["kernels"] == eight.facts["kernels"]


# ---- one layer at a time ---------------------------------------------------------------------


class _Net(nn.Module):
    """One layer and what comes behind it."""

    def __init__(self, layer: nn.Module, then: Any = lambda y: y) -> None:
        super().__init__()
        self.layer, self.then = layer, then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.layer(x))


def _exported(tmp_path: Path, net: nn.Module, x: Tensor) -> Exported:
    torch.manual_seed(0)
    made = Exported(capture(net.eval(), (x,)), tmp_path / "exported.onnx")
    get("onnxruntime").export(made.graph.serialize(), made.path)
    return made


def _unsigned(name: str, scale: float, zero_point: int = 128) -> Quantizer:
    return Quantizer(name, 8, False, (scale,), (zero_point,))


def _weight(channels: int, scale: float = 0.01, name: str = "layer.weight") -> Quantizer:
    return Quantizer(name, 8, True, (scale,) * channels, (0,) * channels, 0)


def _plan(*activations: Quantizer, weight: Quantizer, bias: tuple[float, ...] = ()) -> Plan:
    return Plan({q.tensor: q for q in activations}, {weight.tensor: weight}, {weight.tensor: bias} if bias else {})


def _clamped(y: Tensor) -> Tensor:
    return F.hardtanh(y, 0.0, 6.0) * 0.5


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", INTEGER)
def test_weights_of_float_layers_are_folded_at_load(name: str, bits: int, tmp_path: Path) -> None:
    """Stored as integers, multiplied back once: the same numbers as in the simulation, no node left."""
    made, plan = exported(name), replace(plan_of(name, bits), activations={})
    written = _write(made, tmp_path / "weights.onnx", plan)
    assert not written.facts["kernels"].keys() & {"Cast", "DequantizeLinear", "QuantizeLinear", "QLinearConv"}
    x = batch(name, 64, seed=2)
    with torch.no_grad():
        simulated = simulate(made.graph, plan)(x).numpy()
    np.testing.assert_allclose(run(tmp_path / "weights.onnx", x), simulated, rtol=1e-4, atol=1e-5)
    stored = onnx.load(tmp_path / "weights.onnx").graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored.initializer}
    casts = {node.output[0]: node.input[0] for node in stored.node if node.op_type == "Cast"}
    files = [
        arrays[casts[node.input[0]]].astype(np.float32) * arrays[node.input[1]]
        for node in stored.node
        if node.op_type == "Mul" and node.input[0] in casts
    ]
    module = simulate(made.graph, plan)
    for weight in plan.weights:
        expected = module.get_parameter(weight).detach().numpy()
        assert any(np.array_equal(expected, f) or np.array_equal(expected.T, f) for f in files), weight


@pytest.mark.parametrize("high", [6.0, 5.9])
def test_a_clamp_outside_the_grid_is_absorbed(tmp_path: Path, high: float) -> None:
    made = _exported(tmp_path, _Net(nn.Conv2d(3, 8, 3), _clamped), torch.randn(2, 3, 8, 8))
    plan = _plan(_unsigned("x", 0.03), _unsigned("hardtanh", high / 255, 0), weight=_weight(8))
    assert _write(made, tmp_path / "int.onnx", plan).facts["kernels"]["QLinearConv"] == 1
    x = 40 * torch.randn(8, 3, 8, 8)
    values = run(tmp_path / "int.onnx", x)
    assert values.min() == 0
    assert values.max() == pytest.approx(high / 2)


def test_a_clamp_inside_the_grid_is_refused_by_name(tmp_path: Path) -> None:
    """It would stay a node of its own, and its convolution would run in float, slower than before."""
    made = _exported(tmp_path, _Net(nn.Conv2d(3, 8, 3), _clamped), torch.randn(2, 3, 8, 8))
    plan = _plan(_unsigned("x", 0.03), _unsigned("hardtanh", 7 / 255, 0), weight=_weight(8))
    with pytest.raises(ExportError, match=r"1 of 1 quantized convolutions would run in float \((conv2d|hardtanh)"):
        _write(made, tmp_path / "int.onnx", plan)
    assert not (tmp_path / "int.onnx").exists()


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(3, 8, 3, bias=False), torch.randn(2, 3, 8, 8)),
        (nn.Conv2d(3, 8, 3), torch.randn(2, 3, 8, 8)),
        (nn.Linear(6, 8, bias=False), torch.randn(2, 6)),
        (nn.Linear(6, 8), torch.randn(2, 6)),
        (nn.Linear(6, 8, bias=False), torch.randn(2, 5, 6)),
        (nn.Linear(6, 8), torch.randn(2, 5, 6)),
    ],
    ids=["conv", "conv+bias", "linear", "linear+bias", "linear3d", "linear3d+bias"],
)
def test_a_correction_shifts_each_output_channel(tmp_path: Path, layer: nn.Module, x: Tensor) -> None:
    made = _exported(tmp_path, _Net(layer), x)
    shift = tuple(0.25 * channel for channel in range(8))
    without = _plan(_unsigned("x", 0.03), weight=_weight(8))
    _write(made, tmp_path / "0.onnx", without)
    _write(made, tmp_path / "1.onnx", replace(without, biases={"layer.weight": shift}))
    moved = run(tmp_path / "1.onnx", x) - run(tmp_path / "0.onnx", x)
    axis = 1 if isinstance(layer, nn.Conv2d) else -1
    expected = np.moveaxis(np.broadcast_to(np.float32(shift), np.moveaxis(moved, axis, -1).shape), -1, axis)
    np.testing.assert_allclose(moved, expected, atol=1e-3)


def test_the_bias_of_a_dead_channel_does_not_overflow(tmp_path: Path) -> None:
    """Scale 1e-12 would ask for an integer of 3e13; the channel's scale is widened instead."""
    layer = nn.Conv2d(3, 8, 3)
    layer.weight.data[2], layer.bias.data[2] = 0, 1.0
    made = _exported(tmp_path, _Net(layer, F.relu), torch.randn(2, 3, 8, 8))
    scales = tuple(1e-12 if channel == 2 else 0.01 for channel in range(8))
    plan = _plan(_unsigned("x", 0.03), weight=replace(_weight(8), scale=scales))
    _write(made, tmp_path / "int.onnx", plan)
    np.testing.assert_allclose(run(tmp_path / "int.onnx", torch.randn(2, 3, 8, 8))[:, 2], 1.0, atol=1e-3)


@pytest.mark.parametrize("planned", [False, True])
def test_an_output_is_float_unless_it_is_planned(tmp_path: Path, planned: bool) -> None:
    made = _exported(tmp_path, _Net(nn.Conv2d(3, 8, 3), F.relu), torch.randn(2, 3, 8, 8))
    ends = [_unsigned("relu", 0.125, 0)] if planned else []
    written = _write(made, tmp_path / "int.onnx", _plan(_unsigned("x", 0.03), *ends, weight=_weight(8)))
    steps = run(tmp_path / "int.onnx", torch.randn(4, 3, 8, 8)) / 0.125
    assert bool((steps == np.rint(steps)).all()) is planned
    assert written.facts["quantized_convolutions"] == int(planned)
    assert [port.name for port in get("onnxruntime").open(tmp_path / "int.onnx").outputs] == ["output"]


def test_relu_behind_pooling_costs_no_second_rounding(tmp_path: Path) -> None:
    """conv -> pool -> relu on one grid: one QuantizeLinear for the input, one kernel, no more."""
    net = _Net(nn.Conv2d(3, 8, 3), lambda y: F.relu(F.max_pool2d(y, 2)).flatten(1) * 0.5)
    made = _exported(tmp_path, net, torch.randn(2, 3, 8, 8))
    shared = [_unsigned(name, 0.02, 0) for name in ("conv2d", "max_pool2d", "relu", "view")]
    written = _write(made, tmp_path / "int.onnx", _plan(_unsigned("x", 0.03), *shared, weight=_weight(8)))
    assert written.facts["kernels"]["QuantizeLinear"] == 1
    assert "Relu" not in written.facts["kernels"]


# ---- plans that do not fit -------------------------------------------------------------------


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    plan = Plan(
        {"nowhere": _unsigned("nowhere", 0.5), "x": replace(_unsigned("x", 0.1), bits=4)},
        {"lost.weight": _weight(8, name="lost.weight"), "head.weight": replace(_weight(10), zero_point=(3,) * 10)},
        {"gone.weight": (0.0,)},
    )
    with pytest.raises(ExportError) as caught:
        _write(exported("residual"), tmp_path / "int.onnx", plan)
    for wrong in ("'nowhere'", "'x': activations take 8 bits", "'lost.weight'", "'head.weight'", "'gone.weight'"):
        assert wrong in str(caught.value)


def test_a_folded_value_must_share_its_producers_grid(tmp_path: Path) -> None:
    """The padding was folded into its convolution: no such value, and no harm if the grid is the input's."""
    made, plan = exported("residual"), plan_of("residual")
    assert plan.activations["pad"].scale == plan.activations["x"].scale
    _write(made, tmp_path / "int.onnx", plan)
    apart = replace(plan, activations={**plan.activations, "pad": _unsigned("pad", 0.123)})
    with pytest.raises(ExportError, match="no value 'pad'"):
        _write(made, tmp_path / "other.onnx", apart)


def test_scales_must_match_the_channels(tmp_path: Path) -> None:
    plan = _plan(weight=_weight(7, name="head.weight"))
    with pytest.raises(ExportError, match=r"10 channels along axis 0 and the plan gives 7 scales"):
        _write(exported("residual"), tmp_path / "int.onnx", plan)


def test_a_plan_and_a_rewrite_exclude_each_other(tmp_path: Path) -> None:
    runtime, rewrite = get("onnxruntime"), Edit("quantize-dynamic")
    with pytest.raises(ExportError, match="not by both"):
        runtime.write(exported("residual").path, tmp_path / "x.onnx", plan_of("residual"), rewrite)


def test_an_input_that_is_an_output_too_can_be_quantized(tmp_path: Path) -> None:
    class Through(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, *given: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(given[0]), given[0]

    x = torch.randn(8, 4).clamp(-2, 2)
    graph = capture(Through(), (x[:2],))
    made = get("onnxruntime")
    made.export(graph.serialize(), tmp_path / "float.onnx")
    weight = Quantizer("layer.weight", 8, True, (0.01,) * 3, (0,) * 3, axis=0)
    (name,) = (node.name for node in graph.module.graph.nodes if node.op == "placeholder")
    plan = Plan({name: _unsigned(name, 4 / 255, 128)}, {weight.tensor: weight})
    made.write(tmp_path / "float.onnx", tmp_path / "int.onnx", plan)
    found = made.open(tmp_path / "int.onnx").run([x.numpy()])
    with torch.no_grad():
        wanted = simulate(graph, plan)(x)
    np.testing.assert_allclose(found[0], wanted[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1], x.numpy(), atol=2 / 255)
