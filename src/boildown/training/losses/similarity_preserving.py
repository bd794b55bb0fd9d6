"""Similarity-preserving distillation: samples that are alike for the teacher are alike for the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from boildown.training.features import Pair
from boildown.training.losses.base import DistillationLoss


class SimilarityPreserving(DistillationLoss):
    """||G_student - G_teacher||^2 / n^2 of the row-normalised products G = F F' of a batch. Tung & Mori 2019.

    At the last matching layer; widths may differ. It compares samples, so it depends on the batch.
    """

    name = "similarity_preserving"
    source = "arXiv:1907.09682"
    kind = "feature"

    def match(self, pairs: Sequence[Pair]) -> None:
        """The last pair."""
        super().match(pairs[-1:])

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Any) -> Tensor:
        """One layer of each, (n, ...)."""
        return (_similarity(student[0]) - _similarity(teacher[0])).square().mean()


def _similarity(layer: Tensor) -> Tensor:
    flat = layer.float().flatten(1)
    return functional.normalize(flat @ flat.T)
