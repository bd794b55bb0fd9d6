"""Folding as an edit: the model becomes its captured graph, whose batch norms are part of its layers.

Methods that change a layer's weights to fit the integers it will be stored as work on the graph
that is quantized, and what they return has to be a model again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import GraphModule

from boildown.domain.candidate import Edit
from boildown.surgery.calls import example_call, written_call
from boildown.surgery.edits import register
from boildown.surgery.graph import LATEST, Graph, capture

OP = "fold-batch-norm"


def fold(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[GraphModule, Edit]:
    """The model's captured graph as an ordinary trainable module, and the edit that makes it again.

    `args` and `kwargs` are one example call; the edit keeps its shapes and types only. Capturing the
    folded module gives the same names and the same computation, so that a plan made on it fits. The
    model is not touched. Raises ExportError where it cannot be captured, TypeError where an argument
    that is no tensor is not plain data.
    """
    edit = Edit(OP, LATEST, written_call(args, kwargs))
    return module_of(capture(model, args, kwargs)), edit


def module_of(graph: Graph) -> GraphModule:
    """A trainable module with tensors of its own from a captured graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes
        module: GraphModule = copy.deepcopy(graph.copy())
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return module.eval()


@register(OP, 1)
def _apply_first(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    return module_of(capture(model, *example_call(args), version=1))


@register(OP, 2)
def _apply_second(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    return module_of(capture(model, *example_call(args), version=2))


@register(OP, 3)
def _apply(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    return module_of(capture(model, *example_call(args)))
