"""What the training loop costs beside a bare PyTorch loop that does the same work.

    python -m benchmarks.training_throughput [--width 32] [--steps 20] [--blocks 6]

Both train the network for digits with channels-last images, fused AdamW, one cycle and clipping; the
second pair distils with KD from a teacher that runs live. Blocks alternate A B B A; the ratio is the
median of block ratios, above 1 where the loop is slower. The aim is at most 1.10.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from boildown.testing import digits
from boildown.training import Training, make_loss
from boildown.training.course import Course
from boildown.training.schedule import factor
from boildown.training.settings import Order

BATCH = 64
LONG = 100_000


def bare(student: nn.Module, teacher: nn.Module | None) -> Callable[[int], None]:
    """The loop one would write by hand; the distillation term has a weight that is known beforehand."""
    model = copy.deepcopy(student).to(memory_format=torch.channels_last).train()
    x, y = digits.training_set().tensors
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
            output = model(images)
            loss = functional.cross_entropy(output, y[rows])
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(images)
                soft = functional.log_softmax(output / 4, 1), functional.log_softmax(taught / 4, 1)
                loss = loss + 16 * functional.kl_div(*soft, reduction="batchmean", log_target=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            state["step"] += 1

    return go


def ours(student: nn.Module, teacher: nn.Module | None) -> Callable[[int], None]:
    """The same work by the training layer."""
    task = digits.task()
    losses = () if teacher is None else (make_loss("kd"),)
    assert task.train is not None
    course = Course(Order(student, task, task.train, LONG, Training(batch=BATCH), teacher, losses), keep=False)
    course.prepare()

    def go(steps: int) -> None:
        course.climb(course.step + steps)

    return go


def ratio(student: nn.Module, teacher: nn.Module | None, steps: int, blocks: int) -> tuple[float, float, float]:
    """(median ratio of ours to bare, seconds per step of ours, of bare)."""
    pair = bare(student, teacher), ours(student, teacher)
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
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    student, teacher = digits.network(given.width), digits.network(2 * given.width).eval()
    for name, taught in (("training", None), ("distillation", teacher)):
        found, mine, theirs = ratio(student, taught, given.steps, given.blocks)
        print(f"{name}: {found:.3f}x a bare loop ({1e3 * mine:.2f} ms a step, bare {1e3 * theirs:.2f} ms)")


if __name__ == "__main__":
    main()
