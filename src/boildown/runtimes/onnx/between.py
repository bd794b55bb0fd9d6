"""Functions between two grids, as what ONNX Runtime computes on integers.

It has tables of a sigmoid and of a leaky rectifier, sums, products and averages that saturate, and no more. A
hard-sigmoid is such a sum: read with another scale, integers are multiplied; the constant of the sum shifts them, and a
grid from 0 to 1 clips. A hard-swish or SiLU is a value times such a function of it. The integers of a hyperbolic
tangent are those of a sigmoid, read with another scale and zero point. A leaky rectifier with a slope per channel is a
value plus a product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from boildown.domain.candidate import Quantizer
from boildown.domain.functions import GATE, TOP, Grid, leaks
from boildown.runtimes.base import Array
from boildown.runtimes.onnx.lean import add_constant, constant, tidy
from boildown.runtimes.onnx.qdq import dequantized, only_reader

_CLOSE = 1e-5


def rewrite(model: ir.Model) -> None:
    """Rewrite the functions whose input and output are on unsigned grids, in place; others stay as they are."""
    for node in list(model.graph):
        if (rule := _RULES.get(node.op_type)) and _result(node) is not None:
            rule(model.graph, node)
    tidy(model)


def _hard_swish(graph: ir.Graph, node: ir.Node) -> None:
    """A value times its hard-sigmoid, which is on a grid of its own."""
    value = node.inputs[0]
    if value is None or not _is_read(value):
        return
    gate = ir.node("HardSigmoid", [value], {"alpha": 1 / 6, "beta": 0.5})
    gate.outputs[0].name = f"{node.outputs[0].name}/gate"
    quantizer, dequantizer = _on_grid(graph, gate.outputs[0], (GATE, 0))
    product = ir.node("Mul", [value, dequantizer.outputs[0]])
    _instead(graph, node, [gate, quantizer, dequantizer, product])
    _hard_sigmoid(graph, gate)


def _product(graph: ir.Graph, node: ir.Node) -> None:
    """A value times its sigmoid gets the grid for that."""
    for value, other in (node.inputs, node.inputs[::-1]):
        gate = other.producer() if other is not None else None
        if gate is None or gate.op_type != "Sigmoid" or gate.inputs[0] is not value:
            continue
        if value is not None and _is_read(value) and only_reader(gate.outputs[0], "Mul") is node:
            quantizer, dequantizer = _on_grid(graph, gate.outputs[0], (GATE, 0))
            node.replace_input_with(node.inputs.index(other), dequantizer.outputs[0])
            graph.insert_after(gate, [quantizer, dequantizer])
        return


def _hard_sigmoid(graph: ir.Graph, node: ir.Node) -> None:
    """A sum on a grid that saturates where the function does."""
    scale, zero = _grid(node)
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    scaled = _reread(graph, node.inputs[0], alpha)
    if scaled is None or alpha <= 0 or beta <= 0 or zero or scale * TOP > 1 + _CLOSE:
        return
    shift = _stored(graph, f"{node.outputs[0].name}/shift", np.uint8(TOP), (beta / TOP, 0))
    total = ir.node("Add", [scaled.outputs[0], shift.outputs[0]])
    _instead(graph, node, [scaled, shift, total])


def _tanh(graph: ir.Graph, node: ir.Node) -> None:
    """A sigmoid of twice the value, on a grid whose integers mean twice the sigmoid less 1."""
    scale, zero = _grid(node)
    result, scaled = _result(node), _reread(graph, node.inputs[0], 2.0)
    if result is None or scaled is None or abs(scale * zero - 1) > _CLOSE:
        return
    _instead(graph, node, [scaled, ir.node("Sigmoid", [scaled.outputs[0]])])
    for position, part in enumerate(_parts(graph, (scale / 2, 0)), 1):
        result.replace_input_with(position, part)


def _prelu(graph: ir.Graph, node: ir.Node) -> None:
    """A value plus the product of what is negative of it with the slopes less 1: sums and a product on grids."""
    value, slopes, name = node.inputs[0], constant(node.inputs[1]), node.outputs[0].name
    read = dequantized(value)
    scale, zero = (None, None) if read is None else map(constant, read[1:3])
    if value is None or slopes is None or scale is None or zero is None or not _is_read(value):
        return
    grids = leaks(slopes.ravel().tolist(), Quantizer("", 8, False, (float(scale),), (int(zero),)))
    step, origin = grids[0]
    nothing = _stored(graph, f"{name}/nothing", np.uint8(0), (float(scale), 0))
    below = ir.node("Add", [value, nothing.outputs[0]])
    below.outputs[0].name = f"{name}/below"
    negative = _on_grid(graph, below.outputs[0], (float(scale), TOP))
    integers = np.clip(np.rint((slopes - 1) / np.float32(step)) + origin, 0, TOP).astype(np.uint8)
    leak = _stored(graph, f"{name}/leak", integers, grids[0])
    product = ir.node("Mul", [negative[1].outputs[0], leak.outputs[0]])
    product.outputs[0].name = f"{name}/product"
    rounded = _on_grid(graph, product.outputs[0], grids[1])
    total = ir.node("Add", [value, rounded[1].outputs[0]])
    _instead(graph, node, [nothing, below, *negative, leak, product, *rounded, total])


def _average(graph: ir.Graph, node: ir.Node) -> None:
    """The average over all positions, with the axes of length 1 dropped behind it where they are."""
    value, result = node.inputs[0], _result(node)
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if value is None or result is None or value.shape is None or axes is None or not _is_read(value):
        return
    rank = len(value.shape)
    if rank < 3 or {int(axis) % rank for axis in axes.ravel()} != {*range(2, rank)}:
        return
    pool = ir.node("GlobalAveragePool", [value])
    if node.attributes.get_int("keepdims", 1):
        _instead(graph, node, [pool])
        return
    pool.outputs[0].name = f"{node.outputs[0].name}/pool"
    quantizer = ir.node("QuantizeLinear", [pool.outputs[0], *result.inputs[1:3]])
    quantizer.outputs[0].name = f"{pool.outputs[0].name}/q"
    dequantizer = ir.node("DequantizeLinear", [quantizer.outputs[0], *result.inputs[1:3]])
    dequantizer.outputs[0].name = f"{pool.outputs[0].name}/dq"
    _instead(graph, node, [pool, quantizer, dequantizer, ir.node("Flatten", [dequantizer.outputs[0]])])


_RULES: dict[str, Callable[[ir.Graph, ir.Node], None]] = {
    "HardSwish": _hard_swish,
    "Mul": _product,
    "HardSigmoid": _hard_sigmoid,
    "Tanh": _tanh,
    "PRelu": _prelu,
    "ReduceMean": _average,
}


def _result(node: ir.Node) -> ir.Node | None:
    """What alone reads a node, where it quantizes to an unsigned grid."""
    result = only_reader(node.outputs[0], "QuantizeLinear")
    zero = constant(result.inputs[2]) if result is not None else None
    return result if zero is not None and zero.dtype == np.uint8 else None


def _grid(node: ir.Node) -> tuple[float, int]:
    """Scale and zero point of what a node gives."""
    result = _result(node)
    scale, zero = (None, None) if result is None else map(constant, result.inputs[1:3])
    assert scale is not None
    assert zero is not None
    return float(scale), int(zero)


def _is_read(value: ir.Value) -> bool:
    """Whether a value is on an unsigned grid."""
    made = dequantized(value)
    zero = constant(made[2]) if made is not None else None
    return zero is not None and zero.dtype == np.uint8


def _reread(graph: ir.Graph, value: ir.Value | None, factor: float) -> ir.Node | None:
    """The same integers with a scale that is so many times theirs."""
    grid = dequantized(value)
    scale = constant(grid[1]) if grid is not None else None
    if value is None or grid is None or scale is None or not _is_read(value):
        return None
    times = ir.node("DequantizeLinear", [grid[0], _number(graph, float(scale) * factor), grid[2]])
    times.outputs[0].name = f"{value.name}/times/{factor}"
    return times


def _on_grid(graph: ir.Graph, value: ir.Value, grid: Grid) -> tuple[ir.Node, ir.Node]:
    """What quantizes a value, and what reads that."""
    quantizer = ir.node("QuantizeLinear", [value, *_parts(graph, grid)])
    quantizer.outputs[0].name = f"{value.name}/q"
    dequantizer = ir.node("DequantizeLinear", [quantizer.outputs[0], *_parts(graph, grid)])
    dequantizer.outputs[0].name = f"{value.name}/dq"
    return quantizer, dequantizer


def _stored(graph: ir.Graph, name: str, integers: Array | np.generic, grid: Grid) -> ir.Node:
    """Integers of the file, read."""
    node = ir.node("DequantizeLinear", [add_constant(graph, f"{name}/q", integers), *_parts(graph, grid)])
    node.outputs[0].name = name
    return node


def _parts(graph: ir.Graph, grid: Grid) -> tuple[ir.Value, ir.Value]:
    scale, zero = grid
    return _number(graph, scale), add_constant(graph, f"/uint8/{zero}", np.uint8(zero))


def _number(graph: ir.Graph, number: float) -> ir.Value:
    return add_constant(graph, f"/float/{np.float32(number)!r}", np.float32(number))


def _instead(graph: ir.Graph, node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Put nodes in the place of one; the last gives its value, by its name."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.name = f"{old.name}/replaced"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.insert_after(node, nodes)
