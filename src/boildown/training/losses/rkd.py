"""Relational knowledge distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from boildown.training.features import Pair
from boildown.training.losses.base import DistillationLoss


class RKD(DistillationLoss):
    """Huber losses of the distances (weight 1) and angles (2) among the samples of a batch. Park et al. 2019.

    Of the last matching layer, averaged over its positions; widths may differ. It depends on the batch.
    """

    name = "rkd"
    source = "arXiv:1904.05068"
    kind = "feature"

    def __init__(self, coefficient: float = 1.0, distance: float = 1.0, angle: float = 2.0) -> None:
        super().__init__(coefficient)
        self.distance = distance
        self.angle = angle

    def match(self, pairs: Sequence[Pair]) -> None:
        """The last pair."""
        super().match(pairs[-1:])

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Any) -> Tensor:
        """One layer of each, (n, C, H, W) or (n, T, C)."""
        return relations(_pooled(student[0]), _pooled(teacher[0]), self.distance, self.angle)


def relations(student: Tensor, teacher: Tensor, distance: float, angle: float) -> Tensor:
    """The weighted losses of distances and angles among the rows of (n, d) and (n, e)."""
    ours, theirs = student.float(), teacher.float()
    loss = ours.new_zeros(())
    if distance:
        loss = loss + distance * functional.smooth_l1_loss(_distances(ours), _distances(theirs))
    if angle:
        loss = loss + angle * functional.smooth_l1_loss(_angles(ours), _angles(theirs))
    return loss


def _pooled(layer: Tensor) -> Tensor:
    return layer.mean((2, 3)) if layer.ndim == 4 else layer.mean(1)


def _distances(rows: Tensor) -> Tensor:
    """Distances between rows in units of their mean, (n, n); 0 on the diagonal."""
    squares = rows.square().sum(1)
    squared = (squares[:, None] + squares[None, :] - 2 * rows @ rows.T).clamp_min(1e-12)
    apart = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    distances = squared.sqrt() * apart
    return distances / (distances.sum() / apart.sum().clamp_min(1)).clamp_min(1e-12)


def _angles(rows: Tensor) -> Tensor:
    """Cosines of the angles i-k-j at every row k, (n, n, n)."""
    directions = functional.normalize(rows[None, :, :] - rows[:, None, :], dim=2)
    return directions @ directions.transpose(1, 2)
