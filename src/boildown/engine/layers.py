"""What a candidate's layers are, as plain data for the journal and the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.fx import Node

from boildown.domain.candidate import Plan
from boildown.surgery.graph import Graph, attribute_of
from boildown.surgery.recurrent import kind_of

LAYERS = "layers"
"""The kind of record."""


def layers(graph: Graph, plan: Plan | None) -> list[dict[str, Any]]:
    """Every weight of two or more dimensions with the node that reads it first, in the order of the graph.

    name: of the weight, without its ending. node: the value made. shape: of the weight, output channels first.
    bits, input bits: of the weight and of the value read; None where it is float.
    """
    plan = plan or Plan()
    found: dict[str, dict[str, Any]] = {}
    for node, name, tensor in weights(graph):
        if name in found:
            continue
        read = _bits_read(node, name, plan)
        found[name] = {
            "name": name.removesuffix(".weight"),
            "node": node.name,
            "kind": str(node.target).removeprefix("aten.").partition(".")[0],
            "shape": list(tensor.shape),
            "bits": plan.weights[name].bits if name in plan.weights else None,
            "input bits": read if name in plan.weights else None,
        }
    return list(found.values())


def weights(graph: Graph) -> Iterator[tuple[Node, str, Tensor]]:
    """Every reading of a weight of two or more dimensions, in the order of the graph: (node, name, weight)."""
    for node in graph.module.graph.nodes:
        for weight in node.all_input_nodes if node.op == "call_function" else ():
            tensor = attribute_of(weight, graph.module)
            if tensor is not None and tensor.ndim > 1 and tensor.is_floating_point():
                yield node, str(weight.target), tensor


def _bits_read(node: Node, weight: str, plan: Plan) -> int | None:
    """Bits of the values that a layer multiplies by its weight; None where they are float."""
    if weight in plan.dynamic or kind_of(node):
        return 8 if weight in plan.dynamic else None
    values = (value.name for value in node.all_input_nodes if value.op != "get_attr")
    return next((plan.activations[name].bits for name in values if name in plan.activations), None)
