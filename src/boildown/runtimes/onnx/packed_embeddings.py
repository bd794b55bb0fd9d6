"""Embedding tables of 4 bits: rows are looked up as integers, and only those looked up become floats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from boildown.runtimes.base import Array
from boildown.runtimes.onnx.lean import add_constant, constant, tidy

BLOCK = 64
"""Numbers of a row that share a scale: 0.5 bits more per number."""

_LEAST_ROWS = 256
"""Smaller tables are not worth another scale for every block."""

_CLIPPED = np.linspace(0.7, 1.0, 7, dtype=np.float32)
_LAST = 7


def pack(model: ir.Model) -> int:
    """Store every float table that rows are gathered from in 4 bits, in place; returns how many.

    Rows are read by GatherBlockQuantized of ONNX Runtime, which needs no more time than a Gather.
    """
    packed = 0
    for node in list(model.graph):
        table = constant(node.inputs[0]) if node.op_type == "Gather" and node.inputs else None
        if table is None or table.ndim != 2 or table.dtype != np.float32 or len(table) < _LEAST_ROWS:
            continue
        if node.attributes.get_int("axis", 0) != 0:
            continue
        name, result = node.inputs[0].name, node.outputs[0]  # type: ignore[union-attr]
        integers, scale = quantized(table)
        inputs = [
            add_constant(model.graph, f"{name}/q4", integers, ir.DataType.INT4),
            node.inputs[1],
            add_constant(model.graph, f"{name}/scale4", scale),
        ]
        settings = {"block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        lookup = ir.node("GatherBlockQuantized", inputs, settings, domain="com.microsoft")
        lookup.outputs[0].type, lookup.outputs[0].shape = result.type, result.shape
        result.replace_all_uses_with(lookup.outputs[0], replace_graph_outputs=True)
        lookup.outputs[0].name, result.name = result.name, f"{result.name}/float"
        model.graph.insert_after(node, lookup)
        packed += 1
    if packed:
        model.opset_imports["com.microsoft"] = 1
        tidy(model)
    return packed


def quantized(table: Array) -> tuple[Array, Array]:
    """(integers from -7 to 7, (rows, columns); scales, (rows, blocks)) of a table (rows, columns).

    The scale of each block is the one of seven, from its largest number down to 0.7 of it, that leaves
    the smallest squared error.
    """
    rows, columns = table.shape
    count = -(-columns // BLOCK)
    blocks = np.pad(table, ((0, 0), (0, count * BLOCK - columns))).reshape(rows, count, BLOCK)
    largest = np.maximum(np.abs(blocks).max(2), np.finfo(np.float32).tiny)
    scale, least = largest / _LAST, np.full(largest.shape, np.inf, np.float32)
    for share in _CLIPPED:
        tried = share * largest / _LAST
        error = np.square(blocks - tried[..., None] * _rounded(blocks, tried)).sum(2)
        scale, least = np.where(error < least, tried, scale), np.minimum(error, least)
    integers = _rounded(blocks, scale).astype(np.int8)
    return integers.reshape(rows, -1)[:, :columns], scale.astype(np.float32)


def _rounded(blocks: Array, scale: Array) -> Array:
    return np.clip(np.rint(blocks / scale[..., None]), -_LAST, _LAST)
