"""Real networks: every convolution on integers, files of the measured size, the simulation's answers."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from runtime_networks import Exported, run, sqnr

from boildown.runtimes import get
from boildown.surgery.calibrate import calibrate, correct_biases
from boildown.surgery.graph import capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def real() -> Any:
    folder = os.environ.get("BOILDOWN_DATA")
    if not folder:
        pytest.skip("set BOILDOWN_DATA to the folder of the real models")
    spec = importlib.util.spec_from_file_location("real_models", Path(folder) / "real_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _inputs(real: Any, name: str, count: int) -> torch.Tensor:
    if name == "dscnn":
        return real.keyword_clips()[0][:count]
    if name == "mobilenet_v1_025":
        return real.mobilenet_input(real.load_jpegs(real.HERE / "mobilenet/imagenet_a.npz")[0][:count])
    return real.cifar10_input(real.cifar10("test_a")[0][:count])


@pytest.mark.parametrize(
    ("name", "kernels", "ratio", "agreement"),
    [
        ("resnet20", {"QLinearConv": 19, "QLinearAdd": 9, "QGemm": 1}, 0.262, 0.99),
        ("resnet56", {"QLinearConv": 55, "QLinearAdd": 27, "QGemm": 1}, 0.262, 0.99),
        ("mobilenet_v1_025", {"QLinearConv": 27, "QGemm": 1}, 0.27, 0.97),
        ("dscnn", {"QLinearConv": 9, "QGemm": 1}, 0.35, 0.99),
    ],
)
def test_static_int8(
    real: Any, name: str, kernels: dict[str, int], ratio: float, agreement: float, tmp_path: Path
) -> None:
    inputs = _inputs(real, name, 300)
    calibration, x = [((inputs[:100],), {})], inputs[100:]
    made = Exported(capture(real.trained(name), (inputs[:2],)), tmp_path / "exported.onnx")
    runtime, placement = get("onnxruntime"), place(made.graph)
    runtime.export(made.graph.serialize(), made.path)
    plan = correct_biases(made.graph, placement, calibrate(made.graph, placement, calibration), calibration)
    lean = runtime.write(made.path, tmp_path / "float.onnx")
    written = runtime.write(made.path, tmp_path / "int8.onnx", plan)
    assert written.facts["kernels"].items() >= kernels.items()
    assert written.facts["quantized_convolutions"] == kernels["QLinearConv"]
    assert written.size <= ratio * lean.size
    with torch.no_grad():
        simulated = simulate(made.graph, plan)(x).numpy()
    result = run(tmp_path / "int8.onnx", x)
    assert sqnr(simulated, result) >= 30
    assert (simulated.argmax(1) == result.argmax(1)).mean() >= agreement
