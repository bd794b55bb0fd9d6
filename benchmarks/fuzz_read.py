"""ONNX files that are read as models, with what nobody meant to write in them: cases of `benchmarks.fuzz`."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from benchmarks.made_up import damaged
from boildown.surgery.onnx_in import read

Case = Callable[[Any], None]
Fuzzed = tuple[st.SearchStrategy[Any], Case]

MOST = 2 << 30
"""Bytes by which reading may grow the process."""

_GRAPHS = {
    "y = Conv <pads = [1, 1, 1, 1]> (x, w); a = Relu (y); b = MaxPool <kernel_shape = [2, 2]> (a); "
    "c = GlobalAveragePool (b); d = Flatten (c); z = Gemm (d, v, u)": {"w": (4, 2, 3, 3), "v": (4, 3), "u": (3,)},
    "s = Shape (x); i = Constant <value_int = 0> (); n = Gather (s, i); a = Constant <value_ints = [0]> (); "
    "b = Unsqueeze (n, a); m = Constant <value_ints = [-1]> (); c = Concat <axis = 0> (b, m); d = Reshape (x, c); "
    "z = Softmax <axis = -1> (d)": {},
    "a = QuantizeLinear (x, e, o); b = DequantizeLinear (a, e, o); c = DequantizeLinear <axis = 0> (q, f, g); "
    "z = Conv (b, c)": {"e": (), "o": "zero", "q": "integers", "f": (4,), "g": "zeros"},
    "a = Flatten (x); b, s, o = DynamicQuantizeLinear (a); c = MatMulInteger (b, q, o); d = Cast <to = 1> (c); "
    "z = Mul (d, s)": {"q": "table"},
    "s = Shape (x); a = ConstantOfShape (s); b = Add (a, x); c = Resize <mode = \"linear\"> (b, , f); "
    "d = Pad (c, p); z = Transpose <perm = [0, 2, 3, 1]> (d)": {"f": (4,), "p": "pads"},
    "a = Reshape (x, p); b, c, d = LSTM <hidden_size = 3> (a, w, r); z = Squeeze (b, p)": {
        "w": (1, 12, 4), "r": (1, 12, 3), "p": "three"},
    "s = ReduceSum <keepdims = 0> (x); c = Greater (s, e); "
    "z = If (c) <then_branch = t () => (float[n] a) { a = Relu (x) }, else_branch = f () => (float[n] b) "
    "{ b = Neg (x) }>": {"e": ()},
    "a = Expand (x, p); b = Tile (a, p); c = ConstantOfShape (p); d = ReduceSum (c); z = Add (b, d)": {"p": "pads4"},
}  # fmt: skip
"""Nodes, and the shapes of their weights."""

_WHOLE: dict[str, np.ndarray] = {
    "zero": np.uint8(0), "zeros": np.zeros(4, np.int8), "integers": np.ones((4, 2, 3, 3), np.int8),
    "table": np.ones((128, 3), np.uint8), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "three": np.array([8, 2, 4]),
    "pads4": np.array([1, 2, 1, 1]),
}  # fmt: skip
_KINDS = ("Relu", "Add", "MatMul", "Loop", "If", "Expand", "Tile", "Range", "ConstantOfShape", "Reshape", "Slice",
          "Pad", "OneHot", "LSTM", "GRU", "Resize", "QLinearConv", "Constant", "Identity", "Cast", "Split", "Gather",
          "TopK", "SequenceAt", "", "x" * 300)  # fmt: skip
_SIZES = st.sampled_from([0, 1, -1, 2, 3, 7, 255, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)])
_NAMES = ("x", "a", "b", "c", "z", "w", "", "nothing", "\0", "x/float")


@cache
def models() -> tuple[bytes, ...]:
    """Whole files."""
    found = []
    for nodes, weights in _GRAPHS.items():
        kept = [
            numpy_helper.from_array(
                np.asarray(_WHOLE[shape] if isinstance(shape, str) else np.ones(shape, np.float32)), n
            )
            for n, shape in weights.items()
        ]
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                 for name, shape in (("x", ["n", 2, 8, 8]), ("z", None))]  # fmt: skip
        parsed = [parser.parse_node(line.strip()) for line in nodes.split(";")]
        graph = helper.make_graph(parsed, "g", ports[:1], ports[1:], kept)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        found.append(bytes(made.SerializeToString()))
    return tuple(found)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A file that parses, with up to four things in it that do not belong there."""
    model = ModelProto.FromString(draw(st.sampled_from(models())))
    for _ in range(draw(st.integers(1, 4))):
        graph = model.graph
        node = graph.node[draw(st.integers(0, len(graph.node) - 1))] if graph.node else None
        what = draw(st.integers(0, 11))
        if what == 0 or node is None:
            model.opset_import[0].version = draw(_SIZES) if model.opset_import else 0
        elif what == 1:
            node.op_type = draw(st.sampled_from(_KINDS))
        elif what == 2 and node.input:
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(_NAMES))
        elif what == 3 and node.output:
            node.output[draw(st.integers(0, len(node.output) - 1))] = draw(st.sampled_from(_NAMES))
        elif what == 4 and node.attribute:
            attribute = node.attribute[draw(st.integers(0, len(node.attribute) - 1))]
            attribute.type = draw(st.integers(0, 14))
        elif what == 5 and node.attribute:
            attribute = node.attribute[draw(st.integers(0, len(node.attribute) - 1))]
            attribute.i, attribute.f = draw(_SIZES), draw(st.floats(width=32))
            del attribute.ints[:]
            attribute.ints.extend(draw(st.lists(_SIZES, max_size=5)))
        elif what == 6:
            node.domain = draw(st.sampled_from(["", "ai.onnx", "com.microsoft", "com.acme", "ai.onnx.ml"]))
        elif what == 7 and graph.initializer:
            tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
            del tensor.dims[:]
            tensor.dims.extend(draw(st.lists(_SIZES, max_size=4)))
        elif what == 8 and graph.initializer:
            tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
            tensor.data_type = draw(st.integers(0, 24))
        elif what == 9 and graph.initializer:
            at = draw(st.integers(0, len(graph.initializer) - 1))
            values = np.array(draw(st.lists(_SIZES, max_size=4)), np.int64)
            graph.initializer[at].CopyFrom(numpy_helper.from_array(values, graph.initializer[at].name))
        elif what == 10:
            graph.node.extend([node])
        else:
            graph.node.remove(node)
    return bytes(model.SerializeToString())


def files(folder: Path) -> Fuzzed:
    """Files that are damaged byte by byte, and files that parse."""
    path = folder / "read.onnx"

    def case(data: bytes) -> None:
        path.write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read(path)
        finally:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown * (1 if sys.platform == "darwin" else 1024) < MOST, f"it grew by {grown}"

    return changed() | st.sampled_from(models()).flatmap(lambda whole: damaged(whole, 4096)), case
