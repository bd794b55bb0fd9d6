"""Rounding weights so that the layers' outputs change least, and not each weight by itself.

A layer is linear in its weights, so its mean squared output error is a quadratic form of them, known
once the second moments of its inputs and of its wanted outputs are. Every method here works on
those moments alone. They are gathered while two copies of the network are walked layer by layer:
the float one says what a layer should give, the one rounded so far says what it reads. The offset
of a channel is never part of the problem: whatever its weights become, it is set afterwards to
give the channel its wanted mean, which is the bias correction of Nagel et al. (arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from boildown.domain.candidate import Plan, Quantizer
from boildown.surgery.calibrate import Call, Check, Progress, fitting, weight_quantizer
from boildown.surgery.graph import LINEAR, Graph, set_parameter
from boildown.surgery.plan import Layer, Placement
from boildown.surgery.simulate import simulate

Rounding = Literal["learned", "error-feedback", "nearest"]
Limits = tuple[int, int]
Rounder = Callable[[Tensor, Tensor, Limits], Tensor]
"""Weights, scales and limits -> whole numbers, in the shapes of `nearest`."""

POSITIONS = 2**18
"""Samples times positions that one layer's moments are gathered from, at most."""

GAMMA, ZETA = -0.1, 1.1
"""How far AdaRound's sigmoid is stretched beyond 0 and 1."""


@dataclass(frozen=True)
class Rounded:
    """What rounding found.

    weights: by parameter name, float tensors that lie on their grids. plan: the quantizers of these
    weights and of the activations, and for each layer the shift of its bias. kept: the weights whose
    rounding beat the nearest one on samples it had not seen; the others are rounded to nearest.
    """

    weights: Mapping[str, Tensor]
    plan: Plan
    kept: tuple[str, ...]

    def simulate(self, graph: Graph) -> GraphModule:
        """The graph they were rounded for, with these weights and this plan."""
        module = simulate(graph, self.plan)
        for name, weight in self.weights.items():
            set_parameter(module, name, weight)
        return module


# ---- the walk --------------------------------------------------------------------------------


@torch.no_grad()
def round_weights(
    graph: Graph,
    placement: Placement,
    bits: Mapping[str, int],
    batches: Iterable[Call],
    guard: Iterable[Call],
    *,
    activations: Mapping[str, Quantizer] = MappingProxyType({}),
    rounding: Rounding = "learned",
    refitted: bool = True,
    steps: int = 400,
    seed: int = 0,
    memory: int = 2 * 10**9,
    check: Check = lambda: None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Rounded:
    """Round the weights named in `bits`, layer by layer, each on what the rounded layers before it give.

    The rounding is fitted to `batches`; a layer keeps it only if it beats rounding to nearest on
    `guard`, which holds other samples. With `activations` (see `calibrate`) the values of the rounded
    network are quantized too, else they stay float. `refitted` moves a layer's weights to their least
    squared error before they are rounded. All samples are held at once: as many batches are used as
    fit in `memory` (bytes). Raises AttemptError where either has no batches.
    """
    fitted, held_back = list(batches), list(guard)
    share = memory * len(held_back) // max(len(fitted) + len(held_back), 1)
    fitted, held_back = fitting(graph, fitted, memory - share), fitting(graph, held_back, share)
    walk = _Walk(graph, activations, fitted + held_back, seed)
    layers = {layer.node: layer for layer in placement.layers if layer.weight in bits}
    weights: dict[str, Tensor] = {}
    quantizers: dict[str, Quantizer] = {}
    biases: dict[str, tuple[float, ...]] = {}
    kept = []
    for node in walk.nodes():
        check()
        walk.run_float(node)
        if layer := layers.get(node.name):
            name, weight = layer.weight, graph.parameter(layer.weight)
            fit = walk.moments(node, layer, weight, slice(len(fitted)))
            unseen = walk.moments(node, layer, weight, slice(len(fitted), None))
            rows = weight.reshape(*fit.target_mean.shape, -1)
            source = activations.get(layer.input)
            choose = _Choose(name, bits[name], fit, None if source is None else source.scale[0])
            best = choose(rows, nearest)
            if rounding != "nearest":
                rounder = error_feedback_on(fit) if rounding == "error-feedback" else learned_on(fit, steps, check)
                tried = choose(refit(rows, fit) if refitted else rows, rounder)
                if tried.error(unseen) < best.error(unseen):
                    best = tried
                    kept.append(name)
            old = 0.0 if layer.bias is None else graph.parameter(layer.bias).double()
            weights[name], quantizers[name] = best.weight.reshape(weight.shape), best.quantizer
            biases[name] = tuple((best.offset.flatten() - old).tolist())
            walk.set_layer(node, layer, weights[name], biases[name])
            progress("round weights", len(weights), len(layers))
        else:
            walk.run_rounded(node)
        walk.forget(node)
    return Rounded(weights, Plan(dict(activations), quantizers, biases), tuple(kept))


class _Walk:
    """The float network and the one rounded so far, run side by side on every call, node by node."""

    def __init__(self, graph: Graph, activations: Mapping[str, Quantizer], calls: Sequence[Call], seed: int) -> None:
        self.rounded = simulate(graph, Plan(activations))
        self.twins = {node.name: node for node in graph.module.graph.nodes}
        self.paths = [(Interpreter(graph.module), Interpreter(self.rounded)) for _ in calls]
        for pair, (args, kwargs) in zip(self.paths, calls, strict=True):
            for path in pair:
                path.args_iter = iter(graph.flatten(args, kwargs))
        self.samples = sum(
            next((len(x) for x in graph.flatten(*call) if isinstance(x, Tensor) and x.ndim), 1) for call in calls
        )
        self.generator = torch.Generator().manual_seed(seed)

    def nodes(self) -> Iterator[Node]:
        """The rounded network's nodes up to its output."""
        for node in self.rounded.graph.nodes:
            if node.op == "output":
                return
            yield node

    def run_float(self, node: Node) -> None:
        """Let the float network compute the node, if it has it."""
        if twin := self.twins.get(node.name):
            for exact, _ in self.paths:
                exact.env[twin] = exact.run_node(twin)

    def run_rounded(self, node: Node) -> None:
        """Let the rounded network compute the node."""
        for _, rounded in self.paths:
            rounded.env[node] = rounded.run_node(node)

    def set_layer(self, node: Node, layer: Layer, weight: Tensor, shift: Sequence[float]) -> None:
        """Give a layer of the rounded network a new weight, let it compute and shift its channels."""
        for _, rounded in self.paths:
            rounded.env[cast(Node, node.args[1])] = weight
            value = rounded.run_node(node)
            shape = [-1 if axis == layer.channels else 1 for axis in range(value.ndim)]
            rounded.env[node] = value + torch.tensor(shift, dtype=value.dtype).view(shape)

    def forget(self, node: Node) -> None:
        """Free what no later node reads."""
        for exact, rounded in self.paths:
            for path, spent in ((exact, self.twins.get(node.name)), (rounded, node)):
                for value in path.user_to_last_uses.get(spent, ()) if spent is not None else ():
                    path.env.pop(value, None)

    def moments(self, node: Node, layer: Layer, weight: Tensor, calls: slice) -> Moments:
        """Moments of a layer over some of the calls, at positions picked by lot."""
        twin, limit = self.twins[node.name], max(1, POSITIONS // self.samples)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for exact, rounded in self.paths[calls]:
                target = exact.env[twin]
                places = target[0].numel() // len(weight)
                positions = torch.randperm(places, generator=self.generator)[:limit]
                x = reads(node, rounded.env[cast(Node, node.args[0])], weight.shape, positions)
                yield x, wanted(layer, target, len(x), positions)

        return moments(batches())


@dataclass(frozen=True)
class _Choice:
    """A layer's weights on their grid (groups, outputs, size), with the offset that goes with them."""

    quantizer: Quantizer
    weight: Tensor
    offset: Tensor

    def error(self, moments: Moments) -> float:
        """Squared output error over all channels."""
        return float(moments.error(self.weight, self.offset).sum())


@dataclass(frozen=True)
class _Choose:
    """Puts a layer's weights on the grid that costs the least output error."""

    name: str
    bits: int
    moments: Moments
    input_scale: float | None

    def __call__(self, weight: Tensor, rounder: Rounder) -> _Choice:
        rows, offset = weight.flatten(0, 1), self.moments.offset(weight).flatten()
        quantizer = weight_quantizer(self.name, rows, self.bits, bias=offset, input_scale=self.input_scale)
        largest = torch.tensor(quantizer.scale, dtype=weight.dtype).view(*weight.shape[:2], 1)
        scale = best_scale(weight, largest, quantizer.limits, self.moments)
        whole = rounder(weight, scale, quantizer.limits)
        on_grid = whole * scale
        quantizer = replace(quantizer, scale=tuple(scale.flatten().tolist()))
        return _Choice(quantizer, on_grid, self.moments.offset(on_grid))


# ---- moments ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Centred second moments of a layer for each of its groups, in float64.

    `inputs`: mean of x x', shape (groups, size, size), where x is what one output position reads.
    `cross`: mean of x y', shape (groups, size, outputs), where y is the wanted output. `spread`: mean
    of y y by output, shape (groups, outputs). `input_mean` (groups, size) and `target_mean`
    (groups, outputs) are the means that were taken away.
    """

    inputs: Tensor
    cross: Tensor
    spread: Tensor
    input_mean: Tensor
    target_mean: Tensor

    def error(self, weight: Tensor, offset: Tensor | None = None) -> Tensor:
        """Mean squared error by output with these weights, and with the best offset if none is given.

        Shapes (groups, outputs, size) and (groups, outputs) -> (groups, outputs).
        """
        weight = weight.double()
        error = ((weight @ self.inputs - 2 * self.cross.mT) * weight).sum(2) + self.spread
        return error if offset is None else error + (offset - self.offset(weight)).square()

    def offset(self, weight: Tensor) -> Tensor:
        """The offset that gives every output its wanted mean, shape (groups, outputs)."""
        return self.target_mean - (weight.double() @ self.input_mean[:, :, None])[:, :, 0]


def moments(batches: Iterable[tuple[Tensor, Tensor]]) -> Moments:
    """Moments from batches of x (groups, size, n) and y (groups, outputs, n)."""
    count, sums = 0, [torch.zeros((), dtype=torch.float64)] * 5
    for x, y in batches:
        parts = x @ x.mT, x @ y.mT, y.square().sum(2), x.sum(2), y.sum(2)
        sums = [total + part.double() for total, part in zip(sums, parts, strict=True)]
        count += x.shape[2]
    inputs, cross, spread, x_mean, y_mean = (total / count for total in sums)
    return Moments(
        inputs - x_mean[:, :, None] * x_mean[:, None, :],
        cross - x_mean[:, :, None] * y_mean[:, None, :],
        spread - y_mean.square(),
        x_mean,
        y_mean,
    )


def reads(layer: Node, value: Tensor, size: Sequence[int], positions: Tensor) -> Tensor:
    """What output positions of a convolution or linear layer read, shape (groups, inputs, n).

    `value` is the layer's input, `size` the shape of its weight, `positions` the flat indices of the
    output positions to use in every sample; n counts samples times positions.
    """
    if layer.target is LINEAR:
        return value.reshape(len(value), -1, value.shape[-1])[:, positions].reshape(1, -1, value.shape[-1]).mT
    stride, padding, dilation, groups = _geometry(layer, size)
    axes = len(size) - 2
    value = torch.nn.functional.pad(value, [amount for pair in reversed(padding) for amount in pair])
    for axis, (kernel, step, gap) in enumerate(zip(size[2:], stride, dilation, strict=True), start=2):
        value = value.unfold(axis, (kernel - 1) * gap + 1, step)[..., ::gap]
    places = torch.unravel_index(positions, value.shape[2 : 2 + axes])
    value = value.movedim((0, 1), (axes, axes + 1))[places]  # position, sample, channel, window
    value = value.permute(2, *range(3, 3 + axes), 1, 0)
    return value.reshape(groups, -1, value.shape[-2] * value.shape[-1])


def wanted(layer: Layer, value: Tensor, groups: int, positions: Tensor) -> Tensor:
    """The layer's values at `positions`, shape (groups, outputs, n), in the order of `reads`."""
    value = value.movedim(layer.channels, 1).flatten(2) if value.ndim > 2 else value[:, :, None]
    value = value[:, :, positions].movedim(0, 1)
    return value.reshape(groups, len(value) // groups, -1)


def _geometry(layer: Node, size: Sequence[int]) -> tuple[list[int], list[tuple[int, int]], list[int], int]:
    """Stride, padding on both sides and dilation by axis of a convolution, and its groups."""
    axes = len(size) - 2
    given = [*layer.args[3:], *[1, 0, 1, 1][len(layer.args) - 3 :]]
    stride, padding, dilation, groups = cast("tuple[Any, Any, Any, int]", tuple(given))
    stride, dilation = _by_axis(stride, axes), _by_axis(dilation, axes)
    if padding == "same":
        total = [gap * (kernel - 1) for gap, kernel in zip(dilation, size[2:], strict=True)]
        return stride, [(amount // 2, amount - amount // 2) for amount in total], dilation, groups
    amounts = _by_axis(0 if padding == "valid" else padding, axes)
    return stride, [(amount, amount) for amount in amounts], dilation, groups


def _by_axis(value: Any, axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * (axes // len(values))


# ---- rounding --------------------------------------------------------------------------------
# Weights have the shape (groups, outputs, size), scales (groups, outputs, 1). Results are whole
# numbers between the limits, as float tensors of the weights' shape.


def refit(weight: Tensor, moments: Moments, ridge: float = 1e-3) -> Tensor:
    """The weights with the least squared output error, pulled toward the old ones.

    Ridge regression: `ridge` is the pull relative to the mean variance of the inputs.
    """
    pull = ridge * _mean_variance(moments.inputs)
    system = moments.inputs + pull * torch.eye(weight.shape[2], dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(system, moments.cross + pull * weight.double().mT)
    return solved.mT.to(weight.dtype)


def nearest(weight: Tensor, scale: Tensor, limits: Limits) -> Tensor:
    """Every weight to its nearest integer."""
    return (weight / scale).round().clamp(*limits)


def best_scale(weight: Tensor, largest: Tensor, limits: Limits, moments: Moments) -> Tensor:
    """The scales between half the largest and the largest with the least output error of rounding to nearest.

    The error of the outputs decides and not that of the weights: a large weight whose clipping
    costs few squares is often the one that matters.
    """
    best, least = largest, moments.error(nearest(weight, largest, limits) * largest)
    for shrink in torch.linspace(0.98, 0.5, 25):
        scale = largest * shrink
        error = moments.error(nearest(weight, scale, limits) * scale)
        better = error < least
        best, least = torch.where(better[:, :, None], scale, best), torch.where(better, error, least)
    return best


def error_feedback_on(moments: Moments) -> Rounder:
    """`error_feedback` for a layer with these moments."""
    return lambda weight, scale, limits: error_feedback(weight, scale, limits, moments.inputs)


def learned_on(moments: Moments, steps: int, check: Check = lambda: None) -> Rounder:
    """`adaround` for a layer with these moments."""
    return lambda weight, scale, limits: adaround(weight, scale, limits, moments, steps=steps, check=check)


def error_feedback(weight: Tensor, scale: Tensor, limits: Limits, inputs: Tensor, damping: float = 0.01) -> Tensor:
    """GPTQ (Frantar et al., arXiv 2210.17323): column by column, the rest makes up for the error so far.

    `inputs` are the second moments (groups, size, size) of `Moments`. Columns go by falling variance
    of their input ("act order"); `damping` is added to the variances, relative to their mean.
    """
    size = weight.shape[2]
    variance = inputs.diagonal(dim1=1, dim2=2)
    order = variance.argsort(1, descending=True)
    rows = order[:, :, None].expand(-1, -1, size)
    hessian = inputs.gather(1, rows).gather(2, rows.mT)
    hessian = hessian + damping * _mean_variance(inputs) * torch.eye(size, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    columns = order[:, None, :].expand_as(weight)
    rest = weight.double().gather(2, columns)
    result = torch.zeros_like(rest)
    step = scale.double()[:, :, 0]
    for column in range(size):
        whole = (rest[:, :, column] / step).round().clamp(*limits)
        result[:, :, column] = whole
        error = (rest[:, :, column] - whole * step) / upper[:, None, column, column]
        rest[:, :, column:] -= error[:, :, None] * upper[:, None, column, column:]
    return torch.zeros_like(result).scatter(2, columns, result).to(weight.dtype)


def rectified_sigmoid(variable: Tensor) -> Tensor:
    """AdaRound's h(V): a sigmoid stretched over [0, 1] at both ends and cut off there."""
    return (variable.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def indecision(share: Tensor, beta: float) -> Tensor:
    """AdaRound's f_reg: 1 for a share of 0.5, 0 for 0 and 1, the steeper the smaller `beta` is."""
    return 1 - (2 * share - 1).abs().pow(beta)


@torch.enable_grad()
def adaround(
    weight: Tensor,
    scale: Tensor,
    limits: Limits,
    moments: Moments,
    *,
    steps: int = 400,
    rate: float = 0.1,
    weighting: float = 3.0,
    check: Check = lambda: None,
) -> Tensor:
    """AdaRound (Nagel et al., arXiv 2004.10568): learn of each weight whether it goes up or down.

    The share h(V) of the way up is trained with Adam on the output error plus f_reg, whose beta falls
    from 20 to 2 after a warm start of a fifth of the steps. By its moments every step sees all
    samples. A layer's error is measured in units of what independent rounding errors would
    cost, so that `weighting` means the same for every layer. As in the paper, V starts at the float
    weights; nothing is drawn.
    """
    position = weight / scale
    down = position.floor()
    variable = start(position - down).requires_grad_()
    inputs, cross = moments.inputs.to(weight.dtype), moments.cross.mT.to(weight.dtype)
    unit = scale.square() / 12 * _mean_variance(moments.inputs).to(weight.dtype)
    optimizer = torch.optim.Adam([variable], lr=rate)
    warm = steps // 5
    for step in range(steps):
        check()
        optimizer.zero_grad()
        share = rectified_sigmoid(variable)
        soft = (down + share).clamp(*limits) * scale
        loss = ((soft @ inputs - 2 * cross) * soft / unit).sum()
        if step >= warm:
            beta = 2 + 18 * (steps - step) / (steps - warm)
            loss = loss + weighting * indecision(share, beta).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (down + (variable.detach() >= 0)).clamp(*limits)


def start(share: Tensor) -> Tensor:
    """The V with h(V) = `share`, for shares in [0, 1]."""
    return ((share - GAMMA) / (ZETA - GAMMA)).logit()


def _mean_variance(inputs: Tensor) -> Tensor:
    """By group, shape (groups, 1, 1); never 0, so that a layer that reads only zeros can be solved for."""
    return inputs.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)[:, None, None]
