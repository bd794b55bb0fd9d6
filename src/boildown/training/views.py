"""A data set that is augmented at random, as a fixed number of views: the same numbers whenever it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boildown.domain.task import Samples
from boildown.training.reading import VIEWING, set_random_state
from boildown.training.settings import Augment


class Views:
    """`count` augmented views of every sample, each a function of the seed, the sample and the view alone.

    What a teacher gives for them can therefore be kept. Samples are augmented one at a time, by the data
    set itself and by `augment`, so an augmentation that mixes samples (mixup) has nothing to mix here.
    """

    def __init__(
        self, samples: Samples, augment: Augment | None, count: int, seed: int, indices: NDArray[np.int64] | None = None
    ) -> None:
        self.samples, self.augment, self.count, self.seed = samples, augment, count, seed
        self.indices = np.arange(count * len(samples)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, size: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Batches of (inputs, target), collated, in index order; sets the random states."""
        step = size or int(getattr(self.samples, "batch_size", 64))
        for start in range(0, len(self), step):
            items = [self._read(int(index)) for index in self.indices[start : start + step]]
            inputs, targets = zip(*items, strict=True)
            yield _joined(inputs), _joined(targets)

    def subset(self, indices: Sequence[int]) -> Views:
        """The views at these positions."""
        chosen = self.indices[np.asarray(indices, dtype=np.int64)]
        return Views(self.samples, self.augment, self.count, self.seed, chosen)

    def fingerprint(self, *, every: bool) -> str:
        """A hash of the samples' own fingerprint and of which views these are."""
        parts = [self.samples.fingerprint(every=every), self.count, self.seed, self.indices.tolist()]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _read(self, index: int) -> tuple[Any, Any]:
        view, sample = divmod(index, len(self.samples))
        set_random_state(self.seed, view, sample, VIEWING)
        inputs, target = next(iter(self.samples.subset([sample]).batches(1)))
        return (inputs, target) if self.augment is None else self.augment(inputs, target)


def _joined(trees: Sequence[Any]) -> Any:
    """One batch of many batches of one; what is no tensor must be the same in all."""
    first = trees[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(trees))
    if isinstance(first, Mapping):
        return {key: _joined([tree[key] for tree in trees]) for key in first}
    if isinstance(first, tuple | list):
        return tuple(_joined(parts) for parts in zip(*trees, strict=True))
    return first
