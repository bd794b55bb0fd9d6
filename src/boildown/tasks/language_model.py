"""Which token comes next, or stood where one is hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Unpack

import torch

from boildown.domain.task import Samples
from boildown.errors import DataError, Mistake
from boildown.tasks.checks import IGNORED, READ_TWICE
from boildown.tasks.data import IndexedSamples
from boildown.tasks.general import Options
from boildown.tasks.losses import Loss
from boildown.tasks.token_classification import TokenClassification


class LanguageModel(TokenClassification):
    """Logits (n, T, V) of every place, held against the token that follows (`causal`) or that stands there.

    Labels (n, T) are those of transformers: tokens at their own places, -100 where one does not count; a causal
    model is asked for the label one place on, at shown tokens only. Without labels a causal model's texts are their
    own: items are token ids, tensors or lists of whole numbers, or dicts with `input_ids`. `mask` is as in
    `TokenClassification`.
    """

    usual: ClassVar[tuple[str, ...]] = ("perplexity",)

    def __init__(
        self,
        train: Any = None,
        calibration: Any = None,
        validation: Any = None,
        test: Any = None,
        *,
        loss: str | Loss = "cross_entropy",
        metrics: Sequence[Any] | Any = None,
        causal: bool = True,
        mask: Callable[[Any], Any] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.causal = causal
        super().__init__(train, calibration, validation, test, loss=loss, metrics=metrics, mask=mask, **options)

    def read(self, name: str, source: Any) -> IndexedSamples | None:
        """The samples, with the label that is asked for at every token; of lists of token ids as of tensors."""
        if isinstance(source, list | tuple) and self._collate is None and all(map(_are_ids, source)):
            source = [torch.tensor(ids) for ids in source]
        return super().read(name, source)

    def labels(self, inputs: Any, given: Any) -> Any:
        """The labels of a batch, shape (n, T); of a causal model those one place on, and nothing follows the last."""
        if not self.causal:
            return super().labels(inputs, given)
        here = super().labels(inputs, _own(inputs) if given is None else torch.as_tensor(given).long())
        following = torch.cat([here[:, 1:], torch.full_like(here[:, :1], IGNORED)], 1)
        return super().labels(inputs, following)

    def check_targets(self, name: str, samples: Samples) -> list[Mistake]:
        """Labels that are not what the loss takes, or an attention mask in the place of labels."""
        found = super().check_targets(name, samples)
        if found or name == "calibration":
            return found
        inputs, labels = next(iter(samples.subset(range(min(READ_TWICE, len(samples)))).batches(READ_TWICE)))
        ids = _ids(inputs)
        if ids is None or ids.max() <= 1 or not 0 <= labels.max() <= 1:
            return []
        return [
            Mistake(
                f"The {name} labels are all 0 or 1, and the token ids are not: they look like an attention mask.",
                "Let items be dicts with input_ids and attention_mask.",
            )
        ]


def _are_ids(item: Any) -> bool:
    return isinstance(item, list | tuple) and bool(item) and all(isinstance(token, int) for token in item)


def _ids(inputs: Any) -> torch.Tensor | None:
    """The token ids (n, T) among a batch's inputs, None where there are none."""
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    return ids if isinstance(ids, torch.Tensor) and not ids.is_floating_point() and ids.ndim == 2 else None


def _own(inputs: Any) -> torch.Tensor:
    ids = _ids(inputs)
    if ids is None:
        raise DataError(
            Mistake(
                "The texts have no labels, and no token ids that could stand for them.",
                "Let items be dicts with input_ids (n, T), or with labels.",
            )
        )
    return ids.long()
