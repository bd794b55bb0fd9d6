"""Channels as what a model can lose: which there are, what each costs, and a model without some of them.

A channel is everything that has to go together: a filter, its entries in norms and biases, and the column of
every layer that reads it; with a residual stream the filters of all its writers, with attention a whole head.
Channels that belong to the same parameters form a group, from which any may go.
"""

from __future__ import annotations

import copy
import operator
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
from boildown.errors import AttemptError, Mistake, ModelError
from boildown.surgery.calls import example_call
from boildown.surgery.edits import register
from boildown.surgery.graph import CONVOLUTIONS, LINEAR, TRANSPOSED
from boildown.surgery.labels import FROZEN, Slot, Trace, base_name, trace
from boildown.surgery.trainable import CALL, trainable

OP = "remove-channels"

aten = torch.ops.aten


class SurgeryError(AttemptError):
    """Surgery would not give what it should: named, and not done."""

    name = "surgery"


@dataclass(frozen=True)
class Group:
    """Channels of the same parameters, in the order of the first layer that writes them.

    name: that layer's weight. channels: numbers that stand for them. writers, readers: slots of the layers before
    and behind. each: how many filters of the first writer one channel has, more than one in grouped convolutions.
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
        args, kwargs = example_call(module.meta[CALL])
        self.trace: Trace = trace(module, args, kwargs)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups that may lose channels, in the order of the graph."""
        slots: dict[int, list[Slot]] = {}
        for slot, numbers in self.trace.slots.items():
            for number in np.unique(numbers):
                slots.setdefault(int(number), []).append(slot)
        members: dict[tuple[Slot, ...], list[int]] = {}
        for number, touched in slots.items():
            if number != FROZEN and any(self.trace.roles[slot] == "out" for slot in touched):
                members.setdefault(tuple(touched), []).append(number)
        found = []
        for touched, numbers in members.items():
            by_role = {
                role: tuple(s for s in touched if self.trace.roles[s] == role) for role in ("out", "in", "through")
            }
            writers = by_role["out"]
            order = self.trace.slots[writers[0]]
            _, first = np.unique(order, return_index=True)
            position = dict(zip(order[np.sort(first)], range(len(first)), strict=True))
            numbers.sort(key=lambda n, position=position: position[n])
            found.append(
                Group(
                    writers[0].parameter,
                    tuple(numbers),
                    int((order == numbers[0]).sum()),
                    writers,
                    by_role["in"],
                    by_role["through"],
                )
            )
        return tuple(found)

    @cached_property
    def left_alone(self) -> dict[str, str]:
        """The layers whose channels stay, and why."""
        reasons: dict[str, str] = {}
        for slot, numbers in self.trace.slots.items():
            if self.trace.roles[slot] == "out" and (numbers == FROZEN).all():
                original = self.trace.written[slot]
                reasons[slot.parameter] = next(
                    (why for frozen, why in self.trace.frozen if np.isin(original, frozen).any()),
                    "other layers need them",
                )
        return reasons

    # ---- what they cost ------------------------------------------------------------------------

    def costs(self, of: Literal["macs", "params"]) -> Costs:
        """What is there, to take channels off one by one."""
        return Costs(self, of)

    def macs(self, gone: Iterable[int] = ()) -> float:
        """Multiply-accumulates of one sample without some channels, as far as layers with channels go."""
        return self.costs("macs").without(gone)

    def parameters(self, gone: Iterable[int] = ()) -> float:
        """Parameters without some channels; buffers do not count."""
        return self.costs("params").without(gone)

    # ---- removing ------------------------------------------------------------------------------

    def written(self, gone: Collection[int]) -> dict[str, list[int]]:
        """Channels as plain data: indices of the filters that make them, by the weight's name."""
        data: dict[str, list[int]] = {}
        for group in self.groups:
            slot, numbers = group.writers[0], set(group.channels) & set(gone)
            for number in numbers:
                index = int(np.flatnonzero(self.trace.slots[slot] == number)[0])
                data.setdefault(slot.parameter, []).append(index)
        return {name: sorted(indices) for name, indices in data.items()}

    def read(self, data: Mapping[str, Sequence[int]]) -> frozenset[int]:
        """The inverse of `written`. Raises ModelError for what this model does not have."""
        found: set[int] = set()
        for name, indices in data.items():
            slots = [slot for slot in self.trace.slots if slot.parameter == name and self.trace.roles[slot] == "out"]
            numbers = self.trace.slots[slots[0]] if slots else np.zeros(0, dtype=np.int64)
            if not slots or max(indices, default=0) >= len(numbers):
                raise ModelError(
                    Mistake(
                        f"The model has no channels {list(indices)} of {name!r}.", "Use the model it was made from."
                    )
                )
            found |= {int(numbers[index]) for index in indices}
        return frozenset(found)

    def without(self, gone: Collection[int], weights: GraphModule | None = None) -> GraphModule:
        """A copy of the graph without these channels; all else computes what it computed.

        weights: the same graph with other weights to cut instead. Raises SurgeryError for channels that must stay, and where a layer would have none left.
        """
        if FROZEN in gone:
            raise SurgeryError("Channels that other layers need cannot be removed.")
        masks = {slot: ~np.isin(numbers, list(gone)) for slot, numbers in self.trace.slots.items()}
        empty = sorted({slot.parameter for slot, kept in masks.items() if not kept.any()})
        if empty:
            raise SurgeryError(f"Nothing would be left of {', '.join(empty[:5])}.")
        module = copy.deepcopy(weights or self.module)
        _cut_parameters(module, masks)
        nodes = dict(zip(module.graph.nodes, self.module.graph.nodes, strict=True))
        for node in list(nodes):
            _Rewriter(module, node, nodes, self.trace, gone).rewrite()
        for called in module.modules():
            if isinstance(called, nn.modules.batchnorm._BatchNorm):
                called.num_features = len(called.running_mean)  # type: ignore[arg-type]
        module.recompile()
        return module

    def silenced(self, gone: Collection[int], weights: GraphModule | None = None) -> GraphModule:
        """A copy of the graph in which these channels are there but zero, in all that writes and reads them."""
        module = copy.deepcopy(weights or self.module)
        tensors = dict(_tensors(module))
        with torch.no_grad():
            for slot, numbers in self.trace.slots.items():
                index = torch.from_numpy(np.flatnonzero(np.isin(numbers, list(gone))))
                tensors[slot.parameter].index_fill_(slot.axis, index, 0.0)
        return module

    def readers(self, gone: Collection[int]) -> dict[str, Tensor | None]:
        """The layers to repair without these channels, by node, with which input channels stay; see `repair`."""
        found: dict[str, Tensor | None] = {}
        for slot, numbers in self.trace.slots.items():
            kept = ~np.isin(numbers, list(gone))
            for node in () if kept.all() else self.trace.layers[slot]:
                weight = node.args[1] if node.op == "call_function" and len(node.args) > 1 else None
                if isinstance(weight, Node) and self.trace.names.get(weight) == slot.parameter:
                    if self.trace.roles[slot] == "in":
                        found[node.name] = torch.from_numpy(kept)
                    elif self.trace.roles[slot] == "through" and slot.axis == 0:
                        found[node.name] = None
        return found


class Costs:
    """What a model costs while channels go: a sum of terms, each in proportion to the shares left of some axes."""

    def __init__(self, channels: Channels, of: Literal["macs", "params"]) -> None:
        found = channels.trace
        by_parameter: dict[str, list[Slot]] = {}
        for slot in found.slots:
            by_parameter.setdefault(slot.parameter, []).append(slot)
        self.terms: list[tuple[float, list[Any]]] = []
        axes: dict[Any, NDArray[np.int64]] = dict(found.slots)
        if of == "params":
            for name, tensor in channels.module.named_parameters():
                self.terms.append((float(tensor.numel()), [*by_parameter.get(name, ())]))
        else:
            for node, count in _products(channels.trace):
                weight = node.args[1]
                keys: list[Any] = (
                    [*by_parameter.get(found.names.get(weight, ""), ())] if isinstance(weight, Node) else []
                )
                vector = found.values.get(node)
                if not keys and vector is not None:
                    axes[node], keys = vector[1], [node]
                self.terms.append((count, keys))
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


def _products(found: Trace) -> list[tuple[Node, float]]:
    """The nodes that multiply and add, and how often for one sample."""
    counted = []
    for node, shape in found.sizes.items():
        if node.op != "call_function":
            continue
        given = [found.sizes.get(arg, ()) if isinstance(arg, Node) else () for arg in node.args]
        if node.target in CONVOLUTIONS:
            counted.append((node, prod(shape) * prod(given[1][1:])))
        elif node.target in TRANSPOSED:
            counted.append((node, prod(given[0]) * prod(given[1][1:])))
        elif node.target is LINEAR:
            counted.append((node, prod(shape) * given[1][1]))
        elif base_name(node) in ("matmul", "bmm", "mm"):
            counted.append((node, prod(shape) * given[0][-1]))
        elif base_name(node) == "scaled_dot_product_attention":
            counted.append((node, prod(given[0][:-1]) * given[1][-2] * (given[0][-1] + given[2][-1])))
    batch = next((shape[0] for node, shape in found.sizes.items() if node.op == "placeholder" and shape), 1)
    return [(node, count / batch) for node, count in counted]


def remove(
    channels: Channels, gone: Collection[int], call: tuple[Any, Any], weights: GraphModule | None = None
) -> tuple[GraphModule, Edit]:
    """The graph without some channels, and the edit that removes them again.

    weights: the same graph with repaired weights to cut instead. call: arguments of one call, on which it is checked that with the channels' entries zero everywhere the outputs
    are as without them. Raises SurgeryError where they are not.
    """
    pruned = channels.without(gone, weights)
    with torch.inference_mode():
        before, after = (m.eval()(*call[0], **call[1]) for m in (channels.silenced(gone, weights), pruned))
    for a, b in zip(*(torch.utils._pytree.tree_leaves(tree) for tree in (before, after)), strict=True):
        if isinstance(a, Tensor) and a.is_floating_point():
            room = 1e-3 * float(a.abs().nan_to_num().max()) + 1e-6 if a.numel() else 0.0
            if a.shape != b.shape or not torch.allclose(a, b, rtol=0.0, atol=room, equal_nan=True):
                raise SurgeryError("Without these channels the model computes something else; they were left in.")
    return pruned, Edit(OP, 1, {"channels": channels.written(gone)})


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


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _cut_parameters(module: GraphModule, masks: Mapping[Slot, NDArray[np.bool_]]) -> None:
    """Cut every tensor along its slots, under each of its names."""
    aliases: dict[int, list[str]] = {}
    tensors = dict(_tensors(module))
    for name, tensor in tensors.items():
        aliases.setdefault(id(tensor), []).append(name)
    for name in {slot.parameter for slot in masks}:
        old = tensors[name]
        new = old.detach()
        for slot, kept in masks.items():
            if slot.parameter == name and not kept.all():
                new = new.index_select(slot.axis, torch.from_numpy(np.flatnonzero(kept)))
        if new.shape == old.shape:
            continue
        fresh = (
            nn.Parameter(new.clone(), requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new.clone()
        )
        for alias in aliases[id(old)]:
            path, _, leaf = alias.rpartition(".")
            setattr(module.get_submodule(path), leaf, fresh)


class _Rewriter:
    """Gives one node the sizes that are left."""

    def __init__(
        self, module: GraphModule, node: Node, originals: Mapping[Node, Node], trace: Trace, gone: Collection[int]
    ) -> None:
        self.module, self.node, self.original, self.trace = module, node, originals[node], trace
        self.gone = list(gone)

    def rewrite(self) -> None:
        name = base_name(self.node)
        if self.node.op != "call_function":
            return
        if name in _REWRITES:
            _REWRITES[name](self)
        elif self.node.target in CONVOLUTIONS and len(self.node.args) > 6 and self.node.args[6] != 1:
            self._depthwise()

    def kept(self, node: Node, result: int | None = None) -> tuple[int, NDArray[np.bool_]] | None:
        """(axis, which indices stay) of a value of the original graph; None where nothing goes."""
        found = self.trace.values.get(node)
        if result is not None and found is not None:
            found = found[result]
        if found is None or not isinstance(found[1], np.ndarray):
            return None
        mask = ~np.isin(found[1], self.gone)
        return None if mask.all() else (found[0], mask)

    def _set(self, position: int, value: Any) -> None:
        args = list(self.node.args)
        args[position] = value
        self.node.args = tuple(args)

    def _sizes(self, position: int, offset: int = 0) -> None:
        """A list of sizes of the result from axis `offset` on."""
        found = self.kept(self.original)
        sizes = self.node.args[position] if len(self.node.args) > position else None
        if found is None or not isinstance(sizes, list | tuple):
            return
        axis, mask = found[0] - offset, found[1]
        if not 0 <= axis < len(sizes) or (isinstance(sizes[axis], int) and sizes[axis] < 0):  # type: ignore[operator]
            return
        new: Any = int(mask.sum())
        if isinstance(sizes[axis], Node):
            with self.module.graph.inserting_before(self.node):
                scaled = self.module.graph.call_function(operator.mul, (sizes[axis], new))
                new = self.module.graph.call_function(operator.floordiv, (scaled, len(mask)))
        self._set(position, [*sizes[:axis], new, *sizes[axis + 1 :]])

    def _view(self) -> None:
        self._sizes(1)

    def _made(self) -> None:
        self._sizes(1 if base_name(self.node).startswith("new_") else 0)

    def _unflatten(self) -> None:
        axis = int(self.original.args[1])  # type: ignore[arg-type]
        self._sizes(2, axis % len(self.trace.sizes[self.original.args[0]]))  # type: ignore[index]

    def _expand(self) -> None:
        sizes = self.node.args[1]
        self._sizes(1, len(self.trace.sizes[self.original]) - len(sizes))  # type: ignore[arg-type]

    def _slice(self) -> None:
        found = self.kept(self.original.args[0])  # type: ignore[arg-type]
        if found is None or len(self.node.args) < 3:
            return
        axis, mask = found
        if int(self.node.args[1]) % len(self.trace.sizes[self.original]) != axis:  # type: ignore[arg-type]
            return
        start, stop, _ = slice(*self.node.args[2:4]).indices(len(mask))
        self.node.args = (*self.node.args[:2], int(mask[:start].sum()), int(mask[:stop].sum()), *self.node.args[4:])

    def _narrow(self) -> None:
        found = self.kept(self.original.args[0])  # type: ignore[arg-type]
        if found is None or int(self.node.args[1]) % len(self.trace.sizes[self.original]) != found[0]:  # type: ignore[arg-type]
            return
        start, length = (int(arg) for arg in self.node.args[2:4])  # type: ignore[arg-type]
        mask = found[1]
        self.node.args = (*self.node.args[:2], int(mask[:start].sum()), int(mask[start : start + length].sum()))

    def _split(self) -> None:
        found = self.kept(self.original.args[0])  # type: ignore[arg-type]
        axis = self.node.args[2] if len(self.node.args) > 2 else self.node.kwargs.get("dim", 0)
        source = self.original.args[0]
        if found is None or int(axis) % len(self.trace.sizes[source]) != found[0]:  # type: ignore[arg-type, index]
            return
        parts = [len(part[1]) for part in self._parts(found)]
        edges = np.cumsum([0, *parts])
        sizes = [int(found[1][a:b].sum()) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        self.node.target = aten.split_with_sizes.default
        self.node.args, self.node.kwargs = (self.node.args[0], sizes, axis), {}

    def _parts(self, found: tuple[int, NDArray[np.bool_]]) -> list[tuple[int, NDArray[Any]]]:
        """The results of a split with their numbers; every one of them varies along the axis, or has one index."""
        total, given = len(found[1]), self.original.args[1]
        if isinstance(given, list | tuple):
            sizes = [int(size) for size in given]  # type: ignore[arg-type]
        else:
            size = int(given) if base_name(self.original) == "split" else -(-total // int(given))  # type: ignore[arg-type]
            sizes = [min(size, total - start) for start in range(0, total, size)]
        return [(found[0], np.zeros(size)) for size in sizes]

    def _pad(self) -> None:
        found = self.kept(self.original)
        if found is None:
            return
        axis, mask = found
        widths: list[Any] = list(self.node.args[1])  # type: ignore[arg-type]
        position = 2 * (len(self.trace.sizes[self.original]) - 1 - axis)
        if position < len(widths):
            front, back = int(widths[position]), int(widths[position + 1])
            widths[position], widths[position + 1] = int(mask[:front].sum()), int(mask[len(mask) - back :].sum())
            self._set(1, widths)

    def _depthwise(self) -> None:
        inputs = self.kept(self.original.args[0])  # type: ignore[arg-type]
        if inputs is not None and self.node.args[6] == len(inputs[1]):
            self._set(6, int(inputs[1].sum()))

    def _group_norm(self) -> None:
        found = self.kept(self.original)
        if found is not None:
            size = len(found[1]) // int(self.node.args[1])  # type: ignore[arg-type]
            self._set(1, int(found[1].sum()) // size)


_REWRITES = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _Rewriter._view),
    **dict.fromkeys(("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full"), _Rewriter._made),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _Rewriter._split),
    **dict.fromkeys(("pad", "constant_pad_nd"), _Rewriter._pad),
    "unflatten": _Rewriter._unflatten,
    "expand": _Rewriter._expand,
    "slice": _Rewriter._slice,
    "narrow": _Rewriter._narrow,
    "group_norm": _Rewriter._group_norm,
}
"""How the operators with sizes in their arguments are rewritten; all others have none."""
