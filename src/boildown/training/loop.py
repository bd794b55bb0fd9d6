"""One training loop for every method that trains: task loss and distillation losses, resumable to the step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from boildown.domain.task import Samples, Task
from boildown.training.course import Course
from boildown.training.losses.base import DistillationLoss
from boildown.training.reading import own_random_state
from boildown.training.settings import Augment, Check, Order, Progress, Record, Trained, Training

__all__ = ["CURVE", "Trained", "Training", "steps_for", "train"]

CURVE = "curve"
"""The kind of record with the course of the loss over a training, written at its end."""

_TIMED, _WARM_UP = 20, 3


def train(
    student: nn.Module,
    task: Task,
    samples: Samples,
    *,
    steps: int,
    settings: Training | None = None,
    teacher: nn.Module | None = None,
    losses: Sequence[DistillationLoss] = (),
    holdout: Samples | None = None,
    augment: Augment | None = None,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | None = None,
    shared: Path | None = None,
    until: int | None = None,
    check: Check = lambda: None,
    progress: Progress = lambda _what, _done, _total: None,
    record: Record = lambda _kind, _data: None,
) -> Trained:
    """Train a copy of `student` for `steps` steps; no given object is touched.

    teacher, losses: distil as well. Each loss is scaled to the task loss by the norms of their gradients.
        Samples without targets are learned from by distillation alone.
    holdout: samples to choose the best weights and, with `patience`, the end by.
    folder: where checkpoints are kept; the same call with the same folder goes on from there.
    shared: where the teacher's outputs are kept for other trainings with the same teacher and samples;
        default: `folder`.
    until: stop at this step of the schedule of `steps`, to be continued.

    A task's `training_step(model, inputs, target)`, where it has one, gives the loss in place of
    `task.run` and `task.loss`. Raises DivergenceError after two rollbacks, MismatchError for a loss
    that cannot compare the two models, OutOfMemoryError for a device too small for one sample, and
    whatever `check` raises, after the last state kept has been written.
    """
    with own_random_state():
        order = Order(
            student, task, samples, steps, settings or Training(), teacher, tuple(losses), holdout, augment, seed,
            device, folder, shared or folder,
        )  # fmt: skip
        course = Course(order, check, progress, record)
        course.prepare()
        course.climb(steps if until is None else min(until, steps))
        record(CURVE, course.curve())
        return course.result()


def steps_for(
    minutes: float,
    student: nn.Module,
    task: Task,
    samples: Samples,
    *,
    settings: Training | None = None,
    teacher: nn.Module | None = None,
    losses: Sequence[DistillationLoss] = (),
    augment: Augment | None = None,
    seed: int = 0,
    device: str = "cpu",
    check: Check = lambda: None,
) -> int:
    """How many steps of this training fit into `minutes` here: 20 steps are timed, at least 1 is returned.

    Where the teacher's outputs would be kept, their cost is counted once. To be called once and journalled.
    """
    with own_random_state():
        settings = settings or Training()
        endless = Order(
            student, task, samples, 10**9, settings, teacher, tuple(losses), augment=augment, seed=seed, device=device
        )
        course = Course(endless, check, keep=False)
        course.prepare()
        course.climb(_WARM_UP)
        start = time.perf_counter()
        course.climb(_WARM_UP + _TIMED)
        step = (time.perf_counter() - start) / _TIMED
        budget = minutes * 60
        live = int(budget / step)
        if course.distillation is None or not course.may_keep():
            return max(1, live)
        start = time.perf_counter()
        for number in range(_WARM_UP):
            course.distillation.teacher.run(course.arrange(course.batches.read(number)[0]))
        course.wait()
        one = (time.perf_counter() - start) / _WARM_UP
        filled = one * math.ceil(len(samples) / course.batches.size)
        kept = int((budget - filled) / max(step - one, step / 20))
        return max(1, kept if kept > course.batches.per_epoch else min(live, course.batches.per_epoch))
