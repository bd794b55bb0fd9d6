"""What a distillation loss is: how it compares a student with its teacher, and when it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from boildown.training.features import Pair

Kind = Literal["logit", "feature", "output"]
"""What is compared: class scores, layers inside, or outputs of any meaning."""


@dataclass(frozen=True)
class Probe:
    """What student and teacher give for a few samples: outputs, the target, and layers that match."""

    student: Any
    teacher: Any
    target: Any
    pairs: tuple[Pair, ...] = ()


class DistillationLoss(nn.Module):
    """How far a student is from its teacher, a scalar to be minimised.

    coefficient: the norm of this loss's gradient, where it is compared, relative to the task loss's.

    A `logit` or `output` loss is called with both outputs and the target; a `feature` loss with two
    lists of tensors, one for each of its `pairs`, (n, C, H, W) or (n, T, C), after `match`.
    What it learns itself (projections) is trained along with the student.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    kind: ClassVar[Kind]
    late: ClassVar[bool] = False
    """Whether it shows late in the outputs what it has taught, so that a short trial says nothing about it."""

    def __init__(self, coefficient: float = 1.0) -> None:
        super().__init__()
        self.coefficient = coefficient
        self.pairs: tuple[Pair, ...] = ()

    def refuses(self, probe: Probe) -> str | None:
        """`None` if it can compare the two, or in words the reason why not."""
        if self.kind == "feature":
            return None if probe.pairs else "no layers of student and teacher match in spatial size"
        for whose, output in (("student", probe.student), ("teacher", probe.teacher)):
            if not isinstance(output, Tensor):
                return f"the {whose}'s output is a {type(output).__name__}, not a tensor"
        if self.kind == "logit":
            return refuses_classes(probe) or unequal(probe)
        return unequal(probe)

    def match(self, pairs: Sequence[Pair]) -> None:
        """Choose from the matching layers, and build what compares them; feature losses only."""
        self.pairs = tuple(pairs)

    def forward(self, student: Any, teacher: Any, target: Any) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError


def unequal(probe: Probe) -> str | None:
    """Why two outputs cannot be compared number by number."""
    ours, theirs = tuple(probe.student.shape), tuple(probe.teacher.shape)
    if ours == theirs:
        return None
    return f"the student's output has shape {ours[1:]} per sample, the teacher's {theirs[1:]}"


def refuses_classes(probe: Probe) -> str | None:
    """Why outputs (n, C, ...) are no class scores: by their shape, or by targets that are no classes."""
    output, target = probe.student, probe.target
    if output.ndim < 2 or output.shape[1] < 2:
        return f"outputs of shape {tuple(output.shape[1:])} per sample are no scores of two or more classes"
    if isinstance(target, Tensor) and target.is_floating_point():
        soft = target.shape == output.shape and bool((target >= 0).all())
        if not soft or not torch.allclose(target.sum(1), torch.ones_like(target.sum(1)), atol=1e-3):
            return "the targets are numbers, not classes"
    return None


def scores(student: Tensor, teacher: Tensor, target: Any) -> tuple[Tensor, Tensor, Any]:
    """Class scores (n, C, ...) as rows in float32, (n * ..., C), and their labels; ignored places are left out.

    A label below 0 (PyTorch's -100) marks a place to ignore.
    """
    classes = student.shape[1]
    ours, theirs = (output.movedim(1, -1).reshape(-1, classes).float() for output in (student, teacher))
    if isinstance(target, Tensor) and not target.is_floating_point() and target.numel() == len(ours):
        target = target.reshape(-1)
        kept = target >= 0
        return ours[kept], theirs[kept], target[kept]
    return ours, theirs, target


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of probabilities softened by the temperature T: (n, C), mean over rows."""
    log_q = (student / temperature).log_softmax(1)
    log_p = (teacher / temperature).log_softmax(1)
    return average((log_p.exp() * (log_p - log_q)).sum(1)) * temperature**2


def average(rows: Tensor) -> Tensor:
    """The mean of (n,); 0 of none, as where every place of a batch is ignored."""
    return rows.sum() / max(len(rows), 1)
