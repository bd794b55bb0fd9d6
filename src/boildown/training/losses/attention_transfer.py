"""Attention transfer: where the layers look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from boildown.training.losses.base import DistillationLoss


class AttentionTransfer(DistillationLoss):
    """The mean squared difference of normalised maps of activation energy. Zagoruyko & Komodakis 2016.

    A map is the mean over channels of the squares, so no projection is needed. Sum over all pairs.
    """

    name = "attention_transfer"
    source = "arXiv:1612.03928"
    kind = "feature"

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Any) -> Tensor:
        """Layers (n, C, H, W) or (n, T, C) of equal positions; widths may differ."""
        gaps = [(_map(ours) - _map(theirs)).square().mean() for ours, theirs in zip(student, teacher, strict=True)]
        return torch.stack(gaps).sum()


def _map(layer: Tensor) -> Tensor:
    """Energy at every position, each sample's of length 1: (n, positions)."""
    energy = layer.float().square().mean(1 if layer.ndim == 4 else 2)
    return functional.normalize(energy.flatten(1))
