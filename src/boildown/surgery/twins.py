"""Twins: smaller networks of a model's own kind with fresh weights, to be trained from the start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _NormBase

from boildown.domain.candidate import Edit
from boildown.surgery.channels import Call, SurgeryError, find_channels
from boildown.surgery.depth import drop, find_blocks
from boildown.surgery.graph import CONVOLUTIONS, LINEAR, TRANSPOSED, attribute_of
from boildown.surgery.nodes import argument, base_name
from boildown.surgery.trainable import trainable

_NORMS = frozenset({"layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm"})


def narrower(model: nn.Module, example: Call, width: float, seed: int) -> tuple[nn.Module, tuple[Edit, ...]]:
    """A freshly initialised twin with `width` of the channels of every layer, and the edits of its architecture.

    Raises SurgeryError where the model has no channels that could go.
    """
    channels, captured = find_channels(model, *example)
    gone = {number for group in channels.groups for number in group.channels[max(1, round(width * group.width)) :]}
    if not gone:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(channels.left_alone.items())[:3])
        raise SurgeryError(f"No layer of the model can be made {width:g} as wide{f' ({why})' if why else ''}.")
    return initialised(channels.without(gone), seed), (*captured, channels.edit(gone))


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

    A parameter that is no layer's (a token, a position, a scale) is drawn with the mean and spread it had. What is
    drawn anew trains, frozen or not in the model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        done: set[int] = set()
        for node in module.graph.nodes:
            if node.op == "call_module":
                called = module.get_submodule(str(node.target))
                if isinstance(called, _NormBase):
                    called.reset_parameters()
                    done |= {id(parameter) for parameter in called.parameters()}
            elif node.op == "call_function":
                done |= {id(tensor) for tensor in _initialise(node, module)}
        for parameter in module.parameters():
            if id(parameter) not in done and parameter.numel() > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.std() + parameter.mean())
                done.add(id(parameter))
            if id(parameter) in done:
                parameter.requires_grad_(True)
    return module


def _initialise(node: Node, module: GraphModule) -> list[Tensor]:
    """Draw the parameters of one layer; returns them."""
    given = {name: attribute_of(argument(node, name), module) for name in ("weight", "bias")}
    weight, bias = given["weight"], given["bias"]
    name = base_name(node)
    if name in _NORMS:
        statistics = {name: attribute_of(argument(node, name), module) for name in ("running_mean", "running_var")}
        for tensor, value in zip((weight, bias, *statistics.values()), (1.0, 0.0, 0.0, 1.0), strict=True):
            if tensor is not None:
                tensor.fill_(value)
    elif weight is not None and name == "embedding":
        weight.normal_(0, float(weight.std()))
    elif weight is not None and node.target in CONVOLUTIONS | TRANSPOSED | {LINEAR}:
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        if bias is not None:
            bound = 1 / math.sqrt(weight[0].numel())
            bias.uniform_(-bound, bound)
    else:
        return []
    return [tensor for tensor in (weight, bias) if tensor is not None]


def _spread(names: list[str], count: int) -> list[str]:
    """`count` of the names, evenly spread; the first is the last to go."""
    if count <= 0:
        return []
    step = len(names) / count
    return [names[len(names) - 1 - int(k * step)] for k in range(count)]
