"""A model as its own graph: what surgery edits and training trains, in place of the user's code.

A model's code may hold the sizes of its layers in any form: the reshape of an attention head, the zeros that
pad a shortcut, an attribute. In the exported graph they are literals that can be rewritten, so that channels
are removed from any model the same way. Unlike the graph that is quantized, this one keeps batch norms
and dropout as modules, so that it trains as the model did.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from boildown.domain.candidate import Edit
from boildown.surgery.calls import example_call, written_call
from boildown.surgery.edits import register
from boildown.surgery.graph import attribute_of, exported

OP = "capture"
CALL = "example call"
"""Where a trainable graph keeps the call it was made from, as plain data, in its `meta`."""

aten = torch.ops.aten

_NORMS = {3: nn.BatchNorm1d, 2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_DROPOUTS = {aten.dropout.default: nn.Dropout, aten.feature_dropout.default: nn.Dropout2d}
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


def trainable(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[GraphModule, Edit | None]:
    """A copy of the model as a graph module in eval mode, and the edit that makes it again.

    Called like the model, with the model's names of parameters and buffers. The edit is None where the model is
    such a graph already. `args` and `kwargs` are one example call; the edit keeps their shapes and types.
    Raises ExportError where the model cannot be captured.
    """
    if is_trainable(model):
        assert isinstance(model, GraphModule)
        return copy.deepcopy(model), None
    return _captured(model, args, kwargs), Edit(OP, 1, written_call(args, kwargs))


def is_trainable(model: nn.Module) -> bool:
    """Whether the model is what `trainable` returns, or an edit of it."""
    return isinstance(model, GraphModule) and CALL in model.meta


@register(OP, 1)
def _apply(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    return _captured(model, *example_call(args))


def _captured(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> GraphModule:
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    module = copy.deepcopy(exported(model, args, kwargs))
    module.graph.eliminate_dead_code()
    for node in list(module.graph.nodes):
        if node.target is aten.batch_norm.default:
            _revive_norm(module, node)
        elif node.target in _DROPOUTS:
            name = f"{node.name}_module"
            module.add_submodule(name, _DROPOUTS[node.target](node.args[1]))
            _call_module(module, node, name)
    module.graph.eliminate_dead_code()
    module.recompile()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trains.get(name, parameter.is_floating_point()))
    for node in module.graph.nodes:
        node.meta.pop("val", None)  # surgery makes it untrue
    module.meta[CALL] = written_call(args, kwargs)
    return module.eval()


def _revive_norm(module: GraphModule, node: Node) -> None:
    """Call a batch norm module in place of the operator, if all its tensors are one module's and only its own."""
    names = [str(arg.target) if attribute_of(arg, module) is not None else "" for arg in node.args[1:5]]  # type: ignore[union-attr]
    paths = {name.rpartition(".")[0] for name in names}
    value = node.meta["val"]
    if "" in names or len(paths) != 1 or [n.rpartition(".")[2] for n in names] != list(_NORM_PARTS):
        return
    if any(len(arg.users) > 1 for arg in node.args[1:5]):  # type: ignore[union-attr]
        return  # called twice: the statistics of one module would be updated by both
    path = paths.pop()
    old = module.get_submodule(path)
    norm = _NORMS[value.ndim](old.weight.shape[0], eps=node.args[7], momentum=node.args[6])  # type: ignore[arg-type]
    for part in _NORM_PARTS:
        setattr(norm, part, getattr(old, part))
    if isinstance(getattr(old, "num_batches_tracked", None), torch.Tensor):
        norm.num_batches_tracked = old.num_batches_tracked
    module.set_submodule(path, norm)
    _call_module(module, node, path)


def _call_module(module: GraphModule, node: Node, name: str) -> None:
    with module.graph.inserting_before(node):
        called = module.graph.call_module(name, (node.args[0],))
    called.meta = dict(node.meta)
    node.replace_all_uses_with(called)
    module.graph.erase_node(node)
