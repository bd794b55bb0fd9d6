"""Decoupled knowledge distillation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from boildown.training.losses.base import DistillationLoss, Probe, average, scores


class DKD(DistillationLoss):
    """alpha T^2 KL(target or not) + beta T^2 KL(among the other classes). Zhao et al. 2022, CIFAR settings.

    Plain KD weighs the second part by 1 - (the teacher's confidence), which silences it where the teacher is sure.
    """

    name = "dkd"
    source = "arXiv:2203.08679"
    kind = "logit"

    def __init__(
        self, coefficient: float = 1.0, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
    ) -> None:
        super().__init__(coefficient)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def refuses(self, probe: Probe) -> str | None:
        """It needs class indices, and three classes or more: of two there is one other."""
        reason = super().refuses(probe)
        if reason is None and probe.student.shape[1] < 3:
            return "two classes leave only one other class"
        if reason is None and (not isinstance(probe.target, Tensor) or probe.target.is_floating_point()):
            return "the targets are no class indices"
        return reason

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Logits (n, C, ...) of both and class indices (n, ...)."""
        ours, theirs, labels = scores(student, teacher, target)
        hot = functional.one_hot(labels.reshape(-1).long(), ours.shape[1]).bool()
        log_q, log_p = ((logits / self.temperature).log_softmax(1) for logits in (ours, theirs))
        of_target = self._divergence(_target_or_not(log_q, hot), _target_or_not(log_p, hot))
        of_others = self._divergence(_others(log_q, hot), _others(log_p, hot))
        return self.temperature**2 * (self.alpha * of_target + self.beta * of_others)

    @staticmethod
    def _divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
        return average((log_p.exp() * (log_p - log_q)).sum(1))


def _target_or_not(log_p: Tensor, hot: Tensor) -> Tensor:
    """Log probabilities of the target and of all others together, (n, 2); in logarithms, where none is 0."""
    others = log_p.masked_fill(hot, float("-inf")).logsumexp(1)
    return torch.stack([log_p[hot], others], 1)


def _others(log_p: Tensor, hot: Tensor) -> Tensor:
    """Log probabilities among the other classes, (n, C - 1)."""
    return log_p[~hot].reshape(len(log_p), log_p.shape[1] - 1).log_softmax(1)
