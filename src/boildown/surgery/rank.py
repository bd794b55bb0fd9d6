"""Low rank: a layer's weight becomes the product of two smaller ones, where two cost less than one.

A linear layer (out, in) of rank r becomes (r, in) and (out, r); a convolution becomes one with r filters and a 1x1
behind it (Zhang et al., Accelerating very deep convolutional networks, arXiv 1505.06798); an embedding (n, out)
becomes a table (n, r) and a linear layer (out, r). The factors keep what matters of the layer's outputs, not of its
weight: principal components of the outputs on calibration samples, which are those of W C^(1/2) with C the covariance
of the inputs (SVD-LLM, arXiv 2403.07378), each direction and each position weighted by how strongly the network's
outputs depend on it (as FWSVD, arXiv 2207.00112, weights the rows of W). So the errors of all layers are in one unit,
and ranks can be chosen between them.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx._pytree import tree_flatten_spec

from boildown.domain.candidate import Edit
from boildown.errors import Mistake, ModelError
from boildown.surgery.edits import register
from boildown.surgery.graph import CONVOLUTIONS, LINEAR, attribute_of
from boildown.surgery.nodes import argument
from boildown.surgery.repair import Layer
from boildown.surgery.stepping import Call, sizes_of

OP = "factorize"

aten = torch.ops.aten

EMBEDDING = aten.embedding.default
_POINTWISE = {3: aten.conv1d.default, 4: aten.conv2d.default, 5: aten.conv3d.default}
"""The convolution behind, by the number of axes of the weight."""

MOST_ROWS = 4096
"""Layers with more outputs are left alone: their covariance takes memory of its square."""

_RIDGE = 1e-3
"""Least weight of every direction of a layer's outputs, relative to the mean."""

Check = Callable[[], None]
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Factorable:
    """A layer that could be two: its node, its weight as a matrix (rows, columns) and how often a sample uses it."""

    node: str
    weight: str
    rows: int
    columns: int
    positions: int
    table: bool = False

    def cost(self, of: Literal["macs", "params"], rank: int | None = None) -> int:
        """Multiply-accumulates of one sample, or parameters, at a rank; of the layer as it is for None."""
        whole = self.rows * self.columns if rank is None else rank * (self.rows + self.columns)
        if of == "params":
            return whole
        if self.table:  # looking up multiplies nothing
            return 0 if rank is None else self.positions * rank * self.rows
        return self.positions * whole

    def ranks(self, of: Literal["macs", "params"], multiple: int) -> list[int]:
        """The ranks, in whole multiples and falling, at which two layers cost less than one."""
        below = range(multiple, min(self.rows, self.columns), multiple)
        return [rank for rank in reversed(below) if self.cost(of, rank) < self.cost(of)]

    def why_not(self, of: Literal["macs", "params"], multiple: int) -> str | None:
        """The arithmetic where no rank costs less; None where one does."""
        if self.ranks(of, multiple):
            return None
        shape = f"{self.rows}x{self.columns}"
        if self.table and of == "macs":
            return f"{shape}: looking up costs no multiplications"
        if min(self.rows, self.columns) <= multiple:
            return f"{shape} has no rank below {min(self.rows, self.columns)} that is a multiple of {multiple}"
        return (
            f"{shape} at rank {multiple} costs {multiple} x ({self.rows} + {self.columns}) = "
            f"{multiple * (self.rows + self.columns):,}, the layer {self.rows * self.columns:,}"
        )


@dataclass
class Spectrum:
    """What each rank of a layer costs in error, and the factors of all ranks.

    errors: (rows + 1,) relative squared error that rank r adds to the network's outputs, to first order. The layer's
    output y becomes mean + left[:, :r] right[:r] (y - mean); without a place for an offset the mean is zero.
    """

    layer: Factorable
    left: Tensor
    right: Tensor
    mean: Tensor
    errors: Tensor


# ---- which layers ------------------------------------------------------------------------------


def find_layers(module: GraphModule, *, embeddings: bool = True) -> tuple[tuple[Factorable, ...], dict[str, str]]:
    """(the layers of a trainable graph that can be factorized, those that cannot with the reason), in its order."""
    sizes, batch = sizes_of(module)
    uses: dict[int, int] = {}
    for node in module.graph.nodes:
        if (tensor := attribute_of(node, module)) is not None:
            uses[id(tensor)] = uses.get(id(tensor), 0) + len(node.users)
    found, left_alone = [], {}
    for node in module.graph.nodes:
        table = node.target is EMBEDDING
        if not (table or node.target is LINEAR or node.target in CONVOLUTIONS):
            continue
        given, groups = argument(node, "weight"), argument(node, "groups") or 1
        if (weight := attribute_of(given, module)) is None:
            continue
        name = str(given.target)
        rows, columns = weight.flatten(1).shape[:: -1 if table else 1]
        if uses[id(weight)] > 1:
            left_alone[name] = f"its weight is used {uses[id(weight)]} times"
        elif groups > 1:
            left_alone[name] = f"its {groups} groups read different channels"
        elif rows > MOST_ROWS:
            left_alone[name] = f"its {rows:,} outputs are more than {MOST_ROWS:,}"
        elif table and not embeddings:
            left_alone[name] = "embeddings are to stay"
        else:
            positions = sizes[node].numel() // (rows * batch)
            found.append(Factorable(node.name, name, rows, columns, positions, table))
    return tuple(found), left_alone


# ---- what each rank costs in error -------------------------------------------------------------


@dataclass
class _Sums:
    """Over positions of a layer's output y with gradient g: weighted by |g|^2, and of the gradients, in float64."""

    y: Tensor
    yy: Tensor
    gg: Tensor
    weight: float = 0.0
    count: int = 0
    likely: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, rows: int) -> _Sums:
        """Of nothing yet."""
        matrix = torch.zeros(rows, rows, dtype=torch.float64)
        return cls(matrix[0].clone(), matrix, matrix.clone())

    def add(self, y: Tensor, g: Tensor) -> None:
        """Count positions in: both (n, rows)."""
        weight = g.square().sum(1)
        used = weight > 0
        y, g, weight = y[used], g[used], weight[used]
        self.count += len(y)
        self.weight += float(weight.sum(dtype=torch.float64))
        self.y += (y * weight[:, None]).sum(0, dtype=torch.float64)
        self.yy += ((y * weight[:, None]).T @ y).double()
        self.gg += (g.T @ g).double()


def spectra(
    module: GraphModule,
    layers: Sequence[Factorable],
    calls: Sequence[Call],
    *,
    seed: int = 0,
    check: Check = lambda: None,
    progress: Progress = lambda _what, _done, _total: None,
) -> tuple[dict[str, Spectrum], dict[str, list[Tensor]]]:
    """(the spectrum of each layer that the outputs depend on, by weight; see `repair` for the second), on calls.

    One run forward and backward for each call: from a random direction of the outputs, whose squared derivative is,
    in the mean, that of all outputs together.
    """
    module = copy.deepcopy(module).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    sums = {layer.node: _Sums.empty(layer.rows) for layer in layers}
    samples, spread = 0, 0.0
    for number, (args, kwargs) in enumerate(calls):
        check()
        progress("look at the layers", number, len(calls))
        flat = tree_flatten_spec((args, dict(kwargs)), module._in_spec)
        outputs = _Watched(module, sums).run(*flat, enable_io_processing=False)
        leaves = [v for v in torch.utils._pytree.tree_leaves(outputs) if isinstance(v, Tensor) and v.requires_grad]
        torch.autograd.backward(leaves, [torch.randn(leaf.shape, generator=generator) for leaf in leaves])
        samples += max((len(leaf) for leaf in leaves if leaf.ndim), default=1)
        spread += sum(float((leaf - leaf.mean(0)).detach().square().sum()) for leaf in leaves)
    found = {
        layer.weight: _spectrum(module, layer, sums[layer.node], max(spread / max(samples, 1), 1e-12) * samples)
        for layer in layers
        if sums[layer.node].weight > 0
    }
    return found, {name: each.likely for name, each in sums.items() if each.likely}


class _Watched(Interpreter):
    """Runs a graph and, when gradients come back, adds up those of some nodes."""

    def __init__(self, module: GraphModule, sums: Mapping[str, _Sums]) -> None:
        super().__init__(module)
        self.sums = sums

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name not in self.sums:
            return value
        if not value.requires_grad:
            value = value.detach().requires_grad_().clone()  # what comes behind may work in place
        sums, kept = self.sums[n.name], value.detach().clone()
        axis = 1 if n.target in CONVOLUTIONS else -1
        if value.ndim > 2:
            sums.likely.append(torch.zeros_like(kept.select(axis, 0)))

        def add(gradient: Tensor) -> None:
            if value.ndim > 2:
                sums.likely[-1] = gradient.square().sum(axis)
            sums.add(_matrix(n, kept), _matrix(n, gradient))

        value.register_hook(add)
        return value


def _matrix(node: Node, value: Tensor) -> Tensor:
    """A layer's output as (positions, rows)."""
    value = value.movedim(1, -1) if node.target in CONVOLUTIONS else value
    return value.reshape(-1, value.shape[-1])


def _spectrum(module: GraphModule, layer: Factorable, sums: _Sums, scale: float) -> Spectrum:
    nodes = {node.name: node for node in module.graph.nodes}
    weight = operator.attrgetter(layer.weight)(module).detach().flatten(1).double()
    matrix = weight.T if layer.table else weight
    shifts = not layer.table and Layer(module, nodes[layer.node]).shifts
    mean = sums.y / sums.weight if shifts else torch.zeros_like(sums.y)
    seen = sums.yy / sums.weight - torch.outer(mean, mean)
    # The fewer positions for the columns, the nearer to the plain SVD of the weight.
    plain = matrix @ matrix.T
    share = layer.columns / (layer.columns + sums.count)
    outputs = (1 - share) * seen + share * seen.trace() / plain.trace().clamp_min(1e-30) * plain
    left, right, values = components(outputs, sums.gg)
    errors = torch.cat([values.flip(0).cumsum(0).flip(0), values.new_zeros(1)])
    return Spectrum(layer, left, right, mean, errors / scale)


def components(outputs: Tensor, sensitivity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(left, right, values): y is best replaced by left[:, :r] right[:r] y, at an error of values[r:].sum().

    outputs: covariance (n, n) of y. sensitivity: (n, n), what an error e of y counts is e' sensitivity e.
    """
    values, vectors = torch.linalg.eigh(sensitivity)
    values = values.clamp_min(0) + _RIDGE * values.mean()
    root = vectors * values.sqrt() @ vectors.T
    inverse = vectors * values.rsqrt() @ vectors.T
    found, directions = torch.linalg.eigh(root @ outputs @ root)
    directions = directions.flip(1)
    return inverse @ directions, directions.T @ root, found.flip(0).clamp_min(0)


# ---- how low -----------------------------------------------------------------------------------


def choose(
    found: Mapping[str, Spectrum], of: Literal["macs", "params"], full: float, ratio: float, *, multiple: int = 8
) -> dict[str, int]:
    """The ranks, by weight, at which the whole costs `ratio` of `full`, or as near as they allow.

    Next comes the step whose error grows least for what it saves, along the lower convex hull of each layer's
    (cost, error).
    """
    options = {
        name: [(float(spectrum.layer.cost(of)), 0.0, 0)]
        + [
            (float(spectrum.layer.cost(of, rank)), float(spectrum.errors[rank]), rank)
            for rank in spectrum.layer.ranks(of, multiple)
        ]
        for name, spectrum in found.items()
    }
    at = dict.fromkeys(options, 0)
    total, target = full, ratio * full
    while total > target:
        steps = {name: _steepest(points, at[name]) for name, points in options.items() if at[name] + 1 < len(points)}
        if not steps:
            break
        name = min(steps, key=lambda n: _slope(options[n][at[n]], options[n][steps[n]]))
        points, here = options[name], at[name]
        last = total - points[here][0] + points[steps[name]][0] <= target
        within = range(here, steps[name] + 1) if last else (steps[name],)
        at[name] = min(within, key=lambda i: abs(total - points[here][0] + points[i][0] - target))
        total += points[at[name]][0] - points[here][0]
        if last:
            break
    return {name: points[at[name]][2] for name, points in options.items() if at[name]}


def _slope(a: tuple[float, float, int], b: tuple[float, float, int]) -> float:
    return (b[1] - a[1]) / max(a[0] - b[0], 1e-12)


def _steepest(points: Sequence[tuple[float, float, int]], here: int) -> int:
    """The next point of the lower convex hull."""
    return min(range(here + 1, len(points)), key=lambda i: (_slope(points[here], points[i]), -i))


# ---- the edit ----------------------------------------------------------------------------------


def factorize(module: GraphModule, ranks: Mapping[str, int]) -> tuple[GraphModule, Edit]:
    """A copy of a trainable graph with some layers as two, whose weights are zeros, and the edit that does it again.

    The first layer's weight is called `NAME.reduce.weight`, the second's, which keeps the bias and the node's name,
    `NAME.expand.weight`. Raises ModelError for layers that the model does not have.
    """
    module = copy.deepcopy(module)
    known = {layer.weight: layer for layer in find_layers(module)[0]}
    if missing := [name for name in ranks if name not in known]:
        cause = f"The model has no layer {', '.join(missing)} to factorize."
        raise ModelError(Mistake(cause, "Use the model it was made from."))
    nodes = {node.name: node for node in module.graph.nodes}
    for name, rank in ranks.items():
        _split(module, nodes[known[name].node], known[name], rank)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module, Edit(OP, 1, {"layers": dict(ranks)})


@register(OP, 1)
def _apply(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    assert isinstance(model, GraphModule)
    return factorize(model, args["layers"])[0]


def _split(module: GraphModule, node: Node, layer: Factorable, rank: int) -> None:
    """Put a layer with `rank` outputs before the node, which then reads those."""
    weight = operator.attrgetter(layer.weight)(module)
    path, _, leaf = layer.weight.rpartition(".")
    delattr(module.get_submodule(path), leaf)
    stem = layer.weight.removesuffix(".weight")
    first = weight.new_zeros(len(weight), rank) if layer.table else weight.new_zeros(rank, *weight.shape[1:])
    second = weight.new_zeros(layer.rows, rank, *([1] * (weight.ndim - 2)))
    for part, tensor in (("reduce", first), ("expand", second)):
        module.add_submodule(f"{stem}.{part}", nn.Module())
        fresh = nn.Parameter(tensor, requires_grad=weight.requires_grad)
        module.get_submodule(f"{stem}.{part}").register_parameter("weight", fresh)
    source, old, bias = (argument(node, name) for name in ("input", "weight", "bias"))
    with module.graph.inserting_before(node):
        reduce = module.graph.get_attr(f"{stem}.reduce.weight")
        expand = module.graph.get_attr(f"{stem}.expand.weight")
        given = (reduce, *node.args[1:]) if layer.table else (source, reduce, None, *node.args[3:])
        reduced = module.graph.call_function(cast(Any, node.target), given, dict(node.kwargs))
    for made in (reduce, expand, reduced):
        made.meta = {key: value for key, value in node.meta.items() if key == "nn_module_stack"}
    node.target = LINEAR if layer.table or node.target is LINEAR else _POINTWISE[weight.ndim]
    node.args, node.kwargs = (reduced, expand, bias), {}
    module.graph.erase_node(old)


@torch.no_grad()
def fill(factorized: GraphModule, dense: GraphModule, found: Mapping[str, Spectrum], ranks: Mapping[str, int]) -> None:
    """Put the factors of the dense graph's weights into a graph that `factorize` made from it."""
    nodes = {node.name: node for node in factorized.graph.nodes}
    for name, rank in ranks.items():
        spectrum = found[name]
        weight = operator.attrgetter(name)(dense).detach().double()
        left, right = spectrum.left[:, :rank], spectrum.right[:rank]
        stem = name.removesuffix(".weight")
        reduce = operator.attrgetter(f"{stem}.reduce.weight")(factorized)
        # Both parts on one scale: integers and training like neither large beside small.
        product = weight @ right.T if spectrum.layer.table else (right @ weight.flatten(1)).T
        norms = product.norm(dim=0) / len(product) ** 0.5
        scale = (norms / (left.norm(dim=0) / len(left) ** 0.5).clamp_min(1e-30)).clamp_min(1e-30).sqrt()
        product, left, right = product / scale, left * scale, right / scale[:, None]
        reduce.copy_(product if spectrum.layer.table else product.T.reshape(reduce.shape))
        second = Layer(factorized, nodes[spectrum.layer.node])
        if second.bias_name is None:
            offset = spectrum.mean - left @ (right @ spectrum.mean)
        else:
            bias = operator.attrgetter(second.bias_name)(dense).detach().double()
            offset = spectrum.mean - left @ (right @ (spectrum.mean - bias))
        second.write(left, offset, slice(None))
