"""Metrics of the probabilities of classes: how likely the labels are, and whether confidence is what it says.

Outputs are logits (n, C, ...), or (n,) and (n, 1, ...) of two classes; targets are class indices (n, ...), -100 where
one does not count. Where a sample has several labels each metric averages over them first, but for `ece`, which takes
those of all samples together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boildown.domain.grammar import FRACTION
from boildown.errors import DataError, Mistake
from boildown.tasks.checks import IGNORED

Statistics = NDArray[np.float64]


class Nll:
    """The negative log-likelihood of the labels: the mean of -log p(label), in nats."""

    name: str = "nll"
    higher_is_better: bool = False
    unit: str = "nats"
    range: tuple[float, float] = (0.0, math.inf)
    decomposable: bool = True
    robust: str = "brier"

    def statistic(self, output: Any, target: Any) -> Statistics:
        """That of each sample, NaN for an ignored one; shape (n,)."""
        logs, labels, counted = _scored(self.name, output, target)
        return _averaged(-logs.gather(1, labels.unsqueeze(1)).squeeze(1), counted)

    def compute(self, statistics: Statistics) -> float:
        """Their mean over the samples that have one; NaN where every label is ignored."""
        return _mean(statistics)


class Brier:
    """The Brier score: the squared distance of the probabilities from those that are 1 for the label, 0 to 2.

    G. W. Brier, Monthly Weather Review 78 (1950). Of two classes it is twice what is called so of one probability.
    """

    name: str = "brier"
    higher_is_better: bool = False
    unit: str = ""
    range: tuple[float, float] = (0.0, 2.0)
    decomposable: bool = True

    def statistic(self, output: Any, target: Any) -> Statistics:
        """That of each sample, NaN for an ignored one; shape (n,)."""
        logs, labels, counted = _scored(self.name, output, target)
        sure = torch.zeros_like(logs).scatter_(1, labels.unsqueeze(1), 1.0)
        return _averaged((logs.exp() - sure).square().sum(1), counted)

    def compute(self, statistics: Statistics) -> float:
        """Their mean over the samples that have one; NaN where every label is ignored."""
        return _mean(statistics)


class Ece:
    """The expected calibration error: by how much the confidence in answers differs from the share that is right.

    Answers are put into 15 bins of equal width by the probability of the class that is chosen; averaged is the
    distance of both means in a bin, by how many answers it holds. C. Guo, G. Pleiss, Y. Sun and K. Weinberger, On
    calibration of modern neural networks, ICML 2017 (arXiv 1706.04599). Of few samples it is too large, of both models.
    """

    name: str = "ece"
    higher_is_better: bool = False
    unit: str = FRACTION
    range: tuple[float, float] = (0.0, 1.0)
    decomposable: bool = False
    knows: bool = False
    """A model that says how often each class occurs is well calibrated, and knows nothing."""
    bins = 15

    def statistic(self, output: Any, target: Any) -> Statistics:
        """Rows of (confidence, 1 where right), shape (n, 2), NaN for an ignored label; of many labels for each sample
        what falls into every bin, shape (n, 3, bins): how many, their confidence, how many of them right."""
        logs, labels, counted = _scored(self.name, output, target)
        confidence, said = logs.exp().max(1)
        right = (said == labels).double()
        if confidence.shape[1] == 1:
            rows = torch.cat([confidence, right], 1)
            return np.asarray(rows.masked_fill(~counted, math.nan), np.float64)
        places = self._bin(confidence.numpy()) + self.bins * np.arange(len(logs))[:, None]
        at, count = places[counted.numpy()], self.bins * len(logs)
        parts = [np.bincount(at, of[counted].numpy(), count) for of in (counted.double(), confidence, right)]
        return np.stack([part.reshape(len(logs), self.bins) for part in parts], 1)

    def compute(self, statistics: Statistics) -> float:
        """The error over all answers; NaN where every label is ignored."""
        if statistics.ndim == 3:
            total, confidence, right = statistics.sum(0)
        else:
            rows = statistics[~np.isnan(statistics).any(1)]
            at = self._bin(rows[:, 0])
            total, confidence, right = (
                np.bincount(at, of, self.bins) for of in (np.ones(len(rows)), rows[:, 0], rows[:, 1])
            )
        return float(np.abs(confidence - right).sum() / total.sum()) if total.sum() else math.nan

    def _bin(self, confidence: Statistics) -> NDArray[np.int64]:
        return np.clip(np.ceil(confidence * self.bins).astype(np.int64) - 1, 0, self.bins - 1)


def _scored(name: str, output: Any, target: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log-probabilities (n, C, k), labels (n, k), 0 in the place of ignored ones, which labels count (n, k)).

    Raises DataError where there is no class index for each output.
    """
    logits, labels = (torch.as_tensor(each).detach().cpu() for each in (output, target))
    if logits.ndim == 1 or logits.shape[1] == 1:
        logits = logits.unsqueeze(1) if logits.ndim == 1 else logits
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    count, classes = logits.shape[:2]
    logs = logits.double().reshape(count, classes, -1).log_softmax(1)
    if labels.numel() != count * logs.shape[2]:
        raise DataError(
            Mistake(
                f"{name} needs one class index for each output, and targets of shape {tuple(labels.shape)} do not fit "
                f"outputs of shape {tuple(torch.as_tensor(output).shape)}.",
                "Give class indices (n, ...) for logits (n, C, ...), or choose another metric.",
            )
        )
    labels = labels.reshape(count, -1).long()
    counted = labels != IGNORED
    if bool((counted & ((labels < 0) | (labels >= classes))).any()):
        low, high = (int(end) for end in labels[counted].aminmax())
        raise DataError(
            Mistake(
                f"Labels run from {low} to {high}, the model has {classes} classes.",
                f"Check that model and labels belong together; {IGNORED} marks a label to ignore.",
            )
        )
    return logs, labels.masked_fill(~counted, 0), counted


def _averaged(values: torch.Tensor, counted: torch.Tensor) -> Statistics:
    """The mean of the values (n, k) of each sample that count, NaN where none does."""
    return np.asarray((values * counted).sum(1) / counted.sum(1), np.float64)


def _mean(statistics: Statistics) -> float:
    counted = statistics[~np.isnan(statistics)]
    return float(np.mean(counted)) if counted.size else math.nan
