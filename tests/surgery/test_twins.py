"""Twins: smaller networks of the model's kind, drawn anew."""

from __future__ import annotations

import copy

import pytest
import torch
from surgery_zoo import CASES, Net, channels, image, model
from torch import nn

from boildown.surgery.channels import SurgeryError
from boildown.surgery.edits import apply_edits
from boildown.surgery.trainable import trainable
from boildown.surgery.twins import initialised, narrower, shallower


@pytest.fixture(scope="module")
def network():
    return channels("cifar-resnet").module, (CASES["cifar-resnet"].args, {})


def test_a_narrower_twin_has_the_share_of_every_layer(network):
    twin, edits = narrower(*network, 0.5, seed=0)
    assert twin.stage2.get_submodule("0").conv1.weight.shape == (4, 2, 3, 3)
    assert [edit.op for edit in edits] == ["remove-channels"]
    assert twin(*network[1][0]).shape == (2, 3)


def test_a_shallower_twin_has_the_share_of_every_stage_and_keeps_its_first_blocks(network):
    twin, edits = shallower(*network, 0.34, seed=0)
    assert edits[0].args["blocks"] == ["stage1.2", "stage1.1", "stage2.1"]
    assert hasattr(twin.stage1, "0")


@pytest.mark.parametrize(("make", "share"), [(narrower, 0.5), (shallower, 0.5)])
def test_edits_and_weights_make_it_again(network, make, share):
    twin, edits = make(*network, share, seed=1)
    again = apply_edits(network[0], edits)
    again.load_state_dict(twin.state_dict())
    assert torch.equal(again.eval()(*network[1][0]), twin.eval()(*network[1][0]))


def test_a_model_that_is_no_graph_yet_is_captured_first():
    case = CASES["rms"]
    _, edits = narrower(model("rms"), (case.args, {}), 0.5, seed=0)
    assert [edit.op for edit in edits] == ["capture", "remove-channels"]


def test_weights_are_drawn_by_the_seed_alone_and_the_callers_random_state_is_left(network):
    state = torch.random.get_rng_state()
    one, two, other = (narrower(*network, 0.5, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["stem.weight"], other["stem.weight"])
    assert not torch.equal(network[0].stem.weight[:2], one["stem.weight"])


@pytest.mark.parametrize(("make", "share"), [(narrower, 0.5), (shallower, 0.34)])
def test_what_is_drawn_anew_trains_though_the_model_was_frozen(network, make, share):
    frozen = copy.deepcopy(network[0])
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(name.startswith("fc"))
    twin, _ = make(frozen, network[1], share, seed=0)
    assert all(parameter.requires_grad for parameter in twin.parameters())
    assert not frozen.stem.weight.requires_grad


def test_layers_are_drawn_as_pytorch_draws_them():
    def forward(self, ids, x):
        x = self.bn(self.up(torch.relu(self.conv(x))))
        return self.norm(self.fc(x.mean((2, 3)) + self.words(ids)) + self.token)

    torch.manual_seed(0)
    token = nn.Parameter(torch.randn(64) * 3 + 5)
    layers = {"conv": nn.Conv2d(3, 64, 3), "up": nn.ConvTranspose2d(64, 64, 2), "bn": nn.BatchNorm2d(64)}
    more = {"words": nn.Embedding(50, 64), "fc": nn.Linear(64, 64), "norm": nn.LayerNorm(64), "token": token}
    net = Net(forward, **layers, **more).eval()
    expected = {name: p.detach().std() for name, p in net.named_parameters()}
    args = (torch.arange(2), image(2, 3, 6, 6))
    graph, _ = trainable(net, args, {})
    with torch.no_grad():
        for name, parameter in graph.named_parameters():
            parameter.mul_(7.0) if name not in ("token", "words.weight") else None
        graph.bn.running_mean.fill_(9.0)
    drawn = {name: p.detach() for name, p in initialised(graph, seed=0).named_parameters()}
    for name in ("conv.weight", "up.weight", "fc.weight", "words.weight", "token"):
        assert float(drawn[name].std()) == pytest.approx(float(expected[name]), rel=0.2), name
    assert abs(float(drawn["token"].mean()) - 5) < 1.5
    assert (drawn["norm.weight"] == 1).all()
    assert (drawn["norm.bias"] == 0).all()
    assert (graph.bn.running_mean == 0).all()
    assert float(drawn["fc.bias"].abs().max()) <= 1 / 8


def test_what_cannot_be_smaller_says_why():
    with pytest.raises(SurgeryError, match="roll picks some of them by position"):
        narrower(channels("picked").module, (CASES["picked"].args, {}), 0.5, seed=0)
    with pytest.raises(SurgeryError, match="Take a narrower twin"):
        shallower(channels("u-net").module, (CASES["u-net"].args, {}), 0.5, seed=0)
