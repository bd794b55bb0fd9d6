"""Which token comes next, or stood where one is hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch

from boildown.errors import DataError, Mistake
from boildown.tasks.checks import IGNORED
from boildown.tasks.data import IndexedSamples
from boildown.tasks.general import Options
from boildown.tasks.losses import Loss
from boildown.tasks.token_classification import TokenClassification


class LanguageModel(TokenClassification):
    """Logits (n, T, V) of every place, held against the token that follows (`causal`) or that stands there.

    Labels (n, T) are those of transformers: tokens at their own places, -100 where one does not count; a causal
    model is asked for the label one place on. Without labels a causal model's texts are their own labels, shown
    tokens only: items are token ids, or dicts with `input_ids`. `mask` is as in `TokenClassification`.
    """

    def __init__(
        self,
        train: Any = None,
        calibration: Any = None,
        validation: Any = None,
        test: Any = None,
        *,
        loss: str | Loss = "cross_entropy",
        metrics: Sequence[Any] | Any = ("perplexity",),
        causal: bool = True,
        mask: Callable[[Any], Any] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.causal = causal
        super().__init__(train, calibration, validation, test, loss=loss, metrics=metrics, mask=mask, **options)

    def read(self, name: str, source: Any) -> IndexedSamples | None:
        """The samples; of a causal model with the labels of the next places."""
        samples = super().read(name, source)
        return samples if samples is None or not self.causal else samples.relabelled(self._next)

    def _next(self, inputs: Any, labels: Any) -> torch.Tensor:
        """Labels one place on, shape (n, T); nothing follows the last."""
        labels = self._own(inputs) if labels is None else torch.as_tensor(labels)
        return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], 1)

    def _own(self, inputs: Any) -> torch.Tensor:
        ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
        if not isinstance(ids, torch.Tensor) or ids.is_floating_point() or ids.ndim != 2:
            raise DataError(
                Mistake(
                    "The texts have no labels, and no token ids that could stand for them.",
                    "Let items be dicts with input_ids (n, T), or with labels.",
                )
            )
        mask = self._mask(inputs)
        return ids.long() if mask is None else ids.long().masked_fill(~torch.as_tensor(mask).bool(), IGNORED)
