"""A file of somebody else gets so much time and memory, and no more."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import boildown as bd


def saved(path, nodes, initializers=()):
    """An ONNX file from `x` of 4 numbers to `y`."""
    import onnx
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", ports[:1], ports[1:], list(initializers))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def endless(path):
    """A loop that always goes on."""
    from onnx import TensorProto, helper, numpy_helper

    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    rounds = numpy_helper.from_array(np.array(2**62, np.int64), "rounds")
    on = numpy_helper.from_array(np.array(True), "on_first")
    return saved(path, [helper.make_node("Loop", ["rounds", "on_first", "x"], ["y"], body=body)], [rounds, on])


def huge(path):
    """A tensor of 64 GB in a file of a few hundred bytes."""
    from onnx import helper, numpy_helper

    shape = numpy_helper.from_array(np.array([1 << 32, 4], np.int64), "shape")
    make = [helper.make_node("ConstantOfShape", ["shape"], ["big"])]
    rest = [helper.make_node("ReduceMax", ["big"], ["m"], keepdims=0), helper.make_node("Add", ["x", "m"], ["y"])]
    return saved(path, [*make, *rest], [shape])


@pytest.fixture
def task():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return bd.Classification(validation=(x, x.argmax(1)))


def test_a_file_that_never_answers_is_stopped(task, tmp_path):
    with pytest.raises(bd.InputError, match=r"more than 2 s.*(?s:.*)--limit"):
        bd.measure(endless(tmp_path / "model.onnx"), task, "accuracy >= 0.5", limit="2 s")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to it")
def test_a_file_that_asks_for_64_gb_is_stopped(task, tmp_path):
    with pytest.raises(bd.InputError, match=r"more than the 3\.0 GB that it may have"):
        bd.measure(huge(tmp_path / "model.onnx"), task, "accuracy >= 0.5", limit="60 s", memory=3e9)


def test_a_limit_that_is_no_time_is_refused(task, tmp_path):
    with pytest.raises(bd.InputError, match="The limit 'soon' cannot be read"):
        bd.measure(tmp_path / "model.onnx", task, "accuracy >= 0.5", limit="soon")
