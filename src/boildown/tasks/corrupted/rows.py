"""Rows of a table as they come in the field: with missing values, and with columns that have drifted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from boildown.domain.preprocess import Columns, Raw

CORRUPTIONS: Mapping[str, tuple[float, ...]] = {
    "missing": (0.05, 0.1, 0.2, 0.3, 0.5),
    "shift": (0.1, 0.2, 0.3, 0.5, 1.0),
}
"""The share of values that are missing, and the standard deviations by which numbers are moved, at five severities."""

_FEW = 20
"""Whole numbers of so few different values are taken for categories where nothing says what they are."""


@dataclass(frozen=True)
class Rows:
    """The columns of a table, shape (columns,) each.

    filled: what stands for a missing value. deviation: the standard deviation, 0 for what is no number. known: the
    columns are described, and not only seen in the data.
    """

    filled: Tensor
    deviation: Tensor
    known: bool = False

    def missing(self, batch: Tensor, share: float, generator: Generator) -> Tensor:
        """One row, a batch of one, without some of its values."""
        lost = torch.rand(batch.shape, generator=generator) < share
        return torch.where(lost, self.filled.to(batch.dtype), batch)

    def shift(self, batch: Tensor, deviations: float, up: Tensor) -> Tensor:
        """One row, a batch of one, with all its numbers moved. up: shape (columns,), 1 or -1."""
        return batch + (deviations * up * self.deviation).to(batch.dtype)


def columns_of(batch: Tensor, raw: Raw | None) -> Rows:
    """The columns of some rows, (n, columns), as the steps `raw` describe them.

    A described column misses a value as it does in what is handed over: a number has its `fill`, a category 0. Of any
    other a number has the mean, a category the most frequent value.
    """
    numbers = batch.double()
    filled, deviation = numbers.mean(0), numbers.std(0, correction=0)
    described = None if raw is None else next((step for step in raw.steps if isinstance(step, Columns)), None)
    if described is not None and len(described.columns) == batch.shape[1]:
        plain = [column.kind == "number" for column in described.columns]
        filled = torch.tensor([column.fill if column.kind == "number" else 0.0 for column in described.columns])
        return Rows(filled.double(), deviation * torch.tensor(plain), known=True)
    for place, column in enumerate(numbers.T.numpy()):
        values, counts = np.unique(column, return_counts=True)
        if len(values) <= _FEW and not (values % 1).any():
            filled[place], deviation[place] = float(values[counts.argmax()]), 0.0
    return Rows(filled, deviation)


def ways(count: int, generator: Generator) -> Tensor:
    """For each column whether it moves up, 1, or down, -1."""
    return torch.randint(0, 2, (count,), generator=generator).double() * 2 - 1
