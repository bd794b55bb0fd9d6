from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import surgery_networks as networks
import torch
import torch.nn.functional as F
from torch import nn

from boildown.domain.candidate import Plan
from boildown.errors import AttemptError
from boildown.surgery import rounding
from boildown.surgery.calibrate import calibrate
from boildown.surgery.graph import CONVOLUTIONS, LINEAR, capture
from boildown.surgery.plan import place
from boildown.surgery.rounding import (
    Rounded,
    adaround,
    best_scale,
    error_feedback,
    indecision,
    moments,
    nearest,
    reads,
    rectified_sigmoid,
    refit,
    round_weights,
    start,
    wanted,
)
from boildown.surgery.simulate import simulate

LIMITS = (-7, 7)


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices this small are not worth two threads, least of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def problem(outputs=4, size=6, samples=400, seed=0):
    """Correlated inputs that have a mean, weights, their scales, and targets that another path gives."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(size, samples)) + 0.7 * draw.normal(size=(1, samples)) + draw.normal(size=(size, 1))
    weight = draw.normal(size=(outputs, size))
    y = weight @ (x + 0.1 * draw.normal(size=x.shape)) + draw.normal(size=(outputs, 1))
    scale = np.abs(weight).max(1, keepdims=True) / 7
    return x, y, weight, scale


def one(array):
    """A group of its own."""
    return torch.tensor(array)[None]


def squared_error(x, y, weight):
    """Per output, with the best offset."""
    rest = y - weight @ x
    return np.square(rest - rest.mean(1, keepdims=True)).mean(1)


def test_error_and_offset_are_those_of_the_layer():
    x, y, weight, _ = problem()
    found = moments([(one(x[:, :100]), one(y[:, :100])), (one(x[:, 100:]), one(y[:, 100:]))])
    np.testing.assert_allclose(found.error(one(weight))[0], squared_error(x, y, weight), rtol=1e-9)
    np.testing.assert_allclose(found.offset(one(weight))[0], (y - weight @ x).mean(1), rtol=1e-9)
    given = torch.zeros(1, 4, dtype=torch.float64)
    np.testing.assert_allclose(found.error(one(weight), given)[0], np.square(y - weight @ x).mean(1), rtol=1e-9)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 2), padding=(0, 2), dilation=(2, 1), groups=2),
        nn.Conv2d(4, 8, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 4, padding="same", groups=4, dilation=2),
        nn.Conv2d(4, 2, 1, padding="valid"),
        nn.Conv1d(4, 6, 5, 2, padding=2, groups=2),
        nn.Linear(4, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("deep", [False, True])
def test_what_a_layer_reads_times_its_weight_is_what_it_gives(layer, deep):
    shape = {nn.Conv2d: (3, 4, 9, 8), nn.Conv1d: (3, 4, 16), nn.Linear: (3, 7, 4) if deep else (3, 4)}[type(layer)]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    graph = capture(layer, (x,))
    node = next(n for n in graph.module.graph.nodes if n.target in CONVOLUTIONS | {LINEAR})
    (placed,) = place(graph).layers
    value = layer(x).detach()
    positions = torch.tensor([0, 3, 1]) if value.ndim > 2 else torch.tensor([0])
    seen = reads(node, x, layer.weight.shape, positions)
    targets = wanted(placed, value, len(seen), positions)
    rows = layer.weight.detach().reshape(len(seen), -1, seen.shape[1])
    bias = layer.bias.detach().reshape(len(seen), -1, 1)
    torch.testing.assert_close(rows @ seen + bias, targets, rtol=1e-4, atol=1e-5)


def test_refit_is_ridge_regression():
    x, y, weight, _ = problem()
    found = refit(one(weight), moments([(one(x), one(y))]), ridge=0.01)[0]
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    pull = np.sqrt(0.01 * x.var(1).mean() * x.shape[1]) * np.eye(len(x))
    expected = np.linalg.lstsq(np.vstack([x.T, pull]), np.vstack([y.T, pull @ weight.T]), rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_error_feedback_is_gptqs_column_loop():
    """With the inverse made anew for the columns that are left, as the method is derived."""
    x, y, weight, scale = problem()
    inputs = moments([(one(x), one(y))]).inputs
    found = error_feedback(one(weight), one(scale), LIMITS, inputs, damping=0.01)[0].numpy()
    hessian = inputs[0].numpy() + 0.01 * np.trace(inputs[0].numpy()) / len(x) * np.eye(len(x))
    left, rest, expected = list(np.argsort(-np.diag(inputs[0]))), weight.copy(), np.zeros_like(weight)
    while left:
        column, inverse = left[0], np.linalg.inv(hessian[np.ix_(left, left)])
        expected[:, column] = np.clip(np.rint(rest[:, column] / scale[:, 0]), *LIMITS)
        error = rest[:, column] - expected[:, column] * scale[:, 0]
        rest[:, left] -= np.outer(error / inverse[0, 0], inverse[0])
        left = left[1:]
    np.testing.assert_array_equal(found, expected)


def test_groups_are_rounded_each_by_its_own_inputs():
    problems = [problem(seed=seed) for seed in range(3)]
    xs, ys, weights, scales = (torch.tensor(np.stack(part)) for part in zip(*problems, strict=True))
    together = moments([(xs, ys)])
    for group in range(3):
        alone = moments([(xs[group : group + 1], ys[group : group + 1])])
        one_group = weights[group : group + 1], scales[group : group + 1], LIMITS
        for rounder in (
            lambda w, s, limits, m: error_feedback(w, s, limits, m.inputs),
            lambda w, s, limits, m: adaround(w, s, limits, m, steps=60),
        ):
            joint = rounder(weights, scales, LIMITS, together)
            assert torch.equal(joint[group], rounder(*one_group, alone)[0])


def test_the_share_and_its_indecision_are_adarounds():
    v = np.linspace(-6, 6, 50)
    expected = np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1)
    np.testing.assert_allclose(rectified_sigmoid(torch.tensor(v)), expected, rtol=1e-9, atol=1e-12)
    for beta in (20.0, 2.0):
        penalty = 1 - np.abs(2 * expected - 1) ** beta
        np.testing.assert_allclose(indecision(torch.tensor(expected), beta), penalty, rtol=1e-9, atol=1e-12)
    shares = torch.linspace(0, 1, 21, dtype=torch.float64)
    torch.testing.assert_close(rectified_sigmoid(start(shares)), shares)


def test_adaround_finds_nearly_the_best_of_all_roundings():
    x, y, weight, scale = problem(outputs=3, size=8)
    found = moments([(one(x), one(y))])
    whole = adaround(one(weight), one(scale), LIMITS, found)[0].numpy()
    down = np.floor(weight / scale)
    assert set(np.unique(whole - np.clip(down, *LIMITS))) <= {0.0, 1.0}
    ways = np.array(list(product((0, 1), repeat=8)))
    for row in range(3):
        every = [
            squared_error(x, y[row : row + 1], np.clip(down[row] + way, *LIMITS)[None] * scale[row])[0] for way in ways
        ]
        learned = squared_error(x, y[row : row + 1], whole[row][None] * scale[row])[0]
        simple = squared_error(x, y[row : row + 1], np.rint(weight[row] / scale[row])[None] * scale[row])[0]
        assert learned <= simple
        assert learned <= np.quantile(every, 0.05)


def test_adaround_asks_whether_to_stop():
    x, y, weight, scale = problem()

    def check():
        raise AttemptError("stop")

    with pytest.raises(AttemptError, match="stop"):
        adaround(one(weight), one(scale), LIMITS, moments([(one(x), one(y))]), check=check)


def test_the_scale_is_the_best_of_those_tried():
    x, y, weight, scale = problem(outputs=8, size=20)
    found = moments([(one(x), one(y))])
    best = best_scale(one(weight), one(scale), LIMITS, found)

    def error(step):
        return squared_error(x, y, np.clip(np.rint(weight / step), *LIMITS) * step)

    tried = np.stack([error(scale * shrink) for shrink in (1.0, *np.linspace(0.98, 0.5, 25))])
    np.testing.assert_allclose(error(best[0].numpy()), tried.min(0), rtol=1e-6)
    assert float(best.min()) < float(one(scale).min())


def rounded(kind, how, bits=4, activations=None, **options):
    case = networks.captured(kind)
    placement = place(case.graph)
    calls = [case.call(16, seed) for seed in range(4)]
    return case, round_weights(
        case.graph,
        placement,
        dict.fromkeys(placement.weights, bits),
        calls[:3],
        calls[3:],
        rounding=how,
        activations=activations or {},
        steps=40,
        **options,
    )


def noise(case, found):
    """Squared error of the outputs relative to their variance over samples."""
    args, kwargs = case.call(64, seed=9)
    with torch.no_grad():
        exact, ours = case.graph.module(*args, **kwargs), found.simulate(case.graph)(*args, **kwargs)
    return float((ours - exact).square().mean() / exact.var(0).mean())


@pytest.mark.parametrize("how", ["nearest", "error-feedback", "learned"])
@pytest.mark.parametrize("kind", [networks.Residual, networks.SqueezeExcite, networks.Signal, networks.Encoder])
def test_rounded_networks_stay_near_and_on_their_grids(kind, how):
    case, found = rounded(kind, how)
    simulated = simulate(case.graph, found.plan)
    assert set(found.weights) == set(found.plan.weights) == set(place(case.graph).weights)
    for name, quantizer in found.plan.weights.items():
        shape = (-1, *[1] * (found.weights[name].ndim - 1))
        steps = found.weights[name] / torch.tensor(quantizer.scale).view(shape)
        torch.testing.assert_close(steps, steps.round().clamp(*quantizer.limits), rtol=0.0, atol=1e-4)
        assert simulated.get_parameter(name).shape == found.weights[name].shape
    assert noise(case, found) < 0.05
    assert bool(found.kept) == (how != "nearest")


def test_learning_beats_nearest_on_samples_not_seen():
    errors = {how: noise(*rounded(networks.Signal, how)) for how in ("nearest", "error-feedback", "learned")}
    assert errors["error-feedback"] < 0.8 * errors["nearest"]
    assert errors["learned"] < 0.8 * errors["nearest"]


def test_correcting_offsets_alone_beats_rounding_weights_blindly():
    case, found = rounded(networks.Residual, "nearest")
    blind = calibrate(case.graph, place(case.graph), [case.call(16)], weight_bits=4)
    assert noise(case, found) < noise(case, Rounded({}, Plan(weights=blind.weights), ()))


def test_quantized_activations_are_what_the_rounding_sees():
    case = networks.captured(networks.Residual)
    activations = calibrate(case.graph, place(case.graph), [case.call(48)], activation_bits=3).activations
    _, found = rounded(networks.Residual, "error-feedback", bits=8, activations=activations)
    assert found.plan.activations == activations
    _, ignorant = rounded(networks.Residual, "error-feedback", bits=8)
    mixed = replace(ignorant, plan=replace(ignorant.plan, activations=activations))
    assert noise(case, found) < noise(case, mixed)


def test_a_rounding_that_fails_on_the_guard_is_not_kept(monkeypatch):
    monkeypatch.setattr(rounding, "error_feedback", lambda weight, scale, limits, inputs: torch.full_like(weight, 7))
    _, spoiled = rounded(networks.Residual, "error-feedback")
    _, simple = rounded(networks.Residual, "nearest")
    assert spoiled.kept == ()
    assert spoiled.plan == simple.plan
    assert all(torch.equal(spoiled.weights[name], simple.weights[name]) for name in simple.weights)


def test_without_samples_there_is_nothing_to_round_by():
    case = networks.captured(networks.Residual)
    with pytest.raises(AttemptError, match="calibration"):
        round_weights(case.graph, place(case.graph), {"a.weight": 4}, [case.call(4)], [])


def test_a_dead_input_is_no_obstacle():
    x, y, weight, scale = problem()
    x[2] = 0.0
    found = moments([(one(x), one(y))])
    for whole in (
        error_feedback(one(weight), one(scale), LIMITS, found.inputs),
        adaround(one(weight), one(scale), LIMITS, found, steps=20),
        nearest(refit(one(weight), found), one(scale), LIMITS),
    ):
        assert torch.isfinite(whole).all()
    everything_dead = moments([(one(np.zeros_like(x)), one(y))])
    assert torch.isfinite(error_feedback(one(weight), one(scale), LIMITS, everything_dead.inputs)).all()
    assert F.mse_loss(refit(one(weight), everything_dead), one(weight)) < 1e-12
