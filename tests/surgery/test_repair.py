"""Closed-form repair: against an independent least-squares fit, and on what it must not touch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from boildown.surgery.channels import find_channels
from boildown.surgery.repair import POSITIONS, RIDGES, Fit, Layer, Moments, repair
from boildown.surgery.trainable import trainable


class Residual(nn.Module):
    """A stem, and a block beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Residual()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    # Smooth images: their channels are correlated, so that there is something to repair with.
    noise = torch.randn(64, 3, 4, 4, generator=generator)
    return F.interpolate(noise, size=12, mode="bilinear", align_corners=False)


def outputs(model, images):
    with torch.no_grad():
        return model(images)


def test_moments_solve_the_least_squares_problem():
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(500, 6)) + 2, rng.normal(size=(500, 3)) - 1
    moments = Moments.empty(6, 3)
    for part in np.split(np.arange(500), 5):
        moments.add(torch.tensor(x[part]), torch.tensor(t[part]))
    columns = torch.tensor([0, 2, 5])
    weight, offset = moments.solve(torch.zeros(3, 6), columns, ridge=1e-12)
    design = np.column_stack([x[:, columns.numpy()], np.ones(500)])
    wanted, *_ = np.linalg.lstsq(design, t, rcond=None)
    assert np.allclose(weight[:, columns].numpy(), wanted[:3].T, atol=1e-6)
    assert np.allclose(offset.numpy(), wanted[3], atol=1e-6)
    assert not weight[:, [1, 3, 4]].any()


def test_a_strong_ridge_keeps_the_old_weights():
    moments = Moments.empty(2, 1)
    moments.add(torch.randn(50, 2), torch.randn(50, 1))
    old = torch.tensor([[3.0, -2.0]])
    weight, _ = moments.solve(old, torch.tensor([0, 1]), ridge=1e9)
    assert torch.allclose(weight.float(), old, atol=1e-3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 1), padding=(1, 0), dilation=(2, 1)),
        nn.Conv1d(4, 6, 5, stride=2, padding=2),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Linear(4, 6),
    ],
    ids=["strided", "dilated", "one axis", "grouped", "linear"],
)
def test_inputs_times_weights_are_outputs_where_they_are_read(layer):
    example = {1: torch.randn(5, 4, 30), 2: torch.randn(5, 4, 9, 8)}.get(layer.weight.ndim - 2, torch.randn(5, 4))
    module, _ = trainable(nn.Sequential(layer).eval(), (example,), {})
    node = next(n for n in module.graph.nodes if Layer.fits(module, n))
    read = Layer(module, node)
    rows = len(layer.weight) // read.groups
    for group in range(read.groups):
        x, t = read.read(example, outputs(layer, example), torch.Generator().manual_seed(0), group)
        part = slice(group * rows, (group + 1) * rows)
        assert torch.allclose(x @ layer.weight[part].flatten(1).T + layer.bias[part], t, atol=1e-5)
        assert 0 < len(x) <= POSITIONS * len(example)


def test_few_samples_pull_harder_toward_the_old_weights():
    """With fewer samples than columns a fit to them means nothing; those kept aside tell."""
    torch.manual_seed(0)
    old = torch.randn(3, 40)
    few, many = Fit.empty(40, 3), Fit.empty(40, 3)
    for fit, count in ((few, 15), (many, 2000)):
        for call in range(2):
            x = torch.randn(count, 40)
            fit.add(call, x, x @ old.T + 3 * torch.randn(count, 3))
    columns = torch.arange(40)
    assert few.ridge(old, columns) == max(RIDGES)
    assert torch.dist(few.solve(old, columns)[0], old.double()) < torch.dist(
        few.all.solve(old, columns, RIDGES[0])[0], old.double()
    )
    weight, offset = many.solve(old, columns)
    assert many.all.error(weight, offset) == pytest.approx(27, rel=0.1)


def test_repair_brings_outputs_back_and_keeps_the_batch_norm(network, images):
    channels, _ = find_channels(network, (images[:2],), {})
    group = next(g for g in channels.groups if g.name == "conv1.weight")
    gone = set(group.channels[:6])
    calls = [((images[:32],), {}), ((images[32:],), {})]
    silent = channels.silenced(gone)
    before = {name: tensor.clone() for name, tensor in silent.state_dict().items()}
    fixed = repair(channels.module, silent, channels.readers(gone), calls)
    wanted = outputs(network, images)
    spread = (wanted - wanted.mean(0)).square().sum()
    broken, mended = (((outputs(m, images) - wanted).square().sum() / spread).item() for m in (silent, fixed))
    assert mended < 0.35 * broken
    assert isinstance(fixed.bn2, nn.BatchNorm2d)
    assert not torch.equal(fixed.bn2.running_mean, network.bn2.running_mean), "the offset belongs to the batch norm"
    assert torch.equal(fixed.stem.weight, network.stem.weight), "no reader of what is gone"
    assert all(torch.equal(before[name], tensor) for name, tensor in silent.state_dict().items())
    pruned = channels.without(gone, fixed)
    assert torch.allclose(outputs(pruned, images), outputs(fixed, images), atol=1e-5)


def test_the_shortcut_counts(network, images):
    """With the stem changed as well, the block makes up for the error of the shortcut."""
    module, _ = trainable(network, (images[:2],), {})
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.stem.weight *= 0.9
    conv2 = [n.name for n in module.graph.nodes if n.op == "call_function" and "conv" in n.name][2]
    fixed = repair(module, changed, {conv2: None}, [((images,), {})])
    wanted = outputs(network, images)
    errors = [(outputs(m, images) - wanted).square().sum() for m in (changed, fixed)]
    assert errors[1] < 0.5 * errors[0]


class Added(nn.Module):
    """What a layer gives is added to a shortcut: a multiple of it, or at every position."""

    def __init__(self, *, everywhere: bool) -> None:
        super().__init__()
        self.everywhere = everywhere
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.one, self.two = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        if self.everywhere:
            x = F.relu(x + self.two(F.relu(self.one(x.mean((2, 3), keepdim=True)))))
        else:
            x = F.relu(torch.add(x, self.two(F.relu(self.one(x))), alpha=0.1))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_layer_that_is_not_simply_added_is_fitted_to_its_own_output(images, everywhere):
    torch.manual_seed(0)
    model = Added(everywhere=everywhere).eval()
    module, _ = trainable(model, (images[:2],), {})
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.one.weight[:4] = 0
        changed.one.bias[:4] = 0
    two = [n.name for n in module.graph.nodes if n.op == "call_function" and "conv" in n.name][2]
    calls = [((part,), {}) for part in images.split(16)]
    fixed = repair(module, changed, {two: None}, calls)
    errors = [(outputs(m, images) - outputs(model, images)).square().sum() for m in (changed, fixed)]
    assert errors[1] < errors[0]


def test_nothing_removed_is_nothing_changed(network, images):
    module, _ = trainable(network, (images[:2],), {})
    names = [n.name for n in module.graph.nodes if Layer.fits(module, n)]
    fixed = repair(module, module, dict.fromkeys(names), [((images,), {})])
    assert torch.allclose(outputs(fixed, images), outputs(network, images), atol=1e-3)


def test_repair_asks_whether_to_stop(network, images):
    module, _ = trainable(network, (images[:2],), {})

    def check():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair(module, module, {"conv2d": None}, [((images,), {})], check=check)
