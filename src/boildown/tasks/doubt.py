"""On which samples a model is in doubt: where its score changes when its outputs are disturbed a little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from boildown.domain.task import Metric

_DRAWS = 16
_NOISE = 0.25  # standard deviation, in those of the outputs
_REFUSED = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)


class Doubt:
    """How much the statistics of some metrics change, on average, when normal noise is added to the outputs.

    Whatever else changes the outputs a little, such as lightweighting, changes mostly the scores of the
    same samples. Scored like a metric, under a name that no metric can have.
    """

    name = "doubt of the model"

    def __init__(self, metrics: Sequence[Metric], seed: int) -> None:
        self.metrics = metrics
        self._generator = torch.Generator().manual_seed(seed)

    def statistic(self, output: Any, target: Any) -> NDArray[np.float64]:
        """For a batch of n samples their doubt, 0 or more, shape (n,)."""
        exact = self._scores(output, target)
        changes = []
        for _ in range(_DRAWS):
            disturbed = pytree.tree_map(self._disturbed, output)
            try:
                changes.append(np.abs(self._scores(disturbed, target) - exact).mean(axis=1))
            except _REFUSED:  # outputs that no model gives: then no sample is more doubtful than another
                return np.zeros(len(exact))
        doubt: NDArray[np.float64] = np.nan_to_num(np.mean(changes, axis=0))
        return doubt

    def _scores(self, output: Any, target: Any) -> NDArray[np.float64]:
        """All statistics of each sample, (n, ...)."""
        found = [np.asarray(metric.statistic(output, target), np.float64) for metric in self.metrics]
        return np.concatenate([rows.reshape(len(rows), -1) for rows in found], axis=1)

    def _disturbed(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            return leaf
        noise = torch.randn(leaf.shape, generator=self._generator, dtype=torch.float32)
        return leaf + _NOISE * leaf.std(unbiased=False) * noise.to(leaf.device, leaf.dtype)
