"""The `half` rewrite: weights stored as float16, and made float32 again when the file is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from boildown.domain.candidate import Edit
from boildown.errors import ExportError
from boildown.runtimes.base import Array
from boildown.runtimes.onnx.lean import add_constant, constant, tidy

_LEAST_BYTES = 128
"""Of a constant whose half is worth a node."""

_LOST = 1e-3
"""The share of its norm that a slice may lose: twice the most that rounding costs a number which float16 holds."""

_DEAD = 1e-12
"""A slice that is smaller than the largest by this factor counts as zeros: no float32 sum shows it."""

_TOLD = 0.01
"""The share of the weights that is worth a note; some biases with a number near zero always stay."""


def store(model: ir.Model, rewrite: Edit) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Store float32 constants as float16 behind a Cast, in place; returns how many, which stay float32, and a note.

    Where small numbers would lose their digits, all of a constant are stored larger by a power of two.

    A session folds the Cast when it is made, and computes what it did before. Raises ExportError for another rewrite.
    """
    if rewrite != Edit("half"):
        raise ExportError(f"No file can be rewritten by {rewrite.to_json()}.\n  Use 'half', version 1.")
    graph, stored, kept, all_bytes, kept_bytes = model.graph, 0, [], 0, 0
    for name, value in list(graph.initializers.items()):
        array = constant(value)
        if array is None or array.dtype != np.float32 or array.nbytes < _LEAST_BYTES:
            continue
        all_bytes += array.nbytes
        shift = next((shift for shift in (0, _room(array)) if _holds(_halved(array, shift), array, shift)), None)
        if shift is None:
            kept.append(name)
            kept_bytes += array.nbytes
            continue
        half = add_constant(graph, f"{name}/half", _halved(array, shift))
        nodes = [ir.node("Cast", [half], {"to": ir.DataType.FLOAT})]
        if shift:
            nodes[0].outputs[0].name = f"{name}/large"
            factor = add_constant(graph, f"/half/{shift}", np.float32(2.0**-shift))
            nodes.append(ir.node("Mul", [nodes[0].outputs[0], factor]))
        result = nodes[-1].outputs[0]
        result.name, result.type, result.shape = f"{name}/float", value.type, value.shape
        value.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.insert_before(graph[0], nodes)
        stored += 1
    tidy(model)
    share = kept_bytes / max(all_bytes, 1)
    told = f"{share:.0%} of the weights stay float32, since float16 cannot hold them: {', '.join(kept[:5])}"
    return {"float16": stored, "float32": kept}, (told,) if share >= _TOLD else ()


def _room(array: Array) -> int:
    """By how many powers of two an array may grow, so that its small numbers have all their digits in float16."""
    largest = np.abs(array).max(initial=0, where=np.isfinite(array))
    return min(max(0, 14 - int(np.frexp(largest)[1])), 126)  # of which float32 has the inverse


def _halved(array: Array, shift: int) -> Array:
    with np.errstate(over="ignore"):
        return np.ldexp(array, shift).astype(np.float16)


def _holds(half: Array, array: Array, shift: int) -> bool:
    """Whether float16 holds an array: no number overflows, and no slice along any axis loses much of its norm.

    Each axis, since small weights may meet large inputs, or make small outputs that a norm behind enlarges.
    """
    finite = np.isfinite(array)
    if not np.array_equal(finite, np.isfinite(half)):
        return False
    exact, back = np.where(finite, array, 0), np.ldexp(np.where(finite, half, 0).astype(np.float32), -shift)
    largest = np.abs(exact).max(initial=0) or 1
    size, loss = np.square(exact / largest), np.square((back - exact) / largest)
    for axis in range(array.ndim):
        others = tuple(other for other in range(array.ndim) if other != axis)
        sizes, losses = size.sum(others), loss.sum(others)
        if ((losses > _LOST**2 * sizes) & (sizes > _DEAD**2 * sizes.max(initial=0))).any():
            return False
    return True
