"""Computing a graph one node at a time."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node


def computed(module: GraphModule, node: Node, of: Callable[[Node], Any]) -> Any:
    """The value of a node that is neither input nor output; `of` gives those of its arguments."""
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(module)
    called: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), of)
    return called(*args, **kwargs)
