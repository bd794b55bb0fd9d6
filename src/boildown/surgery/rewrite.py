"""Sizes in a graph: operators that name how many channels there are get the number that is left."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Graph, Node

from boildown.surgery.graph import CONVOLUTIONS, TRANSPOSED
from boildown.surgery.labels import Trace
from boildown.surgery.nodes import argument, base_name, set_argument

Kept = tuple[int, NDArray[np.bool_]]
"""(axis, which indices along it stay)."""


def rewrite(graph: Graph, original: Graph, trace: Trace, gone: Collection[int]) -> None:
    """Give the nodes of a copy of the original graph the sizes that are left without some channels."""
    numbers = np.fromiter(gone, np.int64)
    for node, old in zip(list(graph.nodes), list(original.nodes), strict=True):
        if node.op == "call_function":
            rule = _depthwise if node.target in CONVOLUTIONS | TRANSPOSED else _RULES.get(base_name(node))
            if rule is not None:
                rule(_Change(node, old, trace, numbers))


class _Change:
    """A node to rewrite, beside the node it is a copy of, to which the trace belongs."""

    def __init__(self, node: Node, old: Node, trace: Trace, gone: NDArray[np.int64]) -> None:
        self.node, self.old, self.trace, self.gone = node, old, trace, gone

    @property
    def result(self) -> Kept | None:
        """What stays of the node's value; None where nothing goes."""
        return self._kept(self.old)

    @property
    def source(self) -> Kept | None:
        """What stays of the node's first argument."""
        return self._kept(self.old.args[0])

    def axis(self, name: str, of: Any) -> int:
        """An argument that names an axis of a value, counted from the front."""
        return int(argument(self.old, name)) % len(self.trace.sizes[of])

    def _kept(self, node: Any) -> Kept | None:
        vector = self.trace.values.get(node)
        if vector is None or isinstance(vector, list):
            return None
        mask = ~np.isin(vector[1], self.gone)
        return None if mask.all() else (vector[0], mask)


def _sizes(change: _Change, name: str, first: int = 0) -> None:
    """A list of sizes of the result from an axis on."""
    kept, sizes = change.result, argument(change.node, name)
    if kept is None or not isinstance(sizes, list | tuple):
        return
    axis, mask = kept[0] - first, kept[1]
    if not 0 <= axis < len(sizes) or (isinstance(sizes[axis], int) and sizes[axis] < 0):
        return
    size: Any = int(mask.sum())
    if isinstance(sizes[axis], Node):  # with the batch in it
        with change.node.graph.inserting_before(change.node):
            times = change.node.graph.call_function(operator.mul, (sizes[axis], size))
            size = change.node.graph.call_function(operator.floordiv, (times, len(mask)))
    set_argument(change.node, name, [*sizes[:axis], size, *sizes[axis + 1 :]])


def _view(change: _Change) -> None:
    _sizes(change, "shape" if base_name(change.node) == "reshape" else "size")


def _unflatten(change: _Change) -> None:
    _sizes(change, "sizes", change.axis("dim", change.old.args[0]))


def _expand(change: _Change) -> None:
    _sizes(change, "size", len(change.trace.sizes[change.old]) - len(argument(change.old, "size")))


def _slice(change: _Change) -> None:
    if change.source is not None and change.axis("dim", change.old.args[0]) == change.source[0]:
        mask = change.source[1]
        start, end, _ = slice(argument(change.old, "start"), argument(change.old, "end")).indices(len(mask))
        set_argument(change.node, "start", int(mask[:start].sum()))
        set_argument(change.node, "end", int(mask[:end].sum()))


def _narrow(change: _Change) -> None:
    if change.source is not None and change.axis("dim", change.old.args[0]) == change.source[0]:
        mask, start, length = change.source[1], argument(change.old, "start"), argument(change.old, "length")
        start %= len(mask)
        set_argument(change.node, "start", int(mask[:start].sum()))
        set_argument(change.node, "length", int(mask[start : start + length].sum()))


def _split(change: _Change) -> None:
    if change.source is None or change.axis("dim", change.old.args[0]) != change.source[0]:
        return
    (axis, mask), name = change.source, base_name(change.old)
    given = argument(change.old, {"chunk": "chunks", "split": "split_size"}.get(name, "split_sizes"))
    if isinstance(given, int):
        size = -(-len(mask) // given) if name == "chunk" else given
        given = [min(size, len(mask) - start) for start in range(0, len(mask), size)]
    edges = itertools.accumulate(given, initial=0)
    sizes = [int(mask[start:end].sum()) for start, end in itertools.pairwise(edges)]
    change.node.target = torch.ops.aten.split_with_sizes.default
    change.node.args, change.node.kwargs = (change.node.args[0], sizes, axis), {}


def _pad(change: _Change) -> None:
    if change.result is None:
        return
    (axis, mask), widths = change.result, list(argument(change.old, "pad"))
    position = 2 * (len(change.trace.sizes[change.old]) - 1 - axis)
    if position < len(widths):
        front, back = widths[position : position + 2]
        widths[position : position + 2] = [int(mask[:front].sum()), int(mask[len(mask) - back :].sum())]
        set_argument(change.node, "pad", widths)


def _depthwise(change: _Change) -> None:
    """Where every channel is a group of its own there are as many groups as channels left."""
    if change.source is not None and argument(change.old, "groups") == len(change.source[1]) > 1:
        set_argument(change.node, "groups", int(change.source[1].sum()))


def _group_norm(change: _Change) -> None:
    if change.result is not None:
        mask, groups = change.result[1], argument(change.old, "num_groups")
        set_argument(change.node, "num_groups", int(mask.sum()) * groups // len(mask))


_RULES: Mapping[str, Callable[[_Change], None]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _view),
    **dict.fromkeys(
        ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"),
        lambda change: _sizes(change, "size"),
    ),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "unflatten": _unflatten,
    "expand": _expand,
    "slice": _slice,
    "narrow": _narrow,
    "group_norm": _group_norm,
}
"""The operators with numbers of channels in their arguments; all others have none."""
