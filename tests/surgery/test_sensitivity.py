"""Sensitivity finds the layer that quantization breaks, without labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.candidate import Plan
from boildown.surgery.calibrate import calibrate, correct_biases
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import Placement, place
from boildown.surgery.sensitivity import only, sensitivity


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def task() -> bd.Classification:
    x = torch.randn(48, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return bd.Classification(calibration=(x, torch.arange(48) % 5), validation=(x, torch.arange(48) % 5))


def planned(model: nn.Module, broken: str) -> tuple[Graph, Placement, Plan]:
    """A plan whose weights of the layer `broken` lie on a grid of 2 bits."""
    given = task()
    graph = capture(model, *given.example())
    placement = place(graph)
    calls = [call for inputs, _ in given.calibration.batches(16) for call in given.calls(inputs)]
    plan = calibrate(graph, placement, calls)
    coarse = replace(plan.weights[broken], bits=2, scale=tuple(127 * s for s in plan.weights[broken].scale))
    return graph, placement, replace(plan, weights={**plan.weights, broken: coarse})


@pytest.mark.parametrize("broken", ["0.weight", "2.weight", "4.weight", "8.weight"])
def test_a_broken_layer_comes_first(broken: str) -> None:
    graph, placement, plan = planned(net(), broken)
    given = task()
    ranked = sensitivity(graph, placement, plan, given, given.calibration)
    first = next(iter(ranked))
    assert {layer.node: layer.weight for layer in placement.layers}[first] == broken
    assert set(ranked) == {layer.node for layer in placement.layers}
    values = list(ranked.values())
    assert values == sorted(values, reverse=True)
    assert values[0] > 5 * values[1] > 0


def test_correction_counts_in_favour_of_a_layer() -> None:
    graph, placement, plan = planned(net(), "2.weight")
    given = task()
    calls = [call for inputs, _ in given.calibration.batches(16) for call in given.calls(inputs)]
    corrected = correct_biases(graph, placement, plan, calls)
    before, after = (sensitivity(graph, placement, p, given, given.calibration) for p in (plan, corrected))
    assert after["conv2d_1"] < before["conv2d_1"]


def test_one_layer_s_part_of_a_plan_touches_no_other() -> None:
    _, placement, plan = planned(net(), "2.weight")
    layer = placement.layers[1]
    part = only(plan, layer)
    assert set(part.weights) == {"2.weight"}
    assert set(part.activations) == {layer.input, layer.output}
    assert part.biases == {}


def test_work_is_bounded_and_told() -> None:
    graph, placement, plan = planned(net(), "2.weight")
    given, told, checks = task(), [], []
    few = sensitivity(
        graph, placement, plan, given, given.calibration,
        work=1, check=lambda: checks.append(1), progress=lambda *what: told.append(what),
    )  # fmt: skip
    assert set(few) == {layer.node for layer in placement.layers}
    assert told[-1] == ("rank layers", 4, 4)
    assert len(checks) == 1 + 4  # one sample, one batch
