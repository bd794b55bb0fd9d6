"""The distillation losses by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from boildown.errors import InputError
from boildown.training.losses.attention_transfer import AttentionTransfer
from boildown.training.losses.base import DistillationLoss, Kind, Probe
from boildown.training.losses.cosine import Cosine
from boildown.training.losses.dist import DIST
from boildown.training.losses.dkd import DKD
from boildown.training.losses.hint import Hint
from boildown.training.losses.kd import KD
from boildown.training.losses.logit_standardization import LogitStandardization
from boildown.training.losses.mse import MSE
from boildown.training.losses.relational import Relational
from boildown.training.losses.rkd import RKD
from boildown.training.losses.similarity_preserving import SimilarityPreserving

LOSSES: Mapping[str, type[DistillationLoss]] = {
    loss.name: loss
    for loss in (
        KD, DKD, DIST, LogitStandardization, AttentionTransfer, Hint, RKD, SimilarityPreserving,
        MSE, Cosine, Relational,
    )
}  # fmt: skip


def make_loss(name: str, coefficient: float = 1.0) -> DistillationLoss:
    """A loss with its published settings. Raises InputError with near names for an unknown one."""
    if name in LOSSES:
        return LOSSES[name](coefficient)
    near = difflib.get_close_matches(name.casefold().replace("-", "_"), LOSSES, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    raise InputError.of(f"There is no distillation loss {name!r}.", f"{guess}There are {', '.join(LOSSES)}.")


__all__ = ["LOSSES", "DistillationLoss", "Kind", "Probe", "make_loss"]
