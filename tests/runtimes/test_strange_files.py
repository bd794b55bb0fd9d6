"""Files of strangers: nothing outside their folder is read, nothing huge is taken at its word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

from boildown.domain.artifact import Artifact
from boildown.errors import InputError, ModelError
from boildown.runtimes import get
from boildown.runtimes.onnx.external import external_files
from boildown.surgery.checkpoints import load
from boildown.training.checkpoint import Checkpoint


def value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def outside(name: str = "w", location: str = "../secret.bin", shape: tuple[int, ...] = (4,)) -> onnx.TensorProto:
    """A tensor whose numbers lie in another file."""
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value=location)
    return made


def model(*nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = (), output: str = "y") -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [value("x", [1, 4])], [value(output, [1, 4])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def written(made: onnx.ModelProto, folder: Path) -> Path:
    """The file in a folder of its own, with a secret beside that folder."""
    (folder / "given").mkdir()
    (folder / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    path = folder / "given" / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def hidden_in_a_branch() -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["k"], value=outside())
    branch = helper.make_graph([constant], "branch", [], [value("k", [4])])
    when = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return model(when, helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def hidden_in_a_function() -> onnx.ModelProto:
    made = model(helper.make_node("Add", ["x", "x"], ["y"]))
    node = helper.make_node("Constant", [], ["k"], value=outside())
    made.functions.append(helper.make_function("own", "f", [], ["k"], [node], [helper.make_opsetid("", 20)]))
    return made


def hidden_in_a_sparse_tensor() -> onnx.ModelProto:
    made = model(helper.make_node("Add", ["x", "x"], ["y"]))
    made.graph.sparse_initializer.add(values=outside(), dims=[9])
    return made


def hidden_behind_a_second_name() -> onnx.ModelProto:
    tensor = outside(location="beside.bin")
    tensor.external_data.add(key="location", value="../secret.bin")
    return model(helper.make_node("Add", ["x", "w"], ["y"]), weights=(tensor,))


@pytest.mark.parametrize(
    "make", [hidden_in_a_branch, hidden_in_a_function, hidden_in_a_sparse_tensor, hidden_behind_a_second_name]
)
def test_data_outside_the_folder_is_found_wherever_it_hides(make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside its folder"):
        get("onnxruntime").open(written(make(), tmp_path))


@pytest.mark.parametrize("location", ["/etc/passwd", "link.bin", "a/../../secret.bin", "beside.bin\0/../../x"])
def test_no_name_leads_out_of_the_folder(location: str, tmp_path: Path) -> None:
    path = written(model(helper.make_node("Add", ["x", "w"], ["y"]), weights=(outside(location=location),)), tmp_path)
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InputError, match="outside its folder"):
        external_files(path)
    with pytest.raises(InputError, match="outside its folder"):
        get("onnxruntime").files(path)


def test_weights_beside_a_file_count_in_its_size(tmp_path: Path) -> None:
    made = model(helper.make_node("Add", ["x", "w"], ["y"]), weights=(outside(location="weights.bin"),))
    path = written(made, tmp_path)
    (path.parent / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    assert external_files(path) == ((path.parent / "weights.bin").resolve(),)
    artifact = Artifact.read("onnxruntime", path, get("onnxruntime").files(path))
    assert artifact.size == path.stat().st_size + 16


def test_huge_declared_tensors_are_refused(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**20], raw_data=b"1234")
    path = written(model(helper.make_node("Add", ["x", "w"], ["y"]), weights=(tensor,)), tmp_path)
    with pytest.raises(InputError, match="not a model ONNX Runtime can load"):
        get("onnxruntime").open(path)


def test_a_tensor_that_is_made_huge_at_run_time_is_refused(tmp_path: Path) -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [2**45])
    nodes = (
        helper.make_node("ConstantOfShape", ["s"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["one"], keepdims=0),
        helper.make_node("Add", ["x", "one"], ["y"]),
    )
    path = written(model(*nodes, weights=(shape,)), tmp_path)
    with pytest.raises(InputError):
        get("onnxruntime").open(path).run([np.ones((1, 4), np.float32)])


def test_outputs_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    made = model(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING))
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    path = written(made, tmp_path)
    with pytest.raises(InputError, match="no numbers"):
        get("onnxruntime").open(path).run([np.ones((1, 4), np.float32)])


def headed(header: object, length: int | None = None, body: bytes = b"\0" * 64) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


TENSOR = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}


@pytest.mark.parametrize(
    "data",
    [
        headed({"weight": TENSOR}, length=2**63),
        headed({"weight": TENSOR}, length=2**31),
        headed({"weight": TENSOR}, length=200),
        headed({"weight": {**TENSOR, "shape": [2**40, 2**20]}}),
        headed({"weight": {**TENSOR, "shape": [-4, -4]}}),
        headed({"weight": {**TENSOR, "data_offsets": [0, 2**50]}}),
        headed({"weight": {**TENSOR, "data_offsets": [32, 0]}}),
        headed({"weight": {**TENSOR, "dtype": "OBJECT"}}),
        headed({"weight": TENSOR, "bias": TENSOR}),
        headed([1, 2]),
        headed({"weight": TENSOR})[:-10],
        b"",
        b"\xff" * 8,
    ],
    ids=(
        *("longest", "long", "longer", "huge", "negative", "far", "backwards"),
        *("kind", "twice", "list", "cut", "empty", "ff"),
    ),
)  # fmt: skip
def test_a_false_header_of_safetensors_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "given.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="no readable safetensors file"):
        load(nn.Linear(4, 4, bias=False), path)
    told: list[str] = []
    assert Checkpoint.read(path, told.append) is None
    assert "damaged" in told[0]


def test_the_header_that_is_told_apart_is_read(tmp_path: Path) -> None:
    """The same file without a fault in it is no error."""
    (tmp_path / "given.safetensors").write_bytes(headed({"weight": TENSOR}))
    load(nn.Linear(4, 4, bias=False), tmp_path / "given.safetensors")
    save_file({"weight": torch.eye(4)}, tmp_path / "good.safetensors")
    load(nn.Linear(4, 4, bias=False), tmp_path / "good.safetensors")
