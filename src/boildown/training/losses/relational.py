"""Relations among the outputs of a batch, for embeddings."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from boildown.training.losses.base import DistillationLoss, Probe
from boildown.training.losses.rkd import relations

_MOST = 128
"""Items of a batch of sequences that are compared: angles take the cube of it."""


class Relational(DistillationLoss):
    """Relational knowledge distillation of the outputs: distances and angles among samples. Park et al. 2019.

    Student and teacher may differ in dimension, since only relations are compared. Of sequences of vectors, every one
    is an item, and no more than 128 of a batch are compared, evenly spaced.
    """

    name = "relational"
    source = "arXiv:1904.05068"
    kind = "output"

    def __init__(self, coefficient: float = 1.0, distance: float = 1.0, angle: float = 2.0) -> None:
        super().__init__(coefficient)
        self.distance = distance
        self.angle = angle

    def refuses(self, probe: Probe) -> str | None:
        """It needs vectors of two or more numbers; their dimensions may differ."""
        for whose, output in (("student", probe.student), ("teacher", probe.teacher)):
            if not isinstance(output, Tensor) or output.ndim not in (2, 3) or output.shape[-1] < 2:
                shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else type(output).__name__
                return f"the {whose}'s outputs ({shape} per sample) are no vectors"
        if probe.student.ndim != probe.teacher.ndim or probe.student.shape[:-1] != probe.teacher.shape[:-1]:
            return "student and teacher give different numbers of vectors"
        return None

    def forward(self, student: Tensor, teacher: Tensor, target: Any) -> Tensor:
        """Vectors (n, d) or (n, T, d) of both."""
        if student.ndim == 3:
            student, teacher = (output.flatten(0, 1) for output in (student, teacher))
            every = math.ceil(len(student) / _MOST)
            student, teacher = student[::every], teacher[::every]
        return relations(student, teacher, self.distance, self.angle)
