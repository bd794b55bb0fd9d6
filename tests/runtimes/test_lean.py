from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx import numpy_helper as nph
from runtime_networks import batch, exported, run, sqnr
from torch import Tensor, nn

from boildown.domain.candidate import Edit
from boildown.runtimes import get
from boildown.runtimes.onnx import lean
from boildown.surgery.graph import capture


def _model(nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "long name",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [nph.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("name", ["residual", "encoder", "joined", "waves", "recurrent"])
def test_the_lean_file_gives_the_same_bits_and_tells_nothing(name: str, tmp_path: Path) -> None:
    made = exported(name)
    written = get("onnxruntime").write(made.path, tmp_path / "lean.onnx")
    data = (tmp_path / "lean.onnx").read_bytes()
    assert (written.size, written.form) == (len(data), "float")
    assert written.facts == {"exported": made.path.stat().st_size}
    assert written.size < made.path.stat().st_size
    x = batch(name, 4, seed=7)
    ours, theirs = run(tmp_path / "lean.onnx", x), run(made.path, x)
    assert sqnr(theirs, ours) > 120 if name == "encoder" else np.array_equal(ours, theirs)  # sums in another order
    for told in (b"torch", b".py", b"head", b"pkg"):
        assert told not in data
    onnx.checker.check_model(onnx.load(tmp_path / "lean.onnx"), full_check=True)


def test_layer_norms_of_a_transformer_are_still_fused(tmp_path: Path) -> None:
    """ONNX Runtime fuses them only if it knows the shape behind a Reshape, so that one is kept."""
    made = exported("encoder")
    model = onnx.load(made.path)
    lean.strip(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("SkipLayerNormalization") == 2


def _padded(pads: list[int], *, mode: str = "constant", fill: float = 0.0) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Pad", ["x", "pads", "fill"], ["p"], mode=mode),
        helper.make_node("Conv", ["p", "w"], ["y"], pads=[1, 0, 1, 0]),
    ]
    arrays = {
        "pads": np.array(pads, np.int64),
        "fill": np.float32(fill),
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
    }
    return _model(nodes, arrays, (2, 3, 8, 8))


def test_zero_padding_moves_into_the_convolution() -> None:
    before = _padded([0, 0, 0, 1, 0, 0, 2, 1])
    model = ir.from_proto(before)
    lean.clean(model)
    assert [node.op_type for node in model.graph] == ["Conv"]
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(_run(ir.to_proto(model), x), _run(before, x))


@pytest.mark.parametrize(
    "untouched",
    [
        _padded([0, 0, 0, 1, 0, 0, 2, 1], fill=1.0),
        _padded([0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"),
        _padded([0, 0, 0, -1, 0, 0, 0, 0]),
        _padded([1, 0, 0, 0, 0, 0, 0, 0]),
    ],
    ids=["ones", "reflected", "negative", "batch"],
)
def test_other_padding_stays(untouched: onnx.ModelProto) -> None:
    model = ir.from_proto(untouched)
    lean.clean(model)
    assert [node.op_type for node in model.graph] == ["Pad", "Conv"]


def test_strip_reaches_into_branches() -> None:
    """Names of outer values are replaced inside the branches of an If as well."""
    x_outer = [
        helper.make_node("Relu", ["x"], ["outer"], name="n", doc_string="d"),
        helper.make_node("ReduceSum", ["outer", "axes"], ["sum"], keepdims=0),
        helper.make_node("Constant", [], ["limit"], value=nph.from_array(np.float32(1.0))),
        helper.make_node("Greater", ["sum", "limit"], ["more"]),
    ]
    branches = {
        name: helper.make_graph(
            [helper.make_node(kind, ["outer"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
        )
        for name, kind in (("then_branch", "Neg"), ("else_branch", "Abs"))
    }
    model = _model([*x_outer, helper.make_node("If", ["more"], ["y"], **branches)], {"axes": np.array([0])}, (4,))
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    lean.strip(stripped)
    assert all(len(node.output[0]) == 1 and not node.name for node in stripped.graph.node)
    assert [opset.domain for opset in stripped.opset_import] == [""]
    assert "Constant" not in {node.op_type for node in stripped.graph.node}
    for x in (np.full(4, 3, np.float32), np.full(4, -3, np.float32)):
        np.testing.assert_array_equal(_run(stripped, x), _run(model, x))


def test_equal_initializers_are_kept_once_and_defaults_dropped() -> None:
    ones = np.ones((2, 3, 8, 8), np.float32)
    nodes = [
        helper.make_node("Add", ["x", "a"], ["s"]),
        helper.make_node("Mul", ["s", "b"], ["m"]),
        helper.make_node("Softmax", ["m"], ["t"], axis=-1),
        helper.make_node("Transpose", ["t"], ["y"], perm=[0, 2, 3, 1]),
    ]
    model = _model(nodes, {"a": ones, "b": ones}, (2, 3, 8, 8))
    expected = _run(model, ones)
    names = lean.strip(model)
    assert len(model.graph.initializer) == 1
    assert [len(node.attribute) for node in model.graph.node] == [0, 0, 0, 1]
    assert {"s", "m", "t"} <= set(names)
    assert "y" not in names
    np.testing.assert_array_equal(_run(model, ones), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_a_table_and_its_transpose_are_kept_once(dtype: type) -> None:
    table = np.arange(64 * 16).reshape(64, 16).astype(dtype)
    square = np.diag(np.arange(32)).astype(dtype)  # it is its own transpose
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Cast", ["head"], ["h"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["rows"], ["r"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["r", "h"], ["y"]),
        helper.make_node("Cast", ["square"], ["z"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes, "tied", [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 64]),
         helper.make_tensor_value_info("z", TensorProto.FLOAT, [32, 32])],
        [nph.from_array(table.T.copy(), "head"), nph.from_array(table, "table"), nph.from_array(square, "square")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    before = model.SerializeToString()
    lean.strip(model)
    assert sorted(tuple(tensor.dims) for tensor in model.graph.initializer) == [(32, 32), (64, 16)]
    assert [node.op_type for node in model.graph.node] == ["Transpose", "Gather", "Cast", "Cast", "MatMul", "Cast"]
    feeds = {"ids": np.array([5, 0, 63])}
    results = [onnxruntime.InferenceSession(data).run(None, feeds) for data in (before, model.SerializeToString())]
    assert all(np.array_equal(old, new) for old, new in zip(*results, strict=True))


class Tied(nn.Module):
    """Words to words, by one table."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(300, 16), nn.Linear(16, 300, bias=bias)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids).relu())


@pytest.mark.parametrize(("bias", "axes"), [(True, 1), (True, 2), (False, 2)])
def test_a_tied_table_is_written_once_and_its_head_still_becomes_integer(bias: bool, axes: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = Tied(bias).eval(), torch.randint(300, (4, 7)[:axes])
    runtime = get("onnxruntime")
    runtime.export(capture(model, (ids,)).serialize(), tmp_path / "exported.onnx")
    assert runtime.write(tmp_path / "exported.onnx", tmp_path / "float.onnx").size < 300 * 16 * 4 + 2500
    written = runtime.write(tmp_path / "exported.onnx", tmp_path / "int8.onnx", rewrite=Edit("quantize-dynamic", 1, {}))
    assert written.facts["integer_operators"]["MatMulInteger"] == 1
    with torch.no_grad():
        wanted = model(ids).numpy()
    for name, least in (("float", 100.0), ("int8", 30.0)):
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
        (found,) = session.run(None, {session.get_inputs()[0].name: ids.numpy()})
        assert sqnr(found, wanted) > least
