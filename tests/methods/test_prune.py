"""Channels out of a trained network: how many, what is left, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from boildown.domain.candidate import Candidate, Plan
from boildown.errors import AttemptError, InputError
from boildown.methods.base import Context, Data, Standing
from boildown.methods.prune import Prune
from boildown.methods.registry import build
from boildown.surgery.edits import apply_edits
from boildown.surgery.graph import capture
from boildown.testing import digits
from boildown.testing.method import MethodSuite


class TestPrune(MethodSuite):
    @pytest.fixture
    def method(self):
        return Prune(ratio=0.6, samples=64)

    @pytest.fixture
    def model(self, digits_model):
        return digits_model

    @pytest.fixture
    def task(self):
        return digits.task()

    @pytest.fixture
    def alone(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture(scope="module")
def task():
    return digits.task()


def context(task, **told):
    return Context(Data(task.train, task.train), **told)


def accuracy(model):
    x, y = digits.validation_set().tensors
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def test_half_the_macs_without_training(digits_model, task):
    records = {}
    told = context(task, record=lambda kind, data: records.setdefault(kind, data))
    made = Prune(ratio=0.5, samples=128).apply(Candidate(digits_model), task, told)
    blind = Prune(ratio=0.5, samples=128, repair=False, importance="magnitude", widths="uniform")
    macs = [capture(model, *task.example()).macs() for model in (made.model, digits_model)]
    assert macs[0] / macs[1] == pytest.approx(0.5, abs=0.03)
    assert records["pruned"]["ratio"] == pytest.approx(macs[0] / macs[1], abs=1e-3)
    assert all(left % 4 == 0 for _name, _before, left in records["pruned"]["widths"])
    assert accuracy(made.model) >= accuracy(digits_model) - 0.03
    assert accuracy(made.model) > accuracy(blind.apply(Candidate(digits_model), task, told).model) + 0.05


def test_it_is_rebuilt_from_its_edits_and_weights(digits_model, task):
    made = Prune(ratio=0.5, samples=64, widths="uniform").apply(Candidate(digits_model), task, context(task))
    rebuilt = apply_edits(digits_model, made.edits)
    rebuilt.load_state_dict(made.model.state_dict())
    x = digits.validation_set().tensors[0][:50]
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(x), made.model(x))


def test_what_is_pruned_can_be_pruned_again(digits_model, task):
    method = Prune(ratio=0.7, samples=64, widths="uniform", multiple=1)
    once = method.apply(Candidate(digits_model), task, context(task))
    twice = method.apply(once, task, context(task))
    assert [edit.op for edit in twice.edits] == ["capture", "remove-channels", "remove-channels"]
    macs = [capture(model, *task.example()).macs() for model in (twice.model, digits_model)]
    assert macs[0] / macs[1] == pytest.approx(0.49, abs=0.02)


@pytest.mark.parametrize("importance", ["magnitude", "activation", "taylor", "norm-scale"])
def test_every_importance_and_params(digits_model, task, importance):
    method = Prune(ratio=0.6, of="params", importance=importance, widths="global", samples=64, multiple=1)
    made = method.apply(Candidate(digits_model), task, context(task))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (made.model, digits_model)]
    assert sizes[0] / sizes[1] == pytest.approx(0.6, abs=0.03)


def test_layers_that_are_to_stay(digits_model, task):
    names = [f"{name}.weight" for name, m in digits_model.named_modules() if isinstance(m, nn.Conv2d)]
    method = Prune(ratio=0.8, keep=(names[0], names[1]), samples=64, widths="uniform")
    made = method.apply(Candidate(digits_model), task, context(task))
    for name in names[:2]:
        assert len(made.model.get_parameter(name)) == len(digits_model.get_parameter(name))
    assert len(made.model.get_parameter(names[2])) < len(digits_model.get_parameter(names[2]))


def test_any_writer_of_a_group_can_be_named_to_stay(task):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(64, 16), nn.Linear(16, 16)
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            x = self.one(x.flatten(1)).relu()
            return self.head((x + self.two(x)).relu())

    torch.manual_seed(0)
    method = Prune(ratio=0.5, samples=64, multiple=1, keep=("two.weight",))
    with pytest.raises(AttemptError, match="No channel can go"):
        method.apply(Candidate(Block().eval()), task, context(task))


def test_layers_to_keep_that_are_not_there_are_told_with_the_near_ones(digits_model, task):
    method = Prune(ratio=0.5, samples=64, keep=("0.wieght", "0.weight", "7"))
    with pytest.raises(InputError) as caught:
        method.apply(Candidate(digits_model), task, context(task))
    told = [(mistake.cause, mistake.cure) for mistake in caught.value.mistakes]
    assert [cause.split("'")[1] for cause, _ in told] == ["0.wieght", "7"]
    assert "0.weight" in told[0][1]
    assert told[1][1] == "Near: 7.weight."


@pytest.mark.parametrize("ratio", [-0.5, 1.0, 1.5, float("nan")])
def test_ratios_outside_0_and_1_are_refused(ratio):
    with pytest.raises(InputError, match="ratio"):
        build("prune", {"ratio": ratio})


def test_nothing_can_go_is_said_with_a_cure(digits_model, task):
    with pytest.raises(AttemptError, match="smaller ratio"):
        Prune(ratio=0.99, multiple=64, samples=64, widths="uniform").apply(Candidate(digits_model), task, context(task))


def test_a_quantized_model_is_left_alone(digits_model, task):
    assert "quantized already" in (Prune().applies_to(Candidate(digits_model, plan=Plan()), task) or "")


def test_no_samples_is_said(digits_model, task):
    with pytest.raises(AttemptError, match="calibration"):
        Prune(ratio=0.5).apply(Candidate(digits_model), task, Context(Data(None, None)))


def answer(search, excess):
    """Drive a search whose variants' costs exceed the target as told."""
    tried = [next(search)]
    while True:
        try:
            tried.append(search.send(excess(tried[-1].ratio)))
        except StopIteration as end:
            return end.value, tried


def test_weights_that_have_changed_since_are_looked_at_anew(task):
    torch.manual_seed(0)
    model = digits.network(8).eval()
    method = Prune(ratio=0.6, samples=64, widths="uniform", importance="magnitude", repair=False, multiple=1)
    method.apply(Candidate(model), task, context(task))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    made = method.apply(Candidate(model), task, context(task)).model
    kept = made.state_dict()["15.weight"]
    assert set(kept.flatten().tolist()) <= set(model[15].weight.detach().flatten().tolist())


def test_a_ratio_that_nothing_can_meet_is_no_end_of_the_search(digits_model, task):
    """Where so little cannot go, the search goes on below."""
    search = Prune().search(Candidate(digits_model), task, context(task))
    kept, _ = answer(search, lambda r: Standing(r, r, 0.0, excess=float("inf") if r > 0.9 else -0.5))
    assert 0.85 < kept.ratio <= 0.9


def test_without_a_ratio_the_largest_that_meets_the_costs_is_searched(digits_model, task):
    search = Prune().search(Candidate(digits_model), task, context(task))
    kept, tried = answer(search, lambda ratio: Standing(ratio, ratio, 0.0, excess=ratio - 0.37))
    assert kept.ratio == pytest.approx(0.36, abs=0.03)
    assert kept.ratio <= 0.37
    assert len(tried) <= 6


def test_latency_is_searched_on_measurements(digits_model, task):
    search = Prune(ratio=0.6, of="latency").search(Candidate(digits_model), task, context(task))
    kept, _ = answer(search, lambda ratio: Standing(ratio, 0.3 + 0.7 * ratio, 0.0, excess=0.0))
    assert kept.of == "macs"
    assert 0.3 + 0.7 * kept.ratio == pytest.approx(0.6, abs=0.03)


def test_what_is_counted_is_not_searched(digits_model, task):
    method = Prune(ratio=0.6)
    with pytest.raises(StopIteration) as end:
        next(method.search(Candidate(digits_model), task, context(task)))
    assert end.value.value == replace(method)


@pytest.mark.parametrize(
    ("latencies", "bound", "kept"),
    [((0.62, 0.60), 0.5, 0.5), ((0.62, 0.60), 0.605, 0.5), ((0.6, 0.3), 0.2, 0.1)],
    ids=["missed by both", "met by noise", "still falls"],
)
def test_a_search_by_latency_stops_where_latency_falls_no_longer(latencies, bound, kept):
    told = []
    first, second = (Standing(0.1, latency, float("inf"), latency / bound - 1) for latency in latencies)
    searching = Prune().search(None, None, Context(Data(None, None), record=lambda *each: told.append(each)))
    assert (next(searching).ratio, searching.send(first).ratio) == (0.5, 0.1)
    with pytest.raises(StopIteration) as end:
        searching.send(second)
    assert end.value.value.ratio == kept
    assert [kind for kind, _ in told] == (["overhead"] if kept == 0.5 else [])
