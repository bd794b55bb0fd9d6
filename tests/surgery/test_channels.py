"""Channels of networks of many kinds: what hangs together, what goes, what stays and why, and what is left as it was.

A network without channels computes what it computes with these channels' parameters set to zero; where zero in
gives zero out, already with the layers that write them set to zero, whatever reads them.
"""

from __future__ import annotations

import copy
import json
import random
from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from surgery_zoo import CASES, Net, channels, conv, found, image, model
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from boildown.errors import ModelError
from boildown.runtimes.onnx.runtime import OnnxRuntime
from boildown.surgery.channels import Channels, SurgeryError, find_channels, remove
from boildown.surgery.edits import apply_edits
from boildown.surgery.graph import capture
from boildown.surgery.labels import Slot
from boildown.surgery.numbers import FROZEN

PRUNABLE = [name for name, case in CASES.items() if case.groups]


def draws(numbered: Channels, seed: int, shares=(0.3, 0.6)):
    """Some of the channels of every group, never all; and some of one group alone."""
    chosen = random.Random(seed)
    for share in shares:
        yield [c for g in numbered.groups for c in chosen.sample(g.channels, min(round(share * g.width), g.width - 1))]
    group = chosen.choice([group for group in numbered.groups if group.width > 1])
    yield chosen.sample(group.channels, group.width - 1)


@torch.no_grad()
def outputs(module, case):
    return [leaf for leaf in tree_leaves(module.eval()(*case.args, **case.kwargs)) if leaf.is_floating_point()]


def check_close(ours, theirs):
    for one, two in zip(ours, theirs, strict=True):
        assert one.shape == two.shape
        torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5 * float(two.abs().max()))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# ---- what hangs together -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_groups_are_what_hangs_together_and_the_rest_is_named_with_its_reason(name):
    numbered, case = channels(name), CASES[name]
    assert [(group.name, group.width, group.each) for group in numbered.groups] == case.groups
    assert dict(numbered.left_alone) == case.alone


@pytest.mark.parametrize("name", CASES)
def test_the_captured_graph_computes_what_the_model_does(name):
    check_close(outputs(channels(name).module, CASES[name]), outputs(model(name), CASES[name]))


def test_a_head_is_the_same_columns_of_queries_keys_and_values():
    numbered = channels("vit")
    rows = numbered.trace.slots[Slot("qkv.weight", 0)].reshape(3, 3, 4)  # (query, key or value; head; channel of it)
    for head, number in enumerate(numbered.groups[0].channels):
        assert (rows[:, head] == number).all()
    assert (numbered.trace.slots[Slot("proj.weight", 1)].reshape(3, 4) == rows[0]).all()


def test_queries_go_with_the_keys_and_values_that_they_share():
    numbered = channels("grouped-query")
    first, second = numbered.groups[0].channels
    assert numbered.trace.slots[Slot("q.weight", 0)].tolist() == [first] * 8 + [second] * 8
    assert numbered.trace.slots[Slot("k.weight", 0)].tolist() == [first] * 4 + [second] * 4
    assert numbered.trace.slots[Slot("v.weight", 0)].tolist() == [first] * 4 + [second] * 4
    assert numbered.trace.slots[Slot("bias", 1)].tolist() == [first] * 2 + [second] * 2


def test_a_zero_padded_shortcut_ties_each_channel_to_the_one_in_the_middle():
    numbered = channels("cifar-resnet")
    stem = numbered.trace.slots[Slot("stem.weight", 0)].tolist()
    wide = numbered.trace.slots[Slot("stage2.0.conv2.weight", 0)].tolist()
    assert wide[2:6] == stem
    assert len(set(wide)) == 8


def test_a_flattened_picture_has_all_its_pixels_in_one_channel():
    numbered = channels("grouped")
    columns = numbered.trace.slots[Slot("fc1.weight", 1)].reshape(8, 16)
    assert (columns == columns[:, :1]).all()


# ---- removing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRUNABLE)
def test_without_channels_all_else_is_as_if_they_were_zero(name):
    numbered, case = channels(name), CASES[name]
    for gone in draws(numbered, seed=len(name)):
        check_close(outputs(numbered.without(gone), case), outputs(numbered.silenced(gone), case))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.relu])
@torch.no_grad()
def test_whatever_reads_them_zero_writers_are_the_same_as_none(name):
    case, neutral = CASES[name], copy.deepcopy(channels(name).module)
    for key, tensor in neutral.state_dict().items():
        tensor.zero_() if key.endswith(("bias", "running_mean")) else None
    numbered = Channels(neutral)
    for gone in draws(numbered, seed=1 + len(name)):
        zeroed = copy.deepcopy(neutral)
        for slot in {slot for group in numbered.groups for slot in group.writers}:
            rows = torch.from_numpy(np.isin(numbered.trace.slots[slot], gone)).nonzero().flatten()
            zeroed.get_parameter(slot.parameter).index_fill_(slot.axis, rows, 0.0)
        check_close(outputs(numbered.without(gone), case), outputs(zeroed, case))


@pytest.mark.parametrize("name", PRUNABLE)
def test_costs_foretell_what_is_left(name):
    numbered = channels(name)
    for gone in draws(numbered, seed=2, shares=(0.5,)):
        left = Channels(numbered.without(gone))
        assert numbered.macs(gone) == pytest.approx(left.macs(), rel=1e-9)
        assert numbered.parameters(gone) == pytest.approx(parameters(left.module), rel=1e-9)
        costs = numbered.costs("macs")
        saved = costs.saving(gone)
        assert costs.without(gone) == pytest.approx(numbered.macs() - saved)


def test_costs_are_those_of_the_graph_that_is_exported():
    def forward(net, x):
        y, _ = net.lstm(x)
        z = torch.einsum("bnc,bmc->bnm", y, F.scaled_dot_product_attention(y, y, y)) @ net.fc(y)
        return net.up(z.transpose(1, 2)).sum(2)

    net = Net(forward, lstm=nn.LSTM(6, 5, 2), fc=nn.Linear(5, 4), up=nn.ConvTranspose1d(4, 6, 3, groups=2))
    args = (image(2, 3, 6),)
    assert find_channels(net, args, {})[0].macs() == capture(net, args).macs()


@pytest.mark.parametrize("name", PRUNABLE)
def test_what_is_left_trains(name):
    numbered, case = channels(name), CASES[name]
    pruned = numbered.without(next(draws(numbered, seed=3))).train()
    norms = [m for m in pruned.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.running_mean.clone() for norm in norms]
    sum(leaf.square().sum() for leaf in tree_leaves(pruned(*case.args, **case.kwargs))).backward()
    untouched = {name for name, p in pruned.named_parameters() if p.grad is None}
    # Under a softmax the bias of a key has no effect.
    assert all(p.grad.isfinite().all() for name, p in pruned.named_parameters() if name not in untouched)
    assert untouched == {name for name, p in pruned.named_parameters() if not p.requires_grad}
    assert all((norm.running_mean != old).any() for norm, old in zip(norms, before, strict=True))


@pytest.mark.parametrize("name", ["cifar-resnet-zeros", "tied"])
def test_edits_and_weights_make_it_again(name):
    network, case = model(name), CASES[name]
    numbered, edits = found(name)
    pruned, edit = remove(numbered, next(draws(numbered, seed=4)), (case.args, case.kwargs))
    written = [type(e)(e.op, e.version, json.loads(json.dumps(dict(e.args)))) for e in (*edits, edit)]
    again = apply_edits(network, written)
    assert not all(torch.equal(a, b) for a, b in zip(outputs(again, case), outputs(network, case), strict=True))
    for parameter in again.parameters():
        parameter.data.normal_()
    again.load_state_dict(pruned.state_dict())
    assert all(map(torch.equal, outputs(again, case), outputs(pruned, case)))


def test_what_is_left_is_exported_and_runs(tmp_path):
    numbered, case = channels("shufflenet"), CASES["shufflenet"]
    gone = next(draws(numbered, seed=5))
    pruned = numbered.without(gone)
    graph = capture(pruned, case.args, case.kwargs)
    assert graph.macs() == numbered.macs(gone)
    OnnxRuntime().export(graph.serialize(), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    inputs = {session.get_inputs()[0].name: case.args[0].numpy()}
    check_close([torch.from_numpy(value) for value in session.run(None, inputs)], outputs(pruned, case))


def test_channels_go_again_from_what_is_left():
    numbered, case = channels("mobilenet-v2"), CASES["mobilenet-v2"]
    first = numbered.without(next(draws(numbered, seed=6)))
    again = Channels(first)
    gone = next(draws(again, seed=7))
    pruned, _ = remove(again, gone, (case.args, case.kwargs))
    assert parameters(pruned) == again.parameters(gone) < parameters(first)


def test_the_model_is_left_as_it_was():
    numbered, case = channels("densenet"), CASES["densenet"]
    before = outputs(numbered.module, case), {k: v.clone() for k, v in numbered.module.state_dict().items()}
    numbered.without(next(draws(numbered, seed=8)))
    numbered.silenced(next(draws(numbered, seed=8)))
    assert all(map(torch.equal, outputs(numbered.module, case), before[0]))
    assert all(torch.equal(value, before[1][key]) for key, value in numbered.module.state_dict().items())


def test_repaired_weights_are_cut_in_place_of_the_models():
    numbered, case = channels("squeeze-excite"), CASES["squeeze-excite"]
    gone = next(draws(numbered, seed=9))
    other = numbered.silenced(())
    with torch.no_grad():
        other.fc.weight.mul_(2.0)
    pruned, _ = remove(numbered, gone, (case.args, case.kwargs), weights=other)
    plain = numbered.without(gone)
    torch.testing.assert_close(pruned.fc.weight, 2 * plain.fc.weight)


# ---- refusals ----------------------------------------------------------------------------------


def test_a_layer_keeps_at_least_one_channel():
    numbered = channels("cifar-resnet")
    with pytest.raises(SurgeryError, match=r"stage1\.0\.conv1\.weight"):
        numbered.without(numbered.groups[1].channels)
    with pytest.raises(SurgeryError, match="cannot be removed"):
        numbered.without([FROZEN])


def test_a_value_between_layers_keeps_at_least_one_channel():
    """One half of the stem goes to the shuffle alone: nothing would be left of it, though the stem has the rest."""
    numbered = channels("shufflenet")
    with pytest.raises(SurgeryError, match="Nothing would be left"):
        numbered.without(numbered.groups[0].channels + numbered.groups[1].channels)


def test_channels_of_another_model_are_told_apart():
    numbered = channels("cifar-resnet")
    data = [["stem.weight", 0, [1]], ["stem.weight", 0, [7]], ["missing.weight", 0, [0]]]
    with pytest.raises(ModelError) as caught:
        numbered.read(data)
    assert [m.cause for m in caught.value.mistakes] == [
        "The model has no channels 7 along axis 0 of 'stem.weight'.",
        "The model has no channels 0 along axis 0 of 'missing.weight'.",
    ]


def test_a_wrong_number_is_found_before_anything_is_lost():
    """If channels were followed wrongly, the outputs would tell."""
    case = CASES["densenet"]
    numbered = Channels(channels("densenet").module)
    slot = Slot("down.weight", 1)
    numbered.trace.slots[slot] = numbered.trace.slots[slot][::-1].copy()
    with pytest.raises(SurgeryError, match="something else"):
        remove(numbered, numbered.groups[0].channels[:2], (case.args, case.kwargs))
    numbered.trace.slots.pop(slot)
    with pytest.raises(SurgeryError, match="the model fails"):
        remove(numbered, numbered.groups[0].channels[:2], (case.args, case.kwargs))


# ---- operators one by one ------------------------------------------------------------------------


OPERATORS = [
    (lambda x: x.narrow(1, 2, 4), [2, 4]),
    (lambda x: torch.cat(x.split([2, 4], 1)[::-1], 1), [2, 4]),
    (lambda x: torch.stack(x.chunk(3, 1), 2).flatten(1, 2), [2]),
    (lambda x: x.flip(1), [6]),
    (lambda x: x[:, ::2], "slice picks some of them by position"),
    (lambda x: x[:, [0, 2, 4]], "index picks some of them by position"),
    (lambda x: x.index_select(1, torch.tensor([1, 2])), "index_select picks some of them by position"),
    (lambda x: torch.where(x > 0, x, x.square()), [6]),
    (lambda x: torch.maximum(x, -x).clamp(max=1.0).pow(2) / 3, [6]),
    (lambda x: x.softmax(1), "softmax is taken over them"),
    (lambda x: x.softmax(-1) + x.std((2, 3), keepdim=True), [6]),
    (lambda x: x.unflatten(1, (2, 3)).amax(2).repeat(1, 2, 1, 1), "amax is taken over them"),
    (lambda x: x.unflatten(1, (2, 3)).permute(0, 2, 1, 3, 4).flatten(1, 2), [3]),
    (lambda x: F.pad(x, (1, 1, 0, 0), mode="reflect"), [6]),
    (lambda x: F.pad(x, (0, 0, 0, 0, 2, 0)), [6]),
    (lambda x: F.pixel_unshuffle(x, 2), [6]),
    (lambda x: F.interpolate(x, scale_factor=2), [6]),
    (lambda x: F.avg_pool2d(x.transpose(1, 3), 1).transpose(1, 3), "they can only go all together"),
    (lambda x: x + torch.full((1, 6, 1, 1), 2.0), [6]),
    (lambda x: x * torch.arange(6.0).view(1, 6, 1, 1), "the operator arange is not followed"),
    (lambda x: x.reshape(2, 3, 2, 36).transpose(2, 3).reshape(2, 3, 72).flatten(1)[:, :, None, None], [3]),
    (lambda x: torch.zeros(2, 6, 6, 6).add_(x).relu_(), [6]),
    (lambda x: x.cumsum(3) - x.logsumexp((2, 3), keepdim=True), [6]),
    (lambda x: F.normalize(x, dim=1), "linalg_vector_norm is taken over them"),
    (lambda x: F.instance_norm(x), [6]),
    (lambda x: F.group_norm(x, 3), [3]),
    (lambda x: F.group_norm(x, 1), "they are normalised together"),
    (
        lambda x: (x.unflatten(1, (2, 3)) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)).flatten(1, 2),
        "they meet all channels of another layer",
    ),
    (lambda x: F.pixel_shuffle(x.repeat_interleave(2, 1), 2).mean((2, 3), keepdim=True), [3]),
    (lambda x: F.pad(x, (0, 0, 0, 0, -1, 0)), "a pad copies or cuts some of them"),
    (lambda x: x + torch.ones(1).expand(1, 6, 1, 1), [6]),
    (lambda x: F.glu(x, 1), [3]),
]
"""(what is between two layers, the widths of the first one's groups or why there are none)."""


@cache
def between_layers():
    """All of them side by side in one network."""
    torch.manual_seed(0)
    image_in = image(2, 3, 6, 6)
    widths = [operator(torch.zeros(2, 6, 6, 6)).shape[1] for operator, _ in OPERATORS]

    def forward(net, x):
        branches = zip(net.before, OPERATORS, net.after, strict=True)
        return [after(operator(before(x))) for before, (operator, _), after in branches]

    before = nn.ModuleList(conv(3, 6) for _ in widths)
    after = nn.ModuleList(conv(width, 3, 1) for width in widths)
    net = Net(forward, before=before, after=after)
    return find_channels(net.eval(), (image_in,), {})[0], (image_in,)


@pytest.mark.parametrize("place", range(len(OPERATORS)))
def test_operators_between_two_layers(place):
    numbered, args = between_layers()
    groups = [group for group in numbered.groups if group.name == f"before.{place}.weight"]
    reason = numbered.left_alone.get(f"before.{place}.weight")
    assert ([group.width for group in groups] or reason) == OPERATORS[place][1]
    if groups:
        remove(numbered, [number for group in groups for number in group.channels[1::2]], (args, {}))


def test_transposed_weights_are_weights():
    def forward(m, x):
        return torch.relu(x @ m.weight.T) @ m.other

    net = Net(forward, weight=nn.Parameter(image(7, 5)), other=nn.Parameter(image(7, 4)))
    numbered, _ = find_channels(net, (image(2, 5),), {})
    assert [(group.name, group.width) for group in numbered.groups] == [("weight", 7)]
    pruned, _ = remove(numbered, numbered.groups[0].channels[::2], ((image(2, 5),), {}))
    assert pruned.weight.shape == (3, 5)
    assert pruned.other.shape == (4, 3)


def as_layer_first(net, x):
    return net.last(torch.relu(net.first(x) + net.first.weight.sum(1)))


def as_value_first(net, x):
    offset = net.first.weight.sum(1)
    return net.last(torch.relu(net.first(x) + offset))


@pytest.mark.parametrize("forward", [as_layer_first, as_value_first])
def test_a_parameter_used_in_two_ways_stays(forward):
    torch.manual_seed(0)
    numbered, _ = find_channels(Net(forward, first=nn.Linear(5, 7), last=nn.Linear(7, 2)), (image(2, 5),), {})
    assert numbered.groups == ()
    assert numbered.left_alone.keys() == {"first.weight", "last.weight"}


def test_positions_that_are_not_read_do_not_count():
    """There are more positions than channels, and most of them are cut off before the channels meet them."""

    def forward(net, ids):
        return net.head(torch.relu(net.words(ids) + net.places[:, : ids.shape[1]]))

    parts = {"words": nn.Embedding(20, 6), "places": nn.Parameter(image(1, 30, 6)), "head": nn.Linear(6, 2)}
    numbered, _ = find_channels(Net(forward, **parts), (CASES["tied"].args[0],), {})
    assert [(group.name, group.width) for group in numbered.groups] == [("words.weight", 6)]
    pruned, _ = remove(numbered, numbered.groups[0].channels[::2], ((CASES["tied"].args[0],), {}))
    assert pruned.places.shape == (1, 30, 3)
