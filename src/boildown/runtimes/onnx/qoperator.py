"""From the Q/DQ form to the QOperator form: nodes that compute on integers themselves.

Both forms run on the same integer kernels and give equal outputs; this one has fewer nodes. What
has no integer operator keeps its DequantizeLinear and QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from boildown.runtimes.base import Array
from boildown.runtimes.onnx.lean import add_constant, constant, tidy
from boildown.runtimes.onnx.qdq import dequantized, only_reader

_CONTRIB = "com.microsoft"


def convert(model: ir.Model) -> None:
    """Replace DequantizeLinear -> operator -> QuantizeLinear by an integer operator, in place."""
    model.opset_imports[_CONTRIB] = 1
    for node in list(model.graph):
        rule = _RULES.get(node.op_type)
        if rule is not None:
            rule(model.graph, node)
    tidy(model)


def _conv(graph: ir.Graph, node: ir.Node) -> None:
    data, weight, result = dequantized(node.inputs[0]), dequantized(node.inputs[1]), _quantizer(node)
    bias = dequantized(node.inputs[2]) if len(node.inputs) > 2 else None
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    if data is None or weight is None or result is None or (has_bias and bias is None):
        return
    if weight[0].dtype != ir.DataType.INT8:
        return
    inputs = [*data, *weight[:2], _zero(graph), *result.inputs[1:3], *((bias[0],) if bias else ())]
    _replace(graph, node, result, ir.node("QLinearConv", inputs, node.attributes))


def _gemm(graph: ir.Graph, node: ir.Node) -> None:
    """QGemm; without a quantizer behind it, it gives floats."""
    data, weight, result = dequantized(node.inputs[0]), dequantized(node.inputs[1]), _quantizer(node)
    bias = dequantized(node.inputs[2]) if len(node.inputs) > 2 else None
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    if data is None or weight is None or (has_bias and bias is None) or weight[0].dtype != ir.DataType.INT8:
        return
    inputs = [*data, *weight[:2], _zeros_like(graph, weight[1]), bias[0] if bias else None]
    attributes = {name: node.attributes[name] for name in ("alpha", "transA", "transB") if name in node.attributes}
    if result is not None:
        inputs += result.inputs[1:3]
    _replace(graph, node, result, ir.node("QGemm", inputs, attributes, domain=_CONTRIB))


def _matmul(graph: ir.Graph, node: ir.Node) -> None:
    """QLinearMatMul, or a product that gives floats and adds its bias."""
    left, right, result = dequantized(node.inputs[0]), dequantized(node.inputs[1]), _quantizer(node)
    if left is None or right is None or right[0].dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
        return
    right_zero = right[2] if right[2] is not None else _zeros_like(graph, right[1])
    if result is not None:
        inputs = [*left, *right[:2], right_zero, *result.inputs[1:3]]
        _replace(graph, node, result, ir.node("QLinearMatMul", inputs))
        return
    inputs = [left[0], right[0], left[1], right[1], left[2], right_zero]
    add = only_reader(node.outputs[0], "Add")
    bias = next((v for v in add.inputs if v is not node.outputs[0]), None) if add is not None else None
    array = constant(bias)
    if add is not None and array is not None and array.ndim == 1:
        node, inputs = add, [*inputs, bias]
    _replace(graph, node, None, ir.node("MatMulIntegerToFloat", inputs, domain=_CONTRIB))


def _elementwise(graph: ir.Graph, node: ir.Node) -> None:
    left, right, result = dequantized(node.inputs[0]), dequantized(node.inputs[1]), _quantizer(node)
    if left is None or right is None or result is None:
        return
    integer = ir.node(f"QLinear{node.op_type}", [*left, *right, *result.inputs[1:3]], domain=_CONTRIB)
    _replace(graph, node, result, integer)


def _function(graph: ir.Graph, node: ir.Node) -> None:
    """A table of all its values, or an average."""
    data, result = dequantized(node.inputs[0]), _quantizer(node)
    if data is None or result is None:
        return
    inputs = [*data, *result.inputs[1:3]]
    _replace(graph, node, result, ir.node(f"QLinear{node.op_type}", inputs, node.attributes, domain=_CONTRIB))


def _concat(graph: ir.Graph, node: ir.Node) -> None:
    """Integers on one grid are joined as they are."""
    parts, result = [dequantized(value) for value in node.inputs], _quantizer(node)
    if result is None or not all(parts):
        return
    known = [part for part in parts if part is not None]
    if all(_same_grid(part, result) for part in known):
        _replace(graph, node, result, ir.node("Concat", [part[0] for part in known], node.attributes))
        return
    inputs = [*result.inputs[1:3], *(value for part in known for value in part)]
    _replace(graph, node, result, ir.node("QLinearConcat", inputs, node.attributes, domain=_CONTRIB))


def _movement(graph: ir.Graph, node: ir.Node) -> None:
    """An operator that only moves values works on the integers, if the grid stays the same."""
    data, result = dequantized(node.inputs[0]), _quantizer(node)
    if data is None or result is None or not _same_grid(data, result) or len(node.outputs) != 1:
        return
    if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest":
        return
    inputs = [data[0], *node.inputs[1:]]
    if node.op_type == "Pad":
        fill = _fill(graph, node, result)
        if fill is None:
            return
        inputs[2:3] = [fill]
    _replace(graph, node, result, ir.node(node.op_type, inputs, node.attributes))


_RULES: dict[str, Callable[[ir.Graph, ir.Node], None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _elementwise,
    "Mul": _elementwise,
    "Concat": _concat,
    "Sigmoid": _function,
    "LeakyRelu": _function,
    "GlobalAveragePool": _function,
    **dict.fromkeys(
        (
            *("DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize"),
            *("Slice", "SpaceToDepth", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
        ),
        _movement,
    ),
}


def _quantizer(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear that alone reads the node's result."""
    return only_reader(node.outputs[0], "QuantizeLinear")


def _same_grid(data: Sequence[ir.Value | None], result: ir.Node) -> bool:
    """Whether data has the scale, zero point and type that the quantizer `result` gives."""
    pairs = [(constant(a), constant(b)) for a, b in zip(data[1:], result.inputs[1:3], strict=True)]
    return all(a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def _fill(graph: ir.Graph, pad: ir.Node, result: ir.Node) -> ir.Value | None:
    """The integer that a Pad fills with; `None` if it is not known."""
    given = pad.inputs[2] if len(pad.inputs) > 2 else None
    scale, zero = constant(result.inputs[1]), constant(result.inputs[2])
    fill = constant(given) if given is not None else np.float32(0)
    if fill is None or scale is None or zero is None:
        return None
    limits = np.iinfo(zero.dtype)
    integer = np.clip(np.rint(fill / scale) + zero, limits.min, limits.max).astype(zero.dtype)
    return _constant(graph, integer.reshape(()))


def _replace(graph: ir.Graph, node: ir.Node, result: ir.Node | None, integer: ir.Node) -> None:
    """Put `integer` in the place of `node` and, where there is one, of the quantizer behind it."""
    old, new = (result or node).outputs[0], integer.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.name = f"{old.name}/replaced"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.insert_after(node, integer)


def _zero(graph: ir.Graph, shape: tuple[int, ...] = ()) -> ir.Value:
    """The zero point of all weights, in the shape of their scales where an operator asks for that."""
    return _constant(graph, np.zeros(shape, np.int8))


def _zeros_like(graph: ir.Graph, scale: ir.Value) -> ir.Value:
    known = constant(scale)
    return _zero(graph, () if known is None else known.shape)


def _constant(graph: ir.Graph, array: Array) -> ir.Value:
    return add_constant(graph, f"/{array.dtype}/{array.shape}/{array.tobytes().hex()}", array)
