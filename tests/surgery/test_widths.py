"""Which channels go and how many of each layer: brain surgery against brute force, and every allocation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from boildown.surgery import importance
from boildown.surgery.channels import find_channels
from boildown.surgery.widths import choose, curves
from boildown.testing import digits


@pytest.fixture(scope="module")
def trained():
    return digits.trained_network(8, epochs=4)


@pytest.fixture(scope="module")
def calls():
    x, _ = digits.training_set().tensors
    return [((part,), {}) for part in x[:128].split(64)]


@pytest.fixture(scope="module")
def looked(trained, calls):
    channels, _ = find_channels(trained, *calls[0])
    return channels, curves(channels, calls, probes=calls[:1])


def test_brain_surgery_is_refitting_without_a_channel():
    """The first channel to go is the one without which the refitted layer errs least, by how much as computed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    x = torch.randn(400, 5) @ torch.randn(5, 5)
    channels, _ = find_channels(model, (x[:2],), {})
    curve = curves(channels, [((x,), {})], measured=False)[0]
    with torch.no_grad():
        hidden = torch.relu(model[0](x)).double().numpy()
        target = model[2](torch.relu(model[0](x))).double().numpy()
    spread = ((target - target.mean(0)) ** 2).sum()
    errors = []
    for left_out in range(6):
        kept = np.delete(hidden, left_out, axis=1)
        design = np.column_stack([kept, np.ones(len(kept))])
        fit, *_ = np.linalg.lstsq(design, target, rcond=None)
        errors.append(((design @ fit - target) ** 2).sum() / spread)
    best = int(np.argmin(errors))
    assert curve.order[0] == curve.group.channels[best]
    assert curve.local[0] == pytest.approx(errors[best], rel=0.1)
    assert (np.diff(curve.local) >= -1e-9).all()


def test_after_the_first_the_others_are_refitted():
    """Two equal channels: one of them is missed little, both together much."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[:, :2] *= 5
    x = torch.randn(400, 4)
    channels, _ = find_channels(model, (x[:2],), {})
    curve = curves(channels, [((x,), {})], measured=False)[0]
    twins = set(curve.group.channels[:2])
    first, last = sorted(curve.order.index(number) for number in twins)
    grown = np.diff(curve.local, prepend=0)
    assert last == 2
    assert grown[first] < 0.02
    assert grown[last] > 0.3


def test_every_group_has_a_curve_that_rises(looked):
    channels, found = looked
    assert [curve.group for curve in found] == [g for g in channels.groups if g.width > 1]
    for curve in found:
        assert sorted(curve.order) == sorted(curve.group.channels)
        assert (np.diff(curve.error) >= 0).all()
        assert curve.error[-1] > 0


@pytest.mark.parametrize("allocation", ["measured", "global", "uniform"])
@pytest.mark.parametrize("of", ["macs", "params"])
def test_the_cost_falls_to_the_ratio(looked, allocation, of):
    channels, found = looked
    for ratio in (0.8, 0.4):
        gone = choose(found, channels.costs(of), ratio, allocation=allocation)
        left = channels.costs(of).without(gone) / channels.costs(of).full
        smallest = min(channels.costs(of).saving([number]) for c in found for number in c.group.channels)
        assert abs(left - ratio) <= max(0.02, 0.5 * smallest / channels.costs(of).full)


def test_widths_are_whole_multiples(looked):
    channels, found = looked
    gone = choose(found, channels.costs("macs"), 0.5, multiple=4)
    assert gone
    for curve in found:
        left = curve.group.width - sum(n in gone for n in curve.group.channels)
        assert left % min(4, curve.group.width // 2) == 0
        assert left > 0


def test_measured_widths_spare_what_outputs_need(looked, trained, calls):
    """At the same cost the outputs change less than with equal shares, both refitted."""
    from boildown.surgery.repair import repair

    channels, found = looked
    x = torch.cat([args[0] for args, _ in calls])
    with torch.no_grad():
        wanted = trained(x)
        errors = []
        for allocation in ("measured", "uniform"):
            gone = choose(found, channels.costs("macs"), 0.5, allocation=allocation)
            fixed = repair(channels.module, channels.silenced(gone), channels.readers(gone), calls)
            errors.append(float((fixed(x) - wanted).square().sum()))
    assert errors[0] < errors[1]


def test_magnitude_is_the_norm_of_the_filters(looked, trained):
    channels, _ = looked
    group = channels.groups[0]
    scores = importance.magnitude(channels)
    norms = trained[0].weight.detach().flatten(1).square().sum(1)
    assert [scores[n] for n in group.channels] == pytest.approx(norms.tolist(), rel=1e-5)


def test_magnitude_of_weights_that_are_kept_in_buffers():
    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("base", torch.randn(6, 4))
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.relu(nn.functional.linear(x, self.base)))

    model, x = Buffered(), torch.randn(2, 4)
    channels, _ = find_channels(model, (x,), {})
    (group,) = channels.groups
    scores = importance.magnitude(channels)
    assert [scores[n] for n in group.channels] == pytest.approx(model.base.square().sum(1).tolist())


def test_norm_scale_is_the_batch_norms(looked, trained):
    channels, _ = looked
    scores = importance.norm_scale(channels)
    assert [scores[n] for n in channels.groups[0].channels] == pytest.approx(
        trained[1].weight.detach().square().tolist(), rel=1e-5
    )


def test_activation_is_energy_times_the_next_columns(looked, trained, calls):
    channels, _ = looked
    x = torch.cat([args[0] for args, _ in calls])
    with torch.no_grad():
        hidden = trained[:3](x)
    energy = hidden.square().sum((0, 2, 3)) / hidden[0].numel()
    wanted = energy * trained[3].weight.detach().square().sum((0, 2, 3))
    scores = importance.activation(channels, calls)
    assert [scores[n] for n in channels.groups[0].channels] == pytest.approx(wanted.tolist(), rel=1e-3)


def test_taylor_is_the_change_of_the_loss_to_first_order(looked, trained):
    channels, _ = looked
    x, y = digits.training_set().tensors
    loss = lambda module, inputs, target: nn.functional.cross_entropy(module(inputs), target)  # noqa: E731
    flags = [p.requires_grad for p in channels.module.parameters()]
    scores = importance.taylor(channels, [(x[:64], y[:64])], loss)
    weight = trained[0].weight.detach().clone().requires_grad_()
    output = nn.functional.conv2d(x[:64], weight, padding=1)
    nn.functional.cross_entropy(trained[1:](output), y[:64]).backward()
    wanted = (weight.detach() * weight.grad).flatten(1).sum(1).square()
    assert [scores[n] for n in channels.groups[0].channels] == pytest.approx(wanted.tolist(), rel=1e-3, abs=1e-12)
    assert [p.requires_grad for p in channels.module.parameters()] == flags
    assert all(p.grad is None for p in channels.module.parameters())


def test_what_cannot_be_refitted_goes_by_magnitude():
    """A layer that is called twice, and a transposed convolution, have no fit; their inputs may go all the same."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.shared = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.up = nn.ConvTranspose2d(8, 2, 2, 2)

        def forward(self, x):
            return self.up(torch.relu(self.shared(torch.relu(self.shared(torch.relu(self.stem(x)))))))

    torch.manual_seed(0)
    x = torch.randn(8, 3, 8, 8)
    channels, _ = find_channels(Twice().eval(), (x[:2],), {})
    (group,) = channels.groups
    (curve,) = curves(channels, [((x,), {})])
    scores = importance.magnitude(channels)
    assert list(curve.order) == sorted(group.channels, key=scores.__getitem__)
    assert (np.diff(curve.local) > 0).all()
    assert curve.local[-1] == pytest.approx(1)
    with torch.no_grad():
        wanted, found = channels.module(x), channels.silenced(curve.order[:4])(x)
    error = (found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert curve.error[3] == pytest.approx(float(error), rel=1e-3)
    gone = choose([curve], channels.costs("macs"), 0.5)
    assert 0.4 < channels.macs(gone) / channels.macs() < 0.6


def test_outputs_before_the_end_are_kept_for_the_measurement():
    class Sided(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.side, self.mid, self.head = (nn.Linear(*size) for size in ((4, 8), (8, 2), (8, 8), (8, 3)))

        def forward(self, x):
            y = torch.relu(self.stem(x))
            return self.side(y), x, self.head(torch.relu(self.mid(y)))

    torch.manual_seed(0)
    x = torch.randn(32, 4)
    channels, _ = find_channels(Sided().eval(), (x[:2],), {})
    found = curves(channels, [((x,), {})])
    assert [curve.group.name for curve in found] == ["stem.weight", "mid.weight"]
    assert all((np.diff(curve.error) >= 0).all() for curve in found)
