"""Activation functions: those that are written out, as the one operator that they are.

Networks of other frameworks, and older ones, write hard-sigmoid, hard-swish and SiLU as sums, clamps and products. As
one operator they are one kernel in the float file, and quantization knows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from boildown.surgery.nodes import argument, attribute_of

aten = torch.ops.aten

_SYNONYMS = {
    aten.clip.default: aten.clamp.default, aten.multiply.Tensor: aten.mul.Tensor,
    aten.divide.Tensor: aten.div.Tensor, aten.true_divide.Tensor: aten.div.Tensor,
}  # fmt: skip

GATES = {aten.hardswish.default: aten.hardsigmoid.default, aten.silu.default: aten.sigmoid.default}
"""Functions that are a value times another function of it -> that function, which goes from 0 to 1."""


def recognise(module: GraphModule) -> None:
    """Put one operator in the place of each function that is written out, in place; it computes the same.

    Second names of operators become their first; a product that spreads a factor by itself is given the smaller one.
    """
    for node in module.graph.nodes:
        node.target = _SYNONYMS.get(node.target, node.target)
    for node in list(module.graph.nodes):
        found = _written_out(node, module)
        if found is None or found[1].meta["val"].dtype is not node.meta["val"].dtype:
            continue  # whole numbers become fractions on the way
        target, value = found
        with module.graph.inserting_before(node):
            whole = module.graph.call_function(target, (value,))
        whole.meta = dict(node.meta)
        node.replace_all_uses_with(whole)
        module.graph.erase_node(node)
    for node in module.graph.nodes:
        _take_smaller(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _take_smaller(product: Node) -> None:
    for position, (factor, other) in enumerate(_factors(product)):
        full = str(other.meta["val"].shape) == str(product.meta["val"].shape)
        if factor.target in _SPREADS and full:
            product.update_arg(position, factor.args[0])
            return


_SPREADS = frozenset({aten.expand.default, aten.expand_as.default})


def _written_out(node: Node, module: GraphModule) -> tuple[Any, Node] | None:
    """(the operator, what it is a function of) where a node is the last step of one."""
    sixth = _scaled(node, 1 / 6, module)
    if sixth is not None and (value := _six_at_most(sixth, module)) is not None:
        return aten.hardsigmoid.default, value
    shifted = _between(node, 0, 1)
    scaled = _shifted(shifted, 0.5, module) if shifted is not None else None
    if scaled is not None and (scaled_of := _scaled(scaled, 1 / 6, module)) is not None and _alone(shifted, scaled):
        return aten.hardsigmoid.default, scaled_of
    for value, other in _factors(node):
        for whole, gate in GATES.items():
            if other.target is gate and other.args[0] is value and _alone(other):
                return whole, value
    for value, other in _factors(sixth) if sixth is not None and _alone(sixth) else ():
        if _six_at_most(other, module) is value:
            return aten.hardswish.default, value
    return None


def _six_at_most(node: Node, module: GraphModule) -> Node | None:
    """`x` where a node is `relu6(x + 3)` that one other alone reads."""
    shifted = _between(node, 0, 6)
    return _shifted(shifted, 3, module) if shifted is not None and _alone(node, shifted) else None


def _between(node: Node, low: float, high: float) -> Node | None:
    """What a node clamps to these limits."""
    if node.target is aten.relu6.default:
        limits = 0, 6
    elif node.target is aten.hardtanh.default:
        limits = argument(node, "min_val"), argument(node, "max_val")
    elif node.target is aten.clamp.default:
        limits = argument(node, "min"), argument(node, "max")
    else:
        return None
    return _node(node.args[0]) if limits == (low, high) else None


def _shifted(node: Node, by: float, module: GraphModule) -> Node | None:
    """What a node adds a number to."""
    if node.target is not aten.add.Tensor or node.kwargs or len(node.args) != 2:
        return None
    return next((_node(a) for a, b in (node.args, node.args[::-1]) if _is(b, by, module)), None)


def _scaled(node: Node, by: float, module: GraphModule) -> Node | None:
    """What a node multiplies by a number, or divides by its inverse."""
    if node.target is aten.div.Tensor and not node.kwargs:
        return _node(node.args[0]) if _is(node.args[1], 1 / by, module) else None
    if node.target is not aten.mul.Tensor:
        return None
    return next((_node(a) for a, b in (node.args, node.args[::-1]) if _is(b, by, module)), None)


def _factors(node: Node) -> Iterator[tuple[Node, Node]]:
    """The two values that a node multiplies, either first."""
    if node.target is aten.mul.Tensor:
        first, second = node.args
        if isinstance(first, Node) and isinstance(second, Node):
            yield first, second
            yield second, first


def _is(given: Any, wanted: float, module: GraphModule) -> bool:
    """Whether an argument is a number, or a constant of one number, that is as good as the one wanted."""
    constant = attribute_of(given, module)
    if constant is not None and constant.numel() == 1 and constant.ndim == 0 and not constant.requires_grad:
        given = constant.item()
    return isinstance(given, int | float) and math.isclose(given, wanted, rel_tol=1e-5)


def _alone(*nodes: Node | None) -> bool:
    """Whether each of the nodes has one reader."""
    return all(node is not None and len(node.users) == 1 for node in nodes)


def _node(given: Any) -> Node | None:
    return given if isinstance(given, Node) else None
