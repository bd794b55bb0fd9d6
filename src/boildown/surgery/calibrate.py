"""Calibration: ranges of activations and weights from data, and bias correction.

Ranges: minimum and maximum; percentiles of a histogram; or the clipping with the least expected
squared error on a histogram. Bias correction follows the empirical form of Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721, 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from boildown.domain.candidate import Plan, Quantizer
from boildown.domain.rules import Rules
from boildown.errors import AttemptError
from boildown.surgery.graph import Graph, bytes_per_sample
from boildown.surgery.plan import Layer, Placement
from boildown.surgery.simulate import fake_quantize, simulate

Ranges = Literal["minmax", "percentile", "mse"]
Call = tuple[tuple[Any, ...], Mapping[str, Any]]

Check = Callable[[], None]
Progress = Callable[[str, int, int | None], None]

BINS = 2048
_NO_DATA = "There is no calibration data.\n  Give the task `calibration` or `train` data."
_BIAS_HEADROOM = 2.0**29
"""A float bias may become at most this large an integer, so that a correction still fits int32."""


def calibrate(
    graph: Graph,
    placement: Placement,
    batches: Iterable[Call],
    ranges: Ranges = "minmax",
    *,
    percentile: float = 99.99,
    weight_bits: int = 8,
    activation_bits: int = 8,
    rules: Rules = Rules(),
    check: Check = lambda: None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Plan:
    """Quantizers for every place, and for the weights of recurrent layers, from the values seen on `batches` of
    (args, kwargs).

    `percentile` (in %) is the share of values that neither end of a range may cut off more of;
    it is used only with `ranges="percentile"`. `ranges="mse"` also searches the weights' scales.
    The rules say which signs grids have, and whether weights have one per channel.
    Raises AttemptError where there are no batches or a value is not finite.
    """
    calls = list(batches)
    if not calls:
        raise AttemptError(_NO_DATA)
    extremes = {name: _Extremes() for name in placement.measured}
    _observe(graph, extremes, calls, check, progress)
    limits = {name: (min(float(e.low), 0.0), max(float(e.high), 0.0)) for name, e in extremes.items()}
    for name, extreme in extremes.items():
        if not (torch.isfinite(extreme.low) and torch.isfinite(extreme.high)):
            raise AttemptError(
                f"The value `{name}` is infinite or NaN on the calibration data.\n"
                "  Check the data for NaN and the model for overflow."
            )
    if ranges != "minmax":
        histograms = {name: _Histogram(*limits[name]) for name in limits}
        _observe(graph, histograms, calls, check, progress)
        for name, histogram in histograms.items():
            if ranges == "percentile":
                limits[name] = percentile_range(histogram.counts, *limits[name], percentile)
            else:
                limits[name] = mse_range(histogram.counts, *limits[name], activation_bits)
    limits |= placement.ranges
    activations: dict[str, Quantizer] = {}
    for name in placement.activations:
        source = placement.shares.get(name, name)
        scale, zero_point = grid(*limits[source], activation_bits, signed=rules.signed)
        activations[name] = Quantizer(name, activation_bits, rules.signed, (scale,), (zero_point,))
    weights: dict[str, Quantizer] = {}
    for layer in placement.layers:
        found = weight_quantizer(
            layer.weight,
            graph.parameter(layer.weight),
            weight_bits,
            search=ranges == "mse",
            bias=None if layer.bias is None else graph.parameter(layer.bias),
            input_scale=activations[layer.input].scale[0],
        )
        other = weights.get(layer.weight, found)
        weights[layer.weight] = replace(found, scale=tuple(map(max, found.scale, other.scale)))
    weights |= recurrent_weights(graph.parameter, placement, weight_bits, search=ranges == "mse")
    return Plan(activations, as_ruled(weights, rules), dynamic=placement.dynamic)


def as_ruled(weights: Mapping[str, Quantizer], rules: Rules) -> dict[str, Quantizer]:
    """Quantizers of weights with a scale for each output channel, or one for all where the rules say so."""
    if rules.per_channel:
        return dict(weights)
    return {name: replace(q, scale=(max(q.scale),), zero_point=(0,), axis=None) for name, q in weights.items()}


# ---- ranges ----------------------------------------------------------------------------------


def grid(low: float, high: float, bits: int, *, signed: bool = False) -> tuple[float, int]:
    """Scale (a float32) and zero point of the grid over a range that is made to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    first, last = Quantizer("", bits, signed, (), ()).limits
    scale = float(torch.tensor((high - low) / (last - first), dtype=torch.float32))
    if scale < torch.finfo(torch.float32).tiny:
        return 1.0, 0
    return scale, min(max(first + round(-low / scale), first), last)


def percentile_range(counts: Tensor, low: float, high: float, percentile: float) -> tuple[float, float]:
    """The range that cuts off at most 100 - `percentile` % of the values at either end.

    `counts` is the histogram over equal bins of [low, high], shape (bins,).
    """
    share = counts.double().cumsum(0) / counts.sum()
    cut = 1 - percentile / 100
    width = (high - low) / len(counts)
    below = int((share <= cut).sum())
    above = int((share < 1 - cut).sum()) + 1
    return min(low + below * width, 0.0), max(low + min(above, len(counts)) * width, 0.0)


def mse_range(counts: Tensor, low: float, high: float, bits: int, steps: int = 64) -> tuple[float, float]:
    """The range with the least expected squared error of rounding and clipping on a histogram.

    Both ends shrink together first, then each by itself, in `steps` steps down to a fifth.
    """
    if high <= low:
        return low, high
    width = (high - low) / len(counts)
    values = low + (torch.arange(len(counts), dtype=torch.float64) + 0.5) * width
    weights = counts.double() / counts.sum()
    shrink = torch.linspace(1.0, 0.2, steps, dtype=torch.float64)

    def best(lows: Tensor, highs: Tensor) -> tuple[float, float]:
        top = 2**bits - 1
        scale = ((highs - lows) / top).clamp_min(1e-30)[:, None]
        zero = (-lows[:, None] / scale).round().clamp(0, top)
        error = ((values / scale).round() + zero).clamp(0, top).sub(zero).mul(scale).sub(values)
        least = int((error.square() * weights).sum(1).argmin())
        return float(lows[least]), float(highs[least])

    low, high = best(low * shrink, high * shrink)
    low, high = best(low * shrink, torch.full_like(shrink, high))
    return best(torch.full_like(shrink, low), high * shrink)


def weight_quantizer(
    name: str,
    weight: Tensor,
    bits: int,
    *,
    search: bool = False,
    bias: Tensor | None = None,
    input_scale: float | None = None,
) -> Quantizer:
    """Symmetric quantizer of a weight, one scale per output channel (axis 0).

    `search` shrinks each channel's scale to the least squared error instead of taking its largest
    weight. With `bias` and `input_scale`, a channel of (almost) no weights gets a scale at which
    its bias still fits an int32.
    """
    top = 2 ** (bits - 1) - 1
    rows = weight.detach().reshape(len(weight), -1).float()
    largest = rows.abs().amax(1)
    scale = largest / top
    if search:
        least = torch.full_like(scale, float("inf"))
        for shrink in torch.linspace(1.0, 0.3, 57):
            tried = (largest * shrink / top).clamp_min(torch.finfo(torch.float32).tiny)
            error = ((rows / tried[:, None]).round().clamp(-top, top) * tried[:, None] - rows).square().sum(1)
            better = error < least
            scale, least = torch.where(better, tried, scale), torch.where(better, error, least)
    if bias is not None and input_scale is not None:
        scale = scale.maximum(bias.detach().abs().float() / (input_scale * _BIAS_HEADROOM))
    silent = scale < torch.finfo(torch.float32).tiny
    scale = torch.where(silent, float(scale.max()) if bool((~silent).any()) else 1.0, scale)
    return Quantizer(name, bits, True, tuple(scale.tolist()), (0,) * len(scale), axis=0)


def recurrent_weights(
    parameter: Callable[[str], Tensor], placement: Placement, bits: int = 8, *, search: bool = False
) -> dict[str, Quantizer]:
    """Quantizers of the recurrent layers' weights; `parameter` gives a weight by its name."""
    names = dict.fromkeys(name for layer in placement.recurrent for name in layer.weights)
    return {name: weight_quantizer(name, parameter(name), bits, search=search) for name in names}


# ---- observation -----------------------------------------------------------------------------


class _Extremes:
    """The smallest and the largest value seen; NaN if there was one."""

    def __init__(self) -> None:
        self.low = torch.tensor(float("inf"))
        self.high = torch.tensor(float("-inf"))

    def __call__(self, value: Tensor) -> None:
        low, high = value.aminmax()
        self.low, self.high = torch.minimum(self.low, low.cpu()), torch.maximum(self.high, high.cpu())


class _Histogram:
    """Counts of values over equal bins from `low` to `high`, which hold 0."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def __call__(self, value: Tensor) -> None:
        self.counts += torch.histc(value.float(), BINS, self.low, self.high).cpu().double()


class _Watcher(Interpreter):
    """Runs the graph, shows the watched values and keeps none of them."""

    def __init__(self, graph: Graph, watch: Mapping[str, Callable[[Tensor], None]]) -> None:
        super().__init__(graph.module)
        self.watch = watch

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if look := self.watch.get(n.name):
            look(result)
        return result


@torch.no_grad()
def _observe(
    graph: Graph,
    watch: Mapping[str, Callable[[Tensor], None]],
    calls: Sequence[Call],
    check: Check,
    progress: Progress,
) -> None:
    watcher = _Watcher(graph, watch)
    for done, (args, kwargs) in enumerate(calls):
        check()
        watcher.run(*graph.flatten(args, kwargs), enable_io_processing=False)
        progress("calibrate", done + 1, len(calls))


# ---- bias correction -------------------------------------------------------------------------


@torch.no_grad()
def correct_biases(
    graph: Graph,
    placement: Placement,
    plan: Plan,
    batches: Iterable[Call],
    *,
    memory: int = 2 * 10**9,
    check: Check = lambda: None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Plan:
    """The plan with a correction for every quantized layer's bias, layers without one included, shared weights not.

    Walks the layers in order: a correction is the mean, over samples and positions, of the float
    path's value minus the quantized path's; later layers see corrected values. Both paths are held
    for all samples at once, so only as many batches are used as fit in `memory` (bytes, at least
    one batch). Raises AttemptError without batches.
    """
    calls = fitting(graph, list(batches), memory)
    simulated = simulate(graph, replace(plan, biases={}))
    floats = {node.name: node for node in graph.module.graph.nodes}
    corrected = set(plan.weights) - placement.shared
    layers = {layer.node: layer for layer in placement.layers if layer.weight in corrected}
    paths = [(Interpreter(graph.module), Interpreter(simulated)) for _ in calls]
    for pair, (args, kwargs) in zip(paths, calls, strict=True):
        for path in pair:
            path.args_iter = iter(graph.flatten(args, kwargs))
    biases: dict[str, tuple[float, ...]] = {}
    for node in simulated.graph.nodes:
        if node.op == "output":
            break
        check()
        twin = floats.get(node.name)
        for exact, rounded in paths:
            if twin is not None:
                exact.env[twin] = exact.run_node(twin)
            rounded.env[node] = rounded.run_node(node)
        if layer := layers.get(node.name):
            assert twin is not None
            biases[layer.weight] = _correct(layer, [(e.env[twin], r.env, node) for e, r in paths])
            progress("correct biases", len(biases), len(layers))
        for exact, rounded in paths:
            _forget(exact, twin)
            _forget(rounded, node)
    return replace(plan, biases=biases)


def _correct(layer: Layer, values: Sequence[tuple[Tensor, dict[Node, Any], Node]]) -> tuple[float, ...]:
    """The mean shift per channel, which is added to the quantized path's values in place."""
    total: Tensor | float = 0.0
    count = 0
    for exact, env, node in values:
        shift = (exact - env[node]).double().movedim(layer.channels, 0).flatten(1)
        total = total + shift.sum(1)
        count += shift.shape[1]
    mean = torch.as_tensor(total) / count
    for exact, env, node in values:
        shape = [1] * exact.ndim
        shape[layer.channels] = -1
        env[node] = env[node] + mean.to(exact.dtype).view(shape)
    return tuple(mean.tolist())


def _forget(path: Interpreter, node: Node | None) -> None:
    for spent in path.user_to_last_uses.get(node, ()) if node is not None else ():
        path.env.pop(spent, None)


def fitting(graph: Graph, calls: list[Call], memory: int) -> list[Call]:
    """As many of the calls as can be walked together within `memory` bytes; at least one."""
    if not calls:
        raise AttemptError(_NO_DATA)
    alive: dict[Node, int] = {}
    peak = 0
    last_uses = Interpreter(graph.module).user_to_last_uses
    for node in graph.module.graph.nodes:
        if node.op != "get_attr":
            alive[node] = bytes_per_sample(node)
        peak = max(peak, sum(alive.values()))
        for spent in last_uses.get(node, ()):
            alive.pop(spent, None)
    kept, samples = 0, 0
    for args, kwargs in calls:
        samples += next((len(x) for x in graph.flatten(args, kwargs) if isinstance(x, Tensor) and x.ndim), 1)
        if kept and 2 * samples * peak > memory:
            break
        kept += 1
    return calls[:kept]


@torch.no_grad()
def correct_each_alone(
    graph: Graph,
    placement: Placement,
    plan: Plan,
    batches: Iterable[Call],
    *,
    check: Check = lambda: None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Plan:
    """The plan with the correction that each layer's bias needs where it alone is quantized, shared weights not.

    A layer is linear: rounding its weight shifts its mean by what the weight's error makes of its mean input.
    """
    layers = {layer.node: layer for layer in placement.layers if layer.weight not in placement.shared}
    errors = {name: graph.parameter(layer.weight) for name, layer in layers.items()}
    errors = {name: w - fake_quantize(w, plan.weights[layers[name].weight]) for name, w in errors.items()}
    calls, watcher = list(batches), _Shifts(graph, layers, errors)
    for done, (args, kwargs) in enumerate(calls):
        check()
        watcher.run(*graph.flatten(args, kwargs), enable_io_processing=False)
        progress("correct biases", done + 1, len(calls))
    return replace(plan, biases={layers[name].weight: tuple(mean.tolist()) for name, mean in watcher.means().items()})


class _Shifts(Interpreter):
    """Runs the graph and sums, for each layer, what the error of its weight makes of its mean inputs."""

    def __init__(self, graph: Graph, layers: Mapping[str, Layer], errors: Mapping[str, Tensor]) -> None:
        super().__init__(graph.module)
        self.layers, self.errors = layers, errors
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if layer := self.layers.get(n.name):
            value = self.env[n.args[0]]  # type: ignore[index]
            shift = n.target(value.mean(0, keepdim=True), self.errors[n.name], None, *n.args[3:])  # type: ignore[operator]
            rows = shift.double().movedim(layer.channels, 0).flatten(1)
            self.sums[n.name] = self.sums.get(n.name, 0.0) + len(value) * rows.sum(1)
            self.counts[n.name] = self.counts.get(n.name, 0) + len(value) * rows.shape[1]
        return result

    def means(self) -> dict[str, Tensor]:
        """The mean shift of every channel, by layer."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}
