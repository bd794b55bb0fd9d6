"""Folding as an edit: the model becomes its captured graph, whose batch norms are part of its layers.

Methods that change a layer's weights to fit the integers it will be stored as work on the graph
that is quantized, and what they return has to be a model again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from boildown.domain.candidate import Edit
from boildown.surgery.edits import register
from boildown.surgery.graph import Graph, capture

OP = "fold-batch-norm"


def fold(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[GraphModule, Edit]:
    """The model's captured graph as an ordinary trainable module, and the edit that makes it again.

    `args` and `kwargs` are one example call; the edit keeps its shapes and types only. Capturing the
    folded module gives the same names and the same computation, so that a plan made on it fits. The
    model is not touched. Raises ExportError where it cannot be captured, TypeError where an argument
    that is no tensor is not plain data.
    """
    call = {"args": [_describe(value) for value in args], "kwargs": {k: _describe(v) for k, v in kwargs.items()}}
    return module_of(capture(model, args, kwargs)), Edit(OP, 1, call)


def module_of(graph: Graph) -> GraphModule:
    """A trainable module with tensors of its own from a captured graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes
        module: GraphModule = copy.deepcopy(graph.copy())
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return module.eval()


@register(OP, 1)
def _apply(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    call = tuple(_restore(value) for value in args["args"]), {k: _restore(v) for k, v in args["kwargs"].items()}
    return module_of(capture(model, *call))


def _describe(value: Any) -> Any:
    """Plain data for an argument: tensors by shape and type, containers by their parts."""
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple):
        return {"tuple": [_describe(part) for part in value]}
    if isinstance(value, list):
        return {"list": [_describe(part) for part in value]}
    if isinstance(value, dict):
        return {"dict": {str(key): _describe(part) for key, part in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"an argument of type {type(value).__name__} cannot be written down; call the model with tensors")


def _restore(data: Mapping[str, Any]) -> Any:
    """The inverse of `_describe`, with zeros in the tensors."""
    if "tensor" in data:
        return torch.zeros(data["tensor"], dtype=getattr(torch, data["dtype"]))
    if "tuple" in data:
        return tuple(_restore(part) for part in data["tuple"])
    if "list" in data:
        return [_restore(part) for part in data["list"]]
    if "dict" in data:
        return {key: _restore(part) for key, part in data["dict"].items()}
    return data["value"]
