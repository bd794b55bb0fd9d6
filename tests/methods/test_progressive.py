"""Rounds of pruning and distillation: the ratios, the students on the way, who begins, who teaches."""

from __future__ import annotations

import pytest
import torch
from taught_networks import few, given, stopping, student
from torch import nn

from boildown.domain.candidate import Candidate
from boildown.methods.progressive import Progressive
from boildown.surgery.edits import apply_edits
from boildown.surgery.graph import capture
from boildown.surgery.weights import weights_hash
from boildown.testing import digits
from boildown.testing.method import MethodSuite
from boildown.training import MismatchError

QUICK = {"steps": 3, "samples": 64, "batch": 32, "loss": "kd", "multiple": 1, "finish": 1.0}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestProgressive(MethodSuite):
    sketch_within = 0.1  # every round ranks the channels that are left anew, and this network has few

    @pytest.fixture
    def method(self):
        return Progressive(rounds=2, **QUICK)

    @pytest.fixture
    def model(self):
        return student()

    @pytest.fixture
    def task(self):
        return few()

    @pytest.fixture
    def alone(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def rounds_of(method, model, **told):
    task, records, students = few(), [], {}
    context = given(
        task, first=model, record=lambda kind, data: records.append((kind, dict(data))),
        keep=students.__setitem__, **{"students": {}, **told},
    )  # fmt: skip
    made = method.apply(Candidate(model), task, context)
    return made, [data for kind, data in records if kind == "round"], students


def cost(model, of):
    graph = capture(model, *few().example())
    return graph.macs() if of == "macs" else sum(p.numel() for p in model.parameters())


def test_three_unequal_ratios_between_one_student_and_the_next(digits_model):
    ratios, of = (0.8, 0.6, 0.7), "params"
    made, rounds, students = rounds_of(Progressive(ratios=ratios, of=of, **QUICK), digits_model)
    models = [digits_model, *(students[name].model for name in sorted(students)), made.model]
    assert len(models) == 4
    for place, ratio in enumerate(ratios):
        achieved = cost(models[place + 1], of) / cost(models[place], of)
        assert achieved == pytest.approx(ratio, abs=0.02)
        assert rounds[place]["asked"] == ratio
        assert rounds[place]["achieved"] == pytest.approx(achieved, abs=1e-3)


def test_one_ratio_is_shared_evenly_by_the_rounds(digits_model):
    made, rounds, _ = rounds_of(Progressive(ratio=0.4, rounds=2, **{**QUICK, "multiple": 8}), digits_model)
    assert [r["asked"] for r in rounds] == pytest.approx([0.4**0.5] * 2)
    assert cost(made.model, "macs") / cost(digits_model, "macs") == pytest.approx(0.4, abs=0.06)
    assert rounds[0]["achieved"] == pytest.approx(0.4**0.5, abs=0.02)
    widths = [len(m) for name, m in made.model.named_parameters() if m.ndim == 4]
    assert all(width % 8 == 0 for width in widths), "the last round rounds to what the runtime likes"


def test_the_first_student_may_be_the_users(digits_model):
    initial = digits.network(16)
    made, _, _ = rounds_of(Progressive(rounds=1, ratio=0.7, **QUICK), digits_model, students={"initial": initial})
    assert made.edits[0].op == "student"
    assert cost(made.model, "macs") / cost(initial.eval(), "macs") == pytest.approx(0.7, abs=0.03)
    rebuilt = apply_edits(digits_model, made.edits, {"initial": initial})
    rebuilt.load_state_dict(made.model.state_dict())
    x = digits.validation_set().tensors[0][:50]
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(x), made.model(x))


def test_each_round_takes_its_loss_from_the_chooser(digits_model):
    made, _, _ = rounds_of(Progressive(rounds=2, **{**QUICK, "loss": "cycle"}), digits_model)
    assert ["kd" in made.notes[0], "dkd" in made.notes[1]] == [True, True]


def test_a_killed_run_goes_on_to_the_same_weights(digits_model, tmp_path):
    method, task = Progressive(rounds=2, **{**QUICK, "steps": 8}), few()
    whole = method.apply(Candidate(digits_model), task, given(task, first=digits_model, students={}))
    for at in (400, 10_000):
        try:
            context = given(task, first=digits_model, students={}, folder=tmp_path, check=stopping(at))
            made = method.apply(Candidate(digits_model), task, context)
        except KeyboardInterrupt:
            continue
    assert weights_hash(made.model) == weights_hash(whole.model)


@pytest.mark.parametrize("wrong", [0.0, 1.0, 1.2, -0.5])
def test_ratios_that_are_none_are_refused_in_words(digits_model, wrong):
    reason = Progressive(ratios=(0.5, wrong)).applies_to(Candidate(digits_model), few())
    assert reason is not None
    assert "between 0 and 1" in reason


def test_a_student_for_another_task_is_refused(digits_model):
    other = nn.Sequential(digits.network(16), nn.ReLU(), nn.Linear(10, 3))
    with pytest.raises(MismatchError):
        rounds_of(Progressive(rounds=1, **QUICK), digits_model, students={"initial": other})
