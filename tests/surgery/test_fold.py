import json

import pytest
import surgery_networks as networks
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from boildown.domain.candidate import Candidate, Edit
from boildown.surgery.calibrate import calibrate
from boildown.surgery.edits import apply_edits
from boildown.surgery.fold import fold
from boildown.surgery.graph import capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate
from boildown.surgery.store import load_candidate, save_candidate

KINDS = (networks.Residual, networks.SqueezeExcite, networks.Encoder, networks.TwoInputs, networks.Reused)


@pytest.mark.parametrize("kind", KINDS)
def test_folded_twice_is_folded_once(kind):
    """Values, parameters and code keep their names, so that a plan made on the module fits."""
    case = networks.captured(kind)
    args, kwargs = networks.random_call(kind, 2)
    module, _ = fold(case.model, args, kwargs)
    again = capture(module, args, kwargs)
    assert [n.name for n in again.module.graph.nodes] == [n.name for n in case.graph.module.graph.nodes]
    assert again.program.state_dict.keys() == case.graph.program.state_dict.keys()
    assert again.code_hash() == case.graph.code_hash()


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_from_json_rebuilds_the_module(kind):
    case = networks.captured(kind)
    args, kwargs = networks.random_call(kind, 2)
    module, edit = fold(case.model, args, kwargs)
    rebuilt = apply_edits(case.model, [Edit.from_json(json.loads(json.dumps(edit.to_json())))])
    args, kwargs = case.call(5)
    with torch.no_grad():
        outputs = [tree_leaves(m(*args, **kwargs)) for m in (module, rebuilt, case.graph.module)]
    for ours, again, theirs in zip(*outputs, strict=True):
        assert torch.equal(ours, again)
        assert torch.equal(ours, theirs)


def test_the_model_is_neither_touched_nor_shared():
    case = networks.captured(networks.Residual)
    args, kwargs = networks.random_call(networks.Residual, 2)
    before = case.model(*args), case.graph.module(*args)
    module, _ = fold(case.model, args, kwargs)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(case.model(*args), before[0])
    assert torch.equal(case.graph.module(*args), before[1])


def test_a_saved_candidate_comes_back_with_its_plan(tmp_path):
    case = networks.captured(networks.Residual)
    args, kwargs = networks.random_call(networks.Residual, 2)
    module, edit = fold(case.model, args, kwargs)
    with torch.no_grad():
        module.get_parameter("a.weight").mul_(0.5)
    graph = capture(module, args, kwargs)
    plan = calibrate(graph, place(graph), [case.call(8)])
    first = Candidate(case.model)
    save_candidate(first.derive(model=module, edits=(edit,), plan=plan), tmp_path / "1", first, tmp_path / "0")
    loaded = load_candidate(tmp_path / "1", first)
    (x,), _ = case.call(4, seed=7)
    with torch.no_grad():
        expected = simulate(graph, plan)(x)
        assert torch.equal(simulate(capture(loaded.model, args, kwargs), loaded.plan)(x), expected)


def test_arguments_that_are_no_data_are_refused():
    class Marked(nn.Module):
        def forward(self, x, mark):
            return x * 2

    with pytest.raises(TypeError, match="object"):
        fold(Marked(), (torch.zeros(2, 3), object()), {})
