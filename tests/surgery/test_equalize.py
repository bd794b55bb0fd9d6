"""Equalization: the same function, other weights; what does not commute is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from boildown.surgery.equalize import equalize, equalized, links
from boildown.surgery.graph import capture


def random_scales(net: nn.Module) -> nn.Module:
    """The net with channels of very unlike ranges."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            shape = [-1, *[1] * (module.weight.ndim - 1)]
            module.weight.data *= torch.exp(torch.randn(len(module.weight))).view(shape)
    return net.eval()


def relu6_net() -> nn.Module:
    """Convolution, depthwise, pointwise, as in a MobileNet, ending in a linear layer."""
    torch.manual_seed(1)
    return random_scales(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 16, 3, groups=8), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.Conv2d(16, 12, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(12, 8, 1, groups=2, bias=False),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 3 * 3, 5),
        )
    )  # fmt: skip


class Residual(nn.Module):
    """Only the inner pair has a single reader."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.b(F.relu(self.a(x)))).mean((2, 3)))


def images(count: int = 16, seed: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_two_layers_agree_with_the_paper_s_formula() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    first, bias, second = (tensor.detach().numpy() for tensor in (net[0].weight, net[0].bias, net[2].weight))
    scale = np.sqrt(np.abs(first).max(1) / np.abs(second).max(0))
    found = equalize(capture(net, (torch.zeros(2, 6),)), [])
    assert set(found) == {"0.weight", "0.bias", "2.weight"}
    new = {name: tensor.numpy() for name, tensor in found.items()}
    np.testing.assert_allclose(new["0.weight"], first / scale[:, None], rtol=1e-6)
    np.testing.assert_allclose(new["0.bias"], bias / scale, rtol=1e-6)
    np.testing.assert_allclose(new["2.weight"], second * scale[None], rtol=1e-6)
    np.testing.assert_allclose(np.abs(new["0.weight"]).max(1), np.abs(new["2.weight"]).max(0), rtol=1e-6)


def test_a_relu6_net_keeps_its_function_and_changes_every_layer() -> None:
    net, x = relu6_net(), images()
    assert (net[:3](x) == 6).any()
    found = equalized(net, ((x[:2],), {}), [((x,), {})])
    assert found is not None
    folded, edit = found
    assert edit.op == "fold-batch-norm"
    with torch.no_grad():
        expected, got = net(x), folded(x)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
    graph = capture(net, (x[:2],))
    assert [(link.first.weight, link.second.weight) for link in links(graph)] == [
        ("0.weight", "4.weight"), ("4.weight", "7.weight"), ("7.weight", "10.weight"), ("10.weight", "13.weight"),
    ]  # fmt: skip
    changed = {name for name, value in folded.named_parameters() if not torch.equal(value, graph.parameter(name))}
    assert {"0.weight", "4.weight", "7.weight", "10.weight", "13.weight"} <= changed


def test_a_clipped_channel_keeps_its_scale_and_the_others_stay_below_the_limit() -> None:
    net, x = relu6_net(), images()
    graph = capture(net, (x[:2],))
    new = equalize(graph, [((x,), {})])
    with torch.no_grad():
        before = F.relu6(net[:2](x)).movedim(1, 0).flatten(1).amax(1)
        ratio = new["0.bias"] / graph.parameter("0.bias")
    clipped = before >= 6
    assert clipped.any()
    assert not clipped.all()
    torch.testing.assert_close(ratio[clipped], torch.ones(int(clipped.sum())))
    assert (ratio[~clipped] != 1).any()
    assert (before * ratio <= 6 + 1e-5).all()


def test_ranges_become_more_alike() -> None:
    net, x = relu6_net(), images()
    folded, _ = equalized(net, ((x[:2],), {}), [((x,), {})])  # type: ignore[misc]
    graph = capture(net, (x[:2],))

    def spread(weight: torch.Tensor) -> float:
        rows = weight.detach().flatten(1).abs().amax(1)
        return float(rows.max() / rows.min())

    assert spread(folded.get_parameter("7.weight")) < spread(graph.parameter("7.weight"))


def test_a_value_with_two_readers_must_not_be_touched() -> None:
    net = random_scales(Residual())
    graph = capture(net, (images(2),))
    assert [(link.first.weight, link.second.weight) for link in links(graph)] == [("a.weight", "b.weight")]
    assert set(equalize(graph, [])) == {"a.weight", "a.bias", "b.weight"}
    x = images()
    folded, _ = equalized(net, ((x[:2],), {}), [])  # type: ignore[misc]
    with torch.no_grad():
        torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "between", [nn.GELU(), nn.Hardswish(), nn.Sigmoid(), nn.LayerNorm([8, 30, 30]), nn.PixelShuffle(2)]
)
def test_what_does_not_commute_must_not_be_touched(between: nn.Module) -> None:
    inputs = 2 if isinstance(between, nn.PixelShuffle) else 8
    net = nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.Conv2d(inputs, 4, 1)).eval()
    graph = capture(net, (images(2),))
    assert links(graph) == ()
    assert equalize(graph, []) == {}
    assert equalized(net, ((images(2),), {}), []) is None


def test_a_dead_channel_keeps_its_scale() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    net[0].weight.data[1] = 0
    net[2].weight.data[:, 2] = 0
    new = equalize(capture(net, (torch.zeros(2, 6),)), [])
    assert all(torch.isfinite(tensor).all() for tensor in new.values())
    torch.testing.assert_close(new["0.bias"][1:3], net[0].bias.detach()[1:3])


def test_it_stops_when_asked() -> None:
    class Asked(Exception):
        pass

    def check() -> None:
        raise Asked

    net, x = relu6_net(), images(4)
    with pytest.raises(Asked):
        equalize(capture(net, (x[:2],)), [((x,), {})], check=check)
