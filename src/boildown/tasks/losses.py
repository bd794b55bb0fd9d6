"""Losses by name, and how far outputs are from a reference's."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from boildown.errors import DataError, InputError, Mistake
from boildown.tasks.checks import IGNORED, unlike
from boildown.tasks.data import leaves

Loss = Callable[[Any, Any], Any]


def _cross_entropy(output: torch.Tensor, target: torch.Tensor) -> Any:
    """Logits (n, C, ...) against class indices (n, ...) or probabilities of the output's shape.

    0 where every index is -100. Raises DataError for other shapes.
    """
    shapes = tuple(output.shape), tuple(target.shape)
    if output.ndim < 2 or output.shape[1] < 2:
        raise DataError(
            Mistake(
                f"Outputs of shape {shapes[0]} are no scores of two classes or more, which cross_entropy compares.",
                "Give loss='bce' where one logit says which of two it is.",
            )
        )
    if target.is_floating_point() and shapes[1] == shapes[0]:
        return functional.cross_entropy(output, target.to(output.dtype))
    if target.is_floating_point() or shapes[1] != (*shapes[0][:1], *shapes[0][2:]):
        raise DataError(
            Mistake(
                f"Targets of shape {shapes[1]} ({str(target.dtype).removeprefix('torch.')}) do not fit outputs of "
                f"shape {shapes[0]}: cross_entropy takes class indices (n, ...), or probabilities (n, C, ...).",
                "Change the targets' shape or type in the data set (squeeze(1), long()), or choose what is compared "
                "with forward=.",
            )
        )
    return zero_of_none(functional.cross_entropy(output, target.long(), ignore_index=IGNORED), target)


def zero_of_none(loss: Any, target: Any) -> Any:
    """The loss of a batch; 0 where every label is -100, since the mean of none is NaN."""
    if not isinstance(target, torch.Tensor) or target.is_floating_point():
        return loss
    return torch.where((target != IGNORED).any(), loss, torch.zeros_like(loss))


def _binary_cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean over targets that are not -100; 0 where all are."""
    counted = (target != IGNORED).to(output.dtype)
    total = functional.binary_cross_entropy_with_logits(output, target, counted, reduction="sum")
    return total / counted.sum().clamp_min(1)


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
    "bce": _Aligned(_binary_cross_entropy),
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


def error_of_lists(output: Sequence[Any], reference: Sequence[Any]) -> torch.Tensor:
    """How far apart lists of what belongs to each sample are, such as detections: 0 to 1 per sample, shape (n,)."""
    return torch.stack([_difference(*both) for both in zip(output, reference, strict=True)])


def _difference(output: Any, reference: Any) -> torch.Tensor:
    """||output - reference||^2 by the sum of both squares, of all numbers of a sample; the shorter ends in zeros."""
    ours, theirs = (
        torch.cat([torch.zeros(0), *(torch.as_tensor(leaf).float().reshape(-1).cpu() for leaf in leaves(tree))])
        for tree in (output, reference)
    )
    longest = max(len(ours), len(theirs))
    ours, theirs = (functional.pad(each, (0, longest - len(each))) for each in (ours, theirs))
    scale = (ours**2 + theirs**2).sum().clamp_min(torch.finfo(torch.float32).tiny)
    return ((ours - theirs) ** 2).sum() / scale


def _flat(tree: Any) -> torch.Tensor:
    parts = [torch.as_tensor(leaf) for leaf in leaves(tree)]
    return torch.cat([part.float().reshape(len(part), -1) for part in parts], 1)
