"""Recurrent layers whose weights are integers, laid into a float graph.

Where the plan says `dynamic`, the runtime finds grids for what is multiplied while it runs: an LSTM becomes ONNX
Runtime's DynamicQuantizeLSTM, the products of cells and of layers in a loop become DynamicQuantizeMatMul. Elsewhere the
weights alone are integers, and are turned into floats when a session is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from boildown.domain.candidate import Plan, Quantizer
from boildown.runtimes.base import Array
from boildown.runtimes.onnx.lean import GATES, TRANSPOSED, add_constant, constant

_CONTRIB = "com.microsoft"
_ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""Where the gates of ONNX's operators stand among PyTorch's."""


def gate_matrices(values: Sequence[Array], op_type: str) -> Array:
    """PyTorch's matrices, or rows, of a layer's directions as ONNX's operator takes them."""
    order = _ORDERS[op_type]
    return np.stack([np.concatenate([np.split(value, len(order))[gate] for gate in order]) for value in values])


def parameters(value: ir.Value | None) -> list[str]:
    """The parameters that a weight of a recurrent operator was made from, one for each direction; none for others."""
    name = (value.name or "") if value is not None else ""
    return name.removesuffix(GATES).split(" ") if name.endswith(GATES) else []


def quantize_sequences(graph: ir.Graph, plan: Plan) -> None:
    """Store the weights of LSTM and GRU operators that the plan names as integers."""
    for node in [node for node in graph if node.op_type in _ORDERS]:
        weights = [value for value in node.inputs[1:3] if value is not None and {*parameters(value)} & {*plan.weights}]
        if not weights:
            continue
        found = [_integers(weight, plan, node.op_type) for weight in weights]
        if node.op_type == "LSTM" and {*parameters(weights[0])} & {*plan.dynamic}:
            _multiply_in_integers(graph, node, found)
            continue
        for position, (weight, (integers, scale)) in enumerate(zip(weights, found, strict=True), start=1):
            nodes = scaled(graph, add_constant(graph, f"{weight.name}/q", integers), scale)
            graph.insert_before(node, nodes)
            node.replace_input_with(position, nodes[-1].outputs[0])


def _integers(weight: ir.Value, plan: Plan, op_type: str) -> tuple[Array, Array]:
    """A weight (directions, gates, inputs) as integers, and their scales."""
    array, quantizers = constant(weight), [plan.weights[name] for name in parameters(weight)]
    assert array is not None  # an exported one is
    rows = [np.broadcast_to(np.asarray(quantizer.scale, np.float32), array.shape[1:2]) for quantizer in quantizers]
    scale = gate_matrices(rows, op_type)[..., None]
    return _rounded(array, scale, quantizers[0]), scale


def _rounded(array: Array, scale: Array, quantizer: Quantizer) -> Array:
    return np.clip(np.rint(array / scale), *quantizer.limits).astype(np.int8)


def _multiply_in_integers(graph: ir.Graph, node: ir.Node, weights: Sequence[tuple[Array, Array]]) -> None:
    """Put a DynamicQuantizeLSTM in the place of an LSTM; it takes its weights with the gates as columns."""
    inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
    for position, (integers, scale) in enumerate(weights, start=1):
        stem = " ".join(parameters(node.inputs[position])) + GATES
        columns = np.ascontiguousarray(integers.transpose(0, 2, 1))
        inputs[position] = add_constant(graph, f"{stem}/q{TRANSPOSED}", columns)
        inputs.append(add_constant(graph, f"{stem}/scale", scale[..., 0]))
        inputs.append(add_constant(graph, f"{stem}/zero", np.zeros(scale.shape[:2], np.int8)))
    attributes = {name: node.attributes[name] for name in _KEPT if name in node.attributes}
    outputs = [ir.val(value.name, type=value.type, shape=value.shape) for value in node.outputs]
    integer = ir.node("DynamicQuantizeLSTM", inputs, attributes, domain=_CONTRIB, outputs=outputs)
    for old, new in zip(node.outputs, outputs, strict=True):
        old.name = f"{old.name}/replaced"
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.insert_after(node, integer)


_KEPT = ("activations", "activation_alpha", "activation_beta", "clip", "direction", "hidden_size", "input_forget")
"""Attributes of an LSTM that its integer twin has."""


def quantize_products(graph: ir.Graph, weight: ir.Value, quantizer: Quantizer) -> None:
    """Let every product with a weight find a grid for what it multiplies, and add its bias, in one operator."""
    array, name = constant(weight), weight.name or ""
    assert array is not None  # named among the initializers
    scale = np.asarray(quantizer.scale, np.float32)
    columns = array if name.endswith(TRANSPOSED) else array.T
    integers = np.ascontiguousarray(_rounded(columns, scale, quantizer))
    stored = add_constant(graph, f"{name}/q", integers)
    steps = add_constant(graph, f"{name}/scale", scale if len(scale) > 1 else scale[0])
    for node in [use.node for use in weight.uses()]:
        added, result = node.inputs[2] if len(node.inputs) > 2 else None, node.outputs[0]
        vector = constant(added)
        bias = added if vector is not None and vector.shape == integers.shape[1:] else None
        product = ir.node("DynamicQuantizeMatMul", [node.inputs[0], stored, steps, None, bias], domain=_CONTRIB)
        nodes = [product]
        if added is not bias:
            product.outputs[0].name = f"{result.name}/product"
            nodes.append(ir.node("Add", [product.outputs[0], added]))
        new = nodes[-1].outputs[0]
        new.name, new.type, new.shape = result.name, result.type, result.shape
        result.name = f"{result.name}/replaced"
        result.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.insert_after(node, nodes)


def scaled(graph: ir.Graph, stored: ir.Value, scale: Array) -> list[ir.Node]:
    """Integers times scale as float arithmetic, for layers that read floats.

    ONNX Runtime folds these nodes when a session is made, so such a layer runs at float speed; a
    DequantizeLinear it keeps, and runs at every inference (2 times slower, measured).
    """
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
    cast.outputs[0].name = f"{stored.name}/float"
    factor = add_constant(graph, f"{stored.name}/scale", scale)
    return [cast, ir.node("Mul", [cast.outputs[0], factor])]
