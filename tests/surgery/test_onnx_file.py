"""A file as a network: its names, its types, and batches of any size where the file takes one."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from boildown.errors import ModelError
from boildown.runtimes.calls import run
from boildown.surgery.factories import call_factory
from boildown.surgery.graph import capture
from boildown.surgery.onnx_apart import first_apart
from boildown.surgery.onnx_file import factory_of, file_of, fixed_batch


def written(path, nodes, inputs, outputs, weights=(), opset=17):
    ports = [
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in side] for side in (inputs, outputs)
    ]
    made = [numpy_helper.from_array(array, name) for name, array in dict(weights).items()]
    graph = helper.make_graph(nodes, "g", *ports, made)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def two_inputs(path, kind=TensorProto.FLOAT):
    dtype = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}[kind]
    return written(
        path,
        [
            helper.make_node("MatMul", ["a.1", "w"], ["left"]),
            helper.make_node("Add", ["left", "class"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["y:0"]),
        ],
        [("a.1", kind, ["n", 3]), ("class", kind, ["n", 2])], [("y:0", kind, ["n", 2])],
        {"w": np.arange(6, dtype=dtype).reshape(3, 2)},
    )  # fmt: skip


def test_a_file_is_called_by_position_or_by_its_own_names(tmp_path):
    model = call_factory(factory_of(two_inputs(tmp_path / "two.onnx")))
    a, b = torch.ones(4, 3), torch.full((4, 2), -7.0)
    assert model(a, b).tolist() == [[0.0, 2.0]] * 4
    assert model(**{"class": b, "a.1": a}).tolist() == [[0.0, 2.0]] * 4
    assert [*inspect.signature(model.forward).parameters] == ["a_1", "class_"]
    assert file_of(copy.deepcopy(model)) == file_of(model)
    graph = capture(model, (a, b))
    assert graph.program.graph_signature.user_inputs == ("a_1", "class_")
    assert file_of(model).ports["axes"] == {"inputs": [["n", 3], ["n", 2]], "outputs": [["n", 2]]}


def test_a_file_in_float16_keeps_its_types_and_computes_in_float32(tmp_path):
    model = call_factory(factory_of(two_inputs(tmp_path / "half.onnx", TensorProto.FLOAT16)))
    assert file_of(model).half
    assert [port.dtype for port in (*file_of(model).inputs, *file_of(model).outputs)] == [torch.float16] * 3
    found = model(torch.ones(4, 3).half(), torch.full((4, 2), -7.0).half())
    assert (found.dtype, found.tolist()) == (torch.float16, [[0.0, 2.0]] * 4)


def test_another_file_in_its_place_is_refused(tmp_path):
    file = two_inputs(tmp_path / "two.onnx")
    factory = factory_of(file)
    model = onnx.load(file)
    model.producer_name = "another"
    onnx.save(model, file)
    with pytest.raises(ModelError, match="is not the file that the run began with"):
        call_factory(factory)
    file.unlink()
    with pytest.raises(ModelError, match="There is no file"):
        call_factory(factory)


def one_at_a_time(path):
    """Reshapes to a batch of one, by a constant that two of them share, and by a node; the last needs no change."""
    return written(
        path,
        [
            helper.make_node("Constant", [], ["flat"], value=numpy_helper.from_array(np.array([1, 12]))),
            helper.make_node("Reshape", ["x", "flat"], ["a"]),
            helper.make_node("Reshape", ["a", "shape"], ["b"]),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("Reshape", ["c", "shape"], ["d"]),
            helper.make_node("Reshape", ["w", "shape"], ["e"]),
            helper.make_node("Add", ["d", "e"], ["f"]),
            helper.make_node("ReduceSum", ["f", "axes"], ["y"], keepdims=0),
        ],
        [("x", TensorProto.FLOAT, [1, 3, 4])], [("y", TensorProto.FLOAT, [1, 4])],
        {"shape": np.array([1, 3, -1]), "w": np.arange(12, dtype=np.float32), "axes": np.array([1])},
    )  # fmt: skip


def test_a_file_for_one_sample_is_read_for_any_number_and_run_in_parts(tmp_path):
    file = one_at_a_time(tmp_path / "one.onnx")
    model = call_factory(factory_of(file))
    assert file_of(model).batch == 1
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    assert not capture(model, (x[:2],)).static_batch
    (parts,) = run("onnxruntime", str(file), 1, [x.numpy()])
    assert parts.shape == (5, 4)
    np.testing.assert_allclose(model(x).detach().numpy(), parts, rtol=1e-6)


def test_a_batch_is_fixed_where_all_inputs_say_the_same():
    assert fixed_batch([(4, 3), (), (4,)]) == 4
    assert fixed_batch([("n", 3)]) is None
    assert fixed_batch([(4, 3), (2, 1)]) is None
    assert fixed_batch([]) is None


def test_where_a_file_and_what_was_read_part_is_named(tmp_path, monkeypatch):
    file = two_inputs(tmp_path / "two.onnx")
    arrays = [np.ones((4, 3), np.float32), np.full((4, 2), -7, np.float32)]
    assert first_apart(str(file), arrays) is None
    monkeypatch.setattr(torch.Tensor, "__add__", torch.Tensor.sub)
    monkeypatch.setattr(torch, "add", torch.sub)
    assert "(Add), which makes 'sum'" in first_apart(str(file), arrays)
