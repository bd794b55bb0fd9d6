"""Which channels hang together: numbered channels are sent through the operators of the model's own graph.

Every element of every value gets the number of the channel it belongs to. What moves data (reshape, pad, split,
shuffle, concatenation) is run on the numbers as it is run on the values, so that order is exact by construction;
what adds or multiplies unites the numbers that meet; a layer that mixes channels reads the old numbers and gives
out new ones. What is not known, or normalises over channels, freezes them, with the reason in words.
"""

from __future__ import annotations

import math
import operator
import re
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from boildown.surgery.graph import CONVOLUTIONS, LINEAR, TRANSPOSED, attribute_of
from boildown.surgery.nodes import argument, base_name
from boildown.surgery.numbers import FROZEN, Array, Numbers, compact
from boildown.surgery.trainable import example_inputs

Role = Literal["out", "in", "through"]
Vector = tuple[int, Array]
"""(axis along which a value's numbers vary, number per index)."""

_READS: Role = "in"
_PASSES: Role = "through"
_WRITES_READS: tuple[Role, Role] = ("out", _READS)

_MOST_ELEMENTS = 2**21
"""A constant or parameter with more elements freezes what it is added to or multiplied with."""

_MOVES = frozenset(
    """
    view reshape _unsafe_view view_as reshape_as flatten unflatten squeeze unsqueeze permute transpose t numpy_T mT
    adjoint movedim swapaxes swapdims expand_as slice select narrow split split_with_sizes chunk unbind cat concat
    concatenate repeat tile repeat_interleave flip roll index_select pixel_unshuffle
    """.split()  # noqa: SIM905 - a list of strings would be one line each
)
"""Operators that only move data: run on numbers as on values."""

_TURNS = frozenset({"t", "numpy_T", "mT", "transpose", "permute", "swapaxes", "swapdims"})
"""Moves after which a weight is still a weight."""

_PICKS = frozenset({"select", "unbind", "roll", "index_select", "slice"})
"""Moves that would have to be rewritten index by index where they go along the channels."""

_SAME = frozenset(
    """
    contiguous clone alias detach dropout feature_dropout alpha_dropout feature_alpha_dropout to _to_copy float
    double half bfloat16 lift_fresh_copy copy fill zero relu relu6 hardtanh hardswish hardsigmoid leaky_relu elu selu
    celu gelu silu mish softplus masked_fill where clamp clamp_min clamp_max
    zeros_like ones_like full_like empty_like rand_like randn_like
    """.split()  # noqa: SIM905
)
"""Operators that work element by element, beside those that PyTorch tags so."""

_REDUCTIONS = frozenset(
    """
    mean sum prod amax amin max min argmax argmin any all var std var_mean norm linalg_vector_norm logsumexp
    softmax _softmax log_softmax _log_softmax cumsum
    """.split()  # noqa: SIM905
)
_POOLS = re.compile(r"(max_pool|avg_pool|_?adaptive_avg_pool|adaptive_max_pool|_?upsample_[a-z_]*?)(\d)d.*")
_MAKES = frozenset({"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"})

_ALONE = "they can only go all together"
_INPUT = "they meet the model's input"
_CONSTANT = "they meet a constant that cannot shrink"


@dataclass(frozen=True)
class Slot:
    """One axis of one parameter or buffer."""

    parameter: str
    axis: int


@dataclass
class Trace:
    """What the numbers were found to be.

    values: for each node the axis along which its numbers vary and the number per index, None where they do not;
        a list of these for nodes with several results. sizes: each value's shape on the example call.
    slots: the number per index of a parameter's axis. roles: what its first layer does with it: writes ("out"),
        reads ("in") or lets through. layers: the nodes that use it.
    weights: the parameter that is a layer's weight. matrices: those of a layer that has several.
    left_alone: parameters whose channels must stay, or layers where their weights are computed, and why.
    """

    values: dict[Node, Vector | list[Vector | None] | None] = field(default_factory=dict)
    sizes: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    slots: dict[Slot, Array] = field(default_factory=dict)
    roles: dict[Slot, Role] = field(default_factory=dict)
    layers: dict[Slot, list[Node]] = field(default_factory=dict)
    weights: dict[Node, str] = field(default_factory=dict)
    matrices: dict[Node, list[str]] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def trace(module: GraphModule) -> Trace:
    """Send numbers through a trainable graph along with the values of its example call."""
    return _Tracer(module).follow()


class _Tracer(Interpreter):
    def __init__(self, module: GraphModule) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.graph_module = module
        self.known = {id(t): name for name, t in chain(module.named_buffers(), module.named_parameters())}
        self.found = Trace()
        self.labels: dict[Node, Any] = {}
        self.numbers = Numbers()
        self.generic: dict[str, Tensor] = {}
        self.multiplied: dict[str, Role] = {}
        self.picks: list[tuple[Tensor, int, str]] = []
        self.broadcasts: list[tuple[Tensor, Tensor]] = []

    def follow(self) -> Trace:
        self.run(*example_inputs(self.graph_module), enable_io_processing=False)
        self._settle()
        return self.found

    # ---- one node ----------------------------------------------------------------------------

    def run_node(self, n: Node) -> Any:
        real = self.env[n] = super().run_node(n)
        if isinstance(real, Tensor):
            self.found.sizes[n] = tuple(real.shape)
        if n.op == "placeholder":
            self.labels[n] = self._fixed(real, _INPUT)
        elif n.op == "output":
            for value in n.all_input_nodes:
                if _holds_tensor(self.env[value]):
                    self._freeze(self._of(value), "they are the model's output")
        elif n.op == "call_module":
            called = self.fetch_attr(str(n.target))
            is_norm = isinstance(called, nn.modules.batchnorm._BatchNorm)
            self.labels[n] = self._norm(n, called) if is_norm else self._of(n.args[0])
        elif (
            n.op == "call_function" and _holds_tensor(real) and (base_name(n) not in _TURNS or self._weight(n) is None)
        ):
            self.labels[n] = self._rule(n)
        return real

    def _rule(self, node: Node) -> Any:
        name = base_name(node)
        if node.target in CONVOLUTIONS:
            return self._convolution(node)
        if node.target in TRANSPOSED:
            return self._transposed(node)
        if node.target is LINEAR:
            return self._linear(node)
        if node.target is operator.getitem:
            source, index = node.args
            return self._of(source)[index]
        if name in _MOVES:
            return self._moved(node, name)
        if name in _RULES:
            return _RULES[name](self, node)
        if name in _REDUCTIONS:
            return self._reduced(node, name)
        if name in _SAME or torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return self._same(node)
        if pool := _POOLS.fullmatch(name):
            return self._pooled(node, int(pool[2]))
        if name in _MAKES:
            return self._made(node)
        return self._unknown(node, f"the operator {name} is not followed")

    # ---- layers ------------------------------------------------------------------------------

    def _convolution(self, node: Node) -> Any:
        weight, groups = self.env[argument(node, "weight")], argument(node, "groups")
        axis = 1 - weight.ndim
        inputs = self._along(argument(node, "input"), axis)
        if groups == 1:
            return self._mixing(node, argument(node, "weight"), inputs, axis, (0, 1))
        if groups == len(inputs):
            outputs = inputs.repeat_interleave(weight.shape[0] // groups)
            self._slot(node, argument(node, "weight"), 0, outputs, "through")
        else:
            inputs = self._equal_groups(inputs, groups)
            outputs = self.numbers.fresh(weight.shape[0] // groups).repeat(groups)
            self._slot(node, argument(node, "weight"), 1, inputs, "in")
            self._slot(node, argument(node, "weight"), 0, outputs, "out")
        self._slot(node, argument(node, "bias"), 0, outputs, "through")
        return self._spread(outputs, axis, node)

    def _transposed(self, node: Node) -> Any:
        weight, groups = self.env[argument(node, "weight")], argument(node, "groups")
        axis = 1 - weight.ndim
        inputs = self._along(argument(node, "input"), axis)
        if groups == 1:
            return self._mixing(node, argument(node, "weight"), inputs, axis, (1, 0))
        if groups == len(inputs):
            outputs = inputs.repeat_interleave(weight.shape[1])
            self._slot(node, argument(node, "weight"), 0, inputs, "through")
        else:
            self._equal_groups(inputs, groups)
            fresh = self.numbers.fresh(weight.shape[1])
            outputs = fresh.repeat(groups)
            self._slot(node, argument(node, "weight"), 0, inputs, "in")
            self._slot(node, argument(node, "weight"), 1, fresh, "out")
        self._slot(node, argument(node, "bias"), 0, outputs, "through")
        return self._spread(outputs, axis, node)

    def _equal_groups(self, numbers: Tensor, groups: int) -> Tensor:
        """Groups stay equal: the channels at the same place of every group go together. Returns one group's."""
        grouped = numbers.view(groups, -1)
        self.numbers.unite(grouped, grouped[:1])
        return grouped[0]

    def _linear(self, node: Node) -> Any:
        value, given = argument(node, "input"), argument(node, "weight")
        labels = self._of(value)
        weight, axes = self._weight(given) or (given, (0, 1))
        if self._varies(labels, -1) or not self._varies_at_all(labels):
            return self._mixing(node, weight, self._along(value, -1), -1, axes)
        # It mixes another axis, as the tokens of MLP-Mixer: the channels go through untouched.
        numbers = self.numbers.fresh(1)
        self._freeze(numbers, "it mixes along another axis than the layers before it")
        for axis, role in zip(axes, _WRITES_READS, strict=True):
            self._slot(node, weight, axis, numbers.repeat(self.found.sizes[weight][axis]), role)
        del self.found.weights[node]  # it costs less with fewer channels, but its weight is no smaller
        return labels.narrow(-1, 0, 1).expand(self.env[node].shape)

    def _mixing(self, node: Node, weight: Node, inputs: Tensor, axis: int, of_weight: tuple[int, ...]) -> Any:
        """A layer that reads all channels and writes new ones; `of_weight` are its axes of outputs and inputs."""
        outputs = self.numbers.fresh(self.found.sizes[weight][of_weight[0]])
        self._slot(node, weight, of_weight[1], inputs, "in")
        self._slot(node, weight, of_weight[0], outputs, "out")
        self._slot(node, argument(node, "bias"), 0, outputs, "through")
        return self._spread(outputs, axis, node)

    def _bilinear(self, node: Node) -> Any:
        weight = argument(node, "weight")
        for axis, name in ((1, "input1"), (2, "input2")):
            self._slot(node, weight, axis, self._along(argument(node, name), -1), "in")
        outputs = self.numbers.fresh(self.found.sizes[weight][0])
        self._slot(node, weight, 0, outputs, "out")
        self._slot(node, argument(node, "bias"), 0, outputs, "through")
        return self._spread(outputs, -1, node)

    def _recurrent(self, node: Node) -> Any:
        """LSTM, GRU or plain: all layers and directions keep the same hidden channels, as the operator asks.

        A hidden channel is its rows in every gate's weights and biases, and its column in what reads the state. One
        without weights stays at 0 from a state of 0.
        """
        arguments: Any = node.args
        value, given, weights, biases, layers, *_, both, _batch_first = arguments
        states = given if _several(given) else (given,)
        each, directions = 4 if biases else 2, 2 if both else 1
        if base_name(node) + ".input" not in str(node.target) or len(weights) != each * layers * directions:
            return self._unknown(node, "recurrent layers over packed sequences or with projections are not followed")
        width = self.found.sizes[weights[1]][1]
        hidden = self.numbers.fresh(width)
        for state in states:
            self.numbers.unite(self._along(state, -1), hidden)
        above = hidden.repeat(directions)
        for number, start in enumerate(range(0, len(weights), each)):
            inputs, role = (self._along(value, -1), _READS) if number < directions else (above, _PASSES)
            from_input, from_hidden, *added = weights[start : start + each]
            gates = hidden.repeat(self.found.sizes[from_hidden][0] // width)
            self._tie_slot(node, from_input, 1, inputs, role)
            self._tie_slot(node, from_hidden, 1, hidden, _PASSES)
            for weight in (from_input, from_hidden):
                if name := self._tie_slot(node, weight, 0, gates, "out"):
                    self.found.matrices.setdefault(node, []).append(name)
            for bias in added:
                self._tie_slot(node, bias, 0, gates, _PASSES)
        results = [above, *(hidden for _ in states)]
        shapes = [part.shape for part in self.env[node]]
        return tuple(numbers.expand(shape) for numbers, shape in zip(results, shapes, strict=True))

    def _embedding(self, node: Node) -> Any:
        outputs = self.numbers.fresh(self.env[node].shape[-1])
        self._slot(node, argument(node, "weight"), 1, outputs, "out")
        return self._spread(outputs, -1, node)

    def _norm(self, node: Node, norm: nn.Module) -> Any:
        """A batch norm that is a module."""
        numbers = self._along(node.args[0], 1)
        for part in ("weight", "bias", "running_mean", "running_var"):
            if getattr(norm, part) is not None:
                self._name_slot(f"{node.target}.{part}", 0, numbers, "through", node)
        return self._of(node.args[0])

    def _batch_norm(self, node: Node) -> Any:
        numbers = self._along(argument(node, "input"), 1)
        for part in ("weight", "bias", "running_mean", "running_var"):
            self._slot(node, argument(node, part), 0, numbers, "through")
        return self._of(argument(node, "input"))

    def _group_norm(self, node: Node) -> Any:
        numbers, groups = self._along(argument(node, "input"), 1), argument(node, "num_groups")
        if groups == 1:
            self._freeze(numbers, "they are normalised together")
        grouped = numbers.view(groups, -1)
        self.numbers.unite(grouped, grouped[:, :1])
        for part in ("weight", "bias"):
            self._slot(node, argument(node, part), 0, numbers, "through")
        return self._of(argument(node, "input"))

    def _layer_norm(self, node: Node) -> Any:
        return self._unknown(node, "they are normalised together", named=False)

    def _prelu(self, node: Node) -> Any:
        value = argument(node, "self")
        if self.env[argument(node, "weight")].numel() > 1:
            self._slot(node, argument(node, "weight"), 0, self._along(value, 1), "through")
        return self._of(value)

    # ---- products of values ------------------------------------------------------------------

    def _matmul(self, node: Node) -> Any:
        value, given = node.args[:2]
        if (weight := self._weight(given)) is not None:
            attribute, (inputs, outputs) = weight
            return self._mixing(node, attribute, self._along(value, -1), -1, (outputs, inputs))
        dimensions = [self._of(each).ndim for each in (value, given)]
        if min(dimensions) < 2:
            return self._unknown(node, "products with vectors are not followed")
        batch = string.ascii_lowercase[: max(dimensions) - 2]
        one, two = (batch[len(batch) + 2 - count :] for count in dimensions)
        return self._product(node, (value, one + "MK"), (given, two + "KN"), batch + "MN")

    def _einsum(self, node: Node) -> Any:
        tensors = argument(node, "tensors")
        letters, _, out = argument(node, "equation").replace(" ", "").partition("->")
        each = letters.split(",")
        if len(each) != 2 or not out or "." in letters or any(len(set(one)) < len(one) for one in each):
            return self._unknown(node, "an einsum of this form is not followed")
        return self._product(node, (tensors[0], each[0]), (tensors[1], each[1]), out)

    def _product(self, node: Node, left: tuple[Any, str], right: tuple[Any, str], out: str) -> Any:
        """A sum of products of two values; letters name their axes and the result's, as in einsum."""
        pairs = [(self._of(value), letters) for value, letters in (left, right)]
        one, two = set(left[1]), set(right[1])
        summed, batch, free = (one | two) - set(out), one & two & set(out), one ^ two
        varying = [{c for axis, c in enumerate(letters) if self._varies(labels, axis)} for labels, letters in pairs]
        heads = any(letters & batch for letters in varying)
        # Where both factors tell channels apart along the sum alone, these may go; of heads only whole ones.
        along = not heads and not summed & free and all(letters & summed for letters in varying)
        if all(letters & free for letters in varying):
            for place, (value, _) in enumerate((left, right)):  # a fixed basis along another axis shrinks for nobody
                if self._constant(value):
                    for letter in varying[place] & free:
                        self._level(pairs[place][0], pairs[place][1].index(letter))
                    varying[place] = varying[place] - free
        both_free = all(letters & free for letters in varying)
        whole = summed | free if heads else free if along else summed | free if both_free else summed
        for (value, _), (labels, letters) in zip((left, right), pairs, strict=True):
            for axis, letter in enumerate(letters):
                if letter in whole:
                    self._level(labels, axis)
            told = self._varies_at_all(labels) or not self._constant(value)
            if told and (name := self._parameter(value)) is not None:
                self.multiplied[name] = "in" if along else "out"
        order = "".join(sorted(summed)) if along else out
        first, second = (_arranged(labels, letters, order) for labels, letters in pairs)
        if along:
            self.numbers.unite(first, second)
            return self._fixed(self.env[node], "they are products of whole layers")
        self._tie(first, second)
        return (first if self._varies_at_all(first) else second).expand(self.env[node].shape)

    def _scaled_dot_product_attention(self, node: Node) -> Any:
        parts = []
        for name in ("query", "key", "value", "attn_mask"):
            if (given := argument(node, name)) is None:
                continue
            whole = self._of(given)
            for axis in (-1, -2):
                self._level(whole, axis)
            parts.append(whole.narrow(-1, 0, 1).narrow(-2, 0, 1))
        query = parts[0]
        for other in parts[1:]:
            times = query.shape[-3] // other.shape[-3] if query.ndim > 2 and other.ndim > 2 else 1
            shared = times > 1 and other.shape[-3] > 1
            self._tie(query, other.repeat_interleave(times, -3) if shared else other)
        return query.expand(self.env[node].shape)

    # ---- element by element ------------------------------------------------------------------

    def _same(self, node: Node) -> Any:
        """What meets is united."""
        shape = self.env[node].shape
        operands = [self._of(arg) for arg in node.all_input_nodes if isinstance(self.env[arg], Tensor)]
        if not operands:
            return self._fixed(self.env[node], _CONSTANT)
        operands.sort(key=lambda labels: -labels.numel())
        whole = (labels for labels in operands if labels.numel() == math.prod(shape) and self._varies_at_all(labels))
        best = next(whole, operands[0])
        for other in operands:
            if other is not best:
                self._tie(best, other)
        if best.numel() != math.prod(shape):
            best = next((labels for labels in operands if self._varies_at_all(labels)), best)
        return best.expand(shape)

    def _glu(self, node: Node) -> Any:
        first, second = self._of(argument(node, "self")).chunk(2, argument(node, "dim"))
        self._tie(first, second)
        return first

    def _tie(self, first: Tensor, second: Tensor) -> None:
        """Unite two operands that broadcast, unless one entry of one meets all channels of the other."""
        dimensions = max(first.ndim, second.ndim)
        first, second = (part[(None,) * (dimensions - part.ndim)] for part in (first, second))
        apart = True
        for wide, narrow in ((first, second), (second, first)):
            axes = [axis for axis in range(dimensions) if wide.shape[axis] > 1 and narrow.shape[axis] == 1]
            if any(self._varies(wide, axis) for axis in axes):
                self._freeze(narrow, "they meet all channels of another layer")
                self.broadcasts.append((wide, narrow))
                apart = False
        if apart:
            self.numbers.unite(first, second)

    # ---- moves -------------------------------------------------------------------------------

    def _moved(self, node: Node, name: str) -> Any:
        data = node.args[0]
        if name in _PICKS and (name != "slice" or argument(node, "step") != 1):
            axes = argument(node, "dims") if name == "roll" else [argument(node, "dim")]
            self._pick(data, axes or range(self.env[data].ndim), name)  # type: ignore[index]
        numbers: Any = torch.fx.map_arg(data, self._of)
        if "view" in name or "reshape" in name:
            return numbers.reshape(self.env[node].shape)
        args, kwargs = torch.fx.map_arg((node.args[1:], node.kwargs), lambda n: self.env[n])
        return node.target(numbers, *args, **kwargs)  # type: ignore[operator]

    def _pick(self, value: Any, axes: Iterable[int], name: str) -> None:
        labels = self._of(value)
        self.picks += [(labels, axis % labels.ndim, name) for axis in axes]

    def _index(self, node: Node) -> Any:
        value, indices = argument(node, "self"), argument(node, "indices")
        self._pick(value, (axis for axis, index in enumerate(indices) if index is not None), "index")
        return node.target(self._of(value), [None if i is None else self.env[i] for i in indices])  # type: ignore[operator]

    def _stack(self, node: Node) -> Any:
        numbers = self._moved(node, "stack")
        self._level(numbers, argument(node, "dim"))  # whatever is stacked is of one size
        return numbers

    def _pixel_shuffle(self, node: Node) -> Any:
        numbers = torch.pixel_shuffle(
            self._of(argument(node, "self")).double(), argument(node, "upscale_factor")
        ).long()
        for axis in (-1, -2):
            self._level(numbers, axis)
        return numbers

    def _channel_shuffle(self, node: Node) -> Any:
        value, groups = node.args[0], argument(node, "groups")
        self._equal_groups(self._along(value, 1), groups)
        return torch.channel_shuffle(self._of(value).contiguous(), groups)

    def _expand(self, node: Node) -> Any:
        labels, real = self._of(argument(node, "self")), self.env[node]
        labels = labels[(None,) * (real.ndim - labels.ndim)]
        wider = [new if old != new else 1 for old, new in zip(labels.shape, real.shape, strict=True)]
        if self._varies_at_all(labels) or not 1 < math.prod(wider) <= _MOST_ELEMENTS:
            return labels.expand(real.shape)
        # The same for all, as a mask for every head: any of the copies may go.
        return self.numbers.fresh(math.prod(wider)).view(wider).expand(real.shape)

    def _pad(self, node: Node) -> Any:
        labels, widths = self._of(argument(node, "self")), argument(node, "pad")
        constant = base_name(node) == "constant_pad_nd" or argument(node, "mode") == "constant"
        for position in range(0, len(widths), 2):
            axis = labels.ndim - 1 - position // 2
            front, back = widths[position], widths[position + 1]
            size = labels.shape[axis]
            if not constant or min(front, back) < 0:
                self._freeze_along(labels, axis, "a pad copies or cuts some of them")
            if not self._varies(labels, axis):
                shape = [*labels.shape[:axis], size + front + back, *labels.shape[axis + 1 :]]
                labels = labels.narrow(axis, 0, 1).expand(shape)
                continue
            ends = []
            for width in (front, back):
                view = [1] * labels.ndim
                view[axis] = width
                fresh = self.numbers.fresh(width).view(view)
                ends.append(fresh.expand([*labels.shape[:axis], width, *labels.shape[axis + 1 :]]))
            labels = torch.cat([ends[0], labels, ends[1]], axis)
        return labels

    # ---- everything else ---------------------------------------------------------------------

    def _pooled(self, node: Node, dimensions: int) -> Any:
        labels, real = self._of(node.args[0]), self.env[node]
        for axis in range(-dimensions, 0):
            self._level(labels, axis)
        for axis in range(-dimensions, 0):
            labels = labels.narrow(axis, 0, 1)
        found = tuple(labels.expand(value.shape) for value in (real if _several(real) else (real,)))
        return found if _several(real) else found[0]

    def _reduced(self, node: Node, name: str) -> Any:
        if isinstance(argument(node, "other"), Node):  # the larger of two values
            return self._same(node)
        labels, real, given = self._of(node.args[0]), self.env[node], argument(node, "dim")
        axes = [given] if isinstance(given, int) else list(given or range(labels.ndim))
        for axis in axes:
            self._freeze_along(labels, axis, f"{name.strip('_')} is taken over them")
        found = []
        for value in real if _several(real) else (real,):
            rest = labels
            if value.shape != labels.shape:
                for axis in axes:
                    rest = rest.narrow(axis, 0, 1)
                rest = rest if value.ndim == labels.ndim else rest.squeeze([axis % labels.ndim for axis in axes])
            found.append(rest)
        return tuple(found) if _several(real) else found[0]

    def _made(self, node: Node) -> Any:
        real = self.env[node]
        if real.numel() > _MOST_ELEMENTS or not real.is_floating_point():
            return self._fixed(real, _CONSTANT)
        return self.numbers.fresh(real.numel()).view(real.shape)

    def _unknown(self, node: Node, reason: str, *, named: bool = True) -> Any:
        for arg in node.all_input_nodes:
            if _holds_tensor(self.env[arg]):
                self._freeze(self._of(arg), reason)
        own = [name for arg in node.all_input_nodes if (name := self._parameter(arg)) is not None]
        if named and 0 < len(own) < len(node.all_input_nodes):
            self.found.left_alone.setdefault(own[0], reason)
        return self._fixed(self.env[node], reason)

    # ---- parameters --------------------------------------------------------------------------

    def _constant(self, value: Any) -> bool:
        """Whether it is a buffer, maybe transposed."""
        while isinstance(value, Node) and value.op == "call_function" and base_name(value) in _TURNS:
            value = value.args[0]
        real = attribute_of(value, self.graph_module)
        return real is not None and not isinstance(real, nn.Parameter)

    def _parameter(self, value: Any) -> str | None:
        """One name for a parameter or buffer that the model may know by several; None for another value."""
        tensor = attribute_of(value, self.graph_module)
        return None if tensor is None else self.known.get(id(tensor), str(value.target))

    def _weight(self, value: Any) -> tuple[Node, tuple[int, ...]] | None:
        """(attribute, which of its axes are the value's) of a matrix that is a parameter, maybe transposed."""
        if not isinstance(value, Node):
            return None
        if (real := attribute_of(value, self.graph_module)) is not None:
            return (value, (0, 1)) if isinstance(real, nn.Parameter) and real.ndim == 2 else None
        inner = self._weight(value.args[0]) if value.op == "call_function" and base_name(value) in _TURNS else None
        if inner is None:
            return None
        axes = value.target(torch.empty(0, 1), *value.args[1:], **value.kwargs).shape  # type: ignore[operator]
        return inner[0], tuple(inner[1][axis] for axis in axes)

    def _of(self, node: Any) -> Any:
        """The numbers of a value; a parameter's own are made when it is first met as a value."""
        if node in self.labels:
            return self.labels[node]
        if node.op == "call_function":  # a transposed weight that is used in another way as well
            self.labels[node] = self._moved(node, base_name(node))
            return self.labels[node]
        name, real = self._parameter(node), attribute_of(node, self.graph_module)
        if name is None or real is None:
            return self._fixed(self.env[node], _CONSTANT)
        if used := [numbers for slot, numbers in self.found.slots.items() if slot.parameter == name]:
            for numbers in used:
                self._freeze(torch.from_numpy(numbers), f"{name} is used in more than one way")
            return self._fixed(real, f"{name} is used in more than one way")
        if not real.is_floating_point() or real.numel() > _MOST_ELEMENTS:
            return self._fixed(real, _CONSTANT)
        if name not in self.generic:
            self.generic[name] = self.numbers.fresh(real.numel()).view(real.shape)
        return self.generic[name]

    def _slot(self, node: Node, value: Any, axis: int, numbers: Tensor, role: Role) -> None:
        """Tie an axis of a parameter that is an argument of a layer, whose weight it may be."""
        if value is None:
            return
        name = self._tie_slot(node, value, axis, numbers, role)
        if name and (role == "out" or (role == "through" and axis == 0 and value is argument(node, "weight"))):
            self.found.weights[node] = name

    def _tie_slot(self, node: Node, value: Node, axis: int, numbers: Tensor, role: Role) -> str | None:
        """Tie an axis of a parameter; its name, or None where it is computed, and so keeps the channels."""
        name = self._parameter(value)
        if name is None:
            self._freeze(numbers, "a layer's weights are computed")
            if role == "out":
                stack = list((node.meta.get("nn_module_stack") or {}).values())
                self.found.left_alone[stack[-1][0] if stack else node.name] = "its weights are computed"
            return None
        if name in self.generic:
            self._freeze((self.generic[name], numbers), f"{name} is used in more than one way")
        self._name_slot(name, axis, numbers, role, node)
        return name

    def _name_slot(self, name: str, axis: int, numbers: Tensor, role: Role, node: Node) -> None:
        slot = Slot(name, axis)
        if slot in self.found.slots:
            self.numbers.unite(torch.from_numpy(self.found.slots[slot]), numbers)
        else:
            self.found.slots[slot], self.found.roles[slot] = numbers.numpy(), role
        self.found.layers.setdefault(slot, []).append(node)

    # ---- numbers -----------------------------------------------------------------------------

    def _along(self, value: Any, axis: int) -> Tensor:
        """The numbers of a value along its channel axis, made the same everywhere else."""
        labels: Tensor = self._of(value)
        for other in range(labels.ndim):
            if other != axis % labels.ndim:
                self._level(labels, other)
                labels = labels.narrow(other, 0, 1)
        return labels.reshape(-1)

    def _level(self, labels: Tensor, axis: int) -> None:
        """Unite along an axis."""
        if self._varies(labels, axis):
            self.numbers.unite(labels, labels.narrow(axis, 0, 1))

    def _freeze(self, labels: Any, reason: str) -> None:
        for part in _flat(labels):
            self.numbers.freeze(part, reason)

    def _freeze_along(self, labels: Tensor, axis: int, reason: str) -> None:
        if self._varies(labels, axis):
            self._freeze(labels, reason)

    def _fixed(self, like: Any, reason: str) -> Any:
        """Numbers that must stay, of the shape of a value."""
        if isinstance(like, tuple | list):
            return tuple(self._fixed(part, reason) for part in like)
        if not isinstance(like, Tensor):
            return None
        number = self.numbers.fresh(1)
        self._freeze(number, reason)
        return number.view([1] * like.ndim).expand(like.shape)

    def _spread(self, numbers: Tensor, axis: int, node: Node) -> Tensor:
        """Numbers along one axis of a node's value."""
        real: Tensor = self.env[node]
        shape = [1] * real.ndim
        shape[axis] = -1
        spread: Tensor = numbers.view(shape).expand(real.shape)
        return spread

    def _varies(self, labels: Tensor, axis: int) -> bool:
        """Whether the numbers, as united so far, differ along an axis. Once they do not, they never will."""
        if labels.shape[axis] < 2 or labels.stride(axis) == 0:
            return False
        found = self.numbers.find(compact(labels)[0].numpy())
        return bool((found != found.take([0], axis)).any())

    def _varies_at_all(self, labels: Tensor) -> bool:
        return any(self._varies(labels, axis) for axis in range(labels.ndim))

    # ---- the end -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Unite until the channels of every value lie along one axis, and freeze those that are alone."""
        tensors = [*(part for labels in self.labels.values() for part in _flat(labels)), *self.generic.values()]
        packed = [compact(labels)[0] for labels in tensors if labels.numel()]
        while any([self._flatten(labels) for labels in packed] + [self._meet(*pair) for pair in self.broadcasts]):
            pass
        for labels, axis, name in self.picks:
            self._freeze_along(labels, axis, f"{name} picks some of them by position")
        for labels in packed:
            if not self._varies_at_all(labels):
                self._freeze(labels, _ALONE)
        self._name_left_alone()
        for node, labels in self.labels.items():
            each = [self._vector(part) for part in (labels if _several(labels) else (labels,))]
            self.found.values[node] = each if _several(labels) else each[0]
        for slot, numbers in self.found.slots.items():
            self.found.slots[slot] = self.numbers.find(numbers)
        for name, labels in self.generic.items():
            if (vector := self._vector(labels)) is not None:
                slot = Slot(name, vector[0])
                self.found.slots[slot] = vector[1]
                self.found.roles[slot] = self.multiplied.get(name, "through")
                self.found.layers[slot] = []

    def _flatten(self, labels: Tensor) -> bool:
        """Unite along all axes but the one that leaves the most channels of layers apart."""
        axes = [axis for axis in range(labels.ndim) if self._varies(labels, axis)]
        if len(axes) < 2:
            return False
        found = self.numbers.find(labels.numpy())
        slots = [self.numbers.find(numbers) for numbers in self.found.slots.values()]
        of_layers = np.where(np.isin(found, np.concatenate(slots or [found[:0]])), found, np.iinfo(np.int64).max)

        def left(axis: int) -> tuple[int, int]:
            """How many channels would be left apart if all were united along an axis."""
            return len(np.unique(of_layers.min(axis=axis))), len(np.unique(found.min(axis=axis)))

        self._level(labels, max(axes, key=left))
        self._flatten(labels)
        return True

    def _meet(self, wide: Tensor, narrow: Tensor) -> bool:
        """Unite a value with what is broadcast to it where its channels lie along an axis that both have."""
        shared = [axis for axis in range(wide.ndim) if narrow.shape[axis] > 1 and self._varies(wide, axis)]
        if shared:
            self.numbers.unite(wide, narrow)
        return bool(shared)

    def _name_left_alone(self) -> None:
        """Say why layers keep their channels."""
        frozen: dict[str, tuple[Array, int]] = {}
        for slot, numbers in self.found.slots.items():
            stays = self.numbers.find(numbers) == FROZEN
            if self.found.roles[slot] == "out" and stays.any():
                frozen[slot.parameter] = (numbers[stays], len(numbers))
        for name, role in self.multiplied.items():
            if role == "out" and name in self.generic and self._vector(self.generic[name]) is None:
                frozen[name] = (self.generic[name].numpy().ravel(), 0)
        reasons = self.numbers.reasons([numbers for numbers, _ in frozen.values()])
        for (name, (numbers, total)), reason in zip(frozen.items(), reasons, strict=True):
            part = f"{len(numbers)} of {total}: " if len(numbers) < total else ""
            self.found.left_alone[name] = part + reason

    def _vector(self, labels: Any) -> Vector | None:
        axis = next((a for a in range(labels.ndim) if self._varies(labels, a)), None) if labels is not None else None
        if axis is None:
            return None
        for other in range(labels.ndim):
            if other != axis:
                labels = labels.narrow(other, 0, 1)
        return axis, self.numbers.find(labels.reshape(-1).numpy())


_RULES: Mapping[str, Callable[[_Tracer, Node], Any]] = {
    "bilinear": _Tracer._bilinear,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _Tracer._recurrent),
    "embedding": _Tracer._embedding,
    "batch_norm": _Tracer._batch_norm,
    "instance_norm": _Tracer._batch_norm,
    "group_norm": _Tracer._group_norm,
    "layer_norm": _Tracer._layer_norm,
    "rms_norm": _Tracer._layer_norm,
    "prelu": _Tracer._prelu,
    "glu": _Tracer._glu,
    "type_as": lambda tracer, node: tracer._of(argument(node, "self")),
    "matmul": _Tracer._matmul,
    "bmm": _Tracer._matmul,
    "mm": _Tracer._matmul,
    "einsum": _Tracer._einsum,
    "scaled_dot_product_attention": _Tracer._scaled_dot_product_attention,
    "expand": _Tracer._expand,
    "index": _Tracer._index,
    "stack": _Tracer._stack,
    "pixel_shuffle": _Tracer._pixel_shuffle,
    "channel_shuffle": _Tracer._channel_shuffle,
    "pad": _Tracer._pad,
    "constant_pad_nd": _Tracer._pad,
}


def _arranged(labels: Tensor, letters: str, order: str) -> Tensor:
    """The axes of some letters in another order, of size 1 where there are none; of other axes the first entry."""
    for axis in reversed(range(len(letters))):
        if letters[axis] not in order:
            labels = labels.select(axis, 0)
    kept = [letter for letter in letters if letter in order]
    labels = labels.permute([kept.index(letter) for letter in order if letter in kept])
    for axis, letter in enumerate(order):
        if letter not in kept:
            labels = labels.unsqueeze(axis)
    return labels


def _several(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (_several(value) and any(isinstance(part, Tensor) for part in value))


def _flat(labels: Any) -> list[Tensor]:
    if isinstance(labels, Tensor):
        return [labels]
    return [part for each in labels or () for part in _flat(each)]
