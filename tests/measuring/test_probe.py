"""The probe times what artifacts are made of, and its advice follows the measurement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from boildown.cli.doctor import advice
from boildown.execution.child import Child
from boildown.measuring.probe import contradiction, network, promises


def test_the_int8_file_computes_the_float_file_and_runs_on_integers(tmp_path: Path) -> None:
    image = np.random.default_rng(1).random((1, 64, 16, 16), np.float32)
    outputs = []
    for quantized in (False, True):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{quantized}.onnx")
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            network(quantized=quantized), options, providers=["CPUExecutionProvider"]
        )
        outputs.append(session.run(None, {"x": image})[0])
    exact, rounded = (np.clip(output, 0, 0.02 * 255) for output in outputs)
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.9
    kernels = [node.op_type for node in onnx.load(tmp_path / "True.onnx").graph.node]
    assert kernels.count("QLinearConv") == 6
    assert "Conv" not in kernels


def test_it_measures_in_a_child() -> None:
    with Child() as child:
        found = child.call("boildown.measuring.probe:time_int8", 0.2, deadline=120)
    assert json.loads(json.dumps(found)) == found
    assert found["speedup"] == pytest.approx(found["float_ms"] / found["int8_ms"], rel=0.7)


@pytest.mark.parametrize(
    ("flags", "speedup", "odd"),
    [
        (["avx512_vnni"], 2.1, None),
        (["avx512_vnni"], 0.9, "gains little"),
        (["avx2"], 1.1, None),
        (["avx2"], 2.0, "virtual machine"),
        (["neon", "neon_dotprod"], 3.0, None),
    ],
)
def test_a_measurement_against_the_flags_is_told(flags: list[str], speedup: float, odd: str | None) -> None:
    told = contradiction(flags, speedup)
    assert told is None if odd is None else told is not None and odd in told
    assert promises(flags) is (flags[-1] != "avx2")


def test_advice_names_the_measured_speed_first() -> None:
    found = {"speedup": 2.14, "notes": ["noisy: block ratios spread by 20%"]}
    lines = advice(["avx2"], "x86_64", found)
    assert lines[0] == "int8 convolutions run 2.1x as fast as float here"
    assert any("noisy" in line for line in lines)
    assert any("7 bits" in line for line in lines)
    assert lines[-1].startswith("warning: ")
    assert "not measured" in advice(["avx512_vnni"], "x86_64", None)[0]
