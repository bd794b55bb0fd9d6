"""The outputs themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from boildown.training.losses.base import DistillationLoss, Probe
from boildown.training.reading import tensors

_LEAST = 1e-12


class MSE(DistillationLoss):
    """The mean squared difference of the outputs. Ba & Caruana 2014.

    Of an output that holds several tensors (boxes and scores, say) each is taken relative to the mean square of the
    teacher's, so that the one with the largest numbers does not teach alone.
    """

    name = "mse"
    source = "arXiv:1312.6184"
    kind = "output"

    def refuses(self, probe: Probe) -> str | None:
        """Both hold the same number of real tensors, of equal shapes."""
        if isinstance(probe.student, Tensor) and isinstance(probe.teacher, Tensor):
            return super().refuses(probe)
        ours, theirs = _real(probe.student), _real(probe.teacher)
        if not ours:
            return "the student's output holds no tensor of real numbers"
        shapes = [[tuple(tensor.shape) for tensor in output] for output in (ours, theirs)]
        return None if shapes[0] == shapes[1] else "the outputs of student and teacher do not hold the same shapes"

    def forward(self, student: Any, teacher: Any, target: Any) -> Tensor:
        """Outputs of equal shape, or nested ones whose tensors have equal shapes."""
        if isinstance(student, Tensor):
            return functional.mse_loss(student.float(), teacher.float())
        pairs = zip(_real(student), _real(teacher), strict=True)
        gaps = [functional.mse_loss(ours, theirs) / theirs.square().mean().clamp_min(_LEAST) for ours, theirs in pairs]
        return torch.stack(gaps).mean()


def _real(output: Any) -> list[Tensor]:
    return [tensor.float() for tensor in tensors(output) if tensor.is_floating_point()]
