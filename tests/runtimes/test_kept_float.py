"""A layer that the plan leaves float between quantized ones stays float in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runtime_networks import batch, exported, run, sqnr
from torch import nn

from boildown.runtimes import get
from boildown.surgery.calibrate import calibrate, correct_biases
from boildown.surgery.graph import capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate


@pytest.mark.parametrize(("name", "skipped"), [("residual", ["a.weight"]), ("residual", ["b.weight"]), ("joined", [])])
def test_float_layers_between_quantized_ones_stay_float(name: str, skipped: list[str], tmp_path: Path) -> None:
    graph, calls = exported(name).graph, [((batch(name, 64, seed=1),), {})]
    placement = place(graph, skip=skipped)
    plan = correct_biases(graph, placement, calibrate(graph, placement, calls), calls)
    written = get("onnxruntime").write(exported(name).path, tmp_path / "model.onnx", plan)
    assert written.facts["kernels"]["QLinearConv"] == written.facts["quantized_convolutions"]
    x = batch(name, 16, seed=2)
    with torch.no_grad():
        expected = simulate(graph, plan)(x).numpy()
    assert sqnr(expected, run(tmp_path / "model.onnx", x)) > 30


def test_a_depthwise_layer_of_unlike_channels_stays_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU()
    ).eval()
    scale = torch.logspace(-3, 0, 16)
    net[2].weight.data *= scale.view(-1, 1, 1, 1)
    net[2].bias.data *= scale
    net[4].weight.data /= scale.view(1, -1, 1, 1)
    x = torch.randn(8, 3, 16, 16)
    graph, calls = capture(net, (x[:2],)), [((x,), {})]
    placement = place(graph, skip=["2.weight"])
    plan = calibrate(graph, placement, calls)
    runtime = get("onnxruntime")
    runtime.export(graph.serialize(), tmp_path / "float.onnx")
    written = runtime.write(tmp_path / "float.onnx", tmp_path / "model.onnx", plan)
    kernels = written.facts["kernels"]
    assert kernels["QLinearConv"] == written.facts["quantized_convolutions"] == 1
    with torch.no_grad():
        expected = simulate(graph, plan)(x).numpy()
    assert sqnr(expected, run(tmp_path / "model.onnx", x)) > 30
