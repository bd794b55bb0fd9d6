"""Files in the form `portable` have operators of ONNX alone, and compute what the lean ones do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from runtime_networks import batch, exported, plan_of, run, sqnr

from boildown.domain.candidate import Edit
from boildown.domain.deployment import PORTABLE, written_form
from boildown.errors import ExportError
from boildown.runtimes import get
from boildown.surgery.simulate import simulate

DYNAMIC = Edit("quantize-dynamic", 1, {})


def refused_elsewhere(path: Path) -> list[str]:
    """What ONNX does not define, or other runtimes do not read, among the operators of a file."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, 18 <= opset.version <= 22) for opset in model.opset_import] == [("", True)]
    return sorted({n.op_type for n in model.graph.node if n.domain or n.op_type.startswith(("QLinear", "ConvInteger"))})


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["residual", "encoder", "joined", "waves", "film"])
def test_a_plan_is_written_with_operators_of_onnx_alone(name: str, bits: int, tmp_path: Path) -> None:
    made, plan, runtime = exported(name), plan_of(name, bits), get("onnxruntime")
    lean = runtime.write(made.path, tmp_path / "lean.onnx", plan)
    written = runtime.write(made.path, tmp_path / "portable.onnx", plan, form=PORTABLE)
    assert refused_elsewhere(tmp_path / "portable.onnx") == []
    assert written.form == "qdq"
    assert lean.size <= written.size == (tmp_path / "portable.onnx").stat().st_size
    assert written.facts["kernels"].get("QLinearConv", 0) == written.facts["quantized_convolutions"]
    x = batch(name, 64, seed=2)
    with torch.no_grad():
        assert sqnr(simulate(made.graph, plan)(x).numpy(), run(tmp_path / "portable.onnx", x)) > 30


def test_a_float_file_is_portable_as_it_is(tmp_path: Path) -> None:
    runtime = get("onnxruntime")
    for form in runtime.forms:
        runtime.write(exported("encoder").path, tmp_path / form, form=form)
    assert len({(tmp_path / form).read_bytes() for form in runtime.forms}) == 1
    assert refused_elsewhere(tmp_path / PORTABLE) == []


def test_linear_layers_are_quantized_dynamically_and_lstms_are_not(tmp_path: Path) -> None:
    runtime, x = get("onnxruntime"), batch("encoder", 16, seed=2)
    written = runtime.write(exported("encoder").path, tmp_path / "m.onnx", rewrite=DYNAMIC, form=PORTABLE)
    assert refused_elsewhere(tmp_path / "m.onnx") == []
    assert written.facts["integer_operators"]["MatMulInteger"] == 7
    assert sqnr(run(exported("encoder").path, x), run(tmp_path / "m.onnx", x)) > 28
    runtime.write(exported("recurrent").path, tmp_path / "lstm.onnx", rewrite=DYNAMIC, form=PORTABLE)
    model = onnx.load(tmp_path / "lstm.onnx")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    (lstm,) = (node for node in model.graph.node if node.op_type == "LSTM")
    assert weights[lstm.input[1]].data_type == onnx.TensorProto.FLOAT
    assert refused_elsewhere(tmp_path / "lstm.onnx") == []


def test_what_takes_an_operator_of_its_own_is_refused_beforehand(tmp_path: Path) -> None:
    runtime, four = get("onnxruntime"), Edit("quantize-dynamic", 1, {"embeddings": 4})
    assert runtime.refuses(None, four) is None
    assert "leave them at 8 bits" in str(runtime.refuses(None, four, PORTABLE))
    assert runtime.refuses(None, DYNAMIC, PORTABLE) is None
    with pytest.raises(ExportError, match="4-bit embedding tables"):
        runtime.write(exported("encoder").path, tmp_path / "m.onnx", rewrite=four, form=PORTABLE)


def test_a_file_says_who_can_read_it(tmp_path: Path) -> None:
    runtime = get("onnxruntime")
    runtime.write(exported("residual").path, tmp_path / "lean.onnx", plan_of("residual"))
    runtime.write(exported("residual").path, tmp_path / "portable.onnx", plan_of("residual"), form=PORTABLE)
    lean, portable = (runtime.about(tmp_path / f"{form}.onnx")["needs"] for form in ("lean", "portable"))
    assert "com.microsoft:QLinearAdd" in lean
    assert 'form="portable"' in lean
    assert portable == "ONNX, opset 21; ONNX Runtime, OpenVINO and others that read this opset can run it"


def test_several_runtimes_are_given_portable_files() -> None:
    assert written_form("lean", "onnxruntime") == written_form("lean", ["onnxruntime"]) == "lean"
    assert written_form("lean", ("onnxruntime", "openvino")) == written_form(PORTABLE, "onnxruntime") == PORTABLE


def test_values_are_the_same_bits_in_both_forms(tmp_path: Path) -> None:
    runtime, x = get("onnxruntime"), batch("waves", 8, seed=2)
    for form in runtime.forms:
        runtime.write(exported("waves").path, tmp_path / form, plan_of("waves"), form=form)
    np.testing.assert_array_equal(*(run(tmp_path / form, x) for form in runtime.forms))
