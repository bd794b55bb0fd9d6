"""How much a distillation loss counts beside the task loss: by the norms of their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SMOOTHING = 0.9
"""Of the moving averages; the first measurements are averaged evenly."""

_RARE_FROM, _RARE = 20, 10
"""Of layers inside, every step is measured at first and then every tenth: it costs a part of the backward run."""


class Balance:
    """The weight that gives one loss's gradient `coefficient` times the norm of the task loss's.

    Both norms are smoothed over the steps and never leave the device.
    inside: measured at layers inside the network, not at its output.
    """

    def __init__(self, coefficient: float, device: torch.device, *, inside: bool = False) -> None:
        self.coefficient = coefficient
        self.inside = inside
        self.measured = 0
        self.norms = torch.zeros(2, device=device)
        """Smoothed norms of the gradients of the task loss and of this loss."""

    def due(self, step: int) -> bool:
        """Whether to measure at this step."""
        return not self.inside or step < _RARE_FROM or step % _RARE == 0 or self.measured == 0

    def measure(self, task_loss: Tensor, loss: Tensor, at: Sequence[Tensor]) -> None:
        """Take the norms of both gradients with respect to `at` into the averages."""
        norms = torch.stack([_gradient_norm(task_loss, at), _gradient_norm(loss, at)])
        keep = min(SMOOTHING, self.measured / (self.measured + 1))
        self.norms = self.norms * keep + norms.to(self.norms) * (1 - keep)
        self.measured += 1

    def weight(self) -> Tensor:
        """What to multiply this loss by; 0 while it has had no gradient."""
        task, own = self.norms
        return torch.where(own > 0, self.coefficient * task / own.clamp_min(torch.finfo(own.dtype).tiny), 0.0)


def _gradient_norm(loss: Tensor, at: Sequence[Tensor]) -> Tensor:
    at = [tensor for tensor in at if tensor.requires_grad]  # an output may be an input that is passed through
    if not loss.requires_grad or not at:
        return loss.new_zeros((), dtype=torch.float32)
    gradients = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients if g is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else loss.new_zeros((), dtype=torch.float32)
