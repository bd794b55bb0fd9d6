from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import surgery_networks as networks
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

from boildown.domain.candidate import Plan
from boildown.errors import Cancelled
from boildown.runtimes import get
from boildown.surgery.aware import Aware, activation_step, lsq, weight_step
from boildown.surgery.calibrate import calibrate, correct_biases, weight_quantizer
from boildown.surgery.fold import fold, module_of
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate
from boildown.tasks import Classification
from boildown.training import Training, make_loss, train


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices this small are not worth two threads, least of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- the paper's gradients -------------------------------------------------------------------


def papers(value, step, low, high, gradient):
    """Equations 1, 3 and 5 of arXiv 1902.08153, element by element: rounded, value's and step's gradient."""
    rounded, through, total = np.empty_like(value), np.zeros_like(value), 0.0
    for index, number in np.ndenumerate(value):
        position = number / step
        if position <= low:
            whole, share = low, low
        elif position >= high:
            whole, share = high, high
        else:
            whole = np.round(position)
            share = whole - position
            through[index] = gradient[index]
        rounded[index] = whole * step
        total += gradient[index] * share
    return rounded, through, total


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-100, 155), (-7, 7)])
def test_gradients_of_a_value_are_the_papers(low, high):
    generator = torch.Generator().manual_seed(0)
    middle, width = (low + high) / 2, high - low
    value = ((torch.rand(4, 3, 5, generator=generator) - 0.5) * 1.4 * width + middle) * 0.05
    value.requires_grad_()
    step, gradient = torch.tensor(0.05, requires_grad=True), torch.randn(4, 3, 5, generator=generator)
    rounded = lsq(value, step, low, high)
    rounded.backward(gradient)
    expected = papers(value.detach().double().numpy(), 0.05, low, high, gradient.double().numpy())
    np.testing.assert_allclose(rounded.detach().numpy(), expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(value.grad.numpy() != 0, expected[1] != 0)
    np.testing.assert_allclose(value.grad.numpy(), expected[1], rtol=1e-6)
    scaled = expected[2] / np.sqrt(15 * max(-low, high))
    assert float(step.grad) == pytest.approx(scaled, rel=1e-3)


def test_every_channel_of_a_weight_has_the_gradient_of_its_own_step():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 2, 3, 3, generator=generator).requires_grad_()
    steps, gradient = torch.tensor([0.1, 0.3, 0.9], requires_grad=True), torch.randn(3, 2, 3, 3, generator=generator)
    rounded = lsq(weight, steps, -7, 7)
    rounded.backward(gradient)
    for channel in range(3):
        own = papers(
            weight[channel].detach().double().numpy(), float(steps[channel]), -7, 7, gradient[channel].double().numpy()
        )
        np.testing.assert_allclose(rounded[channel].detach().numpy(), own[0], rtol=1e-5, atol=1e-6)
        assert float(steps.grad[channel]) == pytest.approx(own[2] / np.sqrt(18 * 7), rel=1e-3)


def test_steps_are_held_where_a_file_can_follow():
    logarithm = torch.tensor(0.5).log().requires_grad_()
    step = activation_step(logarithm, 0.1)
    step.backward()
    assert float(step) == pytest.approx(0.1)
    assert float(logarithm.grad) == pytest.approx(0.5)
    assert float(activation_step(logarithm, float("inf"))) == 0.5
    steps = weight_step(torch.zeros(2), torch.tensor([0.0, 2.0**30]), torch.tensor(1.0))
    assert steps.tolist() == [1.0, 2.0]


# ---- the module ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    model: nn.Module
    graph: Graph
    aware: Aware


def planned(model, call, batches, bits=8) -> Planned:
    graph = capture(model, *call)
    placement = place(graph)
    plan = calibrate(graph, placement, batches)
    if bits != 8:
        narrow = {name: weight_quantizer(name, graph.parameter(name), bits, search=True) for name in placement.weights}
        plan = replace(plan, weights=narrow)
    plan = correct_biases(graph, placement, plan, batches)
    return Planned(model, graph, Aware(graph, placement, plan))


def from_case(kind, bits=8):
    case = networks.captured(kind)
    return case, planned(case.model, case.call(2), [case.call(32, seed) for seed in range(2)], bits)


def outputs(module, call):
    args, kwargs = call
    with torch.no_grad():
        return tree_leaves(module(*args, **kwargs))


def near(first, second, tolerance=1e-5):
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(first, second, strict=True))


KINDS = [
    networks.Residual, networks.Signal, networks.SqueezeExcite, networks.Encoder, networks.TwoInputs, networks.Reused,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_simulation_and_gives_the_plan_back(kind):
    case, ours = from_case(kind)
    call, module, start = case.call(7, seed=5), ours.aware.module(), ours.aware.plan
    simulated = simulate(ours.graph, start)
    assert near(outputs(module, call), outputs(simulated, call))
    model = module_of(ours.graph)
    plan = ours.aware.settle(module, model)
    for found, expected in ((plan.activations, start.activations), (plan.weights, start.weights)):
        assert list(found) == list(expected)
        for name, quantizer in found.items():
            assert replace(quantizer, scale=()) == replace(expected[name], scale=())
            assert quantizer.scale == pytest.approx(expected[name].scale, rel=1e-5)
    for layer in ours.aware.placement.layers:
        assert near([model.get_parameter(layer.weight)], [simulated.get_parameter(layer.weight)])
        assert (layer.weight in plan.biases) == (layer.bias is None)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_learned(kind):
    case, ours = from_case(kind)
    module = ours.aware.module()
    args, kwargs = case.call(4, seed=6)
    sum(value.square().sum() for value in tree_leaves(module(*args, **kwargs))).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    steps = [name for name, _ in module.named_parameters() if name.startswith("boildown_steps.")]
    assert len(steps) == len(ours.aware.placement.measured) + len(ours.aware.placement.weights)


def test_the_graph_is_not_touched():
    case, ours = from_case(networks.Residual)
    module = ours.aware.module()
    before = outputs(ours.graph.module, case.call(3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    assert near(outputs(ours.graph.module, case.call(3)), before, 0.0)


def test_values_that_share_a_grid_keep_sharing_it():
    case, ours = from_case(networks.Residual)
    module = ours.aware.module()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(module.named_parameters()):
            if name.startswith("boildown_steps."):
                parameter.sub_(0.01 * number)
    model, _edit = fold(case.model, *case.call(2))
    plan = ours.aware.settle(module, model)
    shares = ours.aware.placement.shares
    assert shares
    for member, source in shares.items():
        assert plan.activations[member].scale == plan.activations[source].scale
    scales = [plan.activations[name].scale for name in ours.aware.placement.measured]
    assert len(set(scales)) == len(scales)
    call = case.call(5, seed=3)
    assert near(outputs(simulate(capture(model, *case.call(2)), plan), call), outputs(module, call), 1e-4)


# ---- trained, and in the runtime -------------------------------------------------------------


class Depthwise(nn.Module):
    """Depthwise separable, with rectifiers that end at 6."""

    def __init__(self):
        super().__init__()

        def unit(inputs, outputs, kernel, groups=1):
            conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
            return [conv, nn.BatchNorm2d(outputs), nn.ReLU6()]

        self.features = nn.Sequential(*unit(3, 8, 3), *unit(8, 8, 3, 8), *unit(8, 16, 1), *unit(16, 16, 3, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def patterns(count, seed):
    """Three classes of 16 by 16 pixels."""
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(0, 3, (count,), generator=generator)
    return shapes[labels] + torch.randn(count, 3, 16, 16, generator=generator), labels


@cache
def fitted(kind):
    """A network that knows the patterns, its task, and its static plan."""
    torch.manual_seed(0)
    model, (x, y) = kind(), patterns(256, 0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for part in torch.arange(256).split(32) * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
    task = Classification(train=(x, y), validation=patterns(64, 1))
    return task, planned(model.eval(), task.example(), [((x[:64],), {})], bits=4)


def taught(task, ours, steps=20, **options):
    settings = Training(lr=3e-3, batch=32, weight_decay=0.0, every=4, seconds=0.0)
    return train(
        ours.aware.module(), task, task.train, steps=steps, settings=settings, teacher=ours.model,
        losses=[make_loss("kd")], **options,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [Depthwise, networks.Residual])
def test_the_file_computes_what_was_trained(kind, tmp_path):
    task, ours = fitted(kind)
    trained = taught(task, ours)
    model, _edit = fold(ours.model, *task.example())
    plan = ours.aware.settle(trained.model, model)
    assert plan.weights != ours.aware.plan.weights
    runtime = get("onnxruntime")
    runtime.export(capture(model, *task.example()).serialize(), tmp_path / "exported.onnx")

    def written(a_plan):
        return runtime.write(tmp_path / "exported.onnx", tmp_path / "a.onnx", a_plan).facts["kernels"]

    kernels = written(ours.aware.plan)
    assert kernels["QLinearConv"] == len(plan.weights) - 1
    if kind is Depthwise:
        assert written(pushed(ours)) == kernels
    assert written(plan) == kernels
    x, _ = patterns(256, 2)
    result = runtime.open(tmp_path / "a.onnx").run([x.numpy()])[0]
    with torch.no_grad():
        simulated = trained.model(x).numpy()
    noise = np.square(simulated - result).sum() / np.square(simulated).sum()
    assert noise <= 1e-3
    assert (simulated.argmax(1) == result.argmax(1)).mean() >= 0.99


def pushed(ours):
    """The plan of steps that were learned to be 20 times as large: rectifiers that end at 6 must stay needless."""
    module = ours.aware.module()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("boildown_steps.value"):
                parameter.add_(3.0)
    plan = ours.aware.settle(module, module_of(ours.graph))
    limited = [q.scale[0] * (255 - q.zero_point[0]) for name, q in plan.activations.items() if "hardtanh" in name]
    assert limited == pytest.approx([6.0] * 4)
    return plan


def test_going_on_after_a_stop_gives_the_same_bits(tmp_path):
    task, ours = fitted(networks.Residual)
    whole, left = taught(task, ours), [13]

    def check():
        left[0] -= 1
        if left[0] < 0:
            raise Cancelled

    with pytest.raises(Cancelled):
        taught(task, ours, folder=tmp_path, check=check)
    on = taught(task, ours, folder=tmp_path)
    ours_state, theirs = on.model.state_dict(), whole.model.state_dict()
    assert ours_state.keys() == theirs.keys()
    assert all(torch.equal(ours_state[name], theirs[name]) for name in theirs)


def test_a_plan_that_leaves_layers_float_is_followed():
    """As a mixed plan does: what has no quantizer trains in floats."""
    case = networks.captured(networks.Residual)
    placement = place(case.graph, skip=["head.weight"])
    plan = calibrate(case.graph, placement, [case.call(32)])
    module = Aware(case.graph, placement, Plan(plan.activations, plan.weights)).module()
    call = case.call(5, seed=2)
    assert near(outputs(module, call), outputs(simulate(case.graph, plan), call))
