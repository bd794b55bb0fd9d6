"""Twins: smaller networks of a model's own kind with fresh weights, to be trained from the start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from boildown.domain.candidate import Edit
from boildown.surgery.channels import Channels, SurgeryError
from boildown.surgery.depth import drop, find_blocks
from boildown.surgery.graph import CONVOLUTIONS, LINEAR, TRANSPOSED, attribute_of
from boildown.surgery.labels import base_name
from boildown.surgery.trainable import trainable

Call = tuple[tuple[Any, ...], Mapping[str, Any]]


def narrower(model: nn.Module, example: Call, width: float, seed: int) -> tuple[nn.Module, tuple[Edit, ...]]:
    """A freshly initialised twin with `width` of the channels of every layer, and the edits of its architecture.

    Raises SurgeryError where the model has no channels that could go.
    """
    module, captured = trainable(model, *example)
    channels = Channels(module)
    gone = {
        number for group in channels.groups for number in group.channels[max(1, round(width * group.width)) :]
    }  # fmt: skip
    if not gone:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(channels.left_alone.items())[:3])
        raise SurgeryError(f"No layer of the model can be made {width:g} as wide{f' ({why})' if why else ''}.")
    twin = channels.without(gone)
    edits = (captured,) if captured else ()
    return initialised(twin, seed), (*edits, Edit("remove-channels", 1, {"channels": channels.written(gone)}))


def shallower(model: nn.Module, example: Call, depth: float, seed: int) -> tuple[nn.Module, tuple[Edit, ...]]:
    """A freshly initialised twin with `depth` of the repeated blocks of every stage, evenly spread, and its edits.

    Raises SurgeryError where the model repeats no block that could be left out.
    """
    module, captured = trainable(model, *example)
    stages: dict[str, list[str]] = {}
    for block in find_blocks(module):
        stages.setdefault(block.stage, []).append(block.name)
    dropped = [name for names in stages.values() for name in _spread(names, len(names) - round(depth * len(names)))]
    if not dropped:
        raise SurgeryError(
            f"The model repeats no block that could be left out for {depth:g} of its depth. Take a narrower twin."
        )
    twin, edit = drop(module, dropped)
    return initialised(twin, seed), (*((captured,) if captured else ()), edit)


@torch.no_grad()
def initialised(module: GraphModule, seed: int) -> GraphModule:
    """The module with fresh weights, as PyTorch's own layers draw them; the caller's random state is left alone.

    A parameter that is no layer's (a token, a position, a scale) is drawn with the mean and spread it had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        done: set[int] = set()
        for node in module.graph.nodes:
            if node.op == "call_module" and hasattr(
                called := module.get_submodule(str(node.target)), "reset_parameters"
            ):
                called.reset_parameters()
                done |= {id(parameter) for parameter in called.parameters()}
            elif node.op == "call_function":
                tensors = [attribute_of(arg, module) for arg in node.args]
                for tensor in _initialise(node, tensors):
                    done.add(id(tensor))
        for parameter in module.parameters():
            if id(parameter) not in done and parameter.numel() > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.std() + parameter.mean())
    return module


def _initialise(node: torch.fx.Node, tensors: list[Tensor | None]) -> list[Tensor]:
    """Draw the parameters of one layer; returns them."""
    weight, bias = (tensors[k] if len(tensors) > k else None for k in (1, 2))
    if node.target in CONVOLUTIONS or node.target in TRANSPOSED or node.target is LINEAR:
        if weight is not None:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            if bias is not None:
                bound = 1 / math.sqrt(weight[0].numel())
                bias.uniform_(-bound, bound)
    elif base_name(node) == "embedding":
        weight, bias = tensors[0], None
        if weight is not None:
            weight.normal_(0, float(weight.std()))
    elif base_name(node) in ("layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm"):
        found = [tensor for tensor in tensors[1:] if tensor is not None and isinstance(tensor, nn.Parameter)]
        for tensor, value in zip(found, (1.0, 0.0), strict=False):
            tensor.fill_(value)
        return found
    else:
        return []
    return [tensor for tensor in (weight, bias) if tensor is not None]


def _spread(names: list[str], count: int) -> list[str]:
    """`count` of the names, evenly spread; the first is the last to go."""
    if count <= 0:
        return []
    step = len(names) / count
    return [names[len(names) - 1 - int(k * step)] for k in range(count)]
