"""Small networks and data for the tests of training."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from boildown.domain.task import Samples
from boildown.tasks import Classification, Regression

CLASSES = 4


def convolutional(width: int = 4, *, dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    """Three stages of 8, 4 and 2 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)

        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        return nn.Sequential(
            *stage(1, width), nn.MaxPool2d(2), *stage(width, 2 * width), nn.MaxPool2d(2), *stage(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width, CLASSES),
        )  # fmt: skip


def images(count: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise around one pattern per class: learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return patterns[labels] + 0.5 * torch.randn(count, 1, 8, 8, generator=generator), labels


def classification(count: int = 64, **options: Any) -> Classification:
    """The task of telling the patterns apart."""
    return Classification(train=images(count), validation=images(32, seed=1), **options)


def train_samples(task: Any) -> Samples:
    """The training samples a task was given."""
    assert task.train is not None
    return task.train


def linear_regression(count: int = 60, seed: int = 0) -> tuple[Regression, nn.Module]:
    """A task whose loss is a mean over samples, and a network without batch statistics."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator)
    y = x @ torch.randn(5, 2, generator=generator)
    return Regression(train=(x, y), validation=(x, y)), small_dense(seed)


def small_dense(seed: int = 0, hidden: int = 6) -> nn.Sequential:
    """Five numbers to two."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 2))


class Jittered(Dataset[Any]):
    """Items augmented with the random numbers of Python, NumPy and torch."""

    def __init__(self, count: int = 64) -> None:
        self.x, self.y = images(count)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        offset = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
        return self.x[index] + offset + 0.1 * torch.randn(()), self.y[index]


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models hold the same numbers, bit for bit."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
