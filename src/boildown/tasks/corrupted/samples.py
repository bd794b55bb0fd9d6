"""A data set made of another one by changing the inputs of its samples, with random numbers of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils import _pytree as pytree

from boildown.errors import InputError, Mistake, contained, in_words
from boildown.tasks.corrupted.labels import Label
from boildown.tasks.data import (
    IndexedSamples,
    evenly_spaced,
    leaves,
    map_leaves,
    one_thread,
    split_target,
)

Own = Callable[[Any, float, Generator], Any]
"""`fn(inputs, severity, generator)`: the inputs of one sample, as a batch of one, corrupted."""
Change = Callable[[Any, Generator], Any]
"""The same at one severity."""

_KEPT_BYTES = 100e6
_TRIED = 8
_OWN = "Mend it, or leave out the conditions that name it."


class Corrupted:
    """Batches read as before, the inputs of every sample changed.

    The random numbers follow from the seed, the label and the place of the item: they are the same in every process, in
    any order, and in batches of any size. What has been made is kept while it is small. key: what the change is, as
    text that is equal where it is.
    """

    def __init__(self, of: IndexedSamples, change: Change, label: Label, seed: int, key: str) -> None:
        self.of, self.read, self.change, self.label, self.seed, self.key = of, of.read, change, label, seed, key
        self.collated: bool = of.read.collated
        self._kept: dict[int, Any] = {}
        self._bytes = 0

    @property
    def name(self) -> str:
        """That of what is read, and the label."""
        return f"{self.read.name}, {self.label}"

    def __call__(self, indices: Sequence[int]) -> Any:
        inputs, target = split_target(self.read(indices))
        with one_thread():
            rows = [self._row(inputs, at, int(index), len(indices)) for at, index in enumerate(indices)]
        return _together(rows), target

    def _row(self, inputs: Any, at: int, index: int, count: int) -> Any:
        if index in self._kept:
            return self._kept[index]
        made = self.changed(_part(inputs, at, count), index)
        size = sum(leaf.nbytes for leaf in leaves(made) if isinstance(leaf, Tensor))
        if not self.collated and self._bytes + size <= _KEPT_BYTES:  # padding differs from batch to batch
            self._kept[index], self._bytes = made, self._bytes + size
        return made

    def changed(self, inputs: Any, index: int) -> Any:
        """The inputs of one sample, as a batch of one, corrupted."""
        text = f"{self.seed}|{self.label}|{index}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
        return _plain(self.change(_plain(inputs), Generator().manual_seed(number)))

    def targets(self) -> NDArray[Any] | None:
        """Those of what is read."""
        return self.read.targets()


class CorruptedSamples(IndexedSamples):
    """The samples of another data set, corrupted: made one by one as they are read."""

    def fingerprint(self, *, every: bool) -> str:
        """A hash of 256 samples; of `every` also of what they are made of, so that not all need to be made."""
        read: Any = self.read
        if not every:
            return super().fingerprint(every=False)
        of = read.of
        if not np.array_equal(of.indices, self.indices):
            of = IndexedSamples(read.read, self.indices, self.batch_size, self.workers)
        parts = (of.fingerprint(every=True), read.key, read.label, read.seed, super().fingerprint(every=False))
        return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()


def corrupted(of: IndexedSamples, change: Change, label: Label, seed: int, key: str) -> CorruptedSamples:
    """A data set, corrupted; see `Corrupted`."""
    read: Any = Corrupted(of, change, label, seed, key)
    return CorruptedSamples(read, of.indices, of.batch_size, of.workers, of.places)


def tried(samples: CorruptedSamples) -> str:
    """What to tell of a corruption that leaves samples as they are. Raises InputError for one that cannot be used.

    Some samples are corrupted twice: they must be the same both times, and of the shapes and types that they had.
    """
    read: Any = samples.read
    name, places, same = f"The corruption {read.label}", evenly_spaced(len(samples), _TRIED), True
    for place in places:
        index, item = int(samples.indices[place]), f"item {samples.places[place]}"
        try:
            with contained(), one_thread():
                inputs, _target = split_target(read.read([index]))
                once, again = (read.changed(_part(inputs, 0, 1), index) for _ in range(2))
        except InputError as error:
            raise InputError(*(Mistake(f"{name}: {each.cause}", each.cure) for each in error.mistakes)) from error
        except Exception as error:  # a user's function may raise anything
            raise InputError.of(f"{name} fails on {item}: {in_words(error)}", _OWN) from error
        before, after, twice = (list(leaves(_plain(tree))) for tree in (inputs, once, again))
        forms = [", ".join(map(_form, side)) for side in (before, after)]
        if forms[0] != forms[1]:
            cure = "Let it give the inputs in the shapes and types in which it gets them."
            raise InputError.of(f"{name} makes {forms[1]} of {forms[0]}.", cure)
        if not all(map(_equal, after, twice)):
            raise InputError.of(
                f"{name} gives something else when it is asked again with the same random numbers.",
                "Draw them all from the generator that it is given: torch.randn(shape, generator=generator).",
            )
        if not all(bool(torch.isfinite(leaf).all()) for leaf in after if isinstance(leaf, Tensor)):
            raise InputError.of(f"{name} makes NaN or infinity of {item}.", _OWN)
        same = same and all(map(_equal, before, after))
    return f"{read.label} changes none of the {len(places)} samples that were looked at" if same else ""


def _plain(inputs: Any) -> Any:
    """Inputs in dicts and tuples, with tensors of their own."""
    return map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def _part(inputs: Any, at: int, count: int) -> Any:
    """One sample of a batch of `count`, as a batch of one."""

    def part(leaf: Any) -> Any:
        by_sample = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == count
        return leaf[at : at + 1] if by_sample else leaf

    return map_leaves(part, inputs)


def _together(rows: Sequence[Any]) -> Any:
    """Batches of one as one batch."""
    flat = [pytree.tree_flatten(row) for row in rows]
    columns = zip(*(parts for parts, _ in flat), strict=True)
    joined = [
        torch.cat(column) if isinstance(column[0], Tensor) and column[0].ndim else column[0]
        for column in map(list, columns)
    ]
    return pytree.tree_unflatten(joined, flat[0][1])


def _form(leaf: Any) -> str:
    if not isinstance(leaf, Tensor):
        return type(leaf).__name__
    return f"{tuple(leaf.shape[1:])} ({str(leaf.dtype).removeprefix('torch.')})"


def _equal(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, Tensor) else bool(first == second)
