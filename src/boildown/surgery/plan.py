"""Placement: which values and weights of a graph get quantizers.

What a runtime computes on integers, its `Rules` say. A value is quantized once, and its grid shared by
everything that only moves it. Attention products, softmax, normalizations and transposed convolutions stay float.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node

from boildown.domain.rules import Kind, Rules
from boildown.surgery.graph import CONVOLUTIONS, LINEAR, Graph, attribute_of, tensor_of
from boildown.surgery.ordinary import fixed_values

aten = torch.ops.aten

_PADS = frozenset({aten.pad.default, aten.constant_pad_nd.default})
_PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default})
_COPIES = frozenset({aten.clone.default, aten.contiguous.default})
_CLAMPS = frozenset({aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default})


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer whose products are integer.

    `node` is the layer's own value (before a rectifier), `input` the value it reads, `output` the
    value that is quantized after it, which is `node` or the rectifier behind it; it is `node` too
    where nothing is quantized. `weight` and `bias` are qualified names in the folded program;
    output channels are axis 0 of the weight and axis `channels` of the value. Several layers may have one
    weight (see `Placement.shared`).
    """

    node: str
    weight: str
    bias: str | None
    input: str
    output: str
    channels: int


@dataclass(frozen=True)
class Placement:
    """Where quantizers go, before any range is known.

    activations: the quantized values, in the order of the graph.
    shares: a value that only moves data -> the value whose scale and zero point it shares.
    layers: the quantized layers, in the order of the graph.
    products: the products of two activations that are integer, as in attention.
    left: layers that stay float -> the reason in words.
    """

    activations: tuple[str, ...]
    shares: Mapping[str, str]
    layers: tuple[Layer, ...]
    left: Mapping[str, str] = field(default_factory=dict)
    products: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[str, ...]:
        """The quantized parameters' names."""
        return tuple(dict.fromkeys(layer.weight for layer in self.layers))

    @property
    def shared(self) -> frozenset[str]:
        """The quantized parameters that several layers read, as those of a part that is called twice."""
        count = Counter(layer.weight for layer in self.layers)
        return frozenset(name for name in count if count[name] > 1)

    @property
    def measured(self) -> tuple[str, ...]:
        """The quantized values with a range of their own."""
        return tuple(name for name in self.activations if name not in self.shares)

    def groups(self) -> dict[str, tuple[str, ...]]:
        """For each value with a range of its own, all values with its scale, itself first."""
        groups: dict[str, list[str]] = {name: [name] for name in self.measured}
        for name, source in self.shares.items():
            groups[source].append(name)
        return {name: tuple(members) for name, members in groups.items()}


def place(graph: Graph, rules: Rules = Rules(), *, skip: Collection[str] = (), products: bool = False) -> Placement:
    """Place quantizers on a graph, by the rules of a runtime.

    `skip` names layers, by node or weight, that stay float. A value is quantized if a quantized
    layer reads it, if a quantized layer makes it whose output must be on a grid (by default a
    convolution), or if it joins values that are all quantized; a rectifier that is the only reader
    of such a value is quantized in its place, where it is fused. Values on their way to an output,
    through moves of data only, are left float unless a quantized layer reads them. With `products`, those of two
    activations are integer too, where the runtime has it.
    """
    nodes = list(graph.module.graph.nodes)
    layers, left = _layers(graph, rules, frozenset(skip))
    factors = {node: node.args[:1] for node in layers}
    if products and "product" in rules.layers:
        factors |= _products(graph, frozenset(skip))
    demanded = {_origin(cast(Node, value), rules) for values in factors.values() for value in values}
    quantized: dict[Node, Node] = {}
    """Each quantized value -> the value whose range it has."""
    seats = set()
    for node in nodes:
        if (node in layers and _kind(node) in rules.grids) or _joins(node, quantized, rules):
            seats.add(_seat(node, rules))
        if node in quantized.values():
            quantized[node] = node
        elif _moves(node, rules) and (source := node.all_input_nodes[0]) in quantized:
            if not _ends(node, rules) or _feeds(node, factors, rules):
                quantized[node] = quantized[source]
        elif node in demanded or (node in seats and not _ends(node, rules)):
            late = _late_clamp(node, rules)
            quantized[node] = node if late is None or _ends(late, rules) else late
    return Placement(
        tuple(node.name for node in quantized),
        {node.name: source.name for node, source in quantized.items() if node is not source},
        tuple(_layer(node, quantized, rules) for node in layers),
        left,
        tuple(node.name for node in factors if node not in layers),
    )


def _products(graph: Graph, skip: frozenset[str]) -> dict[Node, tuple[Any, ...]]:
    """The products of two activations, each with what it multiplies."""
    fixed = fixed_values(graph.module)
    return {
        node: node.args[:2]
        for node in graph.module.graph.nodes
        if node.target in _PRODUCTS
        and node.name not in skip
        and all(
            isinstance(value, Node)
            and value not in fixed
            and (tensor := tensor_of(value)) is not None
            and tensor.ndim > 1
            and tensor.dtype is torch.float32
            and not _unnamed(value)
            for value in node.args[:2]
        )
    }


def _kind(node: Node) -> Kind | None:
    """Which kind of layer a node is, if any."""
    return "convolution" if node.target in CONVOLUTIONS else "linear" if node.target is LINEAR else None


def _layers(graph: Graph, rules: Rules, skip: frozenset[str]) -> tuple[dict[Node, None], dict[str, str]]:
    nodes, fixed = graph.module.graph.nodes, fixed_values(graph.module)
    reasons = {node: _why_float(node, graph, rules, skip) for node in nodes if _kind(node) is not None}
    for node in reasons:
        alike = (other in reasons and other.args[1] is node.args[1] for other in _readers(node))
        if node.args[0] in fixed:
            reasons[node] = "its input is the same at every call, and so is all it computes"
        elif reasons[node] is None and not all(alike):
            reasons[node] = "something else uses the same weight or bias"
    # A weight is on one grid wherever it is read.
    stay = {node.args[1] for node, reason in reasons.items() if reason is not None}
    left = {node.name: reason or "another call of it stays float" for node, reason in reasons.items()
            if reason is not None or node.args[1] in stay}  # fmt: skip
    return {node: None for node in reasons if node.name not in left}, left


def _why_float(node: Node, graph: Graph, rules: Rules, skip: frozenset[str]) -> str | None:
    """Why a layer cannot be quantized, by itself; None where it can."""
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    tensor = attribute_of(weight, graph.module)
    if node.name in skip or (isinstance(weight, Node) and str(weight.target) in skip):
        return "asked to stay float"
    if _kind(node) not in rules.layers or str(node.target) in rules.never:
        return "the runtime computes it in float"
    if not isinstance(tensor, nn.Parameter) or (
        bias is not None and not isinstance(attribute_of(bias, graph.module), nn.Parameter)
    ):
        return "its weight or bias is computed or constant, not a parameter"
    if tensor.dtype is not torch.float32:
        return f"its weight is {tensor.dtype}"
    if _unnamed(_origin(cast(Node, node.args[0]), rules)):
        return "its input is a result of an LSTM cell, which the exported file does not name"
    return None


def _readers(layer: Node) -> Iterator[Node]:
    """All that reads a layer's weight or its bias."""
    for arg in layer.args[1:3]:
        if isinstance(arg, Node):
            yield from arg.users


def _unnamed(value: Node) -> bool:
    """Whether a value is one of several results of an operator that is taken apart where it is exported."""
    source = value.args[0] if value.target is operator.getitem else None
    return isinstance(source, Node) and source.target in _TAKEN_APART


_TAKEN_APART = frozenset({aten.lstm_cell.default, aten.rnn_tanh.input, aten.rnn_relu.input})


def _layer(node: Node, quantized: Mapping[Node, Node], rules: Rules) -> Layer:
    bias = node.args[2] if len(node.args) > 2 else None
    value = tensor_of(node)
    assert value is not None
    seat = _seat(node, rules)
    return Layer(
        node=node.name,
        weight=str(cast(Node, node.args[1]).target),
        bias=str(bias.target) if isinstance(bias, Node) else None,
        input=cast(Node, node.args[0]).name,
        output=seat.name if seat in quantized else node.name,
        channels=value.ndim - 1 if node.target is LINEAR else 1,
    )


def clamps(node: Node) -> bool:
    """Whether a node is a rectifier: it clips at 0, and perhaps at an upper limit."""
    if node.target in (aten.relu.default, aten.relu6.default):
        return True
    if node.target not in _CLAMPS or len(node.args) < 2:
        return False
    high = node.args[2] if len(node.args) > 2 else 1.0 if node.target is aten.hardtanh.default else None
    return bool(node.args[1] == 0) and (high is None or (isinstance(high, int | float) and high > 0))


def _seat(node: Node, rules: Rules) -> Node:
    """Where the quantizer of a value goes: behind the rectifier that is its only reader, where that is fused."""
    if rules.fused and len(node.users) == 1:
        (reader,) = node.users
        if clamps(reader):
            return reader
    return node


def _late_clamp(node: Node, rules: Rules) -> Node | None:
    """The rectifier behind moves of data that nothing else reads, as in `relu(max_pool(conv(x)))`.

    A grid that starts at 0 rectifies as early as it is used, so all of them can share it.
    """
    seat = node
    while len(seat.users) == 1 and _moves(reader := next(iter(seat.users)), rules):
        seat = reader
    clamp = _seat(seat, rules)
    return clamp if clamp is not seat is not node else None


def _origin(node: Node, rules: Rules) -> Node:
    """The value that is quantized when a layer reads `node`: before zeros are padded to it, or all of it is copied."""
    while _moves(node, rules) and (node.target in _PADS or _copies(node)):
        node = node.all_input_nodes[0]
    return node


def _copies(node: Node) -> bool:
    """Whether a node is the only reader of what it copies, as dropout leaves it: exported files have no such value."""
    return node.target in _COPIES and len(node.all_input_nodes[0].users) == 1


def _moves(node: Node, rules: Rules) -> bool:
    """Whether a node only moves data (or pads with zero, which every grid has)."""
    if node.target is aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else "constant"
        filler = node.args[3] if len(node.args) > 3 else 0
        return bool(mode == "constant" and filler in (None, 0))
    if node.target is aten.constant_pad_nd.default:
        return len(node.args) < 3 or bool(node.args[2] == 0)
    return str(node.target) in rules.moves


def _joins(node: Node, quantized: Mapping[Node, Node], rules: Rules) -> bool:
    """Whether a node adds or concatenates values that are all quantized."""
    if str(node.target) in rules.never:
        return False
    if node.target is aten.cat.default and "concatenate" in rules.joins:
        parts = list(cast("tuple[Node, ...]", node.args[0]))
    elif node.target is aten.add.Tensor and not node.kwargs and "add" in rules.joins:
        parts = list(cast("tuple[Node, ...]", node.args[:2]))
    else:
        return False
    return all(isinstance(part, Node) and part in quantized for part in parts)


def _ends(node: Node, rules: Rules) -> bool:
    """Whether a value is an output of the graph, perhaps after moves of data."""
    return any(user.op == "output" or (_moves(user, rules) and _ends(user, rules)) for user in node.users)


def _feeds(node: Node, factors: Mapping[Node, Sequence[Any]], rules: Rules) -> bool:
    """Whether a quantized layer reads a value, perhaps after moves of data."""
    return any(
        node in factors.get(user, ()) or (_moves(user, rules) and _feeds(user, factors, rules)) for user in node.users
    )
