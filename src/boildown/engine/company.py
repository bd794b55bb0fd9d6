"""Whether a model's answer for a sample depends on the other samples of its batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from boildown.domain.rows import of_each
from boildown.domain.task import Samples
from boildown.tasks.data import evenly_spaced, leaves, map_leaves

LEAST_ALONE = 60.0
"""The decibel of agreement that a float computation keeps whatever else is in the batch: rounding costs 100 or more."""

_ALONE, _TOGETHER = 8, 13  # samples; a count that few axes have by chance
_OFFSET = 1e-4  # of an output's power, what counts at least as signal: a large constant is none
_OTHER_CHOICES = 0.01  # share of whole numbers that near ties may change


def alone_and_together(run: Callable[[Any], Any], samples: Samples) -> float:
    """How well the outputs for a few samples agree between each alone and all in two companies, in decibel.

    run: from the inputs of a batch to its outputs. The second company is larger and in another order. Compared are
    outputs that hold one part per sample on their first axis: infinite where they are equal, or there are none, as of
    lists of what belongs to each sample.
    """
    chosen = samples.subset(evenly_spaced(len(samples), _TOGETHER))
    batch, count = _parts(chosen), len(chosen)
    few, turned = list(range(min(_ALONE, count))), list(reversed(range(count)))
    alone = [_tensors(run(batch([place])), 1) for place in few]
    companies = [(_tensors(run(batch(places)), len(places)), places) for places in (few, turned)]
    found = [math.inf]
    for at, own in enumerate(zip(*alone, strict=False)):
        others = [(outputs[at], places) for outputs, places in companies if at < len(outputs)]
        size = own[0].numel()
        if all(part.numel() == size for part in own) and all(
            other.ndim and len(other) == len(places) and other.numel() == size * len(places) for other, places in others
        ):
            rows = torch.stack([part.reshape(-1) for part in own])
            for other, places in others:
                same = other.reshape(len(places), -1)[[places.index(place) for place in few]]
                found.append(agreement(rows, same))
    return min(found)


def repeats(run: Callable[[Any], Any], samples: Samples) -> bool:
    """Whether the outputs for a few samples are the same when they are asked for again."""
    inputs, _target = next(iter(samples.batches(_ALONE)))
    pairs = zip(_tensors(run(inputs)), _tensors(run(inputs)), strict=False)
    return all(agreement(once.reshape(1, -1), again.reshape(1, -1)) >= LEAST_ALONE for once, again in pairs)


def agreement(reference: Tensor, other: Tensor) -> float:
    """10 log10 of the power by which samples, (n, k), differ among each other over that of reference less other.

    Infinite where they are equal; minus infinity where one is NaN or infinite and the other is not. Of whole numbers,
    such as classes, a few may be others: nearly equal scores decide them.
    """
    if reference.is_complex():
        reference, other = (torch.view_as_real(part).flatten(1) for part in (reference, other))
    if not reference.is_floating_point():
        changed = float((reference != other).double().mean()) if reference.numel() else 0.0
        return math.inf if changed <= _OTHER_CHOICES else -math.inf
    ours, theirs = (part if part.dtype == torch.float64 else part.float() for part in (reference, other))
    finite = torch.isfinite(ours) & torch.isfinite(theirs)
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if not bool((finite | same).all()):
        return -math.inf
    ours, theirs = ours.where(finite, 0.0), theirs.where(finite, 0.0)
    noise = _power(ours - theirs)
    if noise == 0.0:
        return math.inf
    signal = max(max(_power(rows - rows.mean(0)), _OFFSET * _power(rows)) for rows in (ours, theirs))
    return 10 * math.log10(signal / noise)


def numbers(leaf: Any) -> Tensor | None:
    """A part of an output as a tensor, None where it holds no numbers."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
        leaf = torch.from_numpy(leaf)
    return leaf.detach() if isinstance(leaf, Tensor) else None


def _power(rows: Tensor) -> float:
    return float(torch.linalg.vector_norm(rows, dtype=torch.float64)) ** 2


def _parts(samples: Samples) -> Callable[[Sequence[int]], Any]:
    """The inputs of some of the samples: rows of one batch, which a collator has padded to one length, where that is
    what they are; else collated anew."""
    inputs, _target = next(iter(samples.batches(len(samples))))
    shaped = [leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    if any(len(leaf) != len(samples) for leaf in shaped):
        return lambda places: next(iter(samples.subset(places).batches(len(places))))[0]

    def rows(places: Sequence[int]) -> Any:
        return map_leaves(lambda leaf: leaf[list(places)] if isinstance(leaf, Tensor) and leaf.ndim else leaf, inputs)

    return rows


def _tensors(output: Any, count: int = 0) -> list[Tensor]:
    """The parts of an output for a batch of `count` samples; none where it is a list of what belongs to each."""
    if of_each(output, count) is not None:
        return []
    return [found.cpu() for leaf in pytree.tree_leaves(output) if (found := numbers(leaf)) is not None]
