"""Soft targets."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from boildown.training.losses.base import DistillationLoss, scores, softened_divergence


class KD(DistillationLoss):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)). Hinton, Vinyals & Dean 2015; T = 4 as in RepDistiller."""

    name = "kd"
    source = "arXiv:1503.02531"
    kind = "logit"

    def __init__(self, coefficient: float = 1.0, temperature: float = 4.0) -> None:
        super().__init__(coefficient)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, target: Any) -> Tensor:
        """Logits (n, C, ...) of both; the target only says which places to ignore."""
        ours, theirs, _target = scores(student, teacher, target)
        return softened_divergence(ours, theirs, self.temperature)
