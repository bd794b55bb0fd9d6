"""Losses by name, and how far outputs are from a reference's."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from boildown.errors import InputError
from boildown.tasks.checks import unlike
from boildown.tasks.data import leaves

Loss = Callable[[Any, Any], Any]


def _cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Logits (n, C, ...) against class indices (n, ...) or probabilities of the output's shape."""
    return functional.cross_entropy(output, target.to(output.dtype) if target.is_floating_point() else target.long())


@dataclass(frozen=True)
class _Aligned:
    """A loss of equal shapes: (n, 1) against (n,) would otherwise broadcast to (n, n) in silence."""

    loss: Callable[..., torch.Tensor]

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if output.numel() != target.numel():
            raise unlike(output, target)
        return self.loss(output, target.reshape(output.shape).to(output.dtype))


LOSSES: dict[str, Loss] = {
    "cross_entropy": _cross_entropy,
    "bce": _Aligned(functional.binary_cross_entropy_with_logits),
    "mse": _Aligned(functional.mse_loss),
    "l1": _Aligned(functional.l1_loss),
    "huber": _Aligned(functional.huber_loss),
}


def as_loss(given: Any) -> Loss:
    """A loss from its name or a callable `loss(output, target)`. Raises InputError with near names."""
    if isinstance(given, str) and given in LOSSES:
        return LOSSES[given]
    if not isinstance(given, str) and callable(given):
        return given  # type: ignore[no-any-return]
    near = difflib.get_close_matches(str(given).casefold(), LOSSES, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    raise InputError.of(
        f"There is no loss {given!r}.", f"{guess}Shipped: {', '.join(LOSSES)}; or give loss(output, target)."
    )


def kl_divergence(output: Any, reference: Any) -> torch.Tensor:
    """KL(reference || output) of the class probabilities in nats, per sample, shape (n,).

    Logits (n, C, ...), averaged over what follows C; (n,) and (n, 1) are binary logits.
    """
    gap = _gaps(output, reference)
    return gap.reshape(len(gap), -1).mean(1)


def kl_of_shown(output: Any, reference: Any) -> torch.Tensor:
    """KL(reference || output) as in `kl_divergence`, averaged over places where the reference is not 0 throughout."""
    gap, wanted = _gaps(output, reference), torch.as_tensor(reference)
    shown = (wanted != 0).any(1).reshape(len(gap), -1).to(gap.device)
    return (gap.reshape(len(gap), -1) * shown).sum(1) / shown.sum(1).clamp_min(1)


def _gaps(output: Any, reference: Any) -> torch.Tensor:
    """KL(reference || output) in nats for every place: (n, C, ...) to (n, ...)."""
    logits, wanted = _two_sided(torch.as_tensor(output)), _two_sided(torch.as_tensor(reference))
    log_p = wanted.to(logits.device).float().log_softmax(1)
    # Rounding can leave a tiny negative where both agree.
    return (log_p.exp() * (log_p - logits.float().log_softmax(1))).sum(1).clamp_min(0)


def relative_error(output: Any, reference: Any) -> torch.Tensor:
    """||output - reference||^2 / ||reference||^2 over all parts of the output, per sample, shape (n,)."""
    outputs, references = _flat(output), _flat(reference)
    references = references.to(outputs.device)
    scale = (references**2).sum(1).clamp_min(torch.finfo(torch.float32).tiny)
    return ((outputs - references) ** 2).sum(1) / scale


def _two_sided(logits: torch.Tensor) -> torch.Tensor:
    """Binary logits as two classes."""
    if logits.ndim > 1 and logits.shape[1] > 1:
        return logits
    logits = logits.unsqueeze(1) if logits.ndim == 1 else logits
    return torch.cat([torch.zeros_like(logits), logits], 1)


def _flat(tree: Any) -> torch.Tensor:
    parts = [torch.as_tensor(leaf) for leaf in leaves(tree)]
    return torch.cat([part.float().reshape(len(part), -1) for part in parts], 1)
