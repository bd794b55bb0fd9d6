"""A small model from the training data: the student, the budget, the held-out part, going on."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from taught_networks import few, given, stopping, student
from torch import nn

from boildown.domain.candidate import Candidate, Plan
from boildown.errors import AttemptError
from boildown.methods import retrain, taught
from boildown.methods.retrain import Retrain
from boildown.surgery.edits import apply_edits
from boildown.surgery.weights import weights_hash
from boildown.tasks.data import samples_from
from boildown.testing.method import MethodSuite
from boildown.training import DivergenceError, ReadError, train


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestRetrain(MethodSuite):
    @pytest.fixture
    def method(self):
        return Retrain(steps=4)

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


def test_the_student_learns_and_is_rebuilt_from_its_edit(digits_model):
    task, context = few(), given(few())
    made = Retrain(steps=80).apply(Candidate(digits_model), task, context)
    rebuilt = apply_edits(digits_model, made.edits, context.students)
    rebuilt.load_state_dict(made.model.state_dict())
    x, y = next(task.validation.batches(400))
    with torch.no_grad():
        assert float((rebuilt.eval()(x).argmax(1) == y).float().mean()) > 0.6
    assert made.notes[0] == "student 0, trained for 80 steps"
    assert weights_hash(context.students["0"]) == weights_hash(student())


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_student_that_goes_on_learns_from_all_and_keeps_its_last_weights(digits_model, monkeypatch, goes_on):
    seen = {}

    def watched(student, task, samples, **settings):
        seen.update(count=len(samples), judged=settings["holdout"] is not None)
        return train(student, task, samples, **settings)

    monkeypatch.setattr(retrain, "train", watched)
    first = digits_model if goes_on else None
    Retrain(steps=1).apply(Candidate(student(5), method="prune"), few(), given(few(), first=first))
    assert seen == ({"count": 300, "judged": False} if goes_on else {"count": 240, "judged": True})


def test_a_students_edit_needs_the_student(digits_model):
    made = Retrain(steps=1).apply(Candidate(digits_model), few(), given(few()))
    with pytest.raises(Exception, match="the student '0', which is not given"):
        apply_edits(digits_model, made.edits)


def test_in_a_chain_what_was_made_is_trained_further(digits_model):
    before = student(5)
    made = Retrain(steps=2).apply(Candidate(before, method="prune"), few(), given(few(), first=digits_model))
    assert made.edits == ()
    assert made.notes[0].startswith("what prune made, trained for 2")
    assert weights_hash(made.model) != weights_hash(before)


def test_a_student_that_is_not_there_is_named(digits_model):
    with pytest.raises(AttemptError, match=r"no student '3'.*choose one of: 0, narrower, shallower"):
        Retrain(steps=1, student=3).apply(Candidate(digits_model), few(), given(few()))


def test_a_quantized_model_is_left_alone(digits_model):
    assert "quantized already" in Retrain().applies_to(replace(Candidate(digits_model), plan=Plan()), few())


def test_without_training_data_it_says_so(digits_model):
    context = given(few())
    with pytest.raises(AttemptError, match="needs training data"):
        Retrain().apply(Candidate(digits_model), few(), replace(context, data=replace(context.data, train=None)))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"steps": 7}, 7),
        ({"minutes": 0, "epochs": 3}, 3 * (300 // 50)),
        ({"minutes": 0, "epochs": 0.5}, 3),
        ({"minutes": 1, "epochs": 0}, 1000),
        ({"minutes": 1, "epochs": 2}, 12),
        ({"minutes": 1, "epochs": 500}, 1000),
    ],
)
def test_the_smaller_of_minutes_and_epochs_counts_and_steps_before_both(settings, expected):
    samples = samples_from((torch.zeros(300, 1), torch.zeros(300)))
    method = Retrain(**{"batch": 50, **settings})
    assert method.step_count(samples, given(few()), lambda minutes: round(1000 * minutes)) == expected
    assert method.step_count(samples, given(few(), steps=5), lambda minutes: 1000) == 5


def test_nothing_that_limits_a_training_is_refused():
    samples = samples_from((torch.zeros(30, 1), torch.zeros(30)))
    with pytest.raises(AttemptError, match="Give minutes, epochs or steps"):
        Retrain(minutes=0, epochs=0).step_count(samples, given(few()), lambda _minutes: 1)


def test_minutes_become_steps_once(tmp_path):
    samples, told = samples_from((torch.zeros(300, 1), torch.zeros(300))), []
    context = given(few(), folder=tmp_path / "new", record=lambda kind, data: told.append((kind, data)))
    method = Retrain(minutes=2.0, epochs=0)
    assert method.step_count(samples, context, lambda minutes: round(500 * minutes), effort=2.0) == 500
    assert method.step_count(samples, context, lambda _minutes: 77) == 500
    assert told == [("steps", {"steps": 500, "minutes": 2.0, "fit": 500, "epochs": 0})]


def test_stopped_and_gone_on_gives_the_same_weights(digits_model, tmp_path):
    task, first = few(), Candidate(digits_model)
    method = Retrain(minutes=5.0, epochs=2.0, batch=50)
    whole = method.apply(first, task, given(task))
    for stop in (30, 4):
        with pytest.raises(KeyboardInterrupt):
            method.apply(first, task, given(task, folder=tmp_path, check=stopping(stop)))
    steps = json.loads((tmp_path / taught.STEPS).read_text())["steps"]
    assert steps == 2 * (240 // 50)
    assert weights_hash(method.apply(first, task, given(task, folder=tmp_path)).model) == weights_hash(whole.model)


def test_a_part_of_the_training_data_is_held_out():
    for count, held in ((10_000, 1_000), (50_000, 2_000), (1_000, 200), (100, 20), (3, 3)):
        samples = samples_from((torch.arange(float(count))[:, None], torch.zeros(count)))
        ours, theirs = taught.held_out(samples, SimpleNamespace(validation=samples), 0)
        assert len(theirs) == held
        assert len(ours) == (count - held if count > 3 else count)
        if count == 1_000:
            seen = [set(next(part.batches(count))[0].flatten().tolist()) for part in (ours, theirs)]
            assert not seen[0] & seen[1]


def test_the_tasks_training_step_and_augmentation_are_used(digits_model):
    seen = []

    def training_step(model, inputs, target):
        return nn.functional.cross_entropy(model(inputs), target)

    def augment(inputs, target):
        seen.append(len(inputs))
        return inputs + 0.1 * torch.randn_like(inputs), target

    candidate, method = Candidate(digits_model), Retrain(steps=3, batch=32)
    plain = method.apply(candidate, few(), given(few()))
    assert weights_hash(method.apply(candidate, few(training_step=training_step), given(few())).model) == weights_hash(
        plain.model
    )
    assert weights_hash(method.apply(candidate, few(augment=augment), given(few())).model) != weights_hash(plain.model)
    assert seen == [32] * 3


class Broken(torch.utils.data.Dataset):
    """Digits, one of which cannot be read."""

    def __init__(self, bad):
        self.samples, self.bad = few().train, bad

    def __len__(self):
        return 300

    def __getitem__(self, index):
        if index == self.bad:
            raise OSError("the file is gone")
        inputs, target = next(self.samples.subset([index]).batches(1))
        return inputs[0], target[0]


def test_data_that_raises_on_the_way_is_a_named_failure(digits_model):
    task = few()
    broken = replace(given(task), data=replace(given(task).data, train=samples_from(Broken(270))))
    with pytest.raises(ReadError, match=r"could not be read at step \d+: OSError: the file is gone"):
        Retrain(minutes=0, epochs=1, batch=16).apply(Candidate(digits_model), task, broken)


def test_a_loss_that_explodes_is_rolled_back_twice_and_then_named(digits_model):
    task = few(loss=lambda output, target: (output * float("inf")).mean())
    told = []
    with pytest.raises(DivergenceError, match="halved 2 times"):
        Retrain(steps=60).apply(
            Candidate(digits_model), task, given(task, record=lambda kind, _data: told.append(kind))
        )
    assert told == ["rollback", "rollback"]
