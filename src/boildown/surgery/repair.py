"""Repair: after something was removed, the layers behind it are refitted in closed form, without training.

Each layer that reads what was changed gets the weights that bring its output nearest to the dense network's, on
activations of the network as changed so far, so that each layer also makes up for the error of those before. Where
its output is added to a shortcut, the sum is what should come out. A batch norm behind it takes part in the fit and
stays a batch norm. The regression is that of He et al., Channel pruning (arXiv 1707.06168), equation 2, ridged
toward the old weights.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx._pytree import tree_flatten_spec
from torch.nn import functional as F

from boildown.surgery.graph import CONVOLUTIONS, LINEAR, attribute_of
from boildown.surgery.stepping import Call, computed

aten = torch.ops.aten

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Pulls toward the old weights, relative to the mean square of the inputs; calls kept aside choose one."""

ASIDE = 4
"""Every so many calls one is kept aside."""

POSITIONS = 48
"""How many positions of each sample's output a convolution is fitted on."""

MOST_COLUMNS = 6144
"""Layers with more inputs times positions of a filter are left as they are: the fit takes memory of its square."""


@dataclass
class Moments:
    """Sums that a least-squares fit needs, in float64: of inputs x (columns) and targets t (rows)."""

    count: int
    x: Tensor
    t: Tensor
    xx: Tensor
    xt: Tensor
    tt: Tensor

    @classmethod
    def empty(cls, columns: int, rows: int) -> Moments:
        """Of nothing yet."""
        zeros = [torch.zeros(shape, dtype=torch.float64) for shape in (
            (columns,), (rows,), (columns, columns), (columns, rows), (rows,)
        )]  # fmt: skip
        return cls(0, *zeros)

    def add(self, x: Tensor, t: Tensor) -> None:
        """Count samples in: x (n, columns), t (n, rows)."""
        self.count += len(x)
        self.x += x.sum(0, dtype=torch.float64)
        self.t += t.sum(0, dtype=torch.float64)
        self.xx += (x.T @ x).double()
        self.xt += (x.T @ t).double()
        self.tt += t.square().sum(0, dtype=torch.float64)

    def centred(self) -> tuple[Tensor, Tensor, Tensor]:
        """Covariances (xx, xt) and the variance of each target."""
        n = max(self.count, 1)
        mx, mt = self.x / n, self.t / n
        return (
            self.xx / n - torch.outer(mx, mx),
            self.xt / n - torch.outer(mx, mt),
            self.tt / n - mt.square(),
        )

    def solve(self, weight: Tensor, columns: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """(weights (rows, all columns) that use some columns only, offset per row), nearest to the targets.

        weight: the old ones, which the fit is pulled toward.
        """
        xx, xt, _ = self.centred()
        xx, xt = xx[columns][:, columns], xt[columns]
        old = weight.double()[:, columns].T
        pull = ridge * xx.diagonal().mean().clamp_min(1e-12)
        system = xx + pull * torch.eye(len(xx), dtype=torch.float64)
        new = old + torch.linalg.solve(system, xt - xx @ old)
        fitted = torch.zeros_like(weight, dtype=torch.float64)
        fitted[:, columns] = new.T
        n = max(self.count, 1)
        return fitted, self.t / n - fitted @ (self.x / n)

    def error(self, weight: Tensor, offset: Tensor) -> float:
        """Mean squared error of the targets, summed over rows."""
        n = max(self.count, 1)
        squares = self.tt - 2 * (weight * self.xt.T).sum(1) + ((weight @ self.xx) * weight).sum(1)
        shifts = 2 * offset * (weight @ self.x - self.t) + n * offset.square()
        return float((squares + shifts).sum()) / n

    def through_zero(self) -> Moments:
        """The same for a layer that cannot store an offset."""
        return Moments(self.count, self.x * 0, self.t * 0, self.xx, self.xt, self.tt)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.x + other.x, self.t + other.t, self.xx + other.xx, self.xt + other.xt,
            self.tt + other.tt,
        )  # fmt: skip


@dataclass
class Fit:
    """What a layer is refitted on: moments to fit to, and others, kept aside, to choose the pull by."""

    fitted: Moments
    aside: Moments

    @classmethod
    def empty(cls, columns: int, rows: int) -> Fit:
        """Of nothing yet."""
        return cls(Moments.empty(columns, rows), Moments.empty(columns, rows))

    def add(self, call: int, x: Tensor, t: Tensor) -> None:
        """Count samples of the call of this number in."""
        (self.aside if call % ASIDE == 1 else self.fitted).add(x, t)

    @property
    def all(self) -> Moments:
        """Of all calls."""
        return self.fitted + self.aside

    def ridge(self, weight: Tensor, columns: Tensor) -> float:
        """The pull with which a fit to the ones errs least on the others."""
        if not self.aside.count:
            return RIDGES[0]
        return min(RIDGES, key=lambda ridge: self.aside.error(*self.fitted.solve(weight, columns, ridge)))

    def solve(self, weight: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """See `Moments.solve`."""
        return self.all.solve(weight, columns, self.ridge(weight, columns))

    def through_zero(self) -> Fit:
        """The same for a layer that cannot store an offset."""
        return Fit(self.fitted.through_zero(), self.aside.through_zero())


class Layer:
    """A convolution or linear layer in a graph: its weight as a matrix, and how to read its inputs and outputs."""

    def __init__(self, module: GraphModule, node: Node) -> None:
        self.module, self.node = module, node
        arguments = [*node.args, *[None] * 7]
        self.weight_name = str(arguments[1].target)  # type: ignore[union-attr]
        self.bias_name = str(arguments[2].target) if isinstance(arguments[2], Node) else None
        self.linear = node.target is LINEAR
        self.groups = int(arguments[6] or 1) if not self.linear else 1  # type: ignore[arg-type]
        weight = self.weight
        self.kernel = tuple(weight.shape[2:])
        self.depthwise = not self.linear and self.groups > 1 and weight.shape[1] == 1
        self.norm = _norm_after(module, node)

    @staticmethod
    def fits(module: GraphModule, node: Node) -> bool:
        """Whether it can be refitted: a layer with weights of its own, over at most two axes of space."""
        if node.op != "call_function" or (node.target not in CONVOLUTIONS and node.target is not LINEAR):
            return False
        weight = attribute_of(node.args[1], module)
        bias = node.args[2] if len(node.args) > 2 else None
        shared = isinstance(node.args[1], Node) and len(node.args[1].users) > 1
        padding = node.args[4] if len(node.args) > 4 else 0
        return (
            weight is not None
            and weight.ndim <= 4
            and weight[0].numel() <= MOST_COLUMNS
            and not shared
            and not isinstance(padding, str)
            and (bias is None or attribute_of(bias, module) is not None)
        )

    @property
    def weight(self) -> Tensor:
        """The layer's weight."""
        return operator.attrgetter(self.weight_name)(self.module)  # type: ignore[no-any-return]

    def columns(self, kept: Tensor | None) -> Tensor:
        """Indices of the weight matrix's columns of some input channels (bool per channel of a group); all for None."""
        inputs, area = self.weight.shape[1], prod(self.kernel)
        mask = torch.ones(inputs, dtype=torch.bool) if kept is None else kept
        return torch.arange(inputs * area).view(inputs, area)[mask].flatten()

    def read(
        self, value: Tensor, outputs: Tensor, generator: torch.Generator, group: int, likely: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(x, t): inputs (n, columns) of some positions, and what should come out there (n, rows), of a group.

        likely: how likely each position of a linear layer is drawn; all alike without it.
        """
        if self.linear:
            x, t = value.reshape(-1, value.shape[-1]), outputs.reshape(-1, outputs.shape[-1])
            most = POSITIONS * len(value)
            if likely is not None and likely.sum() > 0:
                chosen = torch.multinomial(likely.flatten(), min(most, len(x)), replacement=True, generator=generator)
                return x[chosen], t[chosen]
            if len(x) > most:
                chosen = torch.randint(len(x), (most,), generator=generator)
                x, t = x[chosen], t[chosen]
            return x, t
        value, outputs = _part(value, group, self.groups), _part(outputs, group, self.groups)
        stride, padding, dilation = (self._pair(position, usual) for position, usual in ((3, 1), (4, 0), (5, 1)))
        kernel = self.kernel
        if value.ndim == 3:
            value, outputs = value.unsqueeze(2), outputs.unsqueeze(2)
            kernel, stride, padding, dilation = (1, *kernel), (1, *stride), (0, *padding), (1, *dilation)
        height, width = outputs.shape[2:]
        count = min(POSITIONS, height * width)
        if likely is None:
            places = torch.randint(height * width, (len(value), count), generator=generator)
        else:
            odds = likely.flatten(1) + 1e-6 * likely.mean() + 1e-30
            places = torch.multinomial(odds, count, replacement=True, generator=generator)
        padded = F.pad(value, (padding[1], padding[1], padding[0], padding[0]))
        top, left = (places // width) * stride[0], (places % width) * stride[1]
        rows = top[..., None] + torch.arange(kernel[0]) * dilation[0]
        cols = left[..., None] + torch.arange(kernel[1]) * dilation[1]
        sample = torch.arange(len(value))[:, None, None, None]
        patches = padded.permute(0, 2, 3, 1)[sample, rows[..., :, None], cols[..., None, :]]
        x = patches.permute(0, 1, 4, 2, 3).reshape(len(value) * count, -1)
        t = outputs.flatten(2).permute(0, 2, 1)[torch.arange(len(value))[:, None], places].reshape(len(x), -1)
        return x, t

    def _pair(self, position: int, usual: int) -> tuple[int, ...]:
        given = self.node.args[position] if len(self.node.args) > position else usual
        values = [int(v) for v in given] if isinstance(given, list | tuple) else [int(given)]  # type: ignore[arg-type]
        return tuple(values * len(self.kernel)) if len(values) == 1 else tuple(values)

    @torch.no_grad()
    def write(self, weight: Tensor, offset: Tensor, rows: slice) -> None:
        """Put refitted weights (rows, columns) and offsets in place; without a bias, a batch norm behind takes them."""
        self.weight[rows].copy_(weight.view_as(self.weight[rows]))
        if self.bias_name is not None:
            operator.attrgetter(self.bias_name)(self.module)[rows].copy_(offset)
        elif self.norm is not None:
            self.norm.running_mean[rows] -= offset  # type: ignore[index, operator]

    def refit(self, fits: Sequence[Fit], kept: Tensor | None) -> None:
        """Write what is nearest to the targets of every group's fit with some input channels (see `columns`)."""
        rows, columns = self.weight.shape[0] // self.groups, self.columns(kept)
        for group, fit in enumerate(fits):
            part = slice(group * rows, (group + 1) * rows)
            self.write(*fit.solve(self.weight[part].detach().flatten(1), columns), part)

    @property
    def shifts(self) -> bool:
        """Whether an offset can be stored."""
        return self.bias_name is not None or self.norm is not None


class Pair:
    """The dense and the changed network on the same samples, node by node, with no more values kept than needed."""

    def __init__(
        self, dense: GraphModule, changed: GraphModule, calls: Sequence[Call], check: Callable[[], None]
    ) -> None:
        self.dense, self.changed, self.calls, self.check = dense, changed, calls, check
        self.order = {node.name: index for index, node in enumerate(dense.graph.nodes)}
        self._dense_nodes = list(dense.graph.nodes)
        self._reached = 0
        self.ours: dict[str, list[Any]] = {}
        self.theirs: dict[str, list[Any]] = {}
        self._by_name = {node.name: node for node in self._dense_nodes}

    def target(self, node: Node) -> list[Tensor]:
        """The dense network's values of a node, per batch."""
        while self._reached <= self.order[node.name]:
            self._step(self.dense, self._dense_nodes[self._reached], self.theirs)
            self._reached += 1
        return self.theirs[node.name]

    def advance(self, node: Node) -> None:
        """Compute a node of the changed network, and forget what nothing needs any more."""
        self._step(self.changed, node, self.ours)
        for value in node.all_input_nodes:
            if all(user.name in self.ours or user.op == "output" for user in value.users):
                self.ours[value.name] = []
        self.forget(node)

    def forget(self, node: Node) -> None:
        """Forget the dense network's values before a node that nothing needs any more."""
        place = self.order.get(node.name, -1)
        for name, values in self.theirs.items():
            if values and self.order[name] < place and self._used(self._by_name[name]):
                self.theirs[name] = []

    def _used(self, node: Node) -> bool:
        """Whether no node needs it any more; outputs of the network always are needed."""
        return all(user.name in self.theirs for user in node.users)

    @torch.no_grad()
    def _step(self, module: GraphModule, node: Node, env: dict[str, list[Any]]) -> None:
        self.check()
        if node.op == "placeholder":
            position = [n for n in module.graph.nodes if n.op == "placeholder"].index(node)
            flat = [tree_flatten_spec((args, dict(kwargs)), module._in_spec) for args, kwargs in self.calls]
            env[node.name] = [leaves[position] for leaves in flat]
        elif node.op != "output":
            env[node.name] = [computed(module, node, self._of(env, batch)) for batch in range(len(self.calls))]

    @staticmethod
    def _of(env: Mapping[str, list[Any]], batch: int) -> Callable[[Node], Any]:
        return lambda node: env[node.name][batch]


def repair(
    dense: GraphModule,
    changed: GraphModule,
    readers: Mapping[str, Tensor | None],
    calls: Sequence[Call],
    *,
    seed: int = 0,
    likely: Mapping[str, Sequence[Tensor]] = MappingProxyType({}),
    check: Callable[[], None] = lambda: None,
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None,
) -> GraphModule:
    """A copy of `changed` whose readers are refitted toward `dense`, both trainable graphs in eval mode.

    readers: the layers to refit, by node name, with which of their input channels they may use (bool per channel
        of a group; None for all). Depthwise convolutions get a scale and an offset per channel only.
    calls: calibration calls.
    likely: how much each position of a linear layer counts, by node name, a tensor for each call; all alike without.
    """
    changed = copy.deepcopy(changed)
    pair, generator = Pair(dense, changed, calls, check), torch.Generator().manual_seed(seed)
    left = set(readers)
    for node in changed.graph.nodes:
        if not left:
            break
        if node.name in left:
            left.discard(node.name)
            if Layer.fits(changed, node):
                _refit(pair, node, readers[node.name], generator, likely.get(node.name))
                progress("repair", len(readers) - len(left), len(readers))
        pair.advance(node)
    return changed


@torch.no_grad()
def _refit(
    pair: Pair,
    node: Node,
    kept: Tensor | None,
    generator: torch.Generator,
    likely: Sequence[Tensor] | None,
) -> None:
    layer = Layer(pair.changed, node)
    source = node.args[0]
    assert isinstance(source, Node)
    inputs, targets = pair.ours[source.name], wanted(pair, layer)
    if layer.depthwise:
        _rescale(pair, layer, targets)
        return
    rows, fits = layer.weight.shape[0] // layer.groups, []
    for group in range(layer.groups):
        fit = Fit.empty(layer.weight[0].numel(), rows)
        for call, (value, target) in enumerate(zip(inputs, targets, strict=True)):
            odds = None if likely is None else likely[call]
            fit.add(call, *layer.read(value, target, generator, group, odds))
        fits.append(fit if layer.shifts else fit.through_zero())
    layer.refit(fits, kept)


@torch.no_grad()
def _rescale(pair: Pair, layer: Layer, targets: list[Tensor]) -> None:
    """Scale and offset per channel of a depthwise convolution, by least squares."""
    pair._step(pair.changed, layer.node, pair.ours)
    sums = torch.zeros(4, len(layer.weight), dtype=torch.float64)
    count = 0
    for ours, theirs in zip(pair.ours.pop(layer.node.name), targets, strict=True):
        x, y = (t.transpose(0, 1).flatten(1).double() for t in (ours, theirs))
        sums += torch.stack([x.sum(1), y.sum(1), (x * x).sum(1), (x * y).sum(1)])
        count += x.shape[1]
    a, b, xx, xy = sums / max(count, 1)
    spread, together = (xx - a * a).clamp_min(0), xy - a * b
    pull = RIDGES[0] * spread.mean().clamp_min(1e-12)
    scale = (together + pull) / (spread + pull)
    old = layer.weight.detach().flatten(1).double()
    bias = torch.zeros_like(a)
    if layer.bias_name is not None:
        bias = operator.attrgetter(layer.bias_name)(layer.module).detach().double()
    offset = b - scale * (a - bias) if layer.shifts else torch.zeros_like(a)
    layer.write(scale[:, None] * old, offset, slice(None))


def wanted(pair: Pair, layer: Layer) -> list[Tensor]:
    """What the layer should give: the dense network's output; before a shortcut, what is missing from the sum."""
    node, norm = layer.node, layer.norm
    result = next(iter(node.users)) if norm is not None else node
    total = next(iter(result.users)) if len(result.users) == 1 else None
    plain = total is not None and len(total.args) == 2 and not total.kwargs  # with alpha, it adds a multiple
    if total is not None and plain and total.target in (aten.add.Tensor, aten.add_.Tensor):
        other = next((arg for arg in total.args if arg is not result), None)
        alike = pair.target(node)[0].shape == pair.target(total)[0].shape  # not where it is added to all positions
        if isinstance(other, Node) and pair.ours.get(other.name) and alike:
            sums = pair.target(total)
            found = [s - o for s, o in zip(sums, pair.ours[other.name], strict=True)]
            return found if norm is None else [_undone(norm, value) for value in found]
    return pair.target(node)


def _undone(norm: nn.Module, value: Tensor) -> Tensor:
    """What goes into a batch norm for this to come out; channels it has switched off ask for their mean."""
    shape = [1, -1] + [1] * (value.ndim - 2)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # type: ignore[operator]
    alive = scale.abs() > 1e-4 * scale.abs().max()
    inverse = torch.where(alive, 1 / torch.where(alive, scale, torch.ones_like(scale)), torch.zeros_like(scale))
    return (value - norm.bias.view(shape)) * inverse.view(shape) + norm.running_mean.view(shape)  # type: ignore[operator]


def _norm_after(module: GraphModule, node: Node) -> nn.Module | None:
    """The batch norm module that alone reads a layer's output, and whose channels are the layer's."""
    if node.target is LINEAR and node.meta.get("axes") != 2:
        return None
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is None or user.op != "call_module":
        return None
    called = module.get_submodule(str(user.target))
    known = isinstance(called, nn.modules.batchnorm._BatchNorm) and called.affine and called.track_running_stats
    return called if known else None


def _part(value: Tensor, group: int, groups: int) -> Tensor:
    size = value.shape[1] // groups
    return value[:, group * size : (group + 1) * size]
