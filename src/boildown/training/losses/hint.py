"""FitNets: a hint from the middle of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from boildown.training.features import Pair
from boildown.training.losses.base import DistillationLoss


class Hint(DistillationLoss):
    """The mean squared error of a middle layer, behind a learned projection where widths differ. Romero et al. 2014."""

    name = "hint"
    source = "arXiv:1412.6550"
    kind = "feature"
    late = True

    def match(self, pairs: Sequence[Pair]) -> None:
        """The pair in the middle; a 1x1 convolution (images) or a linear layer (sequences) projects onto it."""
        super().match(pairs[len(pairs) // 2 : len(pairs) // 2 + 1])
        ours, theirs = self.pairs[0].student, self.pairs[0].teacher
        self.project: nn.Module
        if ours.width == theirs.width:
            self.project = nn.Identity()
        elif len(ours.shape) == 3:
            self.project = nn.Conv2d(ours.width, theirs.width, 1)
        else:
            self.project = nn.Linear(ours.width, theirs.width)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], target: Any) -> Tensor:
        """One layer of each, (n, C, H, W) or (n, T, C)."""
        return functional.mse_loss(self.project(student[0].float()), teacher[0].float())
