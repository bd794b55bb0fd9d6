"""Nodes of a graph: their arguments by the names that operators give them, and the tensors they stand for."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
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


def attribute_of(node: Any, module: nn.Module) -> Tensor | None:
    """The tensor of a `get_attr` node, or None."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(str(node.target))(module)
    return value if isinstance(value, Tensor) else None


def set_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    """Put `value` as the parameter with this qualified name into the module's own tree."""
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, nn.Parameter(value, requires_grad=value.is_floating_point()))


def has_parameter(module: nn.Module, name: str) -> bool:
    """Whether the module's tree has something under this qualified name."""
    path, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(path), leaf, None) is not None


def _found(node: Node, name: str) -> tuple[int, torch.Argument | None]:
    """(position, description) of an argument."""
    schema = getattr(node.target, "_schema", None)
    for position, given in enumerate(schema.arguments if schema is not None else ()):
        if given.name == name:
            return position, given
    return 0, None
