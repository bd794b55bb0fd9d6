"""Ordinary layers in place of what means the same: weights that are computed, products with matrices.

A weight that follows from parameters alone (weight norm, spectral norm, any other parametrization, a mask) is the same
at every call in eval mode: it is computed once and becomes a parameter. A product with a matrix of the model's own, as
in GPT-2's `Conv1D`, becomes a linear layer. Both are then quantized, narrowed and factorized as any other layer.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from boildown.surgery.nodes import argument, attribute_of, base_name, has_parameter, set_argument, set_parameter

aten = torch.ops.aten

_LAYERS = frozenset(
    {"linear", "embedding", *(f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3))}
)
_PRODUCTS = frozenset({aten.addmm.default, aten.matmul.default, aten.mm.default})
_TRANSPOSES = frozenset({aten.t.default, aten.numpy_T.default, aten.mT.default})
_VIEWS = frozenset({aten.view.default, aten.reshape.default})
_INSIDE = ".parametrizations."


def make_ordinary(module: GraphModule) -> GraphModule:
    """The graph with ordinary layers, in eval mode; what it computes is the same up to the rounding of sums.

    Its nodes must still know their values (`val` in their meta). Parameters that make anything beside weights stay as
    they are. The graph itself is changed, its tensors are not.
    """
    fixed = fixed_values(module)
    _drop_unread(module, fixed)
    for node in list(module.graph.nodes):
        if node.target in _PRODUCTS:
            _make_linear(node, module, fixed)
    _drop_unread(module, fixed)
    _settle(module, _alone(_weights(module, fixed), fixed))
    _drop_unread(module, fixed)
    module.graph.eliminate_dead_code()
    return GraphModule(module, module.graph).eval()


def fixed_values(module: GraphModule) -> dict[Node, bool]:
    """The values that follow from parameters, buffers and constants alone, and whether from parameters."""
    fixed: dict[Node, bool] = {}
    for node in module.graph.nodes:
        if (tensor := attribute_of(node, module)) is not None:
            fixed[node] = isinstance(tensor, nn.Parameter)
        elif _repeats(node) and all(source in fixed for source in node.all_input_nodes):
            fixed[node] = any(fixed[source] for source in node.all_input_nodes)
    return fixed


def _repeats(node: Node) -> bool:
    """Whether a node gives the same for the same arguments and changes none of them."""
    if node.op != "call_function" or node.target is operator.getitem:
        return node.op == "call_function"
    schema, tags = getattr(node.target, "_schema", None), getattr(node.target, "tags", ())
    return schema is not None and not schema.is_mutable and torch.Tag.nondeterministic_seeded not in tags


def _drop_unread(module: GraphModule, fixed: dict[Node, bool]) -> None:
    """Remove what nobody reads of the values that follow from parameters, checks of their types among them."""
    for node in reversed(list(module.graph.nodes)):
        if node in fixed and not node.users:
            del fixed[node]
            module.graph.erase_node(node)


# ---- products ----------------------------------------------------------------------------------


def _make_linear(product: Node, module: GraphModule, fixed: dict[Node, bool]) -> None:
    """Let a product of a value and a matrix of the model's own be a linear layer, with the bias that is added."""
    bias, value, matrix = product.args[:3] if product.target is aten.addmm.default else (None, *product.args[:2])
    if not isinstance(value, Node) or value in fixed or not fixed.get(cast(Node, matrix)):
        return
    shapes = [each.meta["val"].shape for each in (value, cast(Node, matrix), product)]
    scaled = any(argument(product, name) not in (None, 1) for name in ("alpha", "beta"))
    if len(shapes[0]) < 2 or len(shapes[1]) != 2 or scaled or (bias is not None and not _is_bias(bias, module, shapes)):
        return
    last = product
    (user, *others) = product.users or (None,)
    if bias is None and user is not None and not others and user.target is aten.add.Tensor and not user.kwargs:
        other = next((arg for arg in user.args if arg is not product), None)
        if _is_bias(other, module, shapes):
            last, bias = user, other
    value, results = _without_views(value, last)
    with module.graph.inserting_before(last):
        weight = _transposed(cast(Node, matrix), module, fixed)
        layer = module.graph.call_function(aten.linear.default, (value, weight, bias))
    layer.meta = {**last.meta, "val": results[0].meta["val"]}
    for result in results:
        result.replace_all_uses_with(layer)
    for node in (*results, last, product):
        if not node.users and node in module.graph.nodes:
            module.graph.erase_node(node)


def _is_bias(node: Any, module: GraphModule, shapes: Sequence[torch.Size]) -> bool:
    tensor = attribute_of(node, module)
    return isinstance(tensor, nn.Parameter) and tensor.shape == shapes[1][1:]


def _transposed(matrix: Node, module: GraphModule, fixed: dict[Node, bool]) -> Node:
    """The matrix with its axes swapped: what it was made from, where that is a transpose."""
    if matrix.target in _TRANSPOSES:
        return cast(Node, matrix.args[0])
    if matrix.target is aten.transpose.int and {int(axis) % 2 for axis in matrix.args[1:]} == {0, 1}:  # type: ignore[arg-type]
        return cast(Node, matrix.args[0])
    turned = module.graph.call_function(aten.t.default, (matrix,))
    turned.meta["val"] = matrix.meta["val"].t()
    fixed[turned] = fixed[matrix]
    return turned


def _without_views(value: Node, product: Node) -> tuple[Node, list[Node]]:
    """(what to read, what it is instead of) where all axes but the last are one for the product alone."""
    source, results = value.args[0] if value.target in _VIEWS else None, list(product.users)
    if isinstance(source, Node) and results:
        before, after = source.meta["val"].shape, product.meta["val"].shape
        restored = str([*before[:-1], after[-1]])
        views = all(end.target in _VIEWS and str(list(end.meta["val"].shape)) == restored for end in results)
        if before[-1] == value.meta["val"].shape[-1] and views:
            return source, results
    return value, [product]


# ---- weights -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weight:
    """What a layer reads as its weight or bias."""

    layer: Node
    role: str
    value: Node


def _weights(module: GraphModule, fixed: Mapping[Node, bool]) -> list[_Weight]:
    """The weights and biases that are computed from parameters."""
    return [
        _Weight(layer, role, value)
        for layer in module.graph.nodes
        if layer.op == "call_function" and base_name(layer) in _LAYERS
        for role in ("weight", "bias")
        if fixed.get(value := argument(layer, role)) and value.op == "call_function"
    ]


def _alone(weights: Sequence[_Weight], fixed: Mapping[Node, bool]) -> list[_Weight]:
    """The weights whose parameters make such weights and nothing else."""
    while True:
        readers = {(weight.layer, weight.value) for weight in weights}
        needed = {node for weight in weights for node in _behind(weight.value)}
        kept = [
            weight
            for weight in weights
            if all(
                user in needed or (user, node) in readers
                for node in _behind(weight.value)
                if fixed[node]
                for user in node.users
            )
        ]
        if len(kept) == len(weights):
            return kept
        weights = kept


def _behind(value: Node) -> list[Node]:
    """A value and all that it is computed from."""
    found = {value: None}
    for node in (todo := [value]):
        fresh = [source for source in node.all_input_nodes if source not in found]
        found |= dict.fromkeys(fresh)
        todo += fresh
    return list(found)


@torch.no_grad()
def _settle(module: GraphModule, weights: Sequence[_Weight]) -> None:
    """Compute weights and make them parameters; equal ones of the same parameters are one, as they were."""
    known: dict[Node, Any] = {}
    for weight in weights:
        _computed(weight.value, module, known)
    spent = {str(node.target) for node in known if node.op == "get_attr"}
    start = next(iter(module.graph.nodes))
    made: dict[str, tuple[list[str], Tensor, Node]] = {}
    for weight in weights:
        tensors = {str(node.target): attribute_of(node, module) for node in _behind(weight.value)}
        sources = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
        value, name = known[weight.value], _name(list(sources), weight.role)
        while name in made or (has_parameter(module, name) and name not in spent):
            if name in made and made[name][0] == list(sources) and torch.equal(made[name][1], value):
                break
            name += "_"
        else:
            with module.graph.inserting_before(start):
                node = module.graph.create_node("get_attr", name)
            node.meta["val"] = weight.value.meta["val"]
            made[name] = list(sources), value.clone(memory_format=torch.contiguous_format), node
        set_argument(weight.layer, weight.role, made[name][2])
    trains = {name: any(module.get_parameter(source).requires_grad for source in made[name][0]) for name in made}
    for name, (_, value, _) in made.items():
        set_parameter(module, name, value)
        module.get_parameter(name).requires_grad_(trains[name])


def _computed(node: Node, module: GraphModule, known: dict[Node, Any]) -> Any:
    """The value of a node that follows from parameters."""
    if node not in known:
        if node.op == "get_attr":
            known[node] = attribute_of(node, module)
        else:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: _computed(n, module, known))
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]


def _name(sources: Sequence[str], role: str) -> str:
    """What a weight that is computed from some parameters is called: as in the layer, had it been a parameter."""
    if len(sources) == 1 and _INSIDE not in f".{sources[0]}" and not sources[0].endswith("_orig"):
        return sources[0]
    inside = [f".{name}".partition(_INSIDE)[0] if _INSIDE in f".{name}" else f".{name}".rpartition(".")[0]
              for name in sources]  # fmt: skip
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*(path.split(".") for path in inside), strict=False))
    return ".".join([*(parts[0] for parts in common), role]).removeprefix(".")
