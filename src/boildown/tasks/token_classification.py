"""Which class, for every token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Unpack

import torch

from boildown.domain.task import Runnable
from boildown.errors import DataError, Mistake
from boildown.tasks.checks import IGNORED, ignoring
from boildown.tasks.classification import Classification
from boildown.tasks.data import IndexedSamples
from boildown.tasks.general import Options
from boildown.tasks.losses import Loss, kl_of_shown

MASK = "attention_mask"
"""The input of transformers that is 0 where a token only pads."""


class TokenClassification(Classification):
    """Logits (n, T, C) of every token against labels (n, T); a label of -100 does not count.

    The output of a batch is (n, C, T), classes second as PyTorch's losses take them, and 0 for tokens that only
    pad, whatever the model gives for them: those where `mask(inputs)`, shape (n, T), is 0; by default the input
    `attention_mask`, where there is one. Their labels are -100 whatever the data set gives, and divergence leaves
    them out. The rest is as in `Classification`.
    """

    _most_checked: ClassVar[int | None] = 16
    _label_axes: ClassVar[int] = 2
    by_class = False
    usual: ClassVar[tuple[str, ...]] = ("token_accuracy", "f1")

    def __init__(
        self,
        train: Any = None,
        calibration: Any = None,
        validation: Any = None,
        test: Any = None,
        *,
        loss: str | Loss = "cross_entropy",
        metrics: Sequence[Any] | Any = None,
        classes: Sequence[str] | None = None,
        mask: Callable[[Any], Any] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._mask = mask or shown
        super().__init__(train, calibration, validation, test, loss=loss, metrics=metrics, classes=classes, **options)
        self._divergence = kl_of_shown

    def read(self, name: str, source: Any) -> IndexedSamples | None:
        """The samples, with -100 where a token does not count."""
        samples = super().read(name, source)
        return None if samples is None else samples.relabelled(self.labels)

    def labels(self, inputs: Any, given: Any) -> Any:
        """The labels of a batch, shape (n, T), from those that the data set gives; None where there are none.

        Raises DataError where they do not fit the mask.
        """
        mask = None if given is None else self._mask(inputs)
        if mask is None:
            return given
        labels, mask = torch.as_tensor(given), torch.as_tensor(mask)
        if labels.shape != mask.shape:
            raise DataError(
                Mistake(
                    f"Labels of shape {tuple(labels.shape)} do not fit the mask, {tuple(mask.shape)}.",
                    f"Give every token a label, padding too, such as {IGNORED}.",
                )
            )
        return ignoring(labels, ~mask.bool())

    def run(self, model: Runnable, inputs: Any) -> torch.Tensor:
        """Logits of a batch, shape (n, C, T). Raises DataError where the model returns others than (n, T, C)."""
        logits, mask = super().run(model, inputs), self._mask(inputs)
        if getattr(logits, "ndim", None) != 3:
            made = f"shape {tuple(logits.shape)}" if hasattr(logits, "shape") else type(logits).__name__
            raise DataError(
                Mistake(
                    f"Logits of tokens are (n, T, C); the model returns {made}.",
                    "Choose them with forward=lambda model, inputs: model(...)[...].",
                )
            )
        if mask is not None:
            logits = logits.masked_fill(~torch.as_tensor(mask).to(logits.device).bool().unsqueeze(-1), 0.0)
        classes_second: torch.Tensor = logits.movedim(-1, 1)
        return classes_second


def shown(inputs: Any) -> Any:
    """The attention mask among a batch's inputs, None where there is none."""
    return inputs.get(MASK) if isinstance(inputs, Mapping) else None
