"""The `half` rewrite: half the bytes, the same numbers but for the rounding of weights, and what stays float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from runtime_networks import batch, exported, run, sqnr
from torch import Tensor, nn

from boildown.domain.candidate import Edit
from boildown.runtimes import get
from boildown.runtimes.base import Written
from boildown.surgery.graph import capture

HALF = Edit("half")


def written(model: nn.Module, x: Tensor, folder: Path) -> tuple[Written, Path]:
    """The file of a model with half its bytes, and that of its floats beside it."""
    runtime = get("onnxruntime")
    runtime.export(capture(model.eval(), (x,)).serialize(), folder / "exported.onnx")
    runtime.write(folder / "exported.onnx", folder / "float.onnx")
    return runtime.write(folder / "exported.onnx", folder / "half.onnx", rewrite=HALF), folder / "half.onnx"


def stored(path: Path) -> dict[tuple[int, ...], int]:
    """The types of constants by their shape."""
    return {tuple(tensor.dims): tensor.data_type for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("name", ["encoder", "recurrent", "residual", "joined", "film"])
def test_half_the_bytes_and_the_outputs_of_the_float_file(name: str, tmp_path: Path) -> None:
    runtime, made = get("onnxruntime"), exported(name)
    whole = runtime.write(made.path, tmp_path / "float.onnx")
    half = runtime.write(made.path, tmp_path / "half.onnx", rewrite=HALF)
    assert (half.form, half.facts["float32"]) == ("half", [])
    numbers = [numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "float.onnx").graph.initializer]
    spared = sum(array.nbytes for array in numbers if array.dtype == np.float32 and array.nbytes >= 128) // 2
    assert whole.size - half.size > spared - 40 * half.facts["float16"]
    x = batch(name, 64, seed=2)
    assert sqnr(run(tmp_path / "float.onnx", x), run(tmp_path / "half.onnx", x)) > 55
    onnx.checker.check_model(onnx.load(tmp_path / "half.onnx"), full_check=True)


def test_it_computes_in_float32_and_casts_nothing_when_it_runs(tmp_path: Path) -> None:
    get("onnxruntime").write(exported("recurrent").path, tmp_path / "half.onnx", rewrite=HALF)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "half.onnx", options)
    optimized = onnx.load(tmp_path / "optimized.onnx").graph
    assert "Cast" not in {node.op_type for node in optimized.node}
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in optimized.initializer}


@pytest.mark.parametrize(
    ("factor", "row", "stays"),
    [
        pytest.param(1.0, 1.0, False, id="usual weights"),
        pytest.param(1e7, 1.0, True, id="too large"),
        pytest.param(1e-6, 1.0, False, id="small"),
        pytest.param(1.0, 1e-6, False, id="one output, or one input, is small"),
        pytest.param(1.0, 1e-10, True, id="too small beside the others"),
        pytest.param(1.0, 1e-16, False, id="one is dead"),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_float32_stays_where_float16_cannot_hold_it(
    factor: float, row: float, stays: bool, axis: int, tmp_path: Path
) -> None:
    """A feature in millions has weights of a millionth: they matter as much as the others."""
    torch.manual_seed(0)
    layer = nn.Linear(24, 16)
    layer.weight.data *= factor
    layer.weight.data.select(axis, 3).mul_(row)
    x = torch.randn(8, 24)
    if axis == 1:
        x[:, 3] /= max(row, 1e-10)
    half, path = written(layer, x, tmp_path)
    assert half.facts["float32"] == (["weight"] if stays else [])
    assert half.notes == (
        ("100% of the weights stay float32, since float16 cannot hold them: weight",) if stays else ()
    )
    assert stored(path)[16, 24] == (TensorProto.FLOAT if stays else TensorProto.FLOAT16)
    floats, halves = run(tmp_path / "float.onnx", x), run(path, x)
    assert sqnr(floats, halves) > 60


class Tied(nn.Module):
    """A table that is looked up and multiplied with, and parameters that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(300, 24), nn.Parameter(torch.randn(7, 24))
        self.head = nn.Linear(24, 300, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("masked", torch.full((7, 24), -torch.inf).triu(20))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(ids) + self.places + self.masked.exp()))


def test_tied_weights_are_stored_once_and_what_lies_outside_of_layers_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 300, (4, 7))
    half, path = written(Tied(), ids, tmp_path)
    sizes = [numpy_helper.to_array(tensor).size for tensor in onnx.load(path).graph.initializer]
    assert sizes.count(300 * 24) == 1
    assert set(stored(path).values()) <= {TensorProto.FLOAT16, TensorProto.INT64}
    assert half.facts["float32"] == []
    assert sqnr(run(tmp_path / "float.onnx", ids), run(path, ids)) > 60
