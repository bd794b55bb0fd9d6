"""Running a trainable graph: one node at a time, for the shapes of its values, for its outputs beside others."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from boildown.surgery.graph import macs_of
from boildown.surgery.trainable import example_inputs

Call = tuple[tuple[Any, ...], Mapping[str, Any]]


def computed(module: GraphModule, node: Node, of: Callable[[Node], Any]) -> Any:
    """The value of a node that is neither input nor output; `of` gives those of its arguments."""
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(module)
    called: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), of)
    return called(*args, **kwargs)


@torch.no_grad()
def sizes_of(module: GraphModule) -> tuple[dict[Node, torch.Size], int]:
    """The shape of every value that is a tensor, on the example call, and the size of its batch."""
    sizes: dict[Node, torch.Size] = {}

    class Sizes(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                sizes[n] = value.shape
            return value

    Sizes(module).run(*example_inputs(module), enable_io_processing=False)
    return sizes, next((shape[0] for node, shape in sizes.items() if node.op == "placeholder" and shape), 1)


def cost(module: GraphModule, of: Literal["macs", "params"]) -> float:
    """Multiply-accumulates of one sample, or parameters, of a trainable graph."""
    if of == "params":
        return float(sum(parameter.numel() for parameter in module.parameters()))
    sizes, batch = sizes_of(module)
    return sum(macs_of(node, sizes.__getitem__) for node in module.graph.nodes if node.op == "call_function") / batch


def largest(module: GraphModule) -> float:
    """Bytes of the largest value of a trainable graph for one sample."""
    sizes, batch = sizes_of(module)
    return 4 * max(prod(shape) for node, shape in sizes.items() if node.op != "get_attr") / max(batch, 1)


class Reference:
    """A network's outputs on some calls, to hold others against."""

    def __init__(self, module: nn.Module, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._leaves = [_leaves(output) for output in self.outputs(module)]
        parts = (leaf - leaf.mean(0) for leaves in self._leaves for leaf in leaves)
        self._spread = max(sum(float(part.square().sum()) for part in parts), 1e-12)

    @torch.no_grad()
    def outputs(self, module: nn.Module) -> list[Any]:
        """What another network gives on the calls."""
        return [module(*args, **kwargs) for args, kwargs in self._calls]

    def error(self, outputs: Sequence[Any]) -> float:
        """The squared error of outputs, relative to the spread of the network's own."""
        pairs = (
            pair
            for theirs, ours in zip(self._leaves, outputs, strict=True)
            for pair in zip(theirs, _leaves(ours), strict=True)
        )
        return sum(float((theirs - ours).square().sum()) for theirs, ours in pairs) / self._spread


def _leaves(tree: Any) -> list[Tensor]:
    return [
        leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
