"""DIST: relations instead of values."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from boildown.training.losses.base import DistillationLoss, average, scores


class DIST(DistillationLoss):
    """beta T^2 (1 - correlation within samples) + gamma T^2 (1 - correlation within classes). Huang et al. 2022.

    Pearson's correlation forgives scale and offset, so a student may follow a much stronger teacher.
    """

    name = "dist"
    source = "arXiv:2205.10536"
    kind = "logit"

    def __init__(
        self, coefficient: float = 1.0, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
    ) -> None:
        super().__init__(coefficient)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, target: Any) -> Tensor:
        """Logits (n, C, ...) of both; the target only says which places to ignore."""
        ours, theirs, _target = scores(student, teacher, target)
        q, p = ((logits / self.temperature).softmax(1) for logits in (ours, theirs))
        between_classes, within_classes = 1 - _correlation(q, p), 1 - _correlation(q.T, p.T)
        return self.temperature**2 * (self.beta * between_classes + self.gamma * within_classes)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """The mean over rows of Pearson's correlation."""
    a, b = (rows - rows.mean(1, keepdim=True) for rows in (a, b))
    return average(functional.cosine_similarity(a, b, dim=1))
