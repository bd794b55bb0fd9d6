"""The outputs themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from boildown.training.losses.base import DistillationLoss


class MSE(DistillationLoss):
    """The mean squared difference of the outputs. Ba & Caruana 2014."""

    name = "mse"
    source = "arXiv:1312.6184"
    kind = "output"

    def forward(self, student: Tensor, teacher: Tensor, target: Any) -> Tensor:
        """Outputs of equal shape."""
        return functional.mse_loss(student.float(), teacher.float())
