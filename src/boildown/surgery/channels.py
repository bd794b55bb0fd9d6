"""Channels as what a model can lose: which there are, what each costs, and a model without some of them.

A channel is everything that has to go together: a filter, its entries in norms and biases, and the column of
every layer that reads it; with a residual stream the filters of all its writers, with attention a whole head.
Channels that belong to the same parameters form a group, from which any may go.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from boildown.domain.candidate import Edit
from boildown.errors import AttemptError, Mistake, ModelError, in_words
from boildown.surgery.edits import register
from boildown.surgery.graph import macs_of
from boildown.surgery.labels import Role, Slot, Trace, trace
from boildown.surgery.nodes import base_name
from boildown.surgery.numbers import FROZEN
from boildown.surgery.rewrite import rewrite
from boildown.surgery.trainable import trainable

OP = "remove-channels"

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""(arguments, keyword arguments) of one call of a model."""


class SurgeryError(AttemptError):
    """Surgery would not give what it should: named, and not done."""

    name = "surgery"


@dataclass(frozen=True)
class Group:
    """Channels of the same parameters, in the order of the first layer that writes them.

    name: that layer's weight. channels: numbers that stand for them. each: how many filters of the first writer one
    channel has, more than one in grouped convolutions and attention heads. writers, readers, through: axes of the
    parameters of the layers before, behind and in between.
    """

    name: str
    channels: tuple[int, ...]
    each: int
    writers: tuple[Slot, ...]
    readers: tuple[Slot, ...]
    through: tuple[Slot, ...]

    @property
    def width(self) -> int:
        """How many channels it has."""
        return len(self.channels)


class Channels:
    """The channels of a trainable graph (see `trainable`)."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        self.trace: Trace = trace(module)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups that may lose channels, in the order of the graph."""
        touched: dict[int, list[Slot]] = {}
        for slot, numbers in self.trace.slots.items():
            for number in np.unique(numbers[numbers != FROZEN]):
                touched.setdefault(int(number), []).append(slot)
        # Of a part that is split off something is left too.
        parts: dict[int, list[Node]] = {}
        for node, vector in self.trace.values.items():
            if isinstance(vector, tuple) and base_name(node) in ("getitem", "slice", "narrow"):
                for number in np.unique(vector[1]):
                    parts.setdefault(int(number), []).append(node)
        members: dict[Any, list[int]] = {}
        for number, slots in touched.items():
            members.setdefault((tuple(slots), tuple(parts.get(number, ()))), []).append(number)
        return tuple(
            self._group(slots, numbers)
            for (slots, _), numbers in members.items()
            if any(self.trace.roles[slot] == "out" for slot in slots)
        )

    def _group(self, slots: Sequence[Slot], numbers: Collection[int]) -> Group:
        def of(role: Role) -> tuple[Slot, ...]:
            return tuple(slot for slot in slots if self.trace.roles[slot] == role)

        writers = of("out")
        written = self.trace.slots[writers[0]]
        mine = written[np.isin(written, list(numbers))]
        each = int((mine == mine[0]).sum())
        ordered = tuple(dict.fromkeys(mine.tolist()))
        return Group(writers[0].parameter, ordered, each, writers, of("in"), of("through"))

    @property
    def left_alone(self) -> Mapping[str, str]:
        """The layers of which all or some channels stay, by weight, and why."""
        return self.trace.left_alone

    # ---- what they cost ------------------------------------------------------------------------

    def costs(self, of: Literal["macs", "params"]) -> Costs:
        """What is there, to take channels off one by one."""
        return Costs(self, of)

    def macs(self, gone: Iterable[int] = ()) -> float:
        """Multiply-accumulates of one sample without some channels."""
        return self.costs("macs").without(gone)

    def parameters(self, gone: Iterable[int] = ()) -> float:
        """Parameters without some channels; buffers do not count."""
        return self.costs("params").without(gone)

    # ---- removing ------------------------------------------------------------------------------

    def edit(self, gone: Collection[int]) -> Edit:
        """The edit that removes these channels."""
        return Edit(OP, 1, {"channels": self.written(gone)})

    def written(self, gone: Collection[int]) -> list[list[Any]]:
        """Channels as plain data: [parameter, axis, indices of their first filters], one for each group."""
        data = []
        for group in self.groups:
            numbers = self.trace.slots[group.writers[0]]
            indices = [int(np.argmax(numbers == number)) for number in group.channels if number in gone]
            if indices:
                data.append([group.name, group.writers[0].axis, indices])
        return data

    def read(self, data: Iterable[Sequence[Any]]) -> frozenset[int]:
        """The inverse of `written`. Raises ModelError for what this model does not have."""
        found: set[int] = set()
        mistakes = []
        for name, axis, indices in data:
            numbers = self.trace.slots.get(Slot(name, axis), np.zeros(0, dtype=np.int64))
            if missing := [index for index in indices if index >= len(numbers)]:
                cause = f"The model has no channels {', '.join(map(str, missing))} along axis {axis} of {name!r}."
                mistakes.append(Mistake(cause, "Use the model it was made from."))
            found |= {int(numbers[index]) for index in indices if index < len(numbers)}
        if mistakes:
            raise ModelError(*mistakes)
        return frozenset(found)

    def without(self, gone: Collection[int], weights: GraphModule | None = None) -> GraphModule:
        """A copy of the graph without these channels; all else computes what it computed.

        weights: the same graph with other weights to cut instead. Raises SurgeryError for channels that must stay,
        and where a layer would have none left.
        """
        if FROZEN in gone:
            raise SurgeryError("Channels that other layers need cannot be removed.")
        numbers = np.fromiter(gone, np.int64)
        masks = {slot: ~np.isin(of_slot, numbers) for slot, of_slot in self.trace.slots.items()}
        empty = {slot.parameter: None for slot, kept in masks.items() if not kept.any()}
        for node, vectors in self.trace.values.items():
            each = vectors if isinstance(vectors, list) else [vectors]
            if any(vector is not None and np.isin(vector[1], numbers).all() for vector in each):
                empty[node.name] = None
        if empty:
            raise SurgeryError(f"Nothing would be left of {', '.join(list(empty)[:3])}.")
        module = copy.deepcopy(weights or self.module)
        _cut_tensors(module, masks)
        rewrite(module.graph, self.module.graph, self.trace, gone)
        for called in module.modules():
            if isinstance(called, nn.modules.batchnorm._BatchNorm) and called.running_mean is not None:
                called.num_features = len(called.running_mean)
        module.recompile()
        return module

    def silenced(self, gone: Collection[int], weights: GraphModule | None = None) -> GraphModule:
        """A copy of the graph in which these channels are there but zero, in all that writes and reads them."""
        module = copy.deepcopy(weights or self.module)
        tensors = dict(_tensors(module))
        numbers = np.fromiter(gone, np.int64)
        with torch.no_grad():
            for slot, of_slot in self.trace.slots.items():
                index = torch.from_numpy(np.flatnonzero(np.isin(of_slot, numbers)))
                tensors[slot.parameter].index_fill_(slot.axis, index, 0.0)
        return module

    def readers(self, gone: Collection[int]) -> dict[str, Tensor | None]:
        """The layers to repair without these channels, by node, with which input channels stay; see `repair`."""
        found: dict[str, Tensor | None] = {}
        for slot, numbers in self.trace.slots.items():
            kept = ~np.isin(numbers, list(gone))
            for node in () if kept.all() else self.trace.layers[slot]:
                if self.trace.weights.get(node) == slot.parameter:
                    if self.trace.roles[slot] == "in":
                        found[node.name] = torch.from_numpy(kept)
                    elif self.trace.roles[slot] == "through" and slot.axis == 0:
                        found[node.name] = None
        return found


class Costs:
    """What a model costs while channels go: a sum of terms, each in proportion to the shares left of some axes."""

    def __init__(self, channels: Channels, of: Literal["macs", "params"]) -> None:
        found = channels.trace
        axes: dict[Any, NDArray[np.int64]] = dict(found.slots)
        of_parameter: dict[str, list[Any]] = {}
        for slot in found.slots:
            of_parameter.setdefault(slot.parameter, []).append(slot)
        self.terms: list[tuple[float, list[Any]]] = []
        if of == "params":
            for name, tensor in channels.module.named_parameters():
                self.terms.append((float(tensor.numel()), of_parameter.get(name, [])))
        else:
            tensors = dict(_tensors(channels.module))
            for node, count in _products(channels.module, found):
                if node in found.weights:
                    self.terms.append((count, of_parameter.get(found.weights[node], [])))
                    continue
                if node in found.matrices:
                    sizes = {name: tensors[name].numel() for name in found.matrices[node]}
                    every = sum(sizes.values())
                    self.terms += [(count * size / every, of_parameter[name]) for name, size in sizes.items()]
                    continue
                # A product of two values: what the result has fewer of, else what is summed over.
                values = {value: found.values.get(value) for value in (node, *node.all_input_nodes)}
                varying = [(value, vector[1]) for value, vector in values.items() if isinstance(vector, tuple)]
                axes |= dict(varying[:1])
                self.terms.append((count, [value for value, _ in varying[:1]]))
        self.share = {key: 1.0 for _, keys in self.terms for key in keys}
        self.parts: dict[int, list[tuple[Any, float]]] = {}
        for key in self.share:
            for number, times in zip(*np.unique(axes[key], return_counts=True), strict=True):
                self.parts.setdefault(int(number), []).append((key, float(times) / len(axes[key])))
        self.using: dict[Any, list[int]] = {}
        for index, (_, keys) in enumerate(self.terms):
            for key in keys:
                self.using.setdefault(key, []).append(index)
        self.full = self.total = sum(count for count, _ in self.terms)

    def saving(self, numbers: Iterable[int]) -> float:
        """What is saved if these channels go as well."""
        return self._change(numbers)[0]

    def remove(self, numbers: Iterable[int]) -> None:
        """Let channels go."""
        saved, shares = self._change(numbers)
        self.total -= saved
        self.share.update(shares)

    def without(self, numbers: Iterable[int]) -> float:
        """What is left once these channels are gone."""
        self.remove(numbers)
        return self.total

    def _change(self, numbers: Iterable[int]) -> tuple[float, dict[Any, float]]:
        shares: dict[Any, float] = {}
        for number in numbers:
            for key, part in self.parts.get(number, ()):
                shares[key] = shares.get(key, self.share[key]) - part
        saved = 0.0
        for index in {index for key in shares for index in self.using[key]}:
            count, keys = self.terms[index]
            saved += count * (prod(self.share[k] for k in keys) - prod(shares.get(k, self.share[k]) for k in keys))
        return saved, shares


def _products(module: GraphModule, found: Trace) -> list[tuple[Node, float]]:
    """The nodes that multiply and add, and how often for one sample."""
    batch = next((shape[0] for node, shape in found.sizes.items() if node.op == "placeholder" and shape), 1)
    counts = [(node, macs_of(node, found.sizes.__getitem__)) for node in module.graph.nodes]
    return [(node, count / batch) for node, count in counts if count]


def remove(
    channels: Channels, gone: Collection[int], call: Call, weights: GraphModule | None = None
) -> tuple[GraphModule, Edit]:
    """The graph without some channels, and the edit that removes them again.

    call: arguments on which it is checked that the outputs are those of the graph in which the channels are zero.
    weights: the same graph with repaired weights to cut instead. Raises SurgeryError where outputs differ.
    """
    pruned = channels.without(gone, weights)
    before = _outputs(channels.silenced(gone, weights), call)
    try:
        after = _outputs(pruned, call)
    except (RuntimeError, IndexError, ValueError) as error:
        raise SurgeryError(f"Without these channels the model fails; they were left in: {in_words(error)}") from error
    for ours, theirs in zip(after, before, strict=True):
        room = 1e-3 * float(theirs.abs().nan_to_num().max()) + 1e-6 if theirs.numel() else 0.0
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=0.0, atol=room, equal_nan=True):
            raise SurgeryError("Without these channels the model computes something else; they were left in.")
    return pruned, channels.edit(gone)


@register(OP, 1)
def _apply(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    assert isinstance(model, GraphModule)
    channels = Channels(model)
    return channels.without(channels.read(args["channels"]))


def find_channels(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Channels, tuple[Edit, ...]]:
    """The channels of any model, and the edit that made it a graph first, where one was needed."""
    module, edit = trainable(model, args, kwargs)
    return Channels(module), () if edit is None else (edit,)


@torch.inference_mode()
def _outputs(module: GraphModule, call: Call) -> list[Tensor]:
    outputs = torch.utils._pytree.tree_leaves(module.eval()(*call[0], **call[1]))
    return [leaf for leaf in outputs if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _cut_tensors(module: GraphModule, masks: Mapping[Slot, NDArray[np.bool_]]) -> None:
    """Cut every parameter and buffer along its slots, under each of its names."""
    tensors = dict(_tensors(module))
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    cut: dict[str, Tensor] = {}
    for slot, kept in masks.items():
        if not kept.all():
            old = cut.get(slot.parameter, tensors[slot.parameter].detach())
            cut[slot.parameter] = old.index_select(slot.axis, torch.from_numpy(np.flatnonzero(kept)))
    for name, new in cut.items():
        old = tensors[name]
        fresh = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        for alias in names[id(old)]:
            path, _, leaf = alias.rpartition(".")
            setattr(module.get_submodule(path), leaf, fresh)
