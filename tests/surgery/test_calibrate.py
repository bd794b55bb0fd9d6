import numpy as np
import pytest
import surgery_networks as networks
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from boildown.domain.candidate import Plan
from boildown.errors import AttemptError
from boildown.surgery.calibrate import (
    BINS,
    calibrate,
    correct_biases,
    correct_each_alone,
    grid,
    mse_range,
    percentile_range,
    weight_quantizer,
)
from boildown.surgery.graph import capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import fake_quantize, simulate

reals = st.floats(-1e4, 1e4, allow_nan=False, width=32)


def histogram(samples: np.ndarray) -> tuple[torch.Tensor, float, float]:
    low, high = min(samples.min(), 0.0), max(samples.max(), 0.0)
    counts, _ = np.histogram(samples, BINS, (low, high))
    return torch.from_numpy(counts), float(low), float(high)


def rounded(samples: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    top = 2**bits - 1
    scale = (high - low) / top
    zero = np.clip(np.rint(-low / scale), 0, top)
    return (np.clip(np.rint(samples / scale) + zero, 0, top) - zero) * scale


@given(reals, reals, st.sampled_from([4, 8]))
def test_grid_holds_zero_exactly_and_rounds_by_half_a_step(a, b, bits):
    low, high = min(a, b), max(a, b)
    scale, zero_point = grid(low, high, bits)
    top = 2**bits - 1
    assert scale > 0
    assert 0 <= zero_point <= top
    x = torch.linspace(low, high, 101)
    y = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, top)
    assert float((x - y).abs().max()) <= 0.501 * scale + 1e-6 * max(abs(low), abs(high))
    assert float(torch.fake_quantize_per_tensor_affine(torch.zeros(1), scale, zero_point, 0, top)) == 0.0


def test_range_of_nothing_is_a_grid_all_the_same():
    assert grid(0.0, 0.0, 8) == (1.0, 0)
    assert grid(1e-45, 1e-45, 8) == (1.0, 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(["normal", "relu", "heavy", "shifted"]), st.sampled_from([4, 8]))
def test_searched_range_holds_zero_and_is_no_worse_than_the_whole(seed, shape, bits):
    random = np.random.default_rng(seed)
    samples = {
        "normal": lambda: random.normal(size=4000),
        "relu": lambda: np.maximum(random.normal(size=4000), 0.0),
        "heavy": lambda: random.standard_t(2, size=4000),
        "shifted": lambda: 5 + random.normal(size=4000),
    }[shape]()
    counts, low, high = histogram(samples)
    found = mse_range(counts, low, high, bits)
    assert low <= found[0] <= 0 <= found[1] <= high
    step = (high - low) / BINS
    error = np.square(rounded(samples, *found, bits) - samples).mean()
    whole = np.square(rounded(samples, low, high, bits) - samples).mean()
    assert error <= whole * 1.02 + step**2


def test_searched_range_is_near_the_best_of_a_brute_force_search():
    samples = np.random.default_rng(0).standard_t(3, size=20_000)
    counts, low, high = histogram(samples)
    ends = np.linspace(0.02, 1, 60)
    best = min(np.square(rounded(samples, a * low, b * high, 4) - samples).mean() for a in ends for b in ends)
    found = np.square(rounded(samples, *mse_range(counts, low, high, 4), 4) - samples).mean()
    assert found < 0.5 * np.square(rounded(samples, low, high, 4) - samples).mean()
    assert found <= 1.3 * best


def test_percentile_cuts_its_share_at_each_end():
    samples = np.random.default_rng(0).uniform(-1, 3, 100_000)
    counts, low, high = histogram(samples)
    assert percentile_range(counts, low, high, 99.0) == pytest.approx((-0.96, 2.96), abs=0.005)
    assert percentile_range(counts, low, high, 100.0) == pytest.approx((low, high))
    positive = histogram(samples + 2)
    assert percentile_range(*positive, 99.0)[0] == 0.0


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([4, 8]), st.booleans())
def test_weights_are_symmetric_per_channel_and_round_by_half_a_step(seed, bits, search):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, 2, 2, generator=generator) * torch.logspace(-3, 3, 5).view(-1, 1, 1, 1)
    quantizer = weight_quantizer("w", weight, bits, search=search)
    assert (quantizer.signed, quantizer.axis, set(quantizer.zero_point)) == (True, 0, {0})
    error = (fake_quantize(weight, quantizer) - weight).square().flatten(1).mean(1)
    plain = weight.flatten(1).abs().amax(1) / quantizer.limits[1]
    if search:
        whole = weight_quantizer("w", weight, bits)
        assert bool((error <= (fake_quantize(weight, whole) - weight).square().flatten(1).mean(1) * 1.001).all())
    else:
        torch.testing.assert_close(torch.tensor(quantizer.scale), plain)
        assert bool((error.sqrt() <= 0.501 * plain).all())


def test_channels_without_weights_keep_their_bias():
    weight = torch.tensor([[1.0, -1.0], [0.0, 0.0], [1e-20, 0.0]])
    bias = torch.tensor([0.3, 0.7, -5.0])
    quantizer = weight_quantizer("w", weight, 8, bias=bias, input_scale=0.01)
    steps = bias / (0.01 * torch.tensor(quantizer.scale))
    assert float(steps.abs().max()) < 2**31
    assert float((steps.round() / steps - 1).abs()[1:].max()) < 1e-4
    assert set(weight_quantizer("w", torch.zeros(3, 2), 8).scale) == {1.0}


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "mse"])
def test_values_that_share_a_scale_do_and_ranges_are_those_of_the_data(ranges):
    case = networks.captured(networks.Residual)
    placement = place(case.graph)
    batches = [case.call(16, seed) for seed in range(3)]
    plan = calibrate(case.graph, placement, batches, ranges)
    assert tuple(plan.activations) == placement.activations
    assert tuple(plan.weights) == placement.weights
    for name, source in placement.shares.items():
        assert plan.activations[name].scale == plan.activations[source].scale
        assert plan.activations[name].zero_point == plan.activations[source].zero_point
    pixels = torch.cat([args[0] for args, _ in batches])
    widest = float(pixels.max() - pixels.min()) / 255
    found = plan.activations["x"].scale[0]
    assert found == pytest.approx(widest, rel=1e-5) if ranges == "minmax" else found < widest
    assert plan.activations["relu"].zero_point == (0,)


def test_batches_may_be_a_generator_and_bits_are_kept():
    case = networks.captured(networks.Signal)
    batches = (case.call(8, seed) for seed in range(2))
    plan = calibrate(case.graph, place(case.graph), batches, "mse", weight_bits=4, activation_bits=6)
    assert {q.bits for q in plan.weights.values()} == {4}
    assert {q.limits for q in plan.activations.values()} == {(0, 63)}


def test_clipped_range_of_relu6_lies_inside_it():
    case = networks.captured(networks.SqueezeExcite)
    args, kwargs = case.call(8)
    plan = calibrate(case.graph, place(case.graph), [((args[0] * 100,), kwargs)])
    clipped = plan.activations["hardtanh"]
    assert clipped.zero_point == (0,)
    assert clipped.scale[0] * 255 <= 6.0 * (1 + 1e-6)


def test_no_data_and_not_a_number_are_named():
    case = networks.captured(networks.Signal)
    placement = place(case.graph)
    with pytest.raises(AttemptError, match="no calibration data"):
        calibrate(case.graph, placement, [])
    plan = calibrate(case.graph, placement, [case.call(4)])
    with pytest.raises(AttemptError, match="no calibration data"):
        correct_biases(case.graph, placement, plan, [])
    args, _ = case.call(4)
    args[0][1, 0, 3] = float("nan")
    with pytest.raises(AttemptError, match="`input` is infinite or NaN"):
        calibrate(case.graph, placement, [(args, {})])


def test_progress_and_deadline_are_served():
    case = networks.captured(networks.Signal)
    shown, checks = [], []
    calibrate(
        case.graph,
        place(case.graph),
        [case.call(4), case.call(4)],
        check=lambda: checks.append(1),
        progress=lambda *step: shown.append(step),
    )
    assert [step[1:] for step in shown] == [(1, 2), (2, 2)]
    assert len(checks) == 2


@pytest.mark.parametrize("kind", [networks.Residual, networks.Signal, networks.Encoder, networks.SqueezeExcite])
def test_corrected_layers_have_the_float_layers_means(kind):
    case = networks.captured(kind)
    placement = place(case.graph)
    batches = [case.call(32, seed) for seed in range(2)]
    plan = calibrate(case.graph, placement, batches, weight_bits=3)
    corrected = correct_biases(case.graph, placement, plan, batches)
    assert set(corrected.biases) == set(plan.weights)
    assert corrected.weights == plan.weights

    def shift(with_plan):
        simulated = simulate(case.graph, with_plan)
        return sum(simulated(*a, **k).mean(0) - case.graph.module(*a, **k).mean(0) for a, k in batches)

    with torch.no_grad():
        assert float(shift(corrected).abs().max()) < 0.15 * float(shift(plan).abs().max())


@pytest.mark.parametrize("kind", [networks.Residual, networks.Signal, networks.Encoder, networks.SqueezeExcite])
def test_each_layer_is_corrected_as_if_it_alone_were_quantized(kind):
    case = networks.captured(kind)
    placement = place(case.graph)
    batches = [case.call(16, seed) for seed in range(2)]
    plan = calibrate(case.graph, placement, batches, weight_bits=3)
    found = correct_each_alone(case.graph, placement, plan, batches).biases
    assert set(found) == set(plan.weights)
    for name, quantizer in plan.weights.items():
        alone = correct_biases(case.graph, placement, Plan(weights={name: quantizer}), batches).biases[name]
        assert found[name] == pytest.approx(alone, rel=1e-3, abs=1e-5)


def test_correction_is_made_of_as_many_batches_as_fit():
    case = networks.captured(networks.Signal)
    placement = place(case.graph)
    batches = [case.call(16, seed) for seed in range(3)]
    plan = calibrate(case.graph, placement, batches, weight_bits=3)
    tight = correct_biases(case.graph, placement, plan, batches, memory=1)
    assert tight == correct_biases(case.graph, placement, plan, batches[:1])
    assert tight != correct_biases(case.graph, placement, plan, batches)


def test_layer_without_bias_is_corrected():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    graph = capture(model, (torch.randn(2, 6),))
    placement = place(graph)
    x = torch.randn(200, 6) + 1
    plan = correct_biases(graph, placement, calibrate(graph, placement, [((x,), {})], weight_bits=3), [((x,), {})])
    simulated = simulate(graph, plan)
    with torch.no_grad():
        torch.testing.assert_close(simulated(x).mean(0), model(x).mean(0), rtol=0.0, atol=1e-3)


def decibels(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


@pytest.mark.real
def test_bias_correction_restores_mobilenet():
    real = networks.real_models()
    images, _ = real.load_jpegs(real.HERE / "mobilenet/imagenet_a.npz")
    x = real.mobilenet_input(images[:150])
    model = real.trained("mobilenet_v1_025")
    graph = capture(model, (x[:2],))
    placement = place(graph)
    batches = [((part,), {}) for part in x[:100].split(50)]
    plan = calibrate(graph, placement, batches)
    corrected = correct_biases(graph, placement, plan, batches)
    scored = x[100:]
    with torch.no_grad():
        expected = graph.module(scored)
        assert decibels(expected, simulate(graph, plan)(scored)) == pytest.approx(13.1, abs=1.0)
        assert decibels(expected, simulate(graph, corrected)(scored)) == pytest.approx(23.0, abs=1.0)


@pytest.mark.real
def test_resnet20_keeps_its_accuracy():
    real = networks.real_models()
    images, labels = real.cifar10("test_a")
    x = real.cifar10_input(images[:700])
    model = real.trained("resnet20")
    graph = capture(model, (x[:2],))
    placement = place(graph)
    plan = calibrate(graph, placement, [((part,), {}) for part in x[:200].split(50)])
    simulated = simulate(graph, plan)
    with torch.no_grad():
        expected, found = graph.module(x[200:]), simulated(x[200:])
    right = torch.as_tensor(labels[200:700])
    drop = (expected.argmax(1) == right).float().mean() - (found.argmax(1) == right).float().mean()
    assert abs(float(drop)) < 0.01
    assert decibels(expected, found) > 28
