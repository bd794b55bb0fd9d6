"""Batches in an order, and all randomness, that are functions of (seed, epoch, step) and nothing else.

A training that is resumed at a step therefore goes on exactly as the one that was never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from boildown.domain.task import Samples

READING, COMPUTING, PROJECTING, VIEWING = 1, 2, 3, 4
"""What random numbers are drawn for: augmentation, dropout, the start of projections, views that stay."""

_REPEATED = 64
_WORD = 2**64 - 1


def set_random_state(seed: int, epoch: int, step: int, purpose: int, device: torch.device | None = None) -> None:
    """Set the states of torch, NumPy and Python; some 6 microseconds, where `torch.manual_seed` takes 40 times that."""
    mixed = _mix(_mix(_mix(_mix(seed) + epoch) + step) + purpose)
    torch.default_generator.manual_seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)
    random.seed(mixed)
    if device is not None and device.type == "cuda":
        torch.cuda.manual_seed_all(mixed)
    elif device is not None and device.type == "mps":
        torch.mps.manual_seed(mixed)


@contextmanager
def own_random_state() -> Iterator[None]:
    """Give the caller's random states back at the end."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if on_devices is not None:
            torch.cuda.set_rng_state_all(on_devices)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


class Batches:
    """Whole batches in an order shuffled anew in every epoch; what is left of an epoch is dropped.

    size: samples per batch, at most as many as there are. Reads in the worker processes the samples ask for.
    """

    def __init__(self, samples: Samples, size: int, seed: int) -> None:
        if len(samples) == 0:
            raise ValueError("There are no samples to train on.")
        self.samples = samples
        self.size = max(1, min(size, len(samples)))
        self.seed = seed
        self.per_epoch = len(samples) // self.size
        self._shuffled: tuple[int, NDArray[np.int64]] | None = None

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which samples the batch of a step holds."""
        epoch, place = divmod(step, self.per_epoch)
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = epoch, np.random.default_rng((abs(self.seed), epoch)).permutation(len(self.samples))
        return self._shuffled[1][place * self.size : (place + 1) * self.size]

    def read(self, step: int) -> tuple[Any, Any]:
        """(inputs, target) of a step; augmentation by the data set depends on the step alone."""
        indices = self.indices(step)
        set_random_state(self.seed, step // self.per_epoch, step, READING)
        # A subset of one batch is read in this process, whatever workers the samples ask for.
        return next(iter(self.samples.subset(indices).batches(len(indices))))  # type: ignore[arg-type]

    def between(self, start: int, stop: int) -> Iterator[tuple[Any, Any]]:
        """The batches of steps start <= step < stop."""
        workers = int(getattr(self.samples, "workers", 0))
        if not workers:
            return map(self.read, range(start, stop))
        loader: DataLoader[Any] = DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),
        )
        return iter(loader)


class _Steps(Dataset[Any]):
    """Batches by step, so that a loader's workers read whole batches."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> tuple[Any, Any]:
        return self.batches.read(step)


def _as_it_is(batch: Any) -> Any:
    return batch


def repeats(samples: Samples) -> bool:
    """Whether the first 64 samples are the same when they are read twice: nothing augments them at random."""
    head = samples.subset(range(min(_REPEATED, len(samples))))
    pairs = zip(head.batches(), head.batches(), strict=True)
    return all(_same(list(tensors(first)), list(tensors(second))) for first, second in pairs)


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested mappings, tuples and lists, in order."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for key in tree:
            yield from tensors(tree[key])
    elif isinstance(tree, tuple | list):
        for branch in tree:
            yield from tensors(branch)


def map_tensors(change: Callable[[torch.Tensor], torch.Tensor], tree: Any) -> Any:
    """The same tree (mappings as dicts, sequences as tuples) with every tensor changed."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(change, tree[key]) for key in tree}
    if isinstance(tree, tuple | list):
        return tuple(map_tensors(change, branch) for branch in tree)
    return tree


def part(tree: Any, start: int, stop: int) -> Any:
    """Samples start <= i < stop of a batch."""
    return map_tensors(lambda tensor: tensor[start:stop] if tensor.ndim else tensor, tree)


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
        for a, b in zip(first, second, strict=True)
    )


def _mix(number: int) -> int:
    """The finaliser of SplitMix64: neighbouring numbers give unrelated ones."""
    number = (number + 0x9E3779B97F4A7C15) & _WORD
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _WORD
    return number ^ (number >> 31)
