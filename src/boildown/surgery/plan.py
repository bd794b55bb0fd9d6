"""Placement: which values and weights of a graph get quantizers.

What a runtime computes on integers, its `Rules` say. A value is quantized once, and its grid shared by
everything that only moves it. What a recurrent layer reads gets no grid of its own here: its range is found while it
runs, or it is computed in float. Attention products, softmax, normalizations and transposed convolutions stay float,
and activation functions that the rules do not name.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Node

from boildown.domain.rules import Kind, Rules
from boildown.surgery.graph import CONVOLUTIONS, LINEAR, Graph, attribute_of, tensor_of
from boildown.surgery.ordinary import fixed_values
from boildown.surgery.recurrent import SEQUENCES, in_loops, kind_of, matrices

aten = torch.ops.aten

_PADS = frozenset({aten.pad.default, aten.constant_pad_nd.default})
_PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default})
_COPIES = frozenset({aten.clone.default, aten.contiguous.default})
_CLAMPS = frozenset({aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default})
_POOLS = frozenset(
    {aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default}
)

TANH = (-1.0, 128 / 127)
"""The range of a hyperbolic tangent whose integers are those of a sigmoid: 127 steps to either side of 0."""


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
class Recurrence:
    """One call of a recurrent layer whose weights become integers.

    `node` is its value, `weights` are qualified names of its matrices, output channels along axis 0. `dynamic`: its
    products are integer, with grids for their inputs found while it runs; else it computes in float.
    """

    node: str
    weights: tuple[str, ...]
    dynamic: bool


@dataclass(frozen=True)
class Placement:
    """Where quantizers go, before any range is known.

    activations: the quantized values, in the order of the graph.
    shares: a value that only moves data -> the value whose scale and zero point it shares.
    layers: the quantized layers, in the order of the graph.
    products: the products of two activations that are integer, as in attention.
    left: layers that stay float -> the reason in words.
    recurrent: the recurrent layers of which at least the weights become integers, in the order of the graph.
    ranges: quantized values whose grid is known beforehand -> its range.
    """

    activations: tuple[str, ...]
    shares: Mapping[str, str]
    layers: tuple[Layer, ...]
    left: Mapping[str, str] = field(default_factory=dict)
    recurrent: tuple[Recurrence, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    products: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the quantized parameters, recurrent layers' apart."""
        return tuple(dict.fromkeys(layer.weight for layer in self.layers))

    @property
    def dynamic(self) -> tuple[str, ...]:
        """The parameters of recurrent layers whose products are integer."""
        return tuple(dict.fromkeys(name for layer in self.recurrent if layer.dynamic for name in layer.weights))

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
    through moves of data only, are left float unless a quantized layer reads them. Functions, products and averages of
    quantized values are quantized on their way to a quantized layer. With `products`, those of two activations are
    integer too, where the runtime has it.
    """
    nodes = list(graph.module.graph.nodes)
    recurrent, floating = _recurrent(graph, rules, frozenset(skip))
    layers, left = _layers(graph, rules, frozenset(skip), {layer.node for layer in recurrent})
    factors = {node: node.args[:1] for node in layers}
    if products and "product" in rules.layers:
        factors |= _products(graph, frozenset(skip))
    demanded = {_origin(cast(Node, value), rules) for values in factors.values() for value in values}
    ahead, fixed = _ahead(nodes, layers, rules), fixed_values(graph.module)
    quantized: dict[Node, Node] = {}
    """Each quantized value -> the value whose range it has."""
    seats = set()
    for node in nodes:
        between = _between(node, quantized, fixed, rules) if node in ahead else None
        if between is not None:
            quantized |= {gate: gate for gate in between}
        if between is not None or (node in layers and _kind(node) in rules.grids) or _joins(node, quantized, rules):
            seats.add(_seat(node, rules))
        if node in quantized.values():
            quantized[node] = node
        elif _moves(node, rules) and (source := node.all_input_nodes[0]) in quantized:
            if not _ends(node, rules) or _feeds(node, factors, rules):
                quantized[node] = quantized[source]
        elif node in demanded or (node in seats and not _ends(node, rules)):
            late = _late_clamp(node, rules)
            quantized[node] = node if late is None or _ends(late, rules) else late
    quantized = {node: quantized[node] for node in nodes if node in quantized}
    return Placement(
        tuple(node.name for node in quantized),
        {node.name: source.name for node, source in quantized.items() if node is not source},
        tuple(_layer(node, quantized, rules) for node in layers),
        {**left, **floating},
        recurrent,
        {node.name: TANH for node in quantized if _from_table(node, quantized, rules)},
        tuple(node.name for node in factors if node not in layers),
    )


def _recurrent(graph: Graph, rules: Rules, skip: frozenset[str]) -> tuple[tuple[Recurrence, ...], dict[str, str]]:
    """The recurrent layers whose weights become integers, and why others stay float."""
    loops = in_loops(graph.module)
    # What reads a value that the file does not name can find a grid for it while it runs, as those in loops do.
    loops |= {node: None for node in graph.module.graph.nodes if node.target is LINEAR and _unread(node, rules)}
    kinds = {node: kind for node in graph.module.graph.nodes if (kind := kind_of(node, loops)) is not None}
    reasons = {node: _why_recurrent_stays(node, kinds, graph, rules, skip) for node in kinds}
    # A weight is on one grid wherever it is read.
    stay = {weight for node, reason in reasons.items() if reason is not None for weight in matrices(node)}
    found = []
    for node, kind in kinds.items():
        if not stay.intersection(matrices(node)):
            names = tuple(str(weight.target) for weight in matrices(node))
            large = _multiplied(node, graph) >= rules.dynamic_from
            found.append(Recurrence(node.name, names, kind in rules.dynamic and large))
    placed = {layer.node for layer in found}
    left = {node.name: reason or "another call of it stays float" for node, reason in reasons.items()
            if node.name not in placed and kinds[node] != "loop"}  # fmt: skip
    return tuple(found), left


def _why_recurrent_stays(
    node: Node, kinds: Mapping[Node, str], graph: Graph, rules: Rules, skip: frozenset[str]
) -> str | None:
    """Why the weights of a recurrent layer stay as they are; None where they become integers."""
    weights = matrices(node)
    tensors = [attribute_of(weight, graph.module) for weight in weights]
    if node.name in skip or any(str(weight.target) in skip for weight in weights):
        return "asked to stay float"
    if kinds[node] not in rules.dynamic + rules.stored or str(node.target) in rules.never:
        return "the runtime computes it in float"
    if not all(isinstance(tensor, nn.Parameter) and tensor.dtype is torch.float32 for tensor in tensors):
        return "its weights are computed or constant, not parameters of float32"
    if any(kinds.get(reader) != kinds[node] for weight in weights for reader in weight.users):
        return "something else uses the same weight"
    if _projects(node):
        return "the exported file does not hold the weights of an LSTM with projections as they are"
    if sum(tensor.numel() for tensor in tensors if tensor is not None) < _LEAST_RECURRENT:
        return "it has too few weights to gain by"
    return None


def _multiplied(node: Node, graph: Graph) -> int:
    """How many weights a recurrent layer multiplies by at once: those of an LSTM's or GRU's layer in one direction, or
    the largest matrix of what is computed product by product."""
    sizes = [graph.parameter(str(weight.target)).numel() for weight in matrices(node)]
    together = node.target in SEQUENCES and SEQUENCES[node.target] != "rnn"
    return 2 * sum(sizes) // len(sizes) if together else max(sizes)


_LEAST_RECURRENT = 1024
"""Weights of a recurrent layer that are worth being integers."""


def _projects(node: Node) -> bool:
    """Whether a recurrent layer over a sequence has a third matrix for each layer and direction."""
    if node.target not in SEQUENCES:
        return False
    layers, both_ways = cast("tuple[int, bool]", (node.args[4], node.args[7]))
    return len(matrices(node)) > 2 * layers * (1 + both_ways)


def _unread(node: Node, rules: Rules) -> bool:
    return _unnamed(_origin(cast(Node, node.args[0]), rules))


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


def _layers(
    graph: Graph, rules: Rules, skip: frozenset[str], apart: Collection[str]
) -> tuple[dict[Node, None], dict[str, str]]:
    """The layers whose products are integer, but for those `apart`, and why others stay float."""
    nodes, fixed = graph.module.graph.nodes, fixed_values(graph.module)
    own = [node for node in nodes if _kind(node) is not None and node.name not in apart]
    reasons = {node: _why_float(node, graph, rules, skip) for node in own}
    start = _narrow_start(reasons, rules)
    for node in reasons:
        alike = (other in reasons and other.args[1] is node.args[1] for other in _readers(node))
        if node.args[0] in fixed:
            reasons[node] = "its input is the same at every call, and so is all it computes"
        elif reasons[node] is None and node in start:
            reasons[node] = "it is narrow and at the start: float is faster"
        elif reasons[node] is None and not all(alike):
            reasons[node] = "something else uses the same weight or bias"
    # A weight is on one grid wherever it is read.
    stay = {node.args[1] for node, reason in reasons.items() if reason is not None}
    left = {node.name: reason or "another call of it stays float" for node, reason in reasons.items()
            if reason is not None or node.args[1] in stay}  # fmt: skip
    return {node: None for node in reasons if node.name not in left}, left


def _narrow_start(layers: Iterable[Node], rules: Rules) -> list[Node]:
    """The first layers that are slower on integers: a few channels at many positions, with a function behind."""
    start: list[Node] = []
    for node in layers:
        value, weight = tensor_of(node), tensor_of(cast(Node, node.args[1]))
        if node.target not in CONVOLUTIONS or value is None or weight is None:
            break
        if len(weight) > rules.narrow or weight[0].numel() > _FEW_PRODUCTS:
            break
        if not start and not (_many(value) and any(_is_function(user, rules) for user in node.users)):
            break
        start.append(node)
    return start


def _many(value: Tensor) -> bool:
    """Whether a value has many positions; an open axis has."""
    sizes = [size if isinstance(size, int) else _POSITIONS for size in value.shape[2:]]
    return math.prod(sizes) >= _POSITIONS


_FEW_PRODUCTS, _POSITIONS = 32, 1024
"""Measured with ONNX Runtime: 16 channels of 27 products at 112 x 112 positions take 2.2 times as long on integers."""


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
    if _unread(node, rules):
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
    """Where the quantizer of a value goes: behind the function that is its only reader, where that is fused."""
    if len(node.users) == 1:
        (reader,) = node.users
        if (rules.fused and clamps(reader)) or (str(reader.target) in rules.fuses and reader.args[0] is node):
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
    return clamp if clamps(clamp) and clamp is not seat is not node else None


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


def _ahead(nodes: Sequence[Node], layers: Collection[Node], rules: Rules) -> set[Node]:
    """The values that a quantized layer reads, perhaps after what can be integer."""
    ahead: set[Node] = set()
    for node in reversed(nodes):
        if any((user in layers and user.args[0] is node) or (user in ahead and _passes(user, rules))
               for user in node.users):  # fmt: skip
            ahead.add(node)
    return ahead


def _passes(node: Node, rules: Rules) -> bool:
    known = (aten.add.Tensor, aten.cat.default, aten.mul.Tensor)
    return node.target in known or clamps(node) or _moves(node, rules) or _is_function(node, rules) or _averages(node)


def _between(node: Node, quantized: Collection[Node], fixed: Collection[Node], rules: Rules) -> tuple[Node, ...] | None:
    """What else must be quantized for a function, product or average to be integer; None where it is not one."""
    if str(node.target) in rules.never:
        return None
    if _is_function(node, rules) or ("average" in rules.joins and _averages(node)):
        return () if node.args[0] in quantized else None
    if node.target is not aten.mul.Tensor or "multiply" not in rules.joins:
        return None
    factors = node.args[:2]
    rest = tuple(factor for factor in factors if isinstance(factor, Node) and factor not in quantized)
    gates = all(_gates(factor, node) and factor not in fixed for factor in rest)
    return rest if gates and len(rest) < 2 and all(isinstance(factor, Node) for factor in factors) else None


def _gates(factor: Node, product: Node) -> bool:
    """Whether a float factor is smaller than the product, so that a grid for it costs next to nothing."""
    value, whole = tensor_of(factor), tensor_of(product)
    if factor.op != "call_function" or _unnamed(factor) or value is None or whole is None:
        return False
    return str(value.shape) != str(whole.shape) and value.dtype is torch.float32


def _is_function(node: Node, rules: Rules) -> bool:
    return str(node.target) in rules.activations


def _from_table(node: Node, quantized: Collection[Node], rules: Rules) -> bool:
    """Whether a node is a hyperbolic tangent between two grids."""
    known = node.target is aten.tanh.default and _is_function(node, rules)
    return known and not rules.signed and node.args[0] in quantized


def _averages(node: Node) -> bool:
    """Whether a node is the average over all axes behind the channels."""
    value = tensor_of(node.args[0]) if node.args and isinstance(node.args[0], Node) else None
    if value is None or value.ndim < 3:
        return False
    if node.target is aten.mean.dim:
        axes = cast("Sequence[int] | None", node.args[1]) or ()
        return {axis % value.ndim for axis in axes} == {*range(2, value.ndim)} and not node.kwargs
    return node.target in _POOLS and set(cast("Sequence[int]", node.args[1])) == {1}


def _ends(node: Node, rules: Rules) -> bool:
    """Whether a value is an output of the graph, perhaps after moves of data."""
    return any(user.op == "output" or (_moves(user, rules) and _ends(user, rules)) for user in node.users)


def _feeds(node: Node, factors: Mapping[Node, Sequence[Any]], rules: Rules) -> bool:
    """Whether a quantized layer reads a value, perhaps after moves of data."""
    return any(
        node in factors.get(user, ()) or (_moves(user, rules) and _feeds(user, factors, rules)) for user in node.users
    )
