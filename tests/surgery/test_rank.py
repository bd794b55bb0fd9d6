"""Layers as two: against numpy, against brute force, and rebuilt from data."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from boildown.domain.candidate import Edit
from boildown.errors import ModelError
from boildown.surgery.edits import apply_edits
from boildown.surgery.graph import capture
from boildown.surgery.rank import Factorable, Spectrum, choose, components, factorize, fill, find_layers, spectra
from boildown.surgery.stepping import cost
from boildown.surgery.trainable import trainable


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


torch.manual_seed(0)
NETWORKS = {
    "linear": (nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16, bias=False)), (torch.randn(40, 12),)),
    "tokens": (
        nn.Sequential(nn.Embedding(30, 12), nn.Linear(12, 16), nn.GELU(), Mean()),
        (torch.randint(0, 30, (40, 7)),),
    ),
    "conv": (
        nn.Sequential(
            nn.Conv2d(6, 12, 3, 2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(12, 10, 3, padding="same", dilation=2)
        ),
        (torch.randn(40, 6, 9, 9),),
    ),
    "norm": (
        nn.Sequential(nn.Conv2d(6, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(48, 10)),
        (torch.randn(40, 6, 4, 4),),
    ),
    "conv-1d": (nn.Sequential(nn.Conv1d(4, 12, 5, stride=2), nn.ReLU(), nn.Flatten()), (torch.randn(40, 4, 15),)),
}


@dataclass
class Looked:
    model: nn.Module
    args: tuple[torch.Tensor, ...]
    module: GraphModule
    captured: Edit
    found: dict[str, Spectrum]


def looked(model, args):
    module, captured = trainable(model.eval(), args, {})
    return Looked(model, args, module, captured, spectra(module, find_layers(module)[0], [(args, {})])[0])


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return looked(*NETWORKS[request.param])


def made_of(module, found, ranks):
    made, edit = factorize(module, ranks)
    fill(made, module, found, ranks)
    return made, edit


@torch.no_grad()
def error(network, ranks):
    made, _ = made_of(network.module, network.found, ranks)
    wanted = network.model(*network.args)
    return float((made(*network.args) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def test_at_full_rank_nothing_changes(network):
    assert error(network, {name: spectrum.layer.rows for name, spectrum in network.found.items()}) < 1e-8


def test_the_error_grows_as_the_rank_falls_and_nothing_else_is_touched(network):
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    errors = [error(network, dict.fromkeys(network.found, rank)) for rank in (8, 4, 1)]
    assert errors == sorted(errors)
    assert errors[0] < errors[2]
    assert all(torch.equal(network.module.state_dict()[name], tensor) for name, tensor in before.items())
    for spectrum in network.found.values():
        assert (spectrum.errors.diff() <= 0).all()
        assert spectrum.errors[-1] == 0


def test_of_all_ranks_the_factors_err_least():
    """Components of the outputs are the SVD of W C^(1/2): no product of this rank errs less on these inputs."""
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(8, 10)), rng.normal(size=(500, 10)) @ rng.normal(size=(10, 10))
    outputs = torch.from_numpy(weight @ np.cov(x.T, bias=True) @ weight.T)
    left, right, values = components(outputs, torch.eye(8, dtype=torch.float64))

    def err(product):
        return np.trace((weight - product) @ np.cov(x.T, bias=True) @ (weight - product).T)

    for rank in (1, 3, 6):
        ours = err((left[:, :rank] @ right[:rank]).numpy() @ weight)
        root = np.linalg.cholesky(np.cov(x.T, bias=True))
        u, s, v = np.linalg.svd(weight @ root)
        assert ours == pytest.approx(err((u[:, :rank] * s[:rank]) @ v[:rank] @ np.linalg.inv(root)), rel=1e-6)
        assert ours == pytest.approx(float(values[rank:].sum()) / 1.001, rel=1e-6)
        u, s, v = np.linalg.svd(weight, full_matrices=False)
        assert ours < 0.9 * err((u[:, :rank] * s[:rank]) @ v[:rank])


def test_directions_that_outputs_do_not_depend_on_go_first():
    sensitivity = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    outputs = torch.diag(torch.tensor([1.0, 2.0, 50.0, 40.0], dtype=torch.float64))
    left, right, _ = components(outputs, sensitivity)
    product = left[:, :2] @ right[:2]
    assert torch.allclose(product[:2, :2], torch.eye(2, dtype=torch.float64), atol=1e-6)


def test_what_is_predicted_for_one_layer_comes_out():
    """Behind the layer everything is linear, so that first order is all there is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.Linear(12, 6)).eval()
    x = torch.randn(3000, 8)
    network = looked(model, (x,))
    for rank in (2, 4):
        predicted = float(network.found["2.weight"].errors[rank])
        assert error(network, {"2.weight": rank}) == pytest.approx(predicted, rel=0.15)


def test_costs_are_those_that_are_counted(network):
    made, _ = factorize(network.module, dict.fromkeys(network.found, 3))
    assert cost(made, "macs") == capture(made, tuple(arg[:2] for arg in network.args)).macs()
    assert cost(made, "params") == sum(p.numel() for p in made.parameters())
    for of in ("macs", "params"):
        saved = sum(s.layer.cost(of) - s.layer.cost(of, 3) for s in network.found.values())
        assert cost(made, of) == cost(network.module, of) - saved


def test_it_is_rebuilt_from_its_edits_and_weights(network):
    args = network.args
    once, first = made_of(network.module, network.found, dict.fromkeys(network.found, 6))
    found, _ = spectra(once, find_layers(once)[0], [(args, {})])
    name = next(name for name in found if name.endswith("reduce.weight"))
    twice, second = made_of(once, found, {name: 3})
    edits = [Edit.from_json(edit.to_json()) for edit in (network.captured, first, second)]
    rebuilt = apply_edits(network.model, edits)
    rebuilt.load_state_dict(twice.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(*args), twice(*args))
    with pytest.raises(ModelError, match=r"no layer 7\.weight"):
        factorize(network.module, {"7.weight": 2})


def test_every_layer_that_stays_is_told_why():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.conv = nn.Embedding(40, 16), nn.Conv1d(16, 16, 3, padding=1, groups=4)
            self.small, self.wide = nn.Linear(16, 16), nn.Linear(16, 40, bias=False)
            self.wide.weight = self.table.weight

        def forward(self, ids):
            return self.wide(self.small(self.conv(self.table(ids).transpose(1, 2)).transpose(1, 2)))

    module, _ = trainable(Tied().eval(), (torch.zeros(2, 5, dtype=torch.long),), {})
    layers, left_alone = find_layers(module)
    assert left_alone == {
        "wide.weight": "its weight is used 2 times",
        "conv.weight": "its 4 groups read different channels",
    }
    assert [layer.weight for layer in layers] == ["small.weight"]
    assert layers[0].why_not("macs", 8) == "16x16 at rank 8 costs 8 x (16 + 16) = 256, the layer 256"
    assert layers[0].why_not("macs", 16) == "16x16 has no rank below 16 that is a multiple of 16"
    assert layers[0].why_not("macs", 4) is None
    assert layers[0].ranks("macs", 2) == [6, 4, 2]
    table = Factorable("embedding", "table.weight", 16, 400, 5, table=True)
    assert table.why_not("params", 8) is None
    assert "costs no multiplications" in table.why_not("macs", 8)


def test_the_choice_is_the_cheapest_of_all():
    """Against every combination of ranks: none costs as little and errs less."""
    rng, found = np.random.default_rng(1), {}
    for name, rows, columns in (("a", 12, 20), ("b", 16, 16), ("c", 9, 30)):
        errors = np.append(np.sort(rng.exponential(size=rows) ** 3)[::-1], 0.0)
        nothing = torch.zeros(0)
        layer = Factorable(name, name, rows, columns, 7)
        found[name] = Spectrum(layer, nothing, nothing, nothing, torch.from_numpy(errors))
    full = sum(s.layer.cost("macs") for s in found.values())

    def told(ranks):
        left = sum(s.layer.cost("macs", ranks.get(name)) for name, s in found.items())
        return left / full, sum(float(found[name].errors[rank]) for name, rank in ranks.items())

    options = [[None, *s.layer.ranks("macs", 2)] for s in found.values()]
    everything = [told({n: r for n, r in zip(found, ranks, strict=True) if r}) for ranks in itertools.product(*options)]
    for ratio in (0.9, 0.7, 0.5, 0.3):
        left, err = told(choose(found, "macs", full, ratio, multiple=2))
        assert left == pytest.approx(ratio, abs=0.05)
        best = min(other for cheaper, other in everything if cheaper <= left)
        assert err <= best + 0.25 * max(e for _, e in everything) / len(everything) ** 0.5
    assert choose(found, "macs", full, 1.0) == {}


def test_a_layer_that_no_output_depends_on_has_no_spectrum():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x) + 0.0 * self.unused(x).detach()

    assert set(looked(Half(), (torch.randn(9, 8),)).found) == {"used.weight"}
