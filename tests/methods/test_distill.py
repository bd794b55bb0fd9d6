"""The first model teaches a student: who teaches whom, by which loss, in which order."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from taught_networks import few, given, stopping, student
from torch import nn

from boildown.domain.candidate import Candidate
from boildown.errors import AttemptError
from boildown.methods import distill
from boildown.methods.distill import Distill
from boildown.surgery.edits import apply_edits
from boildown.surgery.weights import weights_hash
from boildown.tasks import Regression
from boildown.testing.method import MethodSuite
from boildown.training import LOSSES, MismatchError


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestDistill(MethodSuite):
    @pytest.fixture
    def method(self):
        return Distill(steps=4, loss="dkd")

    @pytest.fixture
    def model(self, digits_model):
        return digits_model

    @pytest.fixture
    def task(self):
        return few()

    @pytest.fixture
    def alone(self):
        return nn.Sequential(nn.Flatten(), nn.Softmax(1))

    @pytest.fixture
    def context(self, task):
        return given(task)


@pytest.fixture
def called(monkeypatch):
    """What `distil` was called with."""
    calls = []

    def distil(taught, teacher, task, samples, *arguments, **options):
        calls.append((taught, teacher, {"samples": samples, **options}))
        return original(taught, teacher, task, samples, *arguments, **options)

    original = distill.distil
    monkeypatch.setattr(distill, "distil", distil)
    return calls


def test_the_first_model_teaches_whatever_the_chain_has_made(digits_model, called):
    Distill(steps=1, loss="kd").apply(Candidate(digits_model), few(), given(few(), first=digits_model))
    assert called[0][1] is digits_model
    before = student(5)
    made = Distill(steps=1, loss="kd").apply(Candidate(before, method="prune"), few(), given(few(), first=digits_model))
    assert called[1][0] is before
    assert called[1][1] is digits_model
    assert made.edits == ()
    assert made.notes[0] == "what prune made, taught with kd, for 1 steps"


@pytest.mark.parametrize(("loss", "count"), [("kd", 300), ("tournament", 240)])
def test_a_student_that_goes_on_keeps_its_last_weights_and_learns_from_all(digits_model, called, loss, count):
    candidate = Candidate(student(5), method="prune")
    Distill(steps=1, loss=loss).apply(candidate, few(), given(few(), first=digits_model))
    assert called[0][2]["holdout"] is None
    assert len(called[0][2]["samples"]) == count


def test_a_round_by_tournament_tells_its_standings(digits_model, tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "LEAST", 2)
    told = []
    context = given(few(), folder=tmp_path, record=lambda kind, data: told.append((kind, data)))
    made = Distill(steps=18, batch=32).apply(Candidate(digits_model), few(), context)
    kinds = Counter(kind for kind, _data in told)
    assert kinds == {"standing": 7, "survivors": 1, "loss": 1, "curve": 8}
    of_classes = [name for name, loss in LOSSES.items() if loss.kind != "output" and not loss.late]
    survivors = [data for kind, data in told if kind == "survivors"]
    assert list(survivors[0]["scores"]) == of_classes
    assert all(0 <= score <= 1 for score in survivors[0]["scores"].values())
    assert f"taught with {' + '.join(survivors[-1]['losses'])}, the best of 8 losses, for 18 steps" in made.notes[0]


@pytest.mark.parametrize(("student", "share"), [({}, 0.5), ({"student": "narrower", "width": 0.25}, 0.25)])
def test_without_a_student_of_ones_own_a_twin_is_proposed(digits_model, student, share):
    method = Distill(steps=1, loss="kd", **student)
    made = method.apply(Candidate(digits_model), few(), given(few(), students={}))
    assert made.notes[0] == f"a narrower twin ({share:g}x), taught with kd, for 1 steps"
    rebuilt = apply_edits(digits_model, made.edits)
    rebuilt.load_state_dict(made.model.state_dict())
    counts = [sum(p.numel() for p in model.parameters()) for model in (rebuilt, digits_model)]
    assert counts[0] / counts[1] == pytest.approx(share**2, rel=0.3)


def test_a_model_of_which_there_is_no_smaller_twin_is_named(digits_model):
    with pytest.raises(AttemptError, match="repeats no block"):
        Distill(steps=1, student="shallower").apply(Candidate(digits_model), few(), given(few(), students={}))


def test_cycle_takes_the_next_loss_in_every_round(digits_model):
    found = []
    for number in (0, 2):
        context = given(few(), record=lambda kind, data: found.append((kind, data)))
        Distill(steps=1, loss="cycle", round=number).apply(Candidate(digits_model), few(), context)
    names = list(LOSSES)
    assert [(data["round"], data["loss"]) for kind, data in found if kind == "loss"] == [(0, names[0]), (2, names[2])]


def test_few_steps_rank_no_losses(digits_model):
    made = Distill(steps=8).apply(Candidate(digits_model), few(), given(few()))
    assert made.notes[0].endswith("taught with kd, for 8 steps")
    assert made.notes[1] == "8 steps are too few to rank 8 losses"


def test_numbers_are_compared_as_numbers(monkeypatch):
    monkeypatch.setattr(distill, "LEAST", 1)
    x = torch.randn(80, 5, generator=torch.Generator().manual_seed(0))
    task, told = Regression(train=(x, x @ torch.ones(5, 2)), validation=(x, x @ torch.ones(5, 2))), []
    students = {"0": nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2))}
    teacher = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).eval()
    context = given(task, students=students, record=lambda kind, data: told.append((kind, data)))
    Distill(steps=9, batch=16).apply(Candidate(teacher), task, context)
    assert next(data["loss"] for kind, data in told if kind == "loss") == "mse + cosine + relational"
    assert {data["loss"] for kind, data in told if kind == "left out"} >= {"kd", "hint"}


def test_a_student_whose_outputs_do_not_match_is_named(digits_model):
    context = given(few(), students={"0": nn.Sequential(nn.Flatten(), nn.Linear(64, 7))})
    with pytest.raises(MismatchError, match="kd: the student's output has shape \\(7,\\) per sample"):
        Distill(steps=2, loss="kd").apply(Candidate(digits_model), few(), context)


@pytest.mark.parametrize("stop", [3, 20])
def test_a_tournament_that_was_stopped_goes_on_to_the_same_weights(digits_model, tmp_path, stop, monkeypatch):
    monkeypatch.setattr(distill, "LEAST", 1)
    method, first, task = Distill(steps=9, batch=32), Candidate(digits_model), few()
    whole = method.apply(first, task, given(task))
    with pytest.raises(KeyboardInterrupt):
        method.apply(first, task, given(task, folder=tmp_path, check=stopping(stop)))
    assert weights_hash(method.apply(first, task, given(task, folder=tmp_path)).model) == weights_hash(whole.model)


def test_fixed_views_of_augmented_data_need_the_teacher_once(digits_model, tmp_path):
    def augment(inputs, target):
        return inputs + 0.1 * torch.randn_like(inputs), target

    task = few(augment=augment)
    method = Distill(steps=12, batch=48, loss="kd", views=2)
    made = method.apply(Candidate(digits_model), task, given(task, folder=tmp_path / "views"))
    assert list(tmp_path.glob("views/teacher.safetensors"))
    again = method.apply(Candidate(digits_model), task, given(task))
    assert weights_hash(made.model) == weights_hash(again.model)
    live = Distill(steps=12, batch=48, loss="kd")
    live.apply(Candidate(digits_model), task, given(task, folder=tmp_path / "live"))
    assert not list(tmp_path.glob("live/teacher.safetensors"))
