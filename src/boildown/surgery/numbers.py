"""Sets of united channel numbers, and which of them must stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FROZEN = 0
"""What stands for every number that must stay."""

Array = NDArray[np.int64]


class Numbers:
    """Sets of united numbers: the smallest stands for all, and FROZEN for those of a set of which one is frozen."""

    def __init__(self) -> None:
        self._above = np.zeros(1, dtype=np.int64)
        self._is_frozen = np.ones(1, dtype=np.bool_)
        self._events: list[tuple[Array, str]] = []

    def fresh(self, count: int) -> Tensor:
        """So many new numbers, shape (count,)."""
        start = len(self._above)
        self._above = np.append(self._above, np.arange(start, start + count))
        self._is_frozen = np.append(self._is_frozen, np.zeros(count, dtype=np.bool_))
        return torch.arange(start, start + count)

    def find(self, numbers: Array) -> Array:
        """The numbers that stand for these."""
        roots = self._roots(numbers)
        return np.where(self._is_frozen[roots], FROZEN, roots)

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Unite what stands at the same place; shapes broadcast."""
        both = torch.broadcast_tensors(first, second)  # type: ignore[no-untyped-call]
        one, two = (part.numpy().ravel() for part in compact(*both))
        while True:
            roots = np.stack([self._roots(one), self._roots(two)])
            apart = roots[0] != roots[1]
            if not apart.any():
                return
            roots = roots[:, apart]
            frozen = roots[self._is_frozen[roots]]
            np.minimum.at(self._above, roots.max(0), roots.min(0))
            self._is_frozen[self._roots(frozen)] = True

    def freeze(self, numbers: Tensor, reason: str) -> None:
        """Let numbers stay, each with all that is or will be united with it."""
        roots = np.unique(self._roots(compact(numbers)[0].numpy()))
        self._is_frozen[roots] = True
        self._events.append((roots, reason))

    def reasons(self, sets: Sequence[Array]) -> list[str]:
        """For each of some arrays of frozen numbers, the reason that was given first for one of them."""
        first: dict[int, tuple[int, str]] = {}
        for place, (numbers, reason) in enumerate(self._events):
            for root in np.unique(self._roots(numbers)):
                first.setdefault(int(root), (place, reason))
        return [min(first[int(root)] for root in np.unique(self._roots(numbers)) if int(root) in first)[1]
                for numbers in sets]  # fmt: skip

    def _roots(self, numbers: Array) -> Array:
        while True:
            above = self._above[numbers]
            if np.array_equal(above, self._above[above]):
                return above
            self._above = self._above[self._above]


def compact(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, of one shape, without the axes along which none of them varies because it is expanded."""
    for axis in range(tensors[0].ndim):
        if tensors[0].shape[axis] > 1 and all(t.stride(axis) == 0 for t in tensors):
            tensors = tuple(t.narrow(axis, 0, 1) for t in tensors)
    return tuple(t.contiguous() for t in tensors)
