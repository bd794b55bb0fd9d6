"""Blocks out of a graph: which can go, and that the rest is wired as if they had never been there."""

from __future__ import annotations

import pytest
import torch
from surgery_zoo import CASES, CifarResNet, Net, channels, found, image, model
from torch import nn
from torch.nn import functional as F

from boildown.errors import ModelError
from boildown.surgery.channels import Channels, remove
from boildown.surgery.depth import drop, errors_without, find_blocks
from boildown.surgery.edits import apply_edits
from boildown.surgery.trainable import trainable


def names(module):
    return [block.name for block in find_blocks(module)]


def test_blocks_that_keep_the_shape_can_go():
    assert names(channels("cifar-resnet").module) == ["stage1.0", "stage1.1", "stage1.2", "stage2.1"]
    assert [block.stage for block in find_blocks(channels("cifar-resnet").module)] == ["stage1"] * 3 + ["stage2"]
    assert names(channels("resnet-bottleneck").module) == ["blocks.1"]
    assert names(channels("mobilenet-v2").module) == ["4"]


def test_no_blocks_where_nothing_repeats():
    assert names(channels("u-net").module) == []
    assert names(channels("lstm").module) == []


@pytest.mark.parametrize("dropped", [["stage1.1"], ["stage1.0", "stage1.1"], ["stage1.2", "stage1.1", "stage2.1"]])
def test_without_blocks_it_computes_what_the_network_built_without_them_does(dropped):
    case = CASES["cifar-resnet"]
    shorter = model("cifar-resnet")
    for name in dropped:
        stage, _, index = name.partition(".")
        getattr(shorter, stage)[int(index)] = nn.Identity()
    left, edit = drop(channels("cifar-resnet").module, dropped)
    torch.testing.assert_close(left(*case.args), shorter(*case.args))
    assert sum(p.numel() for p in left.parameters()) == sum(p.numel() for p in shorter.parameters())
    assert edit.args["blocks"] == dropped


def test_edits_and_weights_make_it_again_together_with_channels():
    case = CASES["cifar-resnet"]
    numbered, edits = found("cifar-resnet")
    left, dropped = drop(numbered.module, ["stage1.1"])
    rest = Channels(left)
    pruned, removed = remove(rest, [group.channels[0] for group in rest.groups], (case.args, {}))
    again = apply_edits(CifarResNet(), [*edits, dropped, removed])
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(again.eval()(*case.args), pruned(*case.args))


def test_masks_and_several_layers_inside_a_transformers_blocks():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, 0.1, batch_first=True), 3)
    net = Net(lambda self, x, mask: self.encoder(x, src_key_padding_mask=mask), encoder=encoder).eval()
    net.encoder.enable_nested_tensor = False
    args = (image(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2]))
    module, _ = trainable(net, args, {})
    assert names(module) == [f"encoder.layers.{i}" for i in range(3)]
    left, _ = drop(module, ["encoder.layers.1"])
    del net.encoder.layers[1]
    with torch.no_grad():
        torch.testing.assert_close(left(*args), module_without_fast_path(net, args))


def test_a_block_may_keep_all_its_layers_in_a_list():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 9), nn.Linear(9, 6)])

        def forward(self, x):
            return x + self.layers[1](self.layers[0](x).relu())

    net = nn.Sequential(nn.Linear(4, 6), nn.Sequential(Block(), Block())).eval()
    module, _ = trainable(net, (image(2, 4),), {})
    assert names(module) == ["1.0", "1.1"]
    left, _ = drop(module, ["1.0"])
    with torch.no_grad():
        torch.testing.assert_close(left(image(3, 4)), net[1][1](net[0](image(3, 4))))


def module_without_fast_path(net, args):
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return net(*args)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def test_errors_are_relative_and_zero_for_a_block_that_does_nothing():
    class Adds(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.layer.weight.data *= scale
            self.layer.bias.data *= scale

        def forward(self, x):
            return x + F.relu(self.layer(x))

    torch.manual_seed(0)
    module, _ = trainable(nn.Sequential(Adds(0.0), Adds(1.0), Adds(0.1), nn.Linear(4, 2)), (image(8, 4),), {})
    errors = dict(errors_without(module, find_blocks(module), [((image(8, 4),), {})]))
    assert errors["0"] == 0.0
    assert 0 < errors["2"] < errors["1"]


def test_a_block_that_is_not_there_is_named():
    with pytest.raises(ModelError, match=r"no block stage9\.0"):
        drop(channels("cifar-resnet").module, ["stage1.1", "stage9.0"])
