"""Outputs that are no answer: NaN, or an infinity where the first model has none. They count as wrong.

The largest of nothing but NaN is at place 0: to a metric, such an output looks like the first class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from boildown.domain.grammar import unit_of
from boildown.domain.measurement import Measurement
from boildown.domain.rows import of_each
from boildown.domain.task import Metric, Samples
from boildown.engine.company import numbers
from boildown.tasks.data import places_of

Floats = NDArray[np.float64]

ANSWER = "what kind of answer"
"""Kept of every sample beside the statistics, under a name that no metric can have; see `kinds`."""

_NONE, _INFINITE, _FINITE = -1.0, 0.0, 1.0


def kinds(output: Any, count: int, first: Floats | None = None) -> Floats:
    """Of the outputs of a batch of `count` samples, shape (count,): 1 finite, 0 infinite where it may be, -1 no answer.

    NaN is none. An infinity is none where the first model's kind, `first`, is 1. Where there is no other model,
    masks of minus infinity may be, if they leave something. What is NaN without belonging to a sample belongs to all.
    """
    if (parts := of_each(output, count)) is not None:
        before = [None if first is None else first[at : at + 1] for at in range(count)]
        return np.concatenate([kinds(part, 1, was) for part, was in zip(parts, before, strict=True)])
    found = np.full(count, _FINITE)
    for leaf in pytree.tree_leaves(output):
        part = numbers(leaf)
        if part is None or not (part.is_floating_point() or part.is_complex()) or not part.numel():
            continue
        rows = part.cpu().reshape(count if part.ndim and len(part) == count else 1, -1)
        finite = torch.isfinite(rows)
        if bool(finite.all()):
            continue
        none = torch.isnan(rows).any(1)
        if first is None:
            none |= ~finite.any(1) | (~finite & ~torch.isneginf(rows.real)).any(1)
        infinite = np.broadcast_to((~finite).any(1).numpy(), count)
        bad = none.numpy() if first is None else none.numpy() | (infinite & (first == _FINITE))
        found = np.where(bad, _NONE, np.where(infinite, np.minimum(found, _INFINITE), found))
    return found


def blanked(output: Any, found: Floats) -> Any:
    """The outputs of a batch with zeros for samples without an answer: what a metric sees of them is not used."""
    if (parts := of_each(output, len(found))) is not None:
        return [blanked(part, found[at : at + 1]) for at, part in enumerate(parts)]
    none = torch.from_numpy(found == _NONE)

    def blank(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and numbers(leaf) is not None:
            return blank(torch.from_numpy(leaf)).numpy()
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
            return leaf
        if not leaf.ndim or len(leaf) != len(none):
            return torch.zeros_like(leaf) if not bool(torch.isfinite(leaf).all()) else leaf
        return leaf.masked_fill(none.to(leaf.device).reshape(-1, *[1] * (leaf.ndim - 1)), 0)

    return pytree.tree_map(blank, output)


def held_wrong(metric: Metric, rows: Floats, found: Floats) -> Floats:
    """The statistics of a batch with the wrong answer for samples that have none: the worst where they are shares,
    NaN for any other metric. What the metric leaves out whatever the output, for want of a label, stays left out."""
    none = (found == _NONE) & ~np.isnan(rows.reshape(len(rows), -1)).all(1)
    worst = (0.0 if metric.higher_is_better else 1.0) if _is_share(metric) else math.nan
    return np.where(none.reshape(-1, *[1] * (rows.ndim - 1)), worst, rows)


def spoiled(metric: Metric, statistics: Mapping[str, Floats]) -> bool:
    """Whether a metric is no number for samples without an answer."""
    return not _is_share(metric) and bool((statistics[ANSWER] == _NONE).any())


def value_of(metric: Metric, statistics: Mapping[str, Floats]) -> float:
    """The metric of all samples, NaN where it is no number for some."""
    return math.nan if spoiled(metric, statistics) else float(metric.compute(statistics[metric.name]))


def no_number(metric: Metric, own: Mapping[str, Floats], base: Mapping[str, Floats]) -> Measurement:
    """The measurement of a metric where the artifact, or the first model, has no answer for some samples."""
    value, first = value_of(metric, own), value_of(metric, base)
    return Measurement(metric.name, value, unit_of(metric), first=first, drop=math.nan, ratio=math.nan)


def told(measurement: Measurement, statistics: Mapping[str, Floats], samples: Samples) -> Measurement:
    """A measurement that says how many samples had no answer, if any."""
    said = sentence(statistics, samples)
    return replace(measurement, notes=(*measurement.notes, f"no answer, {said}")) if said else measurement


def sentence(statistics: Mapping[str, Floats], samples: Samples) -> str:
    """How many of the samples scored have no answer, and which is the first of them; empty where all have one."""
    none = statistics[ANSWER] == _NONE
    if not none.any():
        return ""
    return f"NaN or infinity on {int(none.sum()):,} of {len(none):,} samples, first on item {_place(samples, none)}"


def _place(samples: Samples, none: NDArray[np.bool_]) -> int:
    """The first of the samples by its number in the user's own data."""
    return int(places_of(samples)[int(np.argmax(none))])


def _is_share(metric: Metric) -> bool:
    return metric.decomposable and tuple(metric.range) == (0.0, 1.0)
