from dataclasses import replace

import numpy as np
import pytest
import surgery_networks as networks
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from boildown.domain.candidate import Plan, Quantizer
from boildown.errors import ModelError
from boildown.surgery.calibrate import calibrate, correct_biases
from boildown.surgery.plan import place
from boildown.surgery.simulate import fake_quantize, round_bias, simulate


def planned(kind, **options):
    case = networks.captured(kind)
    batches = [case.call(32, seed) for seed in range(2)]
    return case, calibrate(case.graph, place(case.graph), batches, **options), batches


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=20),
    st.floats(2**-8, 1.0, width=32),
    st.integers(0, 255),
)
def test_rounding_is_numpys(values, scale, zero_point):
    quantizer = Quantizer("x", 8, False, (scale,), (zero_point,))
    x = np.array(values, np.float32)
    found = fake_quantize(torch.from_numpy(x), quantizer).numpy()
    integers = x * np.float32(1 / np.float32(scale))
    expected = (np.clip(np.rint(integers) + zero_point, 0, 255) - zero_point) * np.float32(scale)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_weights_round_per_channel():
    quantizer = Quantizer("w", 4, True, (0.5, 2.0), (0, 0), axis=0)
    weight = torch.tensor([[0.6, -9.0], [0.9, 3.1]])
    assert fake_quantize(weight, quantizer).tolist() == [[0.5, -3.5], [0.0, 4.0]]


def test_biases_are_whole_steps_within_int32():
    rounded = round_bias(torch.tensor([0.26, 1e9]), 0.1, (1.0, 0.5))
    assert rounded.tolist() == pytest.approx([0.3, (2**31 - 1) * 0.05])


def test_simulation_is_integer_arithmetic():
    """The residual network computed with integers alone between its input and its head."""
    case, plan, batches = planned(networks.Residual)
    plan = correct_biases(case.graph, place(case.graph), plan, batches)
    (x,), _ = case.call(4, seed=9)

    def quantized(value, name):
        q = plan.activations[name]
        return (value.double() / q.scale[0]).round().add(q.zero_point[0]).clamp(*q.limits) - q.zero_point[0]

    def layer(value, name, bias, source, product):
        q, step = plan.weights[name], plan.activations[source].scale[0]
        scale = torch.tensor(q.scale, dtype=torch.float64)
        weight = case.graph.parameter(name).double()
        shape = (-1, *[1] * (weight.ndim - 1))
        whole = (weight / scale.view(shape)).round().clamp(*q.limits)
        total = case.graph.parameter(bias).double() + torch.tensor(plan.biases[name])
        sums = product(value, whole, (total / (step * scale)).round())
        assert torch.equal(sums, sums.round())
        return sums * (step * scale).view(1, -1, *[1] * (sums.ndim - 2))

    def scale(name):
        return plan.activations[name].scale[0]

    stem = layer(quantized(x, "x"), "stem.weight", "stem.bias", "x", lambda v, w, b: F.conv2d(v, w, b, padding=1))
    stem = quantized(stem, "relu")
    a = layer(stem, "a.weight", "a.bias", "relu", lambda v, w, b: F.conv2d(v, w, b, 2, 1))
    a = quantized(a, "relu_1")
    b = layer(a, "b.weight", "b.bias", "relu_1", lambda v, w, b: F.conv2d(v, w, b, padding=1))
    b = quantized(b, "conv2d_2") * scale("conv2d_2")
    shortcut = F.pad(stem[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) * scale("relu")
    total = quantized(b + shortcut, "relu_2") * scale("relu_2")
    mean = quantized(total.mean((2, 3)), "mean")
    expected = layer(mean, "head.weight", "head.bias", "mean", F.linear)
    with torch.no_grad():
        found = simulate(case.graph, plan)(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", networks.ALL)
def test_simulation_is_near_the_model_and_called_like_it(kind):
    case, plan, batches = planned(kind)
    plan = correct_biases(case.graph, place(case.graph), plan, batches)
    simulated = simulate(case.graph, plan)
    args, kwargs = case.call(7, seed=5)
    with torch.no_grad():
        expected, found = case.model(*args, **kwargs), simulated(*args, **kwargs)
    assert type(expected) is type(found)
    for theirs, ours in zip(tree_leaves(expected), tree_leaves(found), strict=True):
        assert ours.shape == theirs.shape
        noise = float((ours - theirs).square().sum() / theirs.square().sum())
        assert noise < 1e-2


def test_graph_is_not_touched():
    case, plan, _ = planned(networks.Residual)
    args, _ = case.call(3)
    before = case.graph.module(*args)
    simulate(case.graph, plan)
    assert torch.equal(case.graph.module(*args), before)
    assert torch.equal(simulate(case.graph, Plan())(*args), before)


def test_an_input_that_is_passed_through_is_not_rounded():
    case, plan, _ = planned(networks.TwoInputs)
    _, kwargs = case.call(3)
    assert "left" in plan.activations
    assert torch.equal(simulate(case.graph, plan)(**kwargs)["left"], kwargs["left"])


def test_a_bias_is_rounded_for_every_call_of_its_layer():
    case, plan, _ = planned(networks.Reused)
    simulated = simulate(case.graph, plan)
    layers, quantizer = place(case.graph).layers[:2], plan.weights["conv.weight"]
    nodes = {node.name: node for node in simulated.graph.nodes}
    weight = fake_quantize(case.graph.parameter("conv.weight"), quantizer)
    biases = []
    for layer in layers:
        _, read, bias = nodes[layer.node].args[:3]
        assert torch.equal(simulated.get_parameter(read.target), weight)
        biases.append(simulated.get_parameter(bias.target).detach())
        step = plan.activations[layer.input].scale[0]
        assert torch.equal(biases[-1], round_bias(case.graph.parameter("conv.bias"), step, quantizer.scale))
    assert not torch.equal(*biases)


def test_values_lie_on_their_grids():
    case, plan, _ = planned(networks.UNet)
    simulated = simulate(case.graph, plan)
    for name, quantizer in plan.weights.items():
        steps = simulated.get_parameter(name) / torch.tensor(quantizer.scale).view(-1, 1, 1, 1)
        torch.testing.assert_close(steps, steps.round(), rtol=0.0, atol=1e-3)


def test_gradients_reach_the_first_layer():
    case, plan, _ = planned(networks.Residual)
    simulated = simulate(case.graph, plan)
    args, _ = case.call(3)
    simulated(*args).square().sum().backward()
    assert float(simulated.get_parameter("stem.weight").grad.abs().sum()) > 0


def test_plan_of_another_model_is_refused():
    case, plan, _ = planned(networks.Residual)
    stray = replace(plan.activations["x"], tensor="nowhere")
    with pytest.raises(ModelError, match="nowhere"):
        simulate(case.graph, replace(plan, activations={**plan.activations, "nowhere": stray}))
    with pytest.raises(ModelError, match=r"does not have: a\.weight"):
        simulate(networks.captured(networks.Signal).graph, plan)
