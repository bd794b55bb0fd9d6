"""Which channels hang together: numbered channels are sent through the operators of the model's own graph.

Every element of every value gets the number of the channel it belongs to. What moves data (reshape, pad, split,
shuffle, concatenation) is run on the numbers as it is run on the values, so that order is exact by construction;
what adds or multiplies unites the numbers that meet; a layer that mixes channels reads the old numbers and gives
out new ones. What is not known, or normalises over channels, freezes them, with the reason in words.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from boildown.surgery.graph import CONVOLUTIONS, LINEAR, TRANSPOSED

aten = torch.ops.aten

FROZEN = 0
"""The number of everything that must stay."""

Role = Literal["out", "in", "through"]

_MOST_ELEMENTS = 65_536
"""Above this many elements a parameter that is added or multiplied freezes what it meets."""

MOVES = frozenset(
    "view reshape _unsafe_view flatten unflatten squeeze unsqueeze permute transpose t numpy_T movedim swapaxes swapdims "
    "expand expand_as slice select narrow split split_with_sizes chunk unbind cat concat concatenate stack repeat tile "
    "repeat_interleave flip pixel_shuffle pixel_unshuffle channel_shuffle view_as reshape_as adjoint mT roll "
    "index_select".split()
)
"""Operators that only move data: run on numbers as on values."""

_SAME = frozenset(
    "contiguous clone alias detach dropout feature_dropout alpha_dropout to _to_copy type_as float lift_fresh_copy "
    "hardswish hardsigmoid hardtanh relu6 leaky_relu elu selu celu gelu silu mish softplus relu prelu_ masked_fill "
    "where clamp clamp_min clamp_max zeros_like ones_like full_like".split()
)
_POOLS = (
    "max_pool",
    "avg_pool",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "upsample_",
    "lp_pool",
    "_adaptive_avg_pool",
)
_REDUCTIONS = frozenset(
    "mean sum amax amin var std softmax _softmax log_softmax _log_softmax max min argmax argmin logsumexp cumsum any all "
    "prod linalg_vector_norm norm var_mean".split()
)
_PICKS = frozenset("select unbind roll index_select flip slice".split())
"""Moves that would have to be rewritten index by index where they go along the channels."""
_MAKES = frozenset("zeros ones full empty new_zeros new_ones new_full arange".split())


@dataclass(frozen=True)
class Slot:
    """One axis of one parameter, and what the layer does with it."""

    parameter: str
    axis: int


@dataclass
class Trace:
    """What the numbers were found to be, after `trace`.

    values: for each node the (axis along which its numbers vary, number per index), None where they do not; a tuple
        for nodes with several results. slots: number per index of a parameter's axis. roles: what its first layer
        does with a slot: writes ("out"), reads ("in") or lets through. layers: the node that uses a slot first.
    frozen: (number, reason) in order of discovery; numbers are united by `Numbers`.
    """

    numbers: Numbers
    values: dict[Node, Any] = field(default_factory=dict)
    slots: dict[Slot, NDArray[np.int64]] = field(default_factory=dict)
    roles: dict[Slot, Role] = field(default_factory=dict)
    layers: dict[Slot, list[Node]] = field(default_factory=dict)
    frozen: list[tuple[NDArray[np.int64], str]] = field(default_factory=list)
    sizes: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    written: dict[Slot, NDArray[np.int64]] = field(default_factory=dict)


class Numbers:
    """Sets of united numbers; the smallest stands for all, so that what meets FROZEN is frozen."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)

    def fresh(self, count: int) -> Tensor:
        """So many new numbers, shape (count,)."""
        start = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(start, start + count)])
        return torch.arange(start, start + count)

    def find(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers that stand for these."""
        while True:
            above = self._parent[numbers]
            if np.array_equal(above, numbers):
                return above
            numbers = above

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Unite what stands at the same place; shapes broadcast."""
        shape = torch.broadcast_shapes(first.shape, second.shape)
        a, b = compact(first.expand(shape), second.expand(shape))
        pairs = np.unique(np.stack([self.find(a.numpy().ravel()), self.find(b.numpy().ravel())]), axis=1)
        for x, y in pairs.T:
            x, y = self._root(int(x)), self._root(int(y))
            self._parent[max(x, y)] = min(x, y)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            number = int(self._parent[number])
        return number


def compact(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, of one shape, without the axes along which none of them varies because it is expanded."""
    for axis in range(tensors[0].ndim):
        if tensors[0].shape[axis] > 1 and all(t.stride(axis) == 0 for t in tensors):
            tensors = tuple(t.narrow(axis, 0, 1) for t in tensors)
    return tuple(t.contiguous() for t in tensors)


@torch.no_grad()
def trace(module: GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """Send numbers through a trainable graph along with one call's values."""
    flat = torch.utils._pytree.tree_leaves((args, kwargs))
    return _Tracer(module, flat).run()


class _Tracer:
    def __init__(self, module: GraphModule, inputs: Sequence[Any]) -> None:
        self.module, self.inputs = module, iter(inputs)
        self.real: dict[Node, Any] = {}
        self.labels: dict[Node, Any] = {}
        self.numbers = Numbers()
        self.found = Trace(self.numbers)
        self.generic: dict[str, Tensor] = {}
        self.picks: list[tuple[Tensor, int, str]] = []
        self.names: dict[int, str] = {}

    def run(self) -> Trace:
        for node in self.module.graph.nodes:
            self._visit(node)
        self._settle()
        return self.found

    # ---- one node ----------------------------------------------------------------------------

    def _visit(self, node: Node) -> None:
        if node.op == "placeholder":
            self.real[node] = next(self.inputs)
            self.labels[node] = self._all(FROZEN, self.real[node])
        elif node.op == "get_attr":
            self.real[node] = operator.attrgetter(str(node.target))(self.module)
        elif node.op == "output":
            for value in node.all_input_nodes:
                if _holds_tensor(self.real[value]):
                    self._freeze(self._of(value), "they are the model's output")
            return
        else:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: self.real[n])
            if node.op == "call_module":
                called = self.module.get_submodule(str(node.target))
                self.real[node] = called(*args, **kwargs)
                self.labels[node] = (
                    self._norm(node, called)
                    if isinstance(called, nn.modules.batchnorm._BatchNorm)
                    else (self._same(node))
                )
            else:
                self.real[node] = node.target(*args, **kwargs)  # type: ignore[operator]
                if _holds_tensor(self.real[node]):
                    self.labels[node] = self._rule(node)
        value = self.real[node]
        if isinstance(value, Tensor):
            self.found.sizes[node] = tuple(value.shape)

    def _rule(self, node: Node) -> Any:
        name = base_name(node)
        if node.target in CONVOLUTIONS:
            return self._convolution(node)
        if node.target in TRANSPOSED:
            return self._transposed(node)
        if node.target is LINEAR:
            return self._linear(node)
        if node.target is operator.getitem:
            return self._of(node.args[0])[node.args[1]]  # type: ignore[index]
        if name in MOVES:
            return self._moved(node, name)
        if name in _RULES:
            return _RULES[name](self, node)
        if name in _SAME or torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return self._same(node)
        if name.startswith(_POOLS):
            return self._pooled(node)
        if name in _REDUCTIONS:
            return self._reduced(node)
        if name in _MAKES:
            return self._made(node)
        return self._unknown(node, f"the graph's operator {name} is not followed")

    # ---- layers ------------------------------------------------------------------------------

    def _convolution(self, node: Node) -> Tensor:
        weight, groups = self.real[node.args[1]], _argument(node, 6, 1)  # type: ignore[index]
        inputs = self._along(node, node.args[0], 1)
        if groups == 1:
            return self._mixing(node, inputs, 1, (0, 1))
        if groups == len(inputs):
            outputs = inputs.repeat_interleave(weight.shape[0] // groups)
            self._slot(node, 1, 0, outputs, "through")
            self._slot(node, 2, 0, outputs, "through")
            return self._spread(outputs, 1, self.real[node])
        # Groups stay equal: the channels at the same place of every group go together.
        grouped = inputs.view(groups, -1)
        self.numbers.unite(grouped, grouped[:1])
        outputs = self.numbers.fresh(weight.shape[0] // groups).repeat(groups)
        self._slot(node, 1, 1, grouped[0], "in")
        self._slot(node, 1, 0, outputs, "out")
        self._slot(node, 2, 0, outputs, "through")
        return self._spread(outputs, 1, self.real[node])

    def _transposed(self, node: Node) -> Any:
        if _argument(node, 6, 1) != 1:
            return self._unknown(node, "grouped transposed convolutions are not followed")
        return self._mixing(node, self._along(node, node.args[0], 1), 1, (1, 0))

    def _linear(self, node: Node) -> Tensor:
        labels = self._of(node.args[0])
        if not self._varies(labels, labels.ndim - 1) and any(self._varies(labels, a) for a in range(labels.ndim - 1)):
            # It mixes another axis, as MLP-Mixer's token mixing does: the channels go through untouched.
            self._freeze_slots(node)
            return labels.narrow(-1, 0, 1).expand(self.real[node].shape)
        return self._mixing(node, self._along(node, node.args[0], -1), -1, (0, 1))

    def _mixing(self, node: Node, inputs: Tensor, axis: int, of_weight: tuple[int, int]) -> Tensor:
        """A layer that reads all channels and writes new ones; `of_weight` are its axes of outputs and inputs."""
        weight = self.real[node.args[1]]  # type: ignore[index]
        outputs = self.numbers.fresh(weight.shape[of_weight[0]])
        self._slot(node, 1, of_weight[1], inputs, "in")
        self._slot(node, 1, of_weight[0], outputs, "out")
        self._slot(node, 2, 0, outputs, "through")
        return self._spread(outputs, axis, self.real[node])

    def _embedding(self, node: Node) -> Tensor:
        outputs = self.numbers.fresh(self.real[node.args[0]].shape[1])  # type: ignore[index]
        self._slot(node, 0, 1, outputs, "out")
        return self._spread(outputs, -1, self.real[node])

    def _norm(self, node: Node, norm: nn.Module) -> Tensor:
        labels = self._along(node, node.args[0], 1)
        for part in ("weight", "bias", "running_mean", "running_var"):
            if getattr(norm, part) is not None:
                self._name_slot(f"{node.target}.{part}", 0, labels, "through", node)
        return self._of(node.args[0])

    def _batch_norm(self, node: Node) -> Tensor:
        labels = self._along(node, node.args[0], 1)
        for position in range(1, 5):
            self._slot(node, position, 0, labels, "through")
        return self._of(node.args[0])

    def _group_norm(self, node: Node) -> Tensor:
        labels, groups = self._along(node, node.args[0], 1).view(int(node.args[1]), -1), int(node.args[1])  # type: ignore[arg-type]
        if groups == 1:
            self._freeze(labels, "they are normalised together")
        self.numbers.unite(labels, labels[:, :1])
        for position in (2, 3):
            self._slot(node, position, 0, labels.flatten(), "through")
        return self._of(node.args[0])

    def _layer_norm(self, node: Node) -> Any:
        return self._unknown(node, "they are normalised together")

    def _prelu(self, node: Node) -> Tensor:
        if self.real[node.args[1]].numel() > 1:  # type: ignore[index]
            self._slot(node, 1, 0, self._along(node, node.args[0], 1), "through")
        return self._of(node.args[0])

    # ---- products of values ------------------------------------------------------------------

    def _matmul(self, node: Node) -> Any:
        given = node.args[1]
        assert isinstance(given, Node)
        if given.op == "get_attr" and self.real[given].ndim == 2:
            return self._mixing(node, self._along(node, node.args[0], -1), -1, (1, 0))
        first, second = self._of(node.args[0]), self._of(given)
        if first.ndim < 2 or second.ndim < 2:
            return self._unknown(node, "products with vectors are not followed")
        # What is summed over stays whole, and so does what one factor tells apart and the other does not:
        # heads are removed, not parts of one.
        self._level(first, -1)
        self._level(second, -2)
        first, second = first.narrow(-1, 0, 1), second.narrow(-2, 0, 1)
        if self._varies_at_all(first):
            self._level(second, -1)
        if self._varies_at_all(second):
            self._level(first, -2)
        shape = self.real[node].shape
        self._tie(first, second, shape)
        return (first if self._varies_at_all(first) else second).expand(shape)

    def _level(self, labels: Tensor, axis: int) -> None:
        """Unite along an axis."""
        if self._varies(labels, axis % labels.ndim):
            self.numbers.unite(labels, labels.narrow(axis, 0, 1))

    def _scaled_dot_product_attention(self, node: Node) -> Tensor:
        parts = []
        for whole in (self._of(arg) for arg in node.args[:3]):
            self._level(whole, -1)
            self._level(whole, -2)
            parts.append(whole.narrow(-1, 0, 1).narrow(-2, 0, 1))
        query, key, value = parts
        times = query.shape[-3] // key.shape[-3] if query.ndim > 2 else 1
        for other in (key, value):
            self.numbers.unite(query, other.repeat_interleave(times, -3) if times > 1 else other)
        return query.expand(self.real[node].shape)

    # ---- everything else ---------------------------------------------------------------------

    def _same(self, node: Node) -> Any:
        """Element by element: what meets is united."""
        operands = [self._of(arg) for arg in node.all_input_nodes if isinstance(self.real[arg], Tensor)]
        shape = self.real[node].shape
        ordered = sorted(operands, key=lambda t: -t.numel())
        best = next((t for t in ordered if t.numel() == math.prod(shape) and self._varies_at_all(t)), ordered[0])
        for other in operands:
            if other is not best:
                self._tie(best, other, shape)
        return best.expand(shape) if best.numel() == math.prod(shape) else self._joined(operands, shape)

    def _joined(self, operands: Iterable[Tensor], shape: torch.Size) -> Tensor:
        """Of operands that broadcast each other: the one that varies, else frozen."""
        varying = [t for t in operands if self._varies_at_all(t)]
        return varying[0].expand(shape) if len(varying) == 1 else self._all_of(FROZEN, shape)

    def _tie(self, first: Tensor, second: Tensor, shape: torch.Size) -> None:
        """Unite two operands, unless one of them is one number that meets all channels of the other."""
        first, second = (t.view((1,) * (len(shape) - t.ndim) + t.shape) for t in (first, second))
        for axis in range(len(shape)):
            for wide, narrow in ((first, second), (second, first)):
                if wide.shape[axis] > 1 and narrow.shape[axis] == 1 and self._varies(wide, axis):
                    self._freeze(narrow, "they meet all channels of another layer")
                    return
        self.numbers.unite(first, second)

    def _moved(self, node: Node, name: str) -> Any:
        data = node.args[0]
        if name in _PICKS:
            axis = _argument(node, 2 if name == "roll" else 1, 0)
            for each in axis if isinstance(axis, list | tuple) else [axis]:
                if name != "slice" or _argument(node, 4, 1) != 1:
                    self.picks.append((self._of(data), each % self.real[data].ndim, name))  # type: ignore[index]
        numbers = torch.fx.map_arg(data, self._of)
        if name in ("view", "_unsafe_view", "reshape", "view_as", "reshape_as"):
            return numbers.reshape(self.real[node].shape)
        if name.startswith("pixel"):
            return node.target(numbers.double(), *node.args[1:]).long()  # type: ignore[operator]
        args = torch.fx.map_arg(node.args[1:], lambda n: self.real[n])
        kwargs = torch.fx.map_arg(node.kwargs, lambda n: self.real[n])
        return node.target(numbers, *args, **kwargs)  # type: ignore[operator]

    def _pad(self, node: Node) -> Tensor:
        labels = self._of(node.args[0])
        widths = node.args[1]
        for position in range(0, len(widths), 2):  # type: ignore[arg-type]
            axis = labels.ndim - 1 - position // 2
            front, back = widths[position], widths[position + 1]  # type: ignore[index]
            size = labels.shape[axis]
            if not self._varies(labels, axis) or min(front, back) < 0:
                if self._varies(labels, axis):
                    self._freeze(labels, "a negative pad cuts them off")
                shape = list(labels.shape)
                shape[axis] = size + front + back
                labels = labels.narrow(axis, 0, 1).expand(shape)
                continue
            parts = []
            for width in (front, back):
                shape = [1] * labels.ndim
                shape[axis] = width
                target = list(labels.shape)
                target[axis] = width
                parts.append(self.numbers.fresh(width).view(shape).expand(target))
            labels = torch.cat([parts[0], labels, parts[1]], axis)
        return labels

    def _pooled(self, node: Node) -> Any:
        labels, real = self._of(node.args[0]), self.real[node]
        outputs = real if isinstance(real, tuple | list) else (real,)
        spatial = [a for a in range(2, labels.ndim) if self._varies(labels, a)]
        for axis in spatial:
            self.numbers.unite(labels, labels.narrow(axis, 0, 1))
        for axis in range(2, labels.ndim):
            labels = labels.narrow(axis, 0, 1)
        found = tuple(labels.expand(value.shape) for value in outputs)
        return found if isinstance(real, tuple | list) else found[0]

    def _reduced(self, node: Node) -> Any:
        labels, real = self._of(node.args[0]), self.real[node]
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if isinstance(given, Node):  # the larger of two values
            return self._same(node)
        if base_name(node) in ("norm", "linalg_vector_norm"):
            given = _argument(node, 2, None)
        if given is None or (isinstance(given, list | tuple) and not given) or isinstance(given, bool):
            axes = list(range(labels.ndim))
        else:
            axes = [int(a) % labels.ndim for a in (given if isinstance(given, list | tuple) else [given])]
        for axis in axes:
            if self._varies(labels, axis):
                self._freeze(labels, f"{base_name(node)} goes over them")
        outputs = real if isinstance(real, tuple | list) else (real,)
        found = []
        for value in outputs:
            rest = labels
            if value.shape != labels.shape:
                for axis in axes:
                    rest = rest.narrow(axis, 0, 1)
                rest = rest.reshape(value.shape) if value.numel() == rest.numel() else rest.expand(value.shape)
            found.append(rest)
        return tuple(found) if isinstance(real, tuple | list) else found[0]

    def _made(self, node: Node) -> Tensor:
        real = self.real[node]
        if real.numel() > _MOST_ELEMENTS or not real.is_floating_point():
            return self._all(FROZEN, real)
        return self.numbers.fresh(real.numel()).view(real.shape)

    def _unknown(self, node: Node, reason: str) -> Any:
        for arg in node.all_input_nodes:
            if isinstance(self.real[arg], Tensor):
                self._freeze(self._of(arg), reason)
        return self._all(FROZEN, self.real[node])

    # ---- numbers -----------------------------------------------------------------------------

    def _of(self, node: Any) -> Any:
        """The numbers of a value; a parameter's own are made when it is first met as a value."""
        if node in self.labels:
            return self.labels[node]
        name, real = self._name(node), self.real[node]
        if any(slot.parameter == name for slot in self.found.slots):
            for slot, numbers in self.found.slots.items():
                if slot.parameter == name:
                    self._freeze(torch.from_numpy(numbers), f"{name} is used in more than one way")
            return self._all(FROZEN, real)
        if not real.is_floating_point() or real.numel() > _MOST_ELEMENTS:
            return self._all(FROZEN, real)
        if name not in self.generic:
            self.generic[name] = self.numbers.fresh(real.numel()).view(real.shape)
        return self.generic[name]

    def _along(self, node: Node, value: Any, axis: int) -> Tensor:
        """The numbers of a value along its channel axis, made the same everywhere else."""
        labels = self._of(value)
        axis %= labels.ndim
        part = labels
        for other in range(labels.ndim):
            if other != axis:
                if self._varies(part, other):
                    self.numbers.unite(part, part.narrow(other, 0, 1))
                part = part.narrow(other, 0, 1)
        return part.reshape(-1)

    def _slot(self, node: Node, position: int, axis: int, numbers: Tensor, role: Role) -> None:
        """Tie an axis of the parameter that is an argument of a layer."""
        argument = node.args[position] if len(node.args) > position else None
        if not isinstance(argument, Node):
            return
        if argument.op != "get_attr":
            self._freeze(numbers, "the layer's weights are computed")
            return
        name = self._name(argument)
        if name in self.generic:
            self._freeze((self.generic[name], numbers), f"{name} is used in more than one way")
        self._name_slot(name, axis, numbers, role, node)

    def _name(self, attribute: Node) -> str:
        """One name for a parameter that the model knows by several."""
        name = self.names.setdefault(id(self.real[attribute]), str(attribute.target))
        self.found.names[attribute] = name
        return name

    def _name_slot(self, name: str, axis: int, numbers: Tensor, role: Role, node: Node) -> None:
        slot = Slot(name, axis)
        known = self.found.slots.get(slot)
        if known is None:
            self.found.slots[slot], self.found.roles[slot] = numbers.numpy(), role
        else:
            self.numbers.unite(torch.from_numpy(known), numbers)
        self.found.layers.setdefault(slot, []).append(node)

    def _freeze_slots(self, node: Node) -> None:
        for position in (1, 2):
            argument = node.args[position] if len(node.args) > position else None
            if isinstance(argument, Node) and argument.op == "get_attr":
                for axis, size in enumerate(self.real[argument].shape):
                    self._slot(node, position, axis, torch.zeros(size, dtype=torch.int64), "through")

    def _freeze(self, labels: Any, reason: str) -> None:
        for part in labels if isinstance(labels, tuple | list) else (labels,):
            numbers = compact(part)[0].unique()
            self.found.frozen.append((numbers.numpy(), reason))
            self.numbers.unite(numbers, torch.zeros_like(numbers))

    def _varies(self, labels: Tensor, axis: int) -> bool:
        """Whether the numbers, as united so far, differ along an axis."""
        if labels.shape[axis] < 2 or labels.stride(axis) == 0:
            return False
        (part,) = compact(labels)
        found = self.numbers.find(part.numpy())
        return bool((found != found.take([0], axis)).any())

    def _varies_at_all(self, labels: Tensor) -> bool:
        return any(self._varies(labels, axis) for axis in range(labels.ndim))

    def _spread(self, numbers: Tensor, axis: int, like: Any) -> Tensor:
        shape = [1] * like.ndim
        shape[axis] = -1
        return numbers.view(shape).expand(like.shape)

    def _all(self, number: int, like: Any) -> Any:
        if isinstance(like, tuple | list):
            return tuple(self._all(number, part) for part in like)
        return self._all_of(number, like.shape) if isinstance(like, Tensor) else None

    @staticmethod
    def _all_of(number: int, shape: torch.Size) -> Tensor:
        return torch.full((1,) * len(shape), number).expand(shape)

    # ---- the end -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Unite until the channels of every value lie along one axis, and freeze those that are alone."""
        tensors: list[tuple[Any, Tensor]] = [
            *((node, t) for node, labels in self.labels.items() for t in _flat(labels)),
            *self.generic.items(),
        ]
        packed = [(key, compact(labels)[0]) for key, labels in tensors if labels.numel()]
        changed = True
        while changed:
            changed = False
            for _key, labels in packed:
                axes = [axis for axis in range(labels.ndim) if self._varies(labels, axis)]
                while len(axes) > 1:
                    self._flatten(labels, axes)
                    axes, changed = [axis for axis in range(labels.ndim) if self._varies(labels, axis)], True
        for labels, axis, name in self.picks:
            if self._varies(labels, axis):
                self._freeze(labels, f"{name} picks some of them by position")
        for key, labels in packed:
            # A parameter that is one number may be broadcast: it is never removed.
            alone = not any(self._varies(labels, axis) for axis in range(labels.ndim))
            if alone and self.numbers.find(labels.numpy()).any():
                name = key if isinstance(key, str) else key.name
                self._freeze(labels, f"{name} has no other")
        for node, labels in self.labels.items():
            self.found.values[node] = (
                tuple(self._vector(t) for t in labels) if isinstance(labels, tuple | list) else self._vector(labels)
            )
        self.found.written = dict(self.found.slots)
        for slot, numbers in self.found.slots.items():
            self.found.slots[slot] = self.numbers.find(numbers)
        for name, labels in self.generic.items():
            vector = self._vector(labels)
            if vector is not None:
                self.found.slots[Slot(name, vector[0])] = vector[1]
                self.found.roles[Slot(name, vector[0])] = "through"
                self.found.layers[Slot(name, vector[0])] = []

    def _flatten(self, labels: Tensor, axes: Sequence[int]) -> None:
        """Unite along the one of the axes that leaves the most channels apart."""

        def left(axis: int) -> int:
            found = self.numbers.find(labels.numpy())
            return len(np.unique(found.min(axis=axis)))

        axis = max(axes, key=left)
        self.numbers.unite(labels, labels.narrow(axis, 0, 1))

    def _vector(self, labels: Any) -> tuple[int, NDArray[np.int64]] | None:
        if not isinstance(labels, Tensor):
            return None
        axes = [axis for axis in range(labels.ndim) if self._varies(labels, axis)]
        if not axes:
            return None
        part = labels
        for other in range(labels.ndim):
            if other != axes[0]:
                part = part.narrow(other, 0, 1)
        return axes[0], self.numbers.find(part.reshape(-1).numpy())


_RULES: dict[str, Callable[[_Tracer, Node], Any]] = {
    "embedding": _Tracer._embedding,
    "batch_norm": _Tracer._batch_norm,
    "instance_norm": _Tracer._batch_norm,
    "group_norm": _Tracer._group_norm,
    "layer_norm": _Tracer._layer_norm,
    "rms_norm": _Tracer._layer_norm,
    "prelu": _Tracer._prelu,
    "matmul": _Tracer._matmul,
    "bmm": _Tracer._matmul,
    "scaled_dot_product_attention": _Tracer._scaled_dot_product_attention,
    "pad": _Tracer._pad,
    "constant_pad_nd": _Tracer._pad,
}


def base_name(node: Node) -> str:
    """The operator's name without overload and without the mark of working in place."""
    packet = getattr(node.target, "overloadpacket", None)
    name = packet.__name__ if packet is not None else getattr(node.target, "__name__", str(node.target))
    return name.rstrip("_") if not name.startswith("_") else name


def _argument(node: Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value))


def _flat(labels: Any) -> list[Tensor]:
    if isinstance(labels, Tensor):
        return [labels]
    return [t for part in labels or () for t in _flat(part)]
