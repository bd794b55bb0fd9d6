"""Metrics held against the first model: whether they are what they say, and whether it knows anything by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from boildown.domain.grammar import format_value, unit_of
from boildown.domain.rows import as_rows, stacked
from boildown.domain.task import Metric, Samples
from boildown.engine.answers import blanked, kinds
from boildown.errors import InputError, Mistake
from boildown.tasks.data import leaves

Floats = NDArray[np.float64]
Batch = tuple[Any, Any]
"""(outputs, targets) of some samples."""

LOOKED_AT, LOOKED_AGAIN = 128, 4096
"""Samples on which metrics are held against a model, and those that are looked at before it is said to know nothing."""

_NUMBERS = 2**25  # of outputs, the most that are kept: those of language models are large
_SHUFFLES = 9
_ALIKE = {"rtol": 1e-4, "atol": 1e-6}  # rounding of single precision
_ALONE = "Let statistic depend on the sample's output and target alone, and compute on the statistics alone"
_FEWEST = 16
_SHUFFLED, _MEAN = "its outputs shuffled among the samples", "its mean output for every sample"


def outputs_of(
    run: Callable[[Any], Any], samples: Samples, seed: int, *, size: int = 32, most: int = LOOKED_AT
) -> list[Batch]:
    """Outputs and targets of about `most` samples in random order, in batches; of fewer where the outputs are large.

    Data may be sorted by class, and a batch of one class tells nothing. Samples without an answer are blanked.
    """
    order = np.random.default_rng(seed).permutation(len(samples))[: max(1, most // size) * size]
    found: list[Batch] = []
    numbers = done = 0
    with torch.no_grad():
        for inputs, target in samples.subset(order.tolist()).batches(size):
            output, count = run(inputs), min(size, len(order) - done)
            if found and isinstance(found[-1][0], list) and not isinstance(output, list):
                output = [output]  # of a single sample what belongs to it was taken out of its list
            kind, done = kinds(output, count), done + count
            found.append((output if (kind >= 0).all() else blanked(output, kind), target))
            numbers += sum(leaf.numel() for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
            if numbers > _NUMBERS:
                break
    return found


def refuse_wrong(metrics: Sequence[Metric], values: Mapping[str, float], batches: Sequence[Batch], seed: int) -> None:
    """Raise InputError with everything that some metrics, of these values, do otherwise than they say."""
    wrong = [
        m for metric in metrics for m in (*out_of_range(metric, values[metric.name]), *unsound(metric, batches, seed))
    ]
    if wrong:
        raise InputError(*wrong)


def unsound(metric: Metric, batches: Sequence[Batch], seed: int = 0) -> list[Mistake]:
    """What a metric does otherwise than it says: it keeps state, looks at other samples, or is no mean."""
    name, random = metric.name, np.random.default_rng(seed)
    parts = _statistics(metric, batches)
    rows = stacked(parts)
    value = float(metric.compute(rows))
    some = [random.permutation(len(part))[: max(1, len(part) // 2)] for part in parts]
    beside = [part[chosen] for part, chosen in zip(parts, some, strict=True)]
    apart = beside
    if all(_sliced(batch, len(part)) for batch, part in zip(batches, parts, strict=True)):
        try:
            apart = _statistics(metric, [_rows(batch, chosen) for batch, chosen in zip(batches, some, strict=True)])
        except Exception:  # noqa: BLE001 - a metric that refuses a part of a batch says nothing else of it
            apart = beside
    again = _statistics(metric, batches[:1])[0], float(metric.compute(rows))
    if not (_same(again[0], parts[0]) and _same(again[1], value)):
        return [
            Mistake(
                f"The metric {name} gives something else for the same outputs when it is asked again.",
                f"{_ALONE}: it may keep nothing between calls, and draw no random numbers.",
            )
        ]
    mistakes = []
    if not all(map(_same, apart, beside)):
        mistakes.append(
            Mistake(
                f"The metric {name} gives samples other statistics in another order, or beside other samples.",
                f"{_ALONE}: batches have any size, and intervals draw samples at random.",
            )
        )
    shuffled = float(metric.compute(rows[random.permutation(len(rows))]))
    if not _same(shuffled, value):
        mistakes.append(
            Mistake(
                f"The metric {name} is {value:.6g}, and {shuffled:.6g} of the same statistics in another order.",
                f"{_ALONE}, in any order: intervals draw samples at random.",
            )
        )
    return [*mistakes, *_no_mean(metric, rows, value)]


def out_of_range(metric: Metric, value: float) -> list[Mistake]:
    """A value that the metric says is impossible."""
    low, high = metric.range
    slack = 1e-6 * max(1.0, abs(value))
    if math.isnan(value) or low - slack <= value <= high + slack:
        return []
    return [
        Mistake(
            f"The metric {metric.name} of the first model is {value:.6g}, and its range says {low:g} to {high:g}.",
            "Mend its range, which intervals end at, or what it computes: 0.93 in a range of (0, 1) is 93 %.",
        )
    ]


def knows_nothing(metric: Metric, batches: Sequence[Batch], seed: int = 0) -> tuple[str, bool]:
    """What can be said where answers that do not look at the inputs score as well as the model's, and whether
    nothing speaks for the model; ("", False) where it is better than all of them.

    The answers are its mean output for every sample, its outputs shuffled among the samples, and the mean of targets.
    """
    sizes = [_count(target) for _, target in batches]
    if sum(sizes) < _FEWEST or not all(map(_sliced, batches, sizes)):
        return "", False
    own = _score(metric, batches)
    if not math.isfinite(own):
        return "", False
    random = np.random.default_rng(seed)
    times = 1 if sum(map(_size, batches)) > _NUMBERS // 4 else _SHUFFLES
    shuffled = sorted(_score(metric, [_shuffled(batch, random) for batch in batches]) for _ in range(times))
    rivals = {
        _SHUFFLED: shuffled[times // 2],
        _MEAN: _score(metric, [(_mean(output), target) for output, target in batches]),
        "the mean of the targets for every sample": _score(metric, _of_targets(batches)),
    }
    better = {name: score for name, score in rivals.items() if _as_good(metric, score, own)}
    if not better:
        return "", False
    shown = {name: format_value(score, unit_of(metric)) for name, score in better.items()}
    said = (
        f"The first model's {metric.name} is {format_value(own, unit_of(metric))}: no better than "
        f"{', or than '.join(f'{name} ({value})' for name, value in shown.items())}."
    )
    return said, {_SHUFFLED, _MEAN} <= better.keys()


def _no_mean(metric: Metric, rows: Floats, value: float) -> list[Mistake]:
    """A metric that says it is the mean of its statistics, and is not."""
    if not metric.decomposable:
        return []
    counted = rows.reshape(len(rows), -1)
    counted = counted[~np.isnan(counted).all(1)]
    mean = float(counted.mean()) if counted.size else math.nan
    if _same(mean, value):
        return []
    return [
        Mistake(
            f"The metric {metric.name} says that it is decomposable, and is {value:.6g} where the mean of its "
            f"statistics is {mean:.6g}.",
            "Set decomposable = False, or let compute be the mean.",
        )
    ]


def _statistics(metric: Metric, batches: Sequence[Batch]) -> list[Floats]:
    return [as_rows(metric.statistic(output, target)).copy() for output, target in batches]


def _score(metric: Metric, batches: Sequence[Batch]) -> float:
    """NaN for answers that the metric refuses."""
    try:
        return float(metric.compute(stacked(_statistics(metric, batches)))) if batches else math.nan
    except Exception:  # noqa: BLE001 - outputs that no model gives
        return math.nan


def _as_good(metric: Metric, score: float, own: float) -> bool:
    slack = 1e-6 * max(abs(own), abs(score))
    return score >= own - slack if metric.higher_is_better else score <= own + slack


def _same(first: Any, second: Any) -> bool:
    if np.ndim(first) == np.ndim(second) == 2:  # rows of any length end in zeros
        both = stacked([first, second])
        first, second = both[: len(first)], both[len(first) :]
    return np.shape(first) == np.shape(second) and bool(np.allclose(first, second, equal_nan=True, **_ALIKE))


def _count(target: Any) -> int:
    return next((len(leaf) for leaf in leaves(target) if hasattr(leaf, "__len__")), 1)


def _size(batch: Batch) -> int:
    return sum(leaf.numel() for leaf in pytree.tree_leaves(batch[0]) if isinstance(leaf, Tensor))


def _sliced(batch: Batch, count: int) -> bool:
    """Whether every part of the outputs and the targets holds one row per sample."""
    return all(
        isinstance(leaf, Tensor | np.ndarray) and leaf.ndim and len(leaf) == count
        for tree in batch
        for leaf in pytree.tree_leaves(tree)
    )


def _rows(batch: Batch, places: NDArray[np.int64]) -> Batch:
    output, target = (pytree.tree_map(lambda leaf: leaf[places], tree) for tree in batch)
    return output, target


def _shuffled(batch: Batch, random: np.random.Generator) -> Batch:
    """Every sample with the output of another of its batch."""
    order = random.permutation(_count(batch[1]))
    places = np.empty_like(order)
    places[order] = np.roll(order, 1)
    return _rows(batch, places)[0], batch[1]


def _mean(output: Any) -> Any:
    """The mean output of a batch for every sample; of whole numbers, such as classes, the most frequent."""

    def mean(leaf: Any) -> Any:
        numbers = torch.as_tensor(leaf)
        one = numbers.mean(0, keepdim=True) if numbers.is_floating_point() else numbers.mode(0, keepdim=True).values
        return one.expand_as(numbers)

    return pytree.tree_map(mean, output)


def _of_targets(batches: Sequence[Batch]) -> list[Batch]:
    """The mean of all targets for every sample, where targets are numbers in the outputs' shape."""
    for output, target in batches:
        if not (isinstance(output, Tensor) and isinstance(target, Tensor) and target.is_floating_point()):
            return []
        if output.numel() != target.numel() or output.shape[1:].numel() != batches[0][0].shape[1:].numel():
            return []
    mean = torch.cat([target.reshape(len(target), -1) for _, target in batches]).mean(0)
    return [(mean.expand(len(target), -1).reshape(output.shape), target) for output, target in batches]
