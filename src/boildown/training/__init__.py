"""Training and distillation: one loop, resumable to the step, and a file for every distillation loss."""

from boildown.training.choose import Choice, Distilled, cycle, distil, fixed, refusals, tournament
from boildown.training.failures import DivergenceError, MismatchError, OutOfMemoryError, ReadError
from boildown.training.loop import steps_for, train
from boildown.training.losses import LOSSES, DistillationLoss, make_loss
from boildown.training.settings import Augment, Trained, Training

__all__ = [
    "LOSSES",
    "Augment",
    "Choice",
    "DistillationLoss",
    "Distilled",
    "DivergenceError",
    "MismatchError",
    "OutOfMemoryError",
    "ReadError",
    "Trained",
    "Training",
    "cycle",
    "distil",
    "fixed",
    "make_loss",
    "refusals",
    "steps_for",
    "tournament",
    "train",
]
