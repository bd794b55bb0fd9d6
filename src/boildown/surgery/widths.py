"""How many channels each group keeps, and which: by what their removal does to outputs, as measured."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from boildown.surgery.channels import Channels, Costs, Group
from boildown.surgery.importance import magnitude
from boildown.surgery.repair import ASIDE, Fit, Layer, Pair
from boildown.surgery.stepping import Call, Reference, computed

Allocation = Literal["measured", "global", "uniform"]
Check = Callable[[], None]
Progress = Callable[[str, int, int | None], None]

FRACTIONS = (0.25, 0.5)
"""Shares of a group whose removal is measured at the network's outputs."""


_REFITS = 256
"""How often at most a group's layers are refitted while its channels go."""


@dataclass
class Curve:
    """One group: its channels in the order in which they should go, and what that costs.

    local: relative squared error of the outputs of the layers behind, refitted, after each removal: shape (width,).
    error: the same at the network's outputs, as far as measured; else equal to `local`.
    """

    group: Group
    order: tuple[int, ...]
    local: NDArray[np.float64]
    error: NDArray[np.float64]


@dataclass
class _Reader:
    """A layer behind a group: what it is fitted to on dense activations, and the number of each column."""

    layer: Layer
    numbers: NDArray[np.int64]
    fits: list[Fit]


def curves(
    channels: Channels,
    calls: Sequence[Call],
    *,
    importance: Mapping[int, float] | None = None,
    measured: bool = True,
    probes: Sequence[Call] | None = None,
    seed: int = 0,
    check: Check = lambda: None,
    progress: Progress = lambda _what, _done, _total: None,
) -> list[Curve]:
    """The curve of each group, on calibration calls.

    Where no layer behind a group can be refitted (all of them are called twice, or are transposed or 3-D
    convolutions), its channels go by importance, or by magnitude.

    importance: score per channel, the lowest goes first. Without it, the channel goes that is missed least once the
        others have been refitted (optimal brain surgeon for whole channels: Hassibi & Stork 1993; ZipLM, arXiv
        2302.04089, section 3.1), which needs the layers behind only.
    measured: whether `error` is measured at the outputs, on `probes`; by default on the calls kept aside.
    """
    readers = _moments(channels, calls, seed, check, progress)
    found = []
    for group in channels.groups:
        behind = [readers[name] for name in _behind(channels, group) if name in readers]
        if group.width < 2:
            continue
        check()
        if behind:
            order, local = _eliminated(group, behind, importance, check)
        else:
            order, local = _by_score(group, magnitude(channels) if importance is None else importance)
        found.append(Curve(group, order, local, local.copy()))
    if measured:
        _measure(channels, found, readers, probes or calls[1::ASIDE] or calls, check, progress)
    return found


def _behind(channels: Channels, group: Group) -> list[str]:
    names = []
    for slot in group.readers:
        names += [node.name for node in channels.trace.layers[slot]]
    return names


def _moments(
    channels: Channels, calls: Sequence[Call], seed: int, check: Check, progress: Progress
) -> dict[str, _Reader]:
    """Moments of every layer that reads a group, in one run of the dense network."""
    wanted_by = {name for group in channels.groups for name in _behind(channels, group)}
    numbers = {
        node.name: channels.trace.slots[slot]
        for group in channels.groups for slot in group.readers for node in channels.trace.layers[slot]
    }  # fmt: skip
    module, generator = channels.module, torch.Generator().manual_seed(seed)
    pair = Pair(module, module, calls, check)
    found: dict[str, _Reader] = {}
    for node in module.graph.nodes:
        if node.name in wanted_by and Layer.fits(module, node):
            layer = Layer(module, node)
            rows, columns = layer.weight.shape[0] // layer.groups, layer.weight[0].numel()
            fits = [Fit.empty(columns, rows) for _ in range(layer.groups)]
            inputs = pair.target(node.args[0])
            outputs = pair.target(node)
            for call, (value, output) in enumerate(zip(inputs, outputs, strict=True)):
                for group, fit in enumerate(fits):
                    fit.add(call, *layer.read(value, output, generator, group))
            found[node.name] = _Reader(
                layer, numbers[node.name], fits if layer.shifts else [f.through_zero() for f in fits]
            )
            progress("look at the layers", len(found), len(wanted_by))
        pair.forget(node)
    return found


def _eliminated(
    group: Group, readers: Sequence[_Reader], importance: Mapping[int, float] | None, check: Check
) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Remove one channel after the other, refitting in between: (order, relative error after each)."""
    states = [state for reader in readers for state in _states(reader)]
    left, order, errors, total = list(group.channels), [], [], 0.0
    # In wide groups several go between two refits: a step takes the square of the width.
    several = max(1, group.width // _REFITS)
    while left:
        check()
        asked = left if importance is None else sorted(left, key=lambda number: importance[number])[:several]
        scores = sum((state.scores(asked) for state in states), np.zeros(len(asked)))
        for place in np.argsort(scores, kind="stable")[:several] if importance is None else range(len(asked)):
            number = asked[place]
            total += max(float(scores[place]), 0.0)
            for state in states:
                state.remove(number)
            order.append(number)
            errors.append(total)
        gone = set(order)
        left = [number for number in left if number not in gone]
    return tuple(order), np.array(errors)


def _by_score(group: Group, importance: Mapping[int, float]) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """The lowest first, each for its share of the whole: (order, share that is gone after each)."""
    order = tuple(sorted(group.channels, key=lambda number: importance[number]))
    gone = np.cumsum([importance[number] for number in order])
    return order, gone / max(float(gone[-1]), 1e-30)


class _State:
    """The inverse Hessian of one layer's fit, and its weights, while channels go."""

    def __init__(self, fit: Fit, weight: Tensor, columns: Mapping[int, Tensor]) -> None:
        xx, _, tt = fit.all.centred()
        half = torch.cat(list(columns.values())[::2])
        pull = fit.ridge(weight, half) * xx.diagonal().mean().clamp_min(1e-12)
        self.inverse = torch.linalg.inv(xx + pull * torch.eye(len(xx), dtype=torch.float64))
        self.weight = weight.double().clone()
        self.columns = columns
        self.scale = 1.0 / max(float(tt.sum()), 1e-12)

    def scores(self, numbers: Sequence[int]) -> NDArray[np.float64]:
        """How much the relative squared error grows without each channel alone, the others refitted."""
        found = np.zeros(len(numbers))
        by_size: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            if number in self.columns:
                by_size.setdefault(len(self.columns[number]), []).append(place)
        for places in by_size.values():
            at = torch.stack([self.columns[numbers[place]] for place in places])
            parts = self.weight[:, at].permute(1, 2, 0)
            solved = torch.linalg.solve(self.inverse[at[:, :, None], at[:, None, :]], parts)
            found[places] = (solved * parts).sum((1, 2)).numpy() * self.scale
        return found

    def remove(self, number: int) -> None:
        """Take a channel out and refit the others."""
        at = self.columns.get(number)
        if at is None:
            return
        rows = self.inverse[at]
        share = torch.linalg.solve(rows[:, at], rows)
        self.weight -= self.weight[:, at] @ share
        self.inverse -= self.inverse[:, at] @ share
        # What is gone must not be touched by rounding again.
        self.inverse[at] = 0.0
        self.inverse[:, at] = 0.0
        self.inverse[at, at] = 1.0
        self.weight[:, at] = 0.0


@torch.no_grad()
def _states(reader: _Reader) -> list[_State]:
    layer, numbers = reader.layer, reader.numbers
    area = layer.weight[0, 0].numel() if not layer.linear else 1
    columns = {int(n): torch.from_numpy(np.flatnonzero(np.repeat(numbers == n, area))) for n in np.unique(numbers)}
    rows = layer.weight.shape[0] // layer.groups
    weight = layer.weight.detach().flatten(1)
    return [_State(fit, weight[g * rows : (g + 1) * rows], columns) for g, fit in enumerate(reader.fits)]


# ---- at the outputs --------------------------------------------------------------------------


def _measure(
    channels: Channels,
    found: Sequence[Curve],
    readers: Mapping[str, _Reader],
    probes: Sequence[Call],
    check: Check,
    progress: Progress,
) -> None:
    """Scale each curve by what some of its points do to the network's outputs."""
    module = channels.module
    nodes = list(module.graph.nodes)
    reference = Reference(module, probes)
    first: dict[str, list[Curve]] = {}
    for curve in found:
        behind = [name for name in _order(nodes, _behind(channels, curve.group)) if name in readers]
        if behind:
            first.setdefault(behind[0], []).append(curve)
        else:
            points = []
            for count in _counts(curve):
                check()
                without = channels.silenced(curve.order[:count])
                points.append((curve.local[count - 1], reference.error(reference.outputs(without))))
            curve.error = _through(curve.local, points)
    pair, done = Pair(module, module, probes, check), 0
    for index, node in enumerate(nodes):
        for curve in first.get(node.name, ()):
            points = []
            for count in _counts(curve):
                gone = set(curve.order[:count])
                touched = [readers[name] for name in _behind(channels, curve.group) if name in readers]
                with _refitted(module, touched, gone):
                    outputs = [_suffix(module, nodes[index:], pair.theirs, b) for b in range(len(probes))]
                points.append((curve.local[count - 1], reference.error(outputs)))
            curve.error = _through(curve.local, points)
            done += 1
            progress("measure what each layer's channels do", done, len(found))
        pair.target(node) if node.op != "output" else None
        pair.forget(node)


def _counts(curve: Curve) -> list[int]:
    """How many channels to take out for a measurement."""
    counts = [max(1, round(fraction * curve.group.width)) for fraction in FRACTIONS]
    return [count for count in counts if count < curve.group.width]


def _through(local: NDArray[np.float64], points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """The local error carried to the outputs: straight lines in logarithms through the points measured."""
    points = sorted({(x, y) for x, y in points if x > 0 and y > 0})
    if not points:
        return local.copy()
    x, y = np.log([p[0] for p in points]), np.log([p[1] for p in points])
    at = np.log(np.maximum(local, 1e-12))
    # Outside of what was measured, errors grow in proportion.
    return np.exp(np.interp(at, x, y) + np.where(at < x[0], at - x[0], 0) + np.where(at > x[-1], at - x[-1], 0))


class _refitted:
    """Layers with the weights they get without some channels; put back at the end."""

    def __init__(self, module: GraphModule, readers: Sequence[_Reader], gone: Collection[int]) -> None:
        self.module, self.readers, self.gone = module, readers, list(gone)
        self.saved: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def __enter__(self) -> None:
        for reader in self.readers:
            layer = reader.layer
            kept = torch.from_numpy(~np.isin(reader.numbers, self.gone))
            tensors = [layer.weight]
            if layer.bias_name is not None:
                tensors.append(operator.attrgetter(layer.bias_name)(self.module))
            elif layer.norm is not None:
                tensors.append(layer.norm.running_mean)  # type: ignore[arg-type]
            self.saved += [(t, t.detach().clone()) for t in tensors]
            layer.refit(reader.fits, kept)

    @torch.no_grad()
    def __exit__(self, *_error: object) -> None:
        for tensor, old in self.saved:
            tensor.copy_(old)


@torch.no_grad()
def _suffix(module: GraphModule, nodes: Sequence[Node], known: Mapping[str, list[Any]], batch: int) -> Any:
    """The output of the rest of a graph for one batch, from values known before it."""
    env = {name: values[batch] for name, values in known.items() if values}
    last = {value: node for node in nodes for value in node.all_input_nodes}
    for node in nodes:
        if node.op == "output":
            return torch.fx.map_arg(node.args[0], lambda n: env[n.name])
        env[node.name] = computed(module, node, lambda n: env[n.name])
        for value in node.all_input_nodes:
            if last[value] is node:
                env.pop(value.name, None)
    raise AssertionError("a graph without an output")


def _order(nodes: Sequence[Node], names: Sequence[str]) -> list[str]:
    wanted_names = set(names)
    return [node.name for node in nodes if node.name in wanted_names]


# ---- choosing ---------------------------------------------------------------------------------


def choose(
    found: Sequence[Curve],
    costs: Costs,
    ratio: float,
    *,
    allocation: Allocation = "measured",
    scores: Mapping[int, float] | None = None,
    multiple: int = 1,
) -> frozenset[int]:
    """The channels to remove so that the costs fall to `ratio`, or as near as whole steps allow.

    measured: the group loses channels next whose error grows least for the cost it saves; global: the lowest
    `scores` over all groups, each group's taken relative to their mean (without any, the smallest error); uniform: the
    same share of every group.
    multiple: widths are whole multiples, where a group is wider.
    """
    ladders = [_Descent(curve, multiple) for curve in found]
    gone: set[int] = set()
    target = ratio * costs.full
    while costs.total > target:
        open_ones = [each for each in ladders if each.next()]
        if not open_ones:
            break

        def price(each: _Descent) -> float:
            if allocation == "uniform":
                return each.after / each.curve.group.width
            if allocation == "global":
                if scores is None:
                    return each.grows
                mean = float(np.mean([scores[n] for n in each.curve.group.channels])) or 1.0
                return float(np.mean([scores[n] for n in each.next()])) / mean
            return each.grows / max(costs.saving(each.next()), 1e-9)

        best = min(open_ones, key=price)
        step = best.next()
        after = costs.total - costs.saving(step)
        if target - after > costs.total - target:
            best.closed = True  # further off than without it; a smaller step of another group may come nearer
            continue
        costs.remove(step)
        gone.update(step)
        best.taken += 1
    return frozenset(gone)


class _Descent:
    """The widths a group may take, one after the other."""

    def __init__(self, curve: Curve, multiple: int) -> None:
        self.curve, self.taken, self.closed = curve, 0, False
        width = curve.group.width
        # A multiple that would leave a narrow group no choice is halved for it.
        while multiple > 1 and width * curve.group.each < 2 * multiple:
            multiple //= 2
        self.counts = [k for k in range(width) if k == 0 or ((width - k) * curve.group.each) % multiple == 0]

    @property
    def before(self) -> int:
        """How many channels are gone."""
        return self.counts[self.taken]

    @property
    def after(self) -> int:
        """How many are gone after the next step."""
        return self.counts[self.taken + 1]

    @property
    def grows(self) -> float:
        """What the next step adds to the error."""
        error = self.curve.error
        return float(error[self.after - 1] - (error[self.before - 1] if self.before else 0.0))

    def next(self) -> tuple[int, ...]:
        """The channels that go in the next step; none at the end."""
        if self.closed or self.taken + 1 >= len(self.counts):
            return ()
        return self.curve.order[self.before : self.after]
