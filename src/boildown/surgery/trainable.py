"""A model as its own graph: what surgery edits and training trains, in place of the user's code.

A model's code may hold the sizes of its layers in any form: the reshape of an attention head, the zeros that
pad a shortcut, an attribute. In the exported graph they are literals that can be rewritten, so that channels
are removed from any model the same way. Unlike the graph that is quantized, this one keeps batch norms
and dropout as modules, so that it trains as the model did.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx._pytree import tree_flatten_spec
from torch.nn.modules.batchnorm import _BatchNorm

from boildown.domain.candidate import Edit
from boildown.surgery.calls import example_call, written_call
from boildown.surgery.edits import register
from boildown.surgery.graph import LATEST, attribute_of, exported
from boildown.surgery.nodes import argument

OP = "capture"
CALL = "example call"
"""Where a trainable graph keeps the call it was made from, as plain data, in its `meta`."""

aten = torch.ops.aten

_NORMS = {3: nn.BatchNorm1d, 2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_DROPOUTS: Mapping[Any, Callable[[float, int], nn.Module]] = {
    aten.dropout.default: lambda p, _: nn.Dropout(p),
    aten.dropout_.default: lambda p, _: nn.Dropout(p, inplace=True),
    aten.feature_dropout.default: lambda p, dimensions: _CHANNEL_DROPOUTS.get(dimensions, nn.Dropout2d)(p),
    aten.feature_dropout_.default: lambda p, dimensions: _CHANNEL_DROPOUTS.get(dimensions, nn.Dropout2d)(p, True),
    aten.alpha_dropout.default: lambda p, _: nn.AlphaDropout(p),
    aten.feature_alpha_dropout.default: lambda p, _: nn.FeatureAlphaDropout(p),
}
_CHANNEL_DROPOUTS: Mapping[int, Any] = {3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


def trainable(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[GraphModule, Edit | None]:
    """A copy of the model as a graph module in eval mode, and the edit that makes it again.

    Called like the model, with the model's names of parameters and buffers but for weights that are computed (see
    `ordinary`). The edit is None where the model is
    such a graph already. `args` and `kwargs` are one example call; the edit keeps their shapes and types.
    Raises ExportError where the model cannot be captured.
    """
    if is_trainable(model):
        assert isinstance(model, GraphModule)
        return copy.deepcopy(model), None
    edit = Edit(OP, LATEST, written_call(args, kwargs))
    return _captured(model, args, kwargs), edit


def is_trainable(model: nn.Module) -> bool:
    """Whether the model is what `trainable` returns, or an edit of it."""
    return isinstance(model, GraphModule) and CALL in model.meta


def example_inputs(module: GraphModule) -> list[Any]:
    """The example call of a trainable graph as its placeholders take it, with zeros in the tensors."""
    flat: list[Any] = tree_flatten_spec(example_call(module.meta[CALL]), module._in_spec)
    return flat


@register(OP, 1)
def _apply_first(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    return _captured(model, *example_call(args), version=1)


@register(OP, 2)
@register(OP, 3)
def _apply(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    return _captured(model, *example_call(args))


def _captured(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], version: int = LATEST) -> GraphModule:
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modules = dict(model.named_modules(remove_duplicate=False))
    module = copy.deepcopy(exported(model, args, kwargs, version=version))
    module.graph.eliminate_dead_code()
    for node in list(module.graph.nodes):
        if node.target is aten.batch_norm.default:
            _revive_norm(module, node, modules)
        elif node.target in _DROPOUTS and not argument(node, "train"):
            name = f"{node.name}_module"
            module.add_submodule(name, _DROPOUTS[node.target](argument(node, "p"), node.meta["val"].ndim))
            _call_module(module, node, name)
    module.graph.eliminate_dead_code()
    module.recompile()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trains.get(name, parameter.requires_grad))
    for node in module.graph.nodes:
        value = node.meta.pop("val", None)  # surgery makes it untrue
        node.meta["axes"] = getattr(value, "ndim", None)
    module.meta[CALL] = written_call(args, kwargs)
    return module.eval()


def _revive_norm(module: GraphModule, node: Node, modules: Mapping[str, nn.Module]) -> None:
    """Call a batch norm module in place of the operator, if all its tensors are one module's and only its own."""
    given = {part: argument(node, part) for part in _NORM_PARTS}
    parts = {part: value for part, value in given.items() if value is not None}
    names = {part: str(value.target).rpartition(".") for part, value in parts.items()}
    paths = {path for path, _, _ in names.values()}
    tensors = {part: attribute_of(value, module) for part, value in parts.items()}
    own = all(leaf == part for part, (_, _, leaf) in names.items()) and len(paths) == 1
    if not own or tensors.get("running_mean") is None or any(len(value.users) > 1 for value in parts.values()):
        return  # called twice, the statistics of one module would be updated by both
    if any(isinstance(tensors.get(part), nn.Parameter) != (part in parts) for part in ("weight", "bias")):
        return
    path = paths.pop()
    old, original = module.get_submodule(path), modules.get(path)
    momentum = original.momentum if isinstance(original, _BatchNorm) else argument(node, "momentum")
    norm = _NORMS[node.meta["val"].ndim](
        len(old.get_buffer("running_mean")), argument(node, "eps"), momentum, affine="weight" in parts
    )
    for part, tensor in tensors.items():
        setattr(norm, part, tensor)
    if isinstance(getattr(old, "num_batches_tracked", None), Tensor):
        norm.num_batches_tracked = old.get_buffer("num_batches_tracked")
    module.set_submodule(path, norm)
    _call_module(module, node, path)


def _call_module(module: GraphModule, node: Node, name: str) -> None:
    with module.graph.inserting_before(node):
        called = module.graph.call_module(name, (node.args[0],))
    called.meta = dict(node.meta)
    node.replace_all_uses_with(called)
    module.graph.erase_node(node)
