"""Cross-layer equalization: a channel's scale moves between the layer that makes it and the one that reads it.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721, 4.1).
A rectifier without an upper limit commutes with any positive scale. One with a limit, such as ReLU6, does
not: a channel scaled by 1/s would clip at s times the limit. But a channel that never reaches the limit
on calibration data may be scaled as long as it stays below; one that does reach it keeps its scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from boildown.domain.candidate import Edit
from boildown.surgery.calibrate import Call
from boildown.surgery.fold import fold
from boildown.surgery.graph import LINEAR, Graph, capture, tensor_of
from boildown.surgery.plan import Layer, clamps, place

aten = torch.ops.aten

_ROUNDS = 20
_SETTLED = 1e-3

_POOLS = frozenset(
    {
        *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default),
        *(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default),
        *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default),
    }
)
_SHAPES = frozenset(
    {
        *(aten.view.default, aten.reshape.default, aten.flatten.using_ints),
        *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
    }
)


@dataclass(frozen=True)
class Link:
    """Two layers, the second the only reader of the first, between which channels can be scaled.

    `ceiling` is the value behind a rectifier with an upper `limit`, if there is one; its channels
    lie along `axis`. One channel is `repeats` inputs of the second layer (a linear layer behind a
    flattening). `groups` are the second layer's.
    """

    first: Layer
    second: Layer
    ceiling: str | None = None
    limit: float = math.inf
    axis: int = 1
    repeats: int = 1
    groups: int = 1


def links(graph: Graph) -> tuple[Link, ...]:
    """Every pair of layers between which scales can move, in the order of the graph."""
    placement = place(graph)
    layers = {layer.node: layer for layer in placement.layers if layer.weight not in placement.shared}
    nodes = {node.name: node for node in graph.module.graph.nodes}
    found = (_link(nodes[name], layers) for name in layers)
    return tuple(link for link in found if link is not None)


@torch.no_grad()
def equalize(
    graph: Graph,
    calls: Sequence[Call],
    *,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None,
) -> dict[str, Tensor]:
    """New values for the weights and biases that equalization changes, by name; empty where none does.

    Round after round over all links, each channel's largest weights in both layers are made equal,
    until no scale moves. `calls` show which channels reach the limit of their rectifier; there the
    function is the same on these calls, everywhere else it is the same on every input.
    """
    chain = links(graph)
    peaks = _peaks(graph, chain, calls, check, progress)
    tensors: dict[str, Tensor] = {}
    for layer in {layer.node: layer for link in chain for layer in (link.first, link.second)}.values():
        for name in (layer.weight, layer.bias):
            if name is not None:
                tensors[name] = graph.parameter(name).detach().double()
    for _ in range(_ROUNDS):
        check()
        moved = 0.0
        for link in chain:
            scale = _scale(tensors[link.first.weight], _inputs(tensors[link.second.weight], link))
            if link.ceiling is not None:
                peak = peaks[link.ceiling]
                scale = torch.where(peak < link.limit, scale.maximum(peak / link.limit), 1.0)
                peaks[link.ceiling] = peak / scale
            _apply(tensors, link, scale)
            moved = max(moved, float(scale.log().abs().max()))
        if moved < _SETTLED:
            break
    new = {name: tensor.to(graph.parameter(name).dtype) for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in new.items() if not torch.equal(tensor, graph.parameter(name))}


def equalized(
    model: nn.Module,
    example: tuple[tuple[Any, ...], Mapping[str, Any]],
    calls: Sequence[Call],
    *,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None,
) -> tuple[nn.Module, Edit] | None:
    """The model with its batch norms folded and its layers equalized, and the edit that folds it.

    None where there is nothing to equalize. The model itself is not touched.
    """
    changed = equalize(capture(model, *example), calls, check=check, progress=progress)
    if not changed:
        return None
    folded, edit = fold(model, *example)
    with torch.no_grad():
        for name, tensor in changed.items():
            folded.get_parameter(name).copy_(tensor)
    return folded, edit


# ---- finding links ---------------------------------------------------------------------------


def _link(first: Node, layers: Mapping[str, Layer]) -> Link | None:
    """Walk from a layer's value to the layer that alone reads it, through what commutes with scales."""
    link = Link(layers[first.name], layers[first.name], axis=layers[first.name].channels)
    axis, value = link.axis, first
    while len(value.users) == 1:
        (reader,) = value.users
        if reader.op != "call_function" or not reader.args or reader.args[0] is not value:
            return None
        if reader.name in layers:
            return _ended(link, layers[reader.name], reader, axis)
        if clamps(reader):
            limit = _limit(reader)
            if limit < math.inf and link.ceiling is not None:
                return None
            if limit < math.inf:
                link = replace(link, ceiling=reader.name, limit=limit, axis=axis)
        elif reader.target is aten.mean.dim and (left := _averaged(reader, value, axis)) is not None:
            axis = left
        elif axis == 1 and reader.target in _SHAPES and _flattens(value, reader):
            link = replace(link, repeats=link.repeats * _width(reader) // _width(value))
        elif not (axis == 1 and (reader.target in _POOLS or _pads_zeros(reader))):
            return None
        value = reader
    return None


def _ended(link: Link, second: Layer, reader: Node, axis: int) -> Link | None:
    """The link that ends at `reader`, if the channels lie where it reads them."""
    if reader.target is LINEAR:
        value = tensor_of(cast(Node, reader.args[0]))
        return replace(link, second=second) if value is not None and axis == value.ndim - 1 else None
    groups = cast(int, reader.args[6]) if len(reader.args) > 6 else 1
    return replace(link, second=second, groups=groups) if axis == 1 and link.repeats == 1 else None


def _limit(clamp: Node) -> float:
    """The upper limit of a rectifier; infinite for ReLU."""
    if clamp.target is aten.relu6.default:
        return 6.0
    if clamp.target is aten.relu.default:
        return math.inf
    high = clamp.args[2] if len(clamp.args) > 2 else 1.0 if clamp.target is aten.hardtanh.default else None
    return math.inf if high is None else float(cast(float, high))


def _averaged(mean: Node, value: Node, axis: int) -> int | None:
    """Where the channels lie behind a mean over other axes; None if it is over the channels or all axes."""
    tensor = tensor_of(value)
    dims = mean.args[1] if len(mean.args) > 1 else None
    if tensor is None or not isinstance(dims, list | tuple) or not dims:
        return None
    reduced = {cast(int, dim) % tensor.ndim for dim in dims}
    if axis in reduced:
        return None
    kept = len(mean.args) > 2 and bool(mean.args[2])
    return axis if kept else axis - sum(dim < axis for dim in reduced)


def _flattens(value: Node, shaped: Node) -> bool:
    """Whether all axes behind the batch become one, channels first."""
    before, after = tensor_of(value), tensor_of(shaped)
    if before is None or after is None or after.ndim != 2 or before.ndim < 2:
        return False
    return math.prod(before.shape[1:]) == after.shape[1]


def _width(node: Node) -> int:
    value = tensor_of(node)
    assert value is not None
    return int(value.shape[1])


def _pads_zeros(pad: Node) -> bool:
    """Whether a node pads zeros to other axes than batch and channels."""
    value = tensor_of(pad)
    if pad.target is aten.pad.default:
        how = pad.args[2:]
    elif pad.target is aten.constant_pad_nd.default:
        how = ("constant", *pad.args[2:])
    else:
        return False
    zero = how in ((), ("constant",), ("constant", None), ("constant", 0))
    return zero and value is not None and len(cast("list[int]", pad.args[1])) <= 2 * (value.ndim - 2)


# ---- scaling ---------------------------------------------------------------------------------


def _inputs(weight: Tensor, link: Link) -> Tensor:
    """The second layer's weight as (groups, outputs of a group, channels of a group, weights of a pair)."""
    return weight.view(link.groups, len(weight) // link.groups, weight.shape[1] // link.repeats, -1)


def _scale(first: Tensor, second: Tensor) -> Tensor:
    """What to divide each channel of the first layer by; 1 where either layer ignores the channel."""
    made = first.flatten(1).abs().amax(1)
    read = second.abs().amax((1, 3)).flatten()
    scale = (made / read).sqrt()
    return torch.where((made > 0) & (read > 0), scale, 1.0)


def _apply(tensors: dict[str, Tensor], link: Link, scale: Tensor) -> None:
    weight = tensors[link.first.weight]
    tensors[link.first.weight] = weight / scale.view(-1, *[1] * (weight.ndim - 1))
    if link.first.bias is not None:
        tensors[link.first.bias] = tensors[link.first.bias] / scale
    reader = tensors[link.second.weight]
    scaled = _inputs(reader, link) * scale.view(link.groups, 1, -1, 1)
    tensors[link.second.weight] = scaled.reshape(reader.shape)


class _Peaks(Interpreter):
    """Runs the graph and keeps the largest value of each channel of the watched values."""

    def __init__(self, graph: Graph, axes: Mapping[str, int]) -> None:
        super().__init__(graph.module)
        self.axes = axes
        self.peaks: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self.axes:
            peak = value.movedim(self.axes[n.name], 0).flatten(1).amax(1).double()
            self.peaks[n.name] = peak.maximum(self.peaks.get(n.name, peak))
        return value


def _peaks(
    graph: Graph,
    chain: Sequence[Link],
    calls: Sequence[Call],
    check: Callable[[], None],
    progress: Callable[[str, int, int | None], None],
) -> dict[str, Tensor]:
    """The largest value per channel behind every rectifier with a limit."""
    axes = {link.ceiling: link.axis for link in chain if link.ceiling is not None}
    watcher = _Peaks(graph, axes)
    for done, (args, kwargs) in enumerate(calls if axes else ()):
        check()
        watcher.run(*graph.flatten(args, kwargs), enable_io_processing=False)
        progress("equalize", done + 1, len(calls))
    return watcher.peaks
