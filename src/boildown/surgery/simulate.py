"""Simulation: a graph whose values lie on the integer grids of a plan.

It computes in float what the quantized file computes in integers. Both round half to even; a
runtime may still differ by one step where its own float arithmetic meets a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from boildown.domain.candidate import Plan, Quantizer
from boildown.domain.functions import GATE, TOP, Grid, leaks
from boildown.errors import ModelError
from boildown.surgery.activations import GATES
from boildown.surgery.graph import (
    CONVOLUTIONS,
    LINEAR,
    Graph,
    attribute_of,
    bias_name,
    has_parameter,
    set_parameter,
)
from boildown.surgery.recurrent import let_find_grids, matrices

aten = torch.ops.aten

_INT32 = 2**31 - 1


def simulate(graph: Graph, plan: Plan) -> GraphModule:
    """The graph with fake quantization, called like the model; the graph itself is not touched.

    Weights are on their grids, biases are rounded as int32 with the plan's corrections, and every
    quantized value is rounded for all its readers; of the graph's outputs only one that is an input is
    not. Layers whose weights are `dynamic` round what they multiply to grids found at every call. Gradients
    pass straight through the rounding of activations. Raises ModelError if the plan names values or
    weights that the graph does not have.
    """
    module = graph.copy()
    nodes = {node.name: node for node in module.graph.nodes}
    layers: dict[str, list[Node]] = {}
    recurrent: dict[str, list[Node]] = {}
    for node in nodes.values():
        if node.target in CONVOLUTIONS or node.target is LINEAR:
            layers.setdefault(str(cast(Node, node.args[1]).target), []).append(node)
        for weight in matrices(node):
            recurrent.setdefault(str(weight.target), []).append(node)
    if missing := sorted((set(plan.activations) - set(nodes)) | (set(plan.weights) - set(layers | recurrent))):
        raise ModelError.of(
            f"The quantization plan names what this model does not have: {', '.join(missing[:5])}",
            "Use the plan with the model it was made for, or calibrate again.",
        )
    for name, quantizer in plan.weights.items():
        if name in layers and name not in plan.dynamic:
            _quantize_layers(module, layers[name], quantizer, plan)
        else:
            set_parameter(module, name, fake_quantize(module.get_parameter(name).detach(), quantizer))
    for node in dict.fromkeys(node for name in plan.dynamic for node in recurrent[name]):
        let_find_grids(module, node)
    for name in plan.activations:
        _round_inside(nodes[name], plan)
    last_input = [node for node in nodes.values() if node.op == "placeholder"][-1]
    for name, quantizer in plan.activations.items():
        value = nodes[name]
        with module.graph.inserting_after(last_input if value.op == "placeholder" else value):
            rounded = module.graph.call_function(
                torch.fake_quantize_per_tensor_affine,
                (value, quantizer.scale[0], quantizer.zero_point[0], *quantizer.limits),
            )
        rounded.meta["val"] = value.meta["val"]
        passed = value.op == "placeholder"
        value.replace_all_uses_with(
            rounded, lambda user, own=rounded, passed=passed: user is not own and not (passed and user.op == "output")
        )
    module.recompile()
    return module


def _round_inside(node: Node, plan: Plan) -> None:
    """Let a function between two unsigned grids compute in the steps, and on the grids, that integers take."""
    value = node.args[0] if node.args else None
    grid = plan.activations.get(value.name) if isinstance(value, Node) else None
    if grid is None or grid.signed or plan.activations[node.name].signed:
        return
    with node.graph.inserting_before(node):
        if node.target in GATES:
            gate = node.graph.call_function(GATES[node.target], (value,))
            node.target, node.args = aten.mul.Tensor, (value, _rounded(gate, (GATE, 0)))
        elif node.target is aten.prelu.default:
            slopes = attribute_of(node.args[1], cast(nn.Module, node.graph.owning_module))
            if slopes is not None:
                grids = leaks(slopes.flatten().tolist(), grid)
                leak = node.graph.call_function(aten.sub.Tensor, (node.args[1], 1))
                axes = [-1, *[1] * (node.meta["val"].ndim - 2)]
                leak = node.graph.call_function(aten.view.default, (_rounded(leak, grids[0]), axes))
                below = node.graph.call_function(aten.clamp.default, (value, None, 0))
                product = node.graph.call_function(aten.mul.Tensor, (below, leak))
                node.target, node.args = aten.add.Tensor, (value, _rounded(product, grids[1]))


def _rounded(value: Node, grid: Grid) -> Node:
    return value.graph.call_function(torch.fake_quantize_per_tensor_affine, (value, *grid, 0, TOP))


def fake_quantize(value: Tensor, quantizer: Quantizer) -> Tensor:
    """`value` rounded and clipped to the quantizer's grid, per tensor or per channel."""
    low, high = quantizer.limits
    if quantizer.axis is None:
        return torch.fake_quantize_per_tensor_affine(value, quantizer.scale[0], quantizer.zero_point[0], low, high)
    scale = torch.tensor(quantizer.scale, dtype=torch.float32, device=value.device)
    zero_point = torch.tensor(quantizer.zero_point, dtype=torch.int32, device=value.device)
    return torch.fake_quantize_per_channel_affine(value, scale, zero_point, quantizer.axis, low, high)


def round_bias(bias: Tensor, input_scale: float, weight_scale: Sequence[float]) -> Tensor:
    """`bias` (one number per output channel) on the int32 grid of input scale times weight scale."""
    step = input_scale * torch.tensor(weight_scale, dtype=torch.float64, device=bias.device)
    return ((bias.double() / step).round().clamp(-_INT32, _INT32) * step).to(bias.dtype)


def _quantize_layers(module: GraphModule, layers: Sequence[Node], quantizer: Quantizer, plan: Plan) -> None:
    """Quantize a weight, and the bias of each layer that reads it, on the grid of that layer's input."""
    name = quantizer.tensor
    weight = module.get_parameter(name).detach()
    set_parameter(module, name, fake_quantize(weight, quantizer))
    correction = plan.biases.get(name)
    nodes = [cast("Node | None", layer.args[2] if len(layer.args) > 2 else None) for layer in layers]
    biases = [None if node is None else module.get_parameter(str(node.target)).detach() for node in nodes]
    for layer, node, old in zip(layers, nodes, biases, strict=True):
        if old is None and correction is None:
            continue
        bias = torch.zeros(len(weight)) if old is None else old
        if correction is not None:
            bias = bias + torch.tensor(correction, dtype=bias.dtype)
        source = plan.activations.get(cast(Node, layer.args[0]).name)
        if source is not None:
            bias = round_bias(bias, source.scale[0], quantizer.scale)
        if node is not None and layer is layers[0]:
            set_parameter(module, str(node.target), bias)
            continue
        free = bias_name(name, lambda candidate: has_parameter(module, candidate))
        set_parameter(module, free, bias)
        with module.graph.inserting_before(layer):
            added = module.graph.get_attr(free)
        layer.args = (*layer.args[:2], added, *layer.args[3:])
