"""How much each channel matters, by what can be read off weights, activations or gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from boildown.surgery.channels import Channels
from boildown.surgery.labels import Slot
from boildown.surgery.repair import Pair
from boildown.surgery.stepping import Call

Importance = Literal["hessian", "magnitude", "activation", "taylor", "norm-scale"]


def magnitude(channels: Channels) -> dict[int, float]:
    """The norm of all filters that write a channel: Li et al., Pruning filters (arXiv 1608.08710), by L2 norm."""
    module = channels.module
    parts = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    tensors = dict(chain(*parts))  # a parametrization may keep what it computes weights from in a buffer
    return _summed(channels, "writers", lambda slot: _along(tensors[slot.parameter].detach().square(), slot.axis))


def norm_scale(channels: Channels) -> dict[int, float]:
    """The scale of the batch norms behind a channel: Liu et al., Network slimming (arXiv 1708.06519)."""
    tensors = dict(channels.module.named_parameters(remove_duplicate=False))
    norms = {
        f"{node.target}.weight"
        for node in channels.module.graph.nodes
        if node.op == "call_module" and f"{node.target}.weight" in tensors
    }

    def of(slot: Slot) -> Tensor | None:
        return tensors[slot.parameter].detach().square() if slot.parameter in norms else None

    return _summed(channels, "through", of)


def activation(channels: Channels, calls: Sequence[Call], check: Callable[[], None] = lambda: None) -> dict[int, float]:
    """The energy that arrives at the layers behind a channel, times the norm of their columns for it.

    Energy alone is Hu et al., Network trimming (arXiv 1607.03250); weighted by the next layer's columns it is the
    diagonal of what Luo et al., ThiNet (arXiv 1707.06342) sum up.
    """
    module = channels.module
    tensors = dict(module.named_parameters(remove_duplicate=False))
    readers = {
        node: slot for group in channels.groups for slot in group.readers for node in channels.trace.layers[slot]
    }
    energies: dict[Slot, Tensor] = {}
    pair = Pair(module, module, calls, check)
    for node in module.graph.nodes:
        if node in readers:
            slot = readers[node]
            numbers = channels.trace.slots[slot]
            weight = _along(tensors[slot.parameter].detach().square(), slot.axis)
            axis = 1 if tensors[slot.parameter].ndim > 2 else -1
            parts = [
                _along(value.square(), axis % value.ndim) / value[0].numel() for value in pair.target(node.args[0])
            ]
            energy = torch.stack(parts).sum(0)
            energies[slot] = energies.get(slot, 0) + energy.view(-1, len(numbers)).sum(0) * weight
        pair.forget(node)
    return _summed(channels, "readers", lambda slot: energies.get(slot))


def taylor(
    channels: Channels,
    batches: Sequence[tuple[Any, Any]],
    loss: Callable[[Any, Any, Any], Tensor],
    check: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """The change of the loss to first order: Molchanov et al., Importance estimation (arXiv 1906.10771), equation 8.

    batches: (inputs, target). loss: `loss(module, inputs, target)`. Summed over a channel's filters, then squared,
    and added up over batches.
    """
    module = channels.module
    parameters = {n: p for n, p in module.named_parameters(remove_duplicate=False) if p.is_floating_point()}
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    total: dict[int, float] = {}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for inputs, target in batches:
            check()
            module.zero_grad(set_to_none=True)
            torch.autograd.backward(loss(module, inputs, target))

            def change(slot: Slot) -> Tensor | None:
                tensor = parameters[slot.parameter]
                return None if tensor.grad is None else _along((tensor * tensor.grad).detach(), slot.axis)

            for number, value in _summed(channels, "writers", change).items():
                total[number] = total.get(number, 0.0) + value**2
    finally:
        module.zero_grad(set_to_none=True)
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    return total


def _along(tensor: Tensor, axis: int) -> Tensor:
    """Summed over all axes but one."""
    return tensor.sum([other for other in range(tensor.ndim) if other != axis]) if tensor.ndim > 1 else tensor


def _summed(channels: Channels, part: str, of: Callable[[Slot], Tensor | None]) -> dict[int, float]:
    """Per channel, what its slots of one kind add up to."""
    found: dict[int, float] = {number: 0.0 for group in channels.groups for number in group.channels}
    for group in channels.groups:
        for slot in getattr(group, part):
            values = of(slot)
            if values is None:
                continue
            numbers = channels.trace.slots[slot]
            mine = np.isin(numbers, group.channels)
            for number, value in zip(numbers[mine], values.numpy()[mine], strict=True):
                found[int(number)] += float(value)
    return found
