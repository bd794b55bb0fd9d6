from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from runtime_networks import batch, exported, run, sqnr

from boildown.domain.candidate import Edit
from boildown.errors import ExportError
from boildown.runtimes import get


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("name", "integer"),
    [("encoder", {"MatMulInteger": 7, "DequantizeLinear": 1}), ("recurrent", {"DynamicQuantizeLSTM": 1})],
)
def test_weights_become_int8_and_outputs_stay_close(
    name: str, integer: dict[str, int], per_channel: bool, tmp_path: Path
) -> None:
    runtime, made = get("onnxruntime"), exported(name)
    level = logging.getLogger().level
    lean = runtime.write(made.path, tmp_path / "float.onnx")
    rewrite = Edit("quantize-dynamic", 1, {"per_channel": per_channel})
    written = runtime.write(made.path, tmp_path / "dynamic.onnx", rewrite=rewrite)
    assert written.form == "dynamic"
    assert written.size < 0.45 * lean.size
    assert written.facts["integer_operators"].items() >= integer.items()
    x = batch(name, 64, seed=2)
    assert sqnr(run(tmp_path / "float.onnx", x), run(tmp_path / "dynamic.onnx", x)) > 28
    assert logging.getLogger().level == level


def test_a_model_with_nothing_to_quantize_is_refused(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from boildown.surgery.graph import capture

    runtime = get("onnxruntime")
    runtime.export(capture(nn.Conv2d(3, 4, 3).eval(), (torch.randn(2, 3, 8, 8),)).serialize(), tmp_path / "e.onnx")
    with pytest.raises(ExportError, match="Nothing in this model"):
        runtime.write(tmp_path / "e.onnx", tmp_path / "x.onnx", rewrite=Edit("quantize-dynamic"))
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize(
    "edit", [("quantize", 1, {}), ("quantize-dynamic", 2, {}), ("quantize-dynamic", 1, {"bit": 4})]
)
def test_an_unknown_rewrite_is_refused(edit: tuple[str, int, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No file can be rewritten"):
        get("onnxruntime").write(exported("encoder").path, tmp_path / "x.onnx", rewrite=Edit(*edit))
