"""The loop: what it learns, what it never touches, and what it does when things go wrong."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from training_networks import (
    Jittered,
    classification,
    convolutional,
    images,
    linear_regression,
    same,
    small_dense,
    train_samples,
)

from boildown.tasks import Classification, Embedding, Regression, Task
from boildown.training import (
    LOSSES,
    DivergenceError,
    MismatchError,
    OutOfMemoryError,
    Training,
    make_loss,
    steps_for,
    train,
)
from boildown.training import course as course_module
from boildown.training.course import Course
from boildown.training.settings import Order

PLAIN = Training(batch=16, every=5)
SGD = Training(
    optimizer="sgd", lr=0.1, weight_decay=0.0, momentum=0.0, schedule="constant", clip=None, batch=16, every=5
)


def accuracy(model: nn.Module) -> float:
    x, y = images(200, seed=1)
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def test_it_learns() -> None:
    task, student = classification(), convolutional()
    trained = train(student, task, train_samples(task), steps=60, settings=Training(batch=16, lr=0.01))
    assert accuracy(trained.model) > 0.9 > 0.5 > accuracy(student.eval())
    assert trained.step == trained.steps == 60
    assert trained.history[-1][1] < 0.5 * trained.history[0][1] or len(trained.history) == 1


def test_plain_sgd_is_the_loop_one_would_write() -> None:
    task, student = linear_regression()
    samples = train_samples(task)
    trained = train(student, task, samples, steps=20, settings=SGD, seed=3)
    model = copy.deepcopy(student)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = next(samples.batches(len(samples)))
    for step in range(20):
        epoch, place = divmod(step, 60 // 16)
        rows = np.random.default_rng((3, epoch)).permutation(60)[place * 16 : place * 16 + 16]
        optimizer.zero_grad()
        functional.mse_loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    for ours, theirs in zip(trained.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_nothing_given_is_touched() -> None:
    task, student, teacher = classification(), convolutional(), convolutional(8, seed=1).eval()
    student[0].weight.requires_grad_(False)
    before = copy.deepcopy((student, teacher))
    losses = [make_loss("hint"), make_loss("kd")]
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    trained = train(student, task, train_samples(task), steps=8, settings=PLAIN, teacher=teacher, losses=losses)
    assert same(student, before[0])
    assert same(teacher, before[1])
    assert student.training
    assert not teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    assert all(p.grad is None for model in (student, teacher, trained.model) for p in model.parameters())
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for model in (student, trained.model) for m in model.modules()
    )
    assert list(losses[0].parameters()) == []
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert not trained.model.training
    # What was frozen stays frozen, and untrained.
    assert torch.equal(trained.model[0].weight, student[0].weight)
    assert not trained.model[0].weight.requires_grad
    assert not torch.equal(trained.model[4].weight, student[4].weight)
    assert [note.partition("%")[2] for note in trained.notes] == [
        " of the parameters were frozen in the model, and stayed as they were."
    ]


def test_a_student_frozen_as_a_whole_is_trained() -> None:
    task, student = linear_regression()
    trained = train(student.requires_grad_(False), task, train_samples(task), steps=5, settings=SGD)
    assert not same(trained.model, student)
    assert trained.notes == ("All parameters were frozen, as for inference: all of them were trained.",)


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    task, student = classification(), convolutional(dropout=0.3)
    one, two, other = (
        train(student, task, train_samples(task), steps=6, settings=PLAIN, seed=s).model for s in (1, 1, 2)
    )
    assert same(one, two)
    assert not same(one, other)


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_accumulation_gives_the_gradient_of_the_whole_batch(parts: int) -> None:
    task, student = linear_regression()
    gradients = []
    for count in (1, parts):
        order = Order(student, task, train_samples(task), 10, SGD, small_dense(7), (make_loss("mse"),))
        course = Course(order)
        course.prepare()
        course.parts = count
        course._in_parts(*(course.arrange(tree) for tree in course.batches.read(0)))
        gradients.append([p.grad.clone() for p in course.updated])
        # The weight of the distillation loss is measured on the first part alone: compare without it.
        course.optimizer.zero_grad()
        course.distillation = None
        course._in_parts(*(course.arrange(tree) for tree in course.batches.read(0)))
        gradients.append([p.grad.clone() for p in course.updated])
    for whole, split in zip(gradients[1], gradients[3], strict=True):
        torch.testing.assert_close(whole, split)
    assert all(torch.isfinite(g).all() for g in gradients[2])


class Cramped(nn.Module):
    """Has memory for so many samples."""

    def __init__(self, room: int, ask: Any) -> None:
        super().__init__()
        self.inner, self.room, self.ask = small_dense(), room, ask

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > self.room:
            self.ask()
        return self.inner(x)


def on_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("ask", [on_cuda, lambda: torch.empty(10**15), lambda: bytearray(1 << 62)])
def test_short_memory_halves_what_is_computed_at_once_and_changes_nothing_else(ask: Any) -> None:
    task, _ = linear_regression()
    told: list[Any] = []
    samples = train_samples(task)
    roomy = train(Cramped(99, ask), task, samples, steps=12, settings=SGD)
    cramped = train(
        Cramped(5, ask), task, samples, steps=12, settings=SGD, record=lambda kind, data: told.append((kind, data))
    )
    for ours, theirs in zip(cramped.model.parameters(), roomy.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert [loss for _step, loss in cramped.history] == pytest.approx([loss for _step, loss in roomy.history], rel=1e-5)
    assert told[:-1] == [("memory", {"step": 0, "parts": 2}), ("memory", {"step": 0, "parts": 4})]
    assert "4 parts" in cramped.notes[-1]
    with pytest.raises(OutOfMemoryError, match="One sample"):
        train(Cramped(0, ask), task, samples, steps=12, settings=SGD)


class Explosive(nn.Module):
    """Gives NaN, like a network whose weights left the range, once it was moved too far."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.inner, self.limit = small_dense(), limit
        self.start = copy.deepcopy(self.inner)

    def forward(self, x: Tensor) -> Tensor:
        moved = (self.inner[0].weight - self.start[0].weight.detach()).norm()
        return self.inner(x) / (moved < self.limit)


def test_divergence_goes_back_and_halves_the_learning_rate() -> None:
    task, _ = linear_regression()
    student, samples, told = Explosive(1.2), train_samples(task), []
    options = Training(optimizer="adamw", lr=0.02, schedule="constant", batch=16, every=4, weight_decay=0.0)
    trained = train(student, task, samples, steps=16, settings=options, record=lambda k, d: told.append((k, d)))
    assert [kind for kind, _data in told] == ["rollback"] * (len(told) - 1) + ["curve"]
    assert 1 <= len(told) - 1 <= 2
    assert told[0][1]["lr"] == 0.01
    assert told[0][1]["loss"] is None
    assert told[0][1]["to"] % 4 == 0
    assert all(torch.isfinite(p).all() for p in trained.model.parameters())
    assert trained.step == 16
    assert "back to step" in trained.notes[0]


def test_a_loss_that_explodes_without_nan_is_divergence_and_the_third_time_a_named_failure() -> None:
    task, student = linear_regression()
    told: list[str] = []
    wild = Training(optimizer="sgd", lr=1000.0, schedule="constant", clip=None, batch=16, every=2)
    with pytest.raises(DivergenceError, match="halved 2 times from 1000") as failure:
        train(student, task, train_samples(task), steps=20, settings=wild, record=lambda kind, _d: told.append(kind))
    assert failure.value.name == "diverged"
    assert told == ["rollback", "rollback"]


def test_the_course_of_the_loss_is_told_in_few_points() -> None:
    task, student = linear_regression()
    told: list[Any] = []
    options = Training(optimizer="sgd", lr=0.05, batch=16, every=1)
    trained = train(
        student,
        task,
        train_samples(task),
        steps=300,
        settings=options,
        record=lambda kind, data: told.append((kind, data)),
    )
    ((kind, curve),) = told
    assert (kind, curve["losses"], curve["of"], curve["lr"]) == ("curve", [], 300, 0.05)
    assert [step for step, _loss in curve["points"]] == list(range(3, 301, 3))
    assert curve["points"][0][1] == pytest.approx(sum(loss for _step, loss in trained.history[:3]) / 3)


def test_moving_average_of_the_weights() -> None:
    task, student = linear_regression()
    samples = train_samples(task)
    options = Training(optimizer="sgd", lr=0.05, schedule="constant", batch=16, every=1, momentum=0.0)
    weights = [train(student, task, samples, steps=9, until=n, settings=options).model[0].weight for n in range(1, 10)]
    averaged = (
        train(student, task, samples, steps=9, settings=Training(**{**vars(options), "ema": 0.5})).model[0].weight
    )
    expected = student[0].weight.detach().clone()
    for step, weight in enumerate(weights):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(averaged.detach(), expected)


def test_batch_norm_statistics_are_averaged_too() -> None:
    task = classification()
    trained = train(convolutional(), task, train_samples(task), steps=20, settings=Training(batch=16, ema=0.9))
    assert trained.model[1].running_mean.abs().sum() > 0
    assert trained.model[1].num_batches_tracked == 20


def test_the_best_held_out_weights_are_returned_and_no_progress_ends_it() -> None:
    x = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
    task = Regression(train=(x, noise), validation=(x, noise))
    apart = Regression(train=(x, noise), validation=(x, -noise))
    options = Training(batch=16, every=1, patience=3, lr=0.01, schedule="constant")
    trained = train(small_dense(), task, train_samples(task), steps=500, settings=options, holdout=apart.validation)
    assert trained.step < 60
    assert "Stopped" in trained.notes[-1]
    with torch.no_grad():
        assert float(functional.mse_loss(trained.model(x), -noise)) == pytest.approx(trained.held_out, rel=1e-5)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches the teacher runs on from here."""
    from boildown.training.teaching import Teacher

    seen: list[int] = []
    run = Teacher.run
    monkeypatch.setattr(Teacher, "run", lambda self, inputs: seen.append(len(inputs)) or run(self, inputs))
    return seen


def test_the_teachers_outputs_are_computed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    task, student, teacher = classification(60), convolutional(), convolutional(8, seed=1)
    options: dict[str, Any] = {"teacher": teacher, "losses": [make_loss("kd")], "settings": PLAIN}
    calls = counted(monkeypatch)
    kept = train(student, task, train_samples(task), steps=12, **options, folder=tmp_path / "a", shared=tmp_path)
    assert calls == [16, 16, 16, 12]
    train(student, task, train_samples(task), steps=13, **options, folder=tmp_path / "b", shared=tmp_path)
    assert len(calls) == 4
    monkeypatch.setattr(course_module.Course, "may_keep", lambda self: False)
    live = train(student, task, train_samples(task), steps=12, **options)
    assert len(calls) == 4 + 12
    for ours, theirs in zip(kept.model.parameters(), live.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("why", ["data", "hook", "layers", "short"])
def test_augmentation_layers_and_short_trainings_run_the_teacher_live(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Classification(train=Jittered(), validation=images(32)) if why == "data" else classification()
    augment = (lambda x, y: (x.flip(3), y)) if why == "hook" else None
    steps = 4 if why == "short" else 6
    loss = make_loss("hint" if why == "layers" else "kd")
    calls = counted(monkeypatch)
    train(
        convolutional(), task, train_samples(task), steps=steps, settings=PLAIN, teacher=convolutional(8, seed=1),
        losses=[loss], augment=augment,
    )  # fmt: skip
    assert len(calls) == steps


def test_student_and_teacher_see_the_same_augmented_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = classification(), []

    class Watching(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return self.inner(x)

    def noisy(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x + torch.randn_like(x), y

    student, teacher = Watching(convolutional()), Watching(convolutional(seed=1))
    train(
        student, task, train_samples(task), steps=2, settings=PLAIN, teacher=teacher, losses=[make_loss("kd")],
        augment=noisy,
    )  # fmt: skip
    first, same_batch, second, _ = seen[-4:]
    assert torch.equal(first, same_batch)
    assert not torch.equal(first, second)


def test_workers_read_what_this_process_would_have_read() -> None:
    student = convolutional(dropout=0.5)
    here = Classification(train=Jittered(32), validation=images(32))
    there = Classification(train=DataLoader(Jittered(32), num_workers=1), validation=images(32))
    one, two = (train(student, t, train_samples(t), steps=3, settings=PLAIN).model for t in (here, there))
    assert same(one, two)


def test_different_outputs_are_refused_with_their_shapes() -> None:
    task, teacher = classification(), convolutional()
    teacher[-1] = nn.Linear(8, 7)
    with pytest.raises(MismatchError, match=r"kd: the student's output has shape \(4,\) .* the teacher's \(7,\)"):
        train(convolutional(), task, train_samples(task), steps=2, teacher=teacher, losses=[make_loss("kd")])
    with pytest.raises(ValueError, match="need a teacher"):
        train(convolutional(), task, train_samples(task), steps=2, losses=[make_loss("kd")])


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("cosine", "relational")])
def test_every_loss_teaches_a_smaller_student(name: str) -> None:
    task, teacher = classification(), convolutional(8, seed=1)
    trained = train(
        convolutional(), task, train_samples(task), steps=8, settings=PLAIN, teacher=teacher, losses=[make_loss(name)]
    )
    plain = train(convolutional(), task, train_samples(task), steps=8, settings=PLAIN)
    assert not same(trained.model, plain.model)
    assert all(torch.isfinite(p).all() for p in trained.model.parameters())


def test_embeddings_are_distilled_by_their_relations() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [((torch.randn(5, generator=generator), torch.randn(5, generator=generator)), 0.5) for _ in range(32)]
    task = Embedding(train=pairs, validation=pairs)
    teacher = nn.Sequential(nn.Linear(5, 9))
    trained = train(
        small_dense(),
        task,
        train_samples(task),
        steps=6,
        settings=PLAIN,
        teacher=teacher,
        losses=[make_loss("relational")],
    )
    assert trained.step == 6


def test_unlabelled_samples_are_learned_from_by_distillation_alone() -> None:
    x, y = images(64)
    items = [{"input": image} for image in x]
    task = Classification(train=items, validation=(x, y))
    teacher = train(convolutional(), classification(), train_samples(classification()), steps=60).model
    with pytest.raises(MismatchError, match="no targets"):
        train(convolutional(seed=4), task, train_samples(task), steps=2, settings=PLAIN)
    student = convolutional(8, seed=4)
    options = Training(batch=16, lr=0.01)
    taught = train(
        student, task, train_samples(task), steps=80, settings=options, teacher=teacher, losses=[make_loss("kd")]
    )
    assert accuracy(taught.model) > accuracy(student.eval()) + 0.2


class Custom(Task):
    """A task with a training step of its own: the loss of twice the output."""

    calls = 0

    def training_step(self, model: Any, inputs: Any, target: Any) -> Tensor:
        self.calls += 1
        return functional.mse_loss(2 * model(inputs), target)


def test_the_tasks_own_training_step_is_taken() -> None:
    x, y = torch.randn(32, 5), torch.randn(32, 2)
    task = Custom("mse", ["rmse"], train=(x, y), validation=(x, y))
    trained = train(small_dense(), task, train_samples(task), steps=5, settings=SGD)
    assert task.calls >= 5

    class Doubled(Task):
        def run(self, model: Any, inputs: Any) -> Any:
            return 2 * model(inputs)

    doubled = Doubled("mse", ["rmse"], train=(x, y), validation=(x, y))
    assert same(trained.model, train(small_dense(), doubled, train_samples(doubled), steps=5, settings=SGD).model)
    taught = train(
        small_dense(),
        task,
        train_samples(task),
        steps=5,
        settings=SGD,
        teacher=small_dense(3),
        losses=[make_loss("mse")],
    )
    assert not same(taught.model, trained.model)


class OldFashioned(nn.Module):
    """Cannot do with images in another memory layout."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(192, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.filter(x).view(len(x), -1))


def test_the_layout_is_the_one_the_network_can_do_with() -> None:
    task = classification()
    for student, layout in ((convolutional(), torch.channels_last), (OldFashioned(), torch.contiguous_format)):
        course = Course(Order(student, task, train_samples(task), 5, PLAIN))
        assert course.layout == layout
    trained = train(OldFashioned(), task, train_samples(task), steps=3, settings=PLAIN)
    assert all(p.is_contiguous() for p in trained.model.parameters())


def test_minutes_become_steps() -> None:
    task, student = linear_regression()
    few, many = (steps_for(m, student, task, train_samples(task), settings=SGD) for m in (0.001, 1.0))
    assert 1 <= few < many
    one = steps_for(1e-9, student, task, train_samples(task), settings=SGD, teacher=student, losses=[make_loss("mse")])
    assert one == 1


def test_check_is_asked_at_every_step_and_progress_is_told() -> None:
    task, student = linear_regression()
    asked, told = [], []
    train(
        student, task, train_samples(task), steps=12, settings=SGD, check=lambda: asked.append(1),
        progress=lambda *what: told.append(what),
    )  # fmt: skip
    assert len(asked) >= 12
    assert told == [("training", 5, 12), ("training", 10, 12), ("training", 12, 12)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("teacher", [None, convolutional()])
def test_batches_of_ignored_labels_alone_do_not_roll_back(teacher: nn.Module | None) -> None:
    x, y = images(64)
    y[:56] = -100
    task = Classification(train=(x, y), validation=(x, y))
    losses = [] if teacher is None else [make_loss("kd"), make_loss("dkd")]
    settings = Training(batch=4, every=1)
    told: list[str] = []
    trained = train(
        convolutional(), task, train_samples(task), steps=16, settings=settings, teacher=teacher, losses=losses,
        record=lambda kind, _data: told.append(kind),
    )  # fmt: skip
    assert told == ["curve"]
    means = [mean for _step, mean in trained.history]
    assert 0.0 in means
    assert max(means) > 0.0
