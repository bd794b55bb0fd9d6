"""What a training is asked to do, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from boildown.domain.task import Samples, Task
from boildown.training.losses.base import DistillationLoss
from boildown.training.schedule import Schedule

Augment = Callable[[Any, Any], tuple[Any, Any]]
"""`augment(inputs, target)` changes a whole batch on the device; its random numbers are torch's, set for every step."""

Check = Callable[[], None]
Progress = Callable[[str, int, int | None], None]
Record = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Training:
    """How to train.

    optimizer: 'adamw', or 'sgd' with Nesterov momentum, for which lr=0.1 and weight_decay=5e-4 suit
        networks with batch norm. weight_decay: of matrices and filters, not of biases and norms.
    batch: samples per step, fewer where there are fewer. clip: the largest norm of the gradient, None for any.
    ema: decay of the moving average of the weights that is returned in place of the last ones (0.999).
    patience: stop after so many evaluations without a lower held-out loss; one is made about every epoch.
    precision: 'auto' is bfloat16 (float16 where that is missing) on CUDA, bfloat16 on processors that compute in it
        for networks of 200,000 weights and more (1.5 times as fast; the weights stay float32), and float32 elsewhere.
    every: steps after which the state is judged, kept for a rollback, and may be written.
    seconds: the longest time between two checkpoints on disk, but for `every`; where writing one is quick, it is
        less: 100 times what writing takes.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.02
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Schedule = "one-cycle"
    batch: int = 128
    clip: float | None = 5.0
    ema: float | None = None
    patience: int | None = None
    precision: Literal["auto", "float32"] = "auto"
    every: int = 50
    seconds: float = 20.0


@dataclass(frozen=True)
class Trained:
    """A trained copy of the student.

    model: on the CPU, in eval mode: the best weights on held-out samples, or the averaged, or the last.
    step: how far it came, out of `steps`. history: (step, mean task loss since the one before).
    held_out: the lowest held-out loss. notes: what happened on the way, in sentences.
    """

    model: nn.Module
    step: int
    steps: int
    history: tuple[tuple[int, float], ...] = ()
    held_out: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """Everything that the weights at the end depend on, and where checkpoints are kept; see `train`."""

    student: nn.Module
    task: Task
    samples: Samples
    steps: int
    settings: Training
    teacher: nn.Module | None = None
    losses: tuple[DistillationLoss, ...] = ()
    holdout: Samples | None = None
    augment: Augment | None = None
    seed: int = 0
    device: str = "cpu"
    folder: Path | None = None
    shared: Path | None = None
