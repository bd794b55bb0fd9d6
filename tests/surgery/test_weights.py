"""Weights come in from every usual wrapping, and candidates go to disk and back, never as a pickle."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from boildown.domain.candidate import Candidate, Edit, Plan, Quantizer
from boildown.errors import ModelError
from boildown.surgery.checkpoints import load
from boildown.surgery.store import load_candidate, save_candidate
from boildown.surgery.weights import plain, refuse_non_finite, restore, save, weights_hash


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3, bias=False)
        self.b = nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_prefixes_and_wrappers_are_taken_off(tmp_path, prefix, wrapper):
    trained, fresh = network(), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "checkpoint.pt")
    notices = load(fresh, tmp_path / "checkpoint.pt")
    assert weights_hash(fresh) == weights_hash(trained)
    assert bool(notices) == bool(prefix or wrapper)


def test_safetensors_are_loaded(tmp_path):
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert load(fresh, tmp_path / "w.safetensors") == ()
    assert weights_hash(fresh) == weights_hash(network())


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": {"x": "y"}}])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match="no state dict"):
        load(network(), tmp_path / "odd.pt")


def test_a_ready_model_is_used_as_it_is():
    model = network()
    assert plain(model) == (model, ())


def test_wrapped_half_and_training_models_are_judged_plain_in_a_copy():
    model = network().half().train()
    found, notices = plain(nn.DataParallel(model))
    assert isinstance(found, nn.Sequential)
    assert not any(module.training for module in found.modules())
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert len(notices) == 3
    assert model.training
    assert model[0].weight.dtype is torch.float16


def test_compiled_models_are_unwrapped():
    model = network()
    found, notices = plain(torch.compile(model))
    assert found is model
    assert notices == ("unwrapped OptimizedModule",)


def test_what_is_not_finite_is_named():
    model = network()
    model[1].running_var[2] = float("inf")
    with pytest.raises(ModelError, match=r"1\.running_var"):
        refuse_non_finite(model)


def test_tied_weights_are_written_once_and_come_back_tied(tmp_path):
    model = Tied()
    save(model, tmp_path / "w.safetensors")
    size = (tmp_path / "w.safetensors").stat().st_size
    assert size < 2 * model.a.weight.numel() * 4 + 200
    again = restore(Tied(), tmp_path / "w.safetensors")
    assert weights_hash(again) == weights_hash(model)
    assert again.a.weight is again.b.weight


def test_the_hash_sees_every_number_name_and_type():
    base = weights_hash(network())
    assert weights_hash(network()) == base
    changed = network()
    changed[1].running_mean[0] += 1e-6
    assert weights_hash(changed) != base
    assert weights_hash(network().half()) != base


def test_a_candidate_comes_back_from_its_folder(tmp_path):
    first = Candidate(network())
    save_candidate(first, tmp_path / "attempts/00-first", first, tmp_path / "attempts/00-first")
    plan = Plan({"x": Quantizer("x", 8, False, (0.1,), (3,))}, {"w": Quantizer("w", 8, True, (0.1, 0.2), (0, 0), 0)})
    for made in (
        Candidate(first.model, "static", {"ranges": "mse"}, "key", plan=plan, notes=("a note",)),
        Candidate(first.model, "dynamic", {}, "key", rewrite=Edit("dynamic", 1, {"per_channel": True})),
    ):
        folder = tmp_path / "attempts" / made.method / "variants-0" / "00"
        save_candidate(made, folder, first, tmp_path / "attempts/00-first")
        assert load_candidate(folder, first) == made
        assert not (folder / "weights.safetensors").exists(), "weights that are the first model's are not written again"
        weights = json.loads((folder / "candidate.json").read_text())["weights"]
        assert (folder / weights).is_file()


def test_what_is_frozen_comes_back_frozen_and_what_trains_trains(tmp_path):
    frozen, fresh = network().requires_grad_(False), network()
    fresh[0].bias.requires_grad_(False)
    save_candidate(Candidate(fresh, "drawn"), tmp_path / "01", Candidate(frozen), tmp_path / "00-first")
    again = load_candidate(tmp_path / "01", Candidate(frozen)).model
    assert [name for name, parameter in again.named_parameters() if not parameter.requires_grad] == ["0.bias"]
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_changed_weights_are_written_and_read_into_a_copy(tmp_path):
    first, other = Candidate(network()), network()
    with torch.no_grad():
        other[0].weight += 1
    save_candidate(Candidate(other, "trained"), tmp_path / "01", first, tmp_path / "00-first")
    again = load_candidate(tmp_path / "01", first)
    assert weights_hash(again.model) == weights_hash(other)
    assert again.model is not first.model
    assert weights_hash(first.model) == weights_hash(network())
