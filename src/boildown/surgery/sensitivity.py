"""Sensitivity: how far a model's outputs move when one layer alone is quantized. No labels are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from boildown.domain.candidate import Plan
from boildown.domain.task import Samples, Task
from boildown.surgery.graph import Graph
from boildown.surgery.guard import divergences, judges
from boildown.surgery.plan import Layer, Placement
from boildown.surgery.simulate import simulate


@torch.no_grad()
def sensitivity(
    graph: Graph,
    placement: Placement,
    plan: Plan,
    task: Task,
    samples: Samples,
    *,
    most: int = 64,
    work: float = 2e12,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None,
) -> dict[str, float]:
    """Quantized layers by node name with the divergence each causes alone, most sensitive first.

    A layer is quantized as `plan` says: its weight, its bias with the plan's correction, the value
    it reads and the value it makes; all else stays float. The divergence is the mean of
    `task.divergence` from the float outputs over the first `most` samples, or as many as all layers
    can be tried on within `work` multiply-accumulates (at least one).
    """
    affordable = int(work / max(graph.macs() * len(placement.layers), 1))
    count = min(len(samples), most, max(affordable, 1))
    held, found = judges(graph.module, task, samples.subset(range(count)), check), {}
    for done, layer in enumerate(placement.layers):
        mean = float(divergences(simulate(graph, only(plan, layer)), task, held, check).mean())
        found[layer.node] = mean if math.isfinite(mean) else math.inf
        progress("rank layers", done + 1, len(placement.layers))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def only(plan: Plan, layer: Layer) -> Plan:
    """The part of a plan that concerns one layer: its weight, bias, input and output."""
    values = {name: plan.activations[name] for name in (layer.input, layer.output) if name in plan.activations}
    corrections = {layer.weight: plan.biases[layer.weight]} if layer.weight in plan.biases else {}
    weights = {layer.weight: plan.weights[layer.weight]}
    return replace(plan, activations=values, weights=weights, biases=corrections, dynamic=())
