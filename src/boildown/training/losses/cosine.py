"""The direction of the outputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from boildown.training.losses.base import DistillationLoss, Probe


class Cosine(DistillationLoss):
    """1 - cosine of the student's and the teacher's vectors, for embeddings. As in DistilBERT (Sanh et al. 2019)."""

    name = "cosine"
    source = "arXiv:1910.01108"
    kind = "output"

    def refuses(self, probe: Probe) -> str | None:
        """It needs vectors of two or more numbers."""
        reason = super().refuses(probe)
        if reason is None and (probe.student.ndim < 2 or probe.student.shape[-1] < 2):
            return "a single number per sample has no direction"
        return reason

    def forward(self, student: Tensor, teacher: Tensor, target: Any) -> Tensor:
        """Vectors (n, ..., d) of both; the mean over all of them."""
        return 1 - functional.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()
