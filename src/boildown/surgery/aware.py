"""Quantization-aware training: a simulated graph whose weights, biases and step sizes can be learned.

Step sizes are learned as in Esser et al., "Learned Step Size Quantization" (arXiv 1902.08153), with
the zero points of the plan they start from. What is learned is the step's logarithm: a step stays
positive, and one learning rate moves large and small steps by equal shares.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from boildown.domain.candidate import Plan, Quantizer
from boildown.surgery.calibrate import recurrent_weights
from boildown.surgery.graph import Graph
from boildown.surgery.plan import Placement, clamps
from boildown.surgery.simulate import fake_quantize, round_bias, simulate

aten = torch.ops.aten

_STEPS = "boildown_steps"
_BIAS_HEADROOM = 2.0**29
"""A bias may become at most this large an integer, as in calibration."""


@dataclass(frozen=True, eq=False)
class Aware:
    """A graph, where its quantizers go, and the plan they start from."""

    graph: Graph
    placement: Placement
    plan: Plan

    def module(self) -> GraphModule:
        """A module to train, called like the model; at first it computes what `simulate` gives.

        Its parameters are the graph's, under their names, a bias where the plan corrects one that is
        missing, and the logarithms of the steps: one for each weight's output channel, and one for
        all values that share a scale.
        """
        module = simulate(self.graph, self._learned)
        with torch.no_grad():
            for layer in self.placement.layers:
                module.get_parameter(layer.weight).copy_(self.graph.parameter(layer.weight))
        logarithms = nn.ParameterDict()
        module.add_module(_STEPS, logarithms)
        nodes = {node.name: node for node in module.graph.nodes}
        scales = self._learn_values(module, nodes, logarithms)
        self._learn_weights(module, nodes, logarithms, scales)
        module.recompile()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes
            own: GraphModule = copy.deepcopy(module)
        for parameter in own.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return own.eval()

    def _learn_values(
        self, module: GraphModule, nodes: Mapping[str, Node], logarithms: nn.ParameterDict
    ) -> dict[str, Node]:
        """Let every rounding of a value read a learned step; the steps' nodes by value."""
        scales: dict[str, Node] = {}
        last_input = [node for node in nodes.values() if node.op == "placeholder"][-1]
        with module.graph.inserting_before(last_input.next):
            for source, members in self.placement.groups().items():
                key = self._keys[source]
                logarithms[key] = nn.Parameter(torch.tensor(self.plan.activations[source].scale[0]).log())
                logarithm = module.graph.get_attr(f"{_STEPS}.{key}")
                scale = module.graph.call_function(activation_step, (logarithm, *self._limits[source]))
                scales |= dict.fromkeys(members, scale)
        for node in nodes.values():
            if node.target is torch.fake_quantize_per_tensor_affine:
                value = cast(Node, node.args[0])
                if value.name not in scales:
                    continue  # inside of a function
                quantizer = self.plan.activations[value.name]
                low, high = (limit - quantizer.zero_point[0] for limit in quantizer.limits)
                node.target, node.args = lsq, (value, scales[value.name], low, high)
        return scales

    def _learn_weights(
        self,
        module: GraphModule,
        nodes: Mapping[str, Node],
        logarithms: nn.ParameterDict,
        scales: Mapping[str, Node],
    ) -> None:
        """Let every layer read its weight on a grid of learned steps, and its bias on the grid that follows."""
        for layer in self.placement.layers:
            quantizer, node, key = self.plan.weights[layer.weight], nodes[layer.node], self._keys[layer.weight]
            logarithms[key] = nn.Parameter(torch.tensor(quantizer.scale).log())
            weight, given = node.args[1], cast("Node | None", node.args[2] if len(node.args) > 2 else None)
            with module.graph.inserting_before(node):
                bias = given if layer.bias is None else module.graph.get_attr(layer.bias)  # one for all its calls
                logarithm = module.graph.get_attr(f"{_STEPS}.{key}")
                scale = module.graph.call_function(weight_step, (logarithm, bias, scales[layer.input]))
                weight = module.graph.call_function(lsq, (weight, scale, *quantizer.limits))
                if bias is not None:
                    bias = module.graph.call_function(whole_bias, (bias, scales[layer.input], scale))
            node.args = (node.args[0], weight, bias, *node.args[3:])
            if given is not None and not given.users:
                module.graph.erase_node(given)
                if given.target != layer.bias:
                    path, _, leaf = str(given.target).rpartition(".")
                    delattr(module.get_submodule(path), leaf)

    @torch.no_grad()
    def settle(self, trained: nn.Module, model: nn.Module) -> Plan:
        """Write what `module()` has learned into `model`, the folded graph as a module; its plan.

        The weights are put on their grids. A bias that the model does not have goes into the plan.
        """
        learned = dict(trained.named_parameters())
        for name, parameter in model.named_parameters():
            parameter.copy_(learned[name])
        activations: dict[str, Quantizer] = {}
        for source, members in self.placement.groups().items():
            step = float(activation_step(learned[f"{_STEPS}.{self._keys[source]}"], *self._limits[source]))
            activations |= {name: replace(self.plan.activations[name], scale=(step,)) for name in members}
        steps: dict[str, Tensor] = {}
        biases: dict[str, tuple[float, ...]] = {}
        for layer in self.placement.layers:
            added = _added_bias(trained, layer.node) if layer.bias is None else None
            bias = learned.get(layer.bias or added or "")
            input_step = torch.tensor(activations[layer.input].scale[0])
            own = weight_step(learned[f"{_STEPS}.{self._keys[layer.weight]}"], bias, input_step)
            steps[layer.weight] = own.maximum(steps.get(layer.weight, own))
            if added is not None:
                biases[layer.weight] = tuple(learned[added].tolist())
        weights: dict[str, Quantizer] = {}
        for name, grid in steps.items():
            weights[name] = replace(self.plan.weights[name], scale=tuple(grid.tolist()))
            weight = model.get_parameter(name)
            weight.copy_(fake_quantize(weight, weights[name]))
        bits = [quantizer.bits for name, quantizer in self.plan.weights.items() if name not in weights]
        if bits:
            weights |= recurrent_weights(model.get_parameter, self.placement, bits[0])
        return replace(
            self.plan,
            activations={name: activations[name] for name in self.placement.activations},
            weights=weights,
            biases=biases,
        )

    @property
    def _learned(self) -> Plan:
        """The plan without recurrent layers, which train in float."""
        own = self.placement.weights
        return replace(self.plan, weights={name: self.plan.weights[name] for name in own}, dynamic=())

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Names for the steps' parameters, by value and weight."""
        values = {name: f"value_{number}" for number, name in enumerate(self.placement.measured)}
        return values | {name: f"weight_{number}" for number, name in enumerate(self.placement.weights)}

    @cached_property
    def _limits(self) -> dict[str, tuple[float, float]]:
        """The largest step, by value with a range of its own, that saturates no later than its clamps do; the least.

        Above the largest a writer would have to keep the clamp, and the runtime would compute in floats there. A grid
        that is known beforehand stays as it is.
        """
        nodes = {node.name: node for node in self.graph.module.graph.nodes}
        found = {}
        for source, members in self.placement.groups().items():
            quantizer = self.plan.activations[source]
            top = min(_upper(nodes[name]) for name in members)
            most = top / (quantizer.limits[1] - quantizer.zero_point[0]) if math.isfinite(top) else math.inf
            known = quantizer.scale[0] if source in self.placement.ranges else None
            found[source] = (most, 0.0) if known is None else (known, known)
        return found


class _LSQ(torch.autograd.Function):
    """Rounding with the paper's gradients (equations 1 to 5).

    In a few vectorized operators: torch's own fake quantization takes four times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        ctx.limits = low, high
        size = step.view(-1, *[1] * (value.ndim - 1)) if step.ndim else step
        rounded = (value * (1 / size)).round_().clamp_(low, high).mul_(size)
        ctx.save_for_backward(value, step, rounded)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (low, high) = gradients, ctx.limits
        value, step, rounded = ctx.saved_tensors
        size = step.view(-1, *[1] * (value.ndim - 1)) if step.ndim else step
        through = aten.hardtanh_backward(gradient, value * (1 / size), low, high)
        # By the step: round(v / s) - v / s inside the grid, its end outside.
        shares = torch.addcmul(gradient * rounded, through, value, value=-1)
        total = shares.flatten(1).sum(1) if step.ndim else shares.sum()
        return through, total / step * (value[0].numel() * max(-low, high)) ** -0.5, None, None


def lsq(value: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """`value` rounded to whole steps from `low` to `high`; one step, or one for each index of the first axis.

    The gradient passes to values inside the limits and to none outside. The step's is scaled by
    1 / sqrt(N Q), with N the values of one sample, or of one channel of a weight, and Q the larger limit.
    """
    rounded: Tensor = _LSQ.apply(value, step, low, high)  # type: ignore[no-untyped-call]
    return rounded


def activation_step(logarithm: Tensor, ceiling: float, floor: float = 0.0) -> Tensor:
    """The step of an activation, at most `ceiling` and at least `floor`; the gradient passes as if there were none."""
    step = logarithm.exp()
    return step if ceiling == math.inf else step + (step.detach().clamp(floor, ceiling) - step.detach())


def weight_step(logarithm: Tensor, bias: Tensor | None, input_step: Tensor) -> Tensor:
    """The steps of a weight, large enough for the layer's bias to fit 32 bits."""
    step = logarithm.exp()
    if bias is None:
        return step
    return step.maximum(bias.detach().abs() / (input_step.detach() * _BIAS_HEADROOM))


def whole_bias(bias: Tensor, input_step: Tensor, weight_step: Tensor) -> Tensor:
    """`bias` rounded as the runtime does; the gradient passes straight through."""
    rounded = round_bias(bias.detach(), input_step.item(), weight_step.tolist())
    return bias + (rounded - bias.detach())


def _added_bias(trained: nn.Module, layer: str) -> str | None:
    """The name of the bias that a layer of the trained graph was given, if it was."""
    assert isinstance(trained, GraphModule)
    node = next(node for node in trained.graph.nodes if node.name == layer)
    bias = node.args[2] if len(node.args) > 2 else None
    return None if bias is None else str(cast(Node, bias.args[0]).target)


def _upper(node: Node) -> float:
    """Where a rectifier or hard-sigmoid clips from above; infinite for one that does not, and for any other value."""
    if node.target is aten.hardsigmoid.default:
        return 1.0
    if not clamps(node) or node.target in (aten.relu.default, aten.clamp_min.default):
        return math.inf
    if node.target is aten.relu6.default:
        return 6.0
    high = node.args[2] if len(node.args) > 2 else 1.0 if node.target is aten.hardtanh.default else None
    return math.inf if high is None else float(cast(float, high))
