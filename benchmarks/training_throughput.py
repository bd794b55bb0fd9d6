"""What the training loop costs beside a bare PyTorch loop that does the same work.

    python -m benchmarks.training_throughput [--width 32] [--steps 20] [--blocks 6]
    BOILDOWN_DATA=FOLDER python -m benchmarks.training_throughput --cifar

Both train the network for digits, or ResNet-20 with ResNet-56 as teacher on images of CIFAR-10, with channels-last
images, fused AdamW, one cycle, clipping and the same precision; the second pair distils with KD from a teacher that
runs live. Blocks alternate A B B A; the ratio is the median of block ratios, above 1 where the loop is slower.
The aim is at most 1.10.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.real import data
from benchmarks.real.models import CifarResNet, resnet56
from boildown import Classification
from boildown.testing import digits
from boildown.training import Training, make_loss
from boildown.training.course import Course
from boildown.training.schedule import factor
from boildown.training.settings import Order

Samples = tuple[Tensor, Tensor]
BATCH = 64
LONG = 100_000


def bare(
    student: nn.Module, teacher: nn.Module | None, samples: Samples, precision: Callable[[], Any]
) -> Callable[[int], None]:
    """The loop one would write by hand; the distillation term has a weight that is known beforehand."""
    model = copy.deepcopy(student).to(memory_format=torch.channels_last).train()
    teacher = copy.deepcopy(teacher).to(memory_format=torch.channels_last) if teacher is not None else None
    x, y = samples
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02, fused=True)
    state = {"step": 0, "order": torch.randperm(len(x))}

    def go(steps: int) -> None:
        for _ in range(steps):
            place = state["step"] % (len(x) // BATCH)
            if place == 0:
                state["order"] = torch.randperm(len(x))
            rows = state["order"][place * BATCH : (place + 1) * BATCH]
            images = x[rows].contiguous(memory_format=torch.channels_last)
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * factor("one-cycle", state["step"], LONG)
            optimizer.zero_grad(set_to_none=True)
            with precision():
                output = model(images)
            output = output.float()
            loss = functional.cross_entropy(output, y[rows])
            if teacher is not None:
                with torch.no_grad(), precision():
                    taught = teacher(images)
                taught = taught.float()
                soft = functional.log_softmax(output / 4, 1), functional.log_softmax(taught / 4, 1)
                loss = loss + 16 * functional.kl_div(*soft, reduction="batchmean", log_target=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            state["step"] += 1

    return go


def ours(student: nn.Module, teacher: nn.Module | None, samples: Samples) -> tuple[Course, Callable[[int], None]]:
    """The same work by the training layer."""
    task = Classification(train=samples, validation=samples)
    losses = () if teacher is None else (make_loss("kd"),)
    assert task.train is not None
    course = Course(Order(student, task, task.train, LONG, Training(batch=BATCH), teacher, losses), keep=False)
    course.prepare()

    def go(steps: int) -> None:
        course.climb(course.step + steps)

    return course, go


def ratio(
    student: nn.Module, teacher: nn.Module | None, samples: Samples, steps: int, blocks: int
) -> tuple[float, float, float]:
    """(median ratio of ours to bare, seconds per step of ours, of bare)."""
    course, mine = ours(student, teacher, samples)
    pair = bare(student, teacher, samples, course.precision), mine
    for go in pair:
        go(5)
    ratios, times = [], ([], [])
    for block in range(blocks):
        taken = [0.0, 0.0]
        for which in (0, 1, 1, 0) if block % 2 == 0 else (1, 0, 0, 1):
            start = time.perf_counter()
            pair[which](steps)
            taken[which] += time.perf_counter() - start
            times[which].append((time.perf_counter() - start) / steps)
        ratios.append(taken[1] / taken[0])
    return statistics.median(ratios), statistics.median(times[1]), statistics.median(times[0])


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--cifar", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.cifar:
        student, teacher, (x, y) = CifarResNet(20), resnet56(), data.cifar10_train(1)
        samples = x[:2048], y[:2048]
    else:
        student, teacher = digits.network(given.width), digits.network(2 * given.width).eval()
        samples = digits.training_set().tensors
    for name, taught in (("training", None), ("distillation", teacher)):
        found, mine, theirs = ratio(student, taught, samples, given.steps, given.blocks)
        print(f"{name}: {found:.3f}x a bare loop ({1e3 * mine:.2f} ms a step, bare {1e3 * theirs:.2f} ms)")


if __name__ == "__main__":
    main()
