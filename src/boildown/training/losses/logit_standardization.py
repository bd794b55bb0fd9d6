"""Logits standardised before they are softened."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from boildown.training.losses.base import DistillationLoss, scores, softened_divergence


class LogitStandardization(DistillationLoss):
    """KD on z-scores of the logits: order and relations count, not scale. Sun et al. 2024; T = 2 as in their code."""

    name = "logit_standardization"
    source = "arXiv:2403.01427"
    kind = "logit"

    def __init__(self, coefficient: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__(coefficient)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, target: Any) -> Tensor:
        """Logits (n, C, ...) of both; the target only says which places to ignore."""
        ours, theirs, _target = scores(student, teacher, target)
        return softened_divergence(_standardized(ours), _standardized(theirs), self.temperature)


def _standardized(logits: Tensor) -> Tensor:
    away = logits - logits.mean(1, keepdim=True)
    deviation = torch.linalg.vector_norm(away, dim=1, keepdim=True) / math.sqrt(logits.shape[1] - 1)
    standardized: Tensor = away / (deviation + 1e-7)
    return standardized
