"""What a distillation loss counts beside the task loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_networks import classification, convolutional, train_samples

from boildown.training import Training, make_loss
from boildown.training.balance import Balance
from boildown.training.course import Course
from boildown.training.settings import Order

CPU = torch.device("cpu")


def norm(loss: torch.Tensor, at: list[torch.Tensor]) -> float:
    gradients = torch.autograd.grad(loss, at, retain_graph=True)
    return float(torch.cat([g.reshape(-1) for g in gradients]).norm())


@pytest.mark.parametrize("coefficient", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", ["kd", "dkd", "mse", "hint", "attention_transfer", "rkd", "similarity_preserving"])
def test_the_ratio_of_the_gradients_is_the_coefficient(name: str, coefficient: float) -> None:
    task = classification()
    losses = (make_loss(name, coefficient),)
    order = Order(convolutional(), task, train_samples(task), 9, Training(batch=16), convolutional(8, seed=1), losses)
    course = Course(order)
    course.prepare()
    distillation = course.distillation
    assert distillation is not None
    course.model.train()
    inputs, target = (course.arrange(tree) for tree in course.batches.read(0))
    task_loss, output, at = course._task_loss(inputs, target)
    assert task_loss is not None
    if losses[0].kind == "feature":
        seen = distillation.taps.take()
        at = [tensor for pair in distillation.losses[0].pairs for tensor in seen[pair.student]]
        at = list({id(tensor): tensor for tensor in at}.values())
    total = distillation.add(task_loss, output, at, inputs, target, measured=0)
    assert norm(total - task_loss, at) == pytest.approx(coefficient * norm(task_loss, at), rel=1e-4)


def two(scale: float) -> tuple[Any, Any, Any]:
    x = torch.ones(4, requires_grad=True)
    return (2 * x).sum(), (scale * x).sum(), [x]


def test_norms_are_smoothed() -> None:
    balance = Balance(1.0, CPU)
    scales = [1.0, 3.0, 5.0] + [2.0] * 12
    expected = 0.0
    for count, scale in enumerate(scales):
        task, own, at = two(scale)
        balance.measure(task, own, at)
        keep = min(0.9, count / (count + 1))
        expected = keep * expected + (1 - keep) * 2 * scale
        assert float(balance.weight()) == pytest.approx(4 / expected)


def test_without_a_gradient_a_loss_counts_nothing() -> None:
    balance = Balance(1.0, CPU)
    assert float(balance.weight()) == 0
    x = torch.ones(3, requires_grad=True)
    balance.measure(x.sum(), (x * 0).sum(), [x])
    assert float(balance.weight()) == 0


def test_a_copy_of_the_teacher_starts_without_an_explosion() -> None:
    task, teacher = classification(), convolutional()
    order = Order(teacher, task, train_samples(task), 6, Training(batch=16, every=1), teacher, (make_loss("kd"),))
    course = Course(order)
    course.prepare()
    course.climb(6)
    assert course.rollbacks == 0
    assert all(torch.isfinite(p).all() for p in course.model.parameters())


def test_layers_inside_are_measured_at_every_tenth_step() -> None:
    inside, outside = Balance(1.0, CPU, inside=True), Balance(1.0, CPU)
    inside.measured = 1
    assert [step for step in range(45) if inside.due(step)] == [*range(20), 20, 30, 40]
    assert all(outside.due(step) for step in range(45))
