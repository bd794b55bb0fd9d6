"""Arguments of a graph's nodes, by the names that operators give them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node


def base_name(node: Node) -> str:
    """The operator's name without overload and without the mark of working in place."""
    packet = getattr(node.target, "overloadpacket", None)
    name = packet.__name__ if packet is not None else str(getattr(node.target, "__name__", node.target))
    return name if name.startswith("_") else name.rstrip("_")


def argument(node: Node, name: str) -> Any:
    """What a node gives for an argument of its operator, else the operator's default; None where it has no such."""
    position, given = _found(node, name)
    if given is None:
        return None
    return node.args[position] if position < len(node.args) else node.kwargs.get(name, given.default_value)


def set_argument(node: Node, name: str, value: Any) -> None:
    """Give an argument of a node another value."""
    position, _ = _found(node, name)
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


def _found(node: Node, name: str) -> tuple[int, torch.Argument | None]:
    """(position, description) of an argument."""
    schema = getattr(node.target, "_schema", None)
    for position, given in enumerate(schema.arguments if schema is not None else ()):
        if given.name == name:
            return position, given
    return 0, None
