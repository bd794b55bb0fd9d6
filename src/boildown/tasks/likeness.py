"""Metrics that hold a model's outputs against the first model's on the same samples: they need no labels.

Their target is the first model's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from boildown.domain.front import DIVERGENCE
from boildown.tasks.checks import ignoring
from boildown.tasks.metrics import Accuracy, Statistics, predicted_classes


class Agreement(Accuracy):
    """The share of samples for which both models decide on the same class; of many places each, their share of those.

    Places where the first model's logits (n, C, ...) are 0 throughout, as those of tokens that only pad, do not count.
    labels: every output (n, C) is a label of its own, decided by its sign, and all must be the same.
    """

    name: str = "agreement"

    def __init__(self, *, labels: bool = False) -> None:
        self._labels = labels

    def statistic(self, output: Any, target: Any) -> Statistics:
        """1 for a sample with the same decision, 0 for another; shape (n,)."""
        ours, theirs = torch.as_tensor(output).detach().cpu(), torch.as_tensor(target).detach().cpu()
        if self._labels and theirs.ndim > 1 and theirs.shape[1] > 1:
            same = ((ours > 0) == (theirs > 0)).reshape(len(theirs), -1).all(1)
            return np.asarray(same.double(), np.float64)
        said = predicted_classes(theirs)
        return super().statistic(ours, ignoring(said, (theirs == 0).all(1)) if theirs.ndim > 2 else said)


class Divergence:
    """How far the outputs lie from the first model's, averaged over samples, as the task measures it; 0 is equal.

    per_sample: from outputs and the first model's to one number for each sample.
    """

    name: str = DIVERGENCE
    higher_is_better: bool = False
    unit: str = ""
    range: tuple[float, float] = (0.0, math.inf)
    decomposable: bool = True
    robust: str = "agreement"

    def __init__(self, per_sample: Callable[[Any, Any], Any]) -> None:
        self._per_sample = per_sample

    def statistic(self, output: Any, target: Any) -> Statistics:
        """The divergence of each sample, shape (n,)."""
        found = torch.as_tensor(self._per_sample(output, target)).detach().cpu()
        return np.asarray(found.double(), np.float64).reshape(-1)

    def compute(self, statistics: Statistics) -> float:
        """Their mean."""
        return float(np.mean(statistics))
