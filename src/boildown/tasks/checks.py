"""What can be wrong with the data itself, found before anything is computed on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boildown.domain.task import Samples
from boildown.errors import Cancelled, DataError, DeadlineError, InputError, Mistake, contained, in_words, text_of
from boildown.tasks.data import IndexedSamples, Rows, content, leaves, places_of
from boildown.tasks.repeats import equal, first_not_finite, look

READ_TWICE = 64
READ_AHEAD = 256
IGNORED = -100
"""The label that PyTorch's cross entropy ignores."""


def check_samples(name: str, samples: Samples, *, labelled: bool, scored: bool, every: bool = False) -> list[Mistake]:
    """Every mistake in the first 256 items of one data set, and what cannot be read or is not finite in `every` item.

    name: how to call it ('validation'). labelled: targets are needed. scored: it is judged on, so it
    must read the same every time (the first 64 items and 64 others are read twice).
    """
    if len(samples) == 0:
        return [Mistake(f"The {name} data is empty.", "Give at least one item, better a thousand.")]
    reading = samples.subset(range(min(READ_AHEAD, len(samples))))
    try:
        with contained():
            mistakes = list(_first_of_each(_batch_mistakes(name, reading, labelled)))
            if every and not mistakes:
                reading = samples
                mistakes = not_finite(name, samples)
    except (Cancelled, DeadlineError):
        raise
    except InputError as error:  # a task that reads targets its own way tells what is wrong with them
        return [Mistake(f"{name}: {mistake.cause}", mistake.cure) for mistake in error.mistakes]
    except Exception as error:  # noqa: BLE001 - a user's data set may raise anything: it becomes a mistake
        return [_unreadable(name, reading, error)]
    if scored and reads_differ(samples):
        mistakes.append(
            Mistake(
                f"The {name} data differs when it is read twice: it is augmented at random.",
                "Judge on data with the preprocessing of inference: fixed resize and crop, no flips.",
            )
        )
    return mistakes


def not_finite(name: str, samples: Samples) -> list[Mistake]:
    """The first input and the first target of all samples that are NaN or infinite."""
    return [_not_finite(name, what, int(places_of(samples)[at])) for what, at in look(samples).bad.items()]


def unlike_main(name: str, samples: Samples, main: Samples) -> list[Mistake]:
    """A set whose items have other shapes or types than those of the main one; both can be read."""
    ours, theirs = (next(each.subset([0]).batches(1)) for each in (samples, main))
    padded = isinstance(main, IndexedSamples) and main.collated
    for what, own, usual in (("inputs", ours[0], theirs[0]), ("targets", ours[1], theirs[1])):
        if what == "targets" and (own is None or usual is None):
            continue  # either may be held against the first model alone
        forms = [_forms(tree, whole=not padded, typed=what == "inputs") for tree in (own, usual)]
        if forms[0] != forms[1]:
            cause = f"The {name} {what} have {', '.join(forms[0])}; those of the main set {', '.join(forms[1])}."
            return [Mistake(cause, "Prepare every set alike: the same parts, sizes, channels and types.")]
    return []


def _forms(tree: Any, *, whole: bool, typed: bool) -> list[str]:
    """Shapes per sample, or how many axes they have, and types where they matter, part by part."""
    found = []
    for leaf in leaves(tree):
        if isinstance(leaf, torch.Tensor):
            shape = f"shape {tuple(leaf.shape[1:])}" if whole else f"{leaf.ndim - 1} axes"
            found.append(f"{shape} ({str(leaf.dtype).removeprefix('torch.')})" if typed else shape)
        else:
            found.append(type(leaf).__name__)
    return found


def check_labels(targets: NDArray[Any], classes: int, name: str = "validation") -> list[Mistake]:
    """Labels against the model's number of outputs, known after its first output."""
    labels = targets[targets != IGNORED]
    if labels.size == 0 or labels.dtype.kind not in "biu":
        return []
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < classes:
        return []
    cure = "Check that model and labels belong together, and the label order."
    if low >= 1 and high == classes:
        cure = "Labels start at 1: subtract 1 from them."
    return [
        Mistake(
            f"The {name} labels run from {low} to {high}, the model has {classes} outputs.",
            cure,
        )
    ]


def check_text(name: str, target: Any) -> list[Mistake]:
    """Labels that are texts, from those of one sample."""
    text = next((leaf for leaf in leaves(target) if isinstance(leaf, str | np.str_)), None)
    if text is None:
        return []
    return [
        Mistake(
            f"The {name} labels are texts, such as {str(text)[:40]!r}.",
            "Number them in the order of the model's outputs: classes.index(label), with classes = sorted(set(labels)) "
            "where they were numbered so.",
        )
    ]


def check_one_hot(name: str, targets: NDArray[Any]) -> list[Mistake]:
    """Labels with a place for each class, of which one is 1 and the others are 0."""
    if targets.ndim != 2 or targets.shape[1] < 2:
        return []
    ones, zeros = (targets == 1).sum(1), (targets == 0).sum(1)
    if not ((ones == 1) & (zeros == targets.shape[1] - 1)).all():
        return []
    cure = "Give the number of the class: labels.argmax(1) of them all, or label.argmax() of an item."
    return [Mistake(f"The {name} labels are one-hot, of {targets.shape[1]} values per sample.", cure)]


def check_classes(name: str, targets: NDArray[Any], *, scored: bool, axes: int = 1) -> list[Mistake]:
    """Labels by themselves: whole numbers, none negative, and more than one class where they are scored.

    axes: of the labels with their batch; floating-point targets of one more are probabilities of classes.
    """
    if targets.ndim == axes + 1 and targets.shape[1] == 1:
        return [
            Mistake(
                f"The {name} labels have shape {targets.shape[1:]} per sample, an axis of one too many.",
                "Take it away in the data set: target.squeeze(0) of an item, squeeze(1) of a batch.",
            )
        ]
    if targets.dtype.kind == "f" and targets.ndim == axes:
        return [
            Mistake(
                f"The {name} labels are {targets.dtype}, not whole numbers.",
                "Give class indices (target.long()), or use Regression for numbers.",
            )
        ]
    if targets.dtype.kind not in "biu":
        return []
    labels = targets[targets != IGNORED]
    if labels.size and labels.min() < 0:
        return [Mistake(f"A {name} label is {labels.min()}.", f"Give labels from 0; {IGNORED} marks one to ignore.")]
    if scored and targets.ndim == 1 and len(labels) > 1 and labels.min() == labels.max():
        return [
            Mistake(
                f"All {len(labels):,} {name} labels are {labels.min()}: a constant answer would score 100 %.",
                "Give items of every class; if the data is sorted by class, take more than its beginning.",
            )
        ]
    return []


def ignoring(target: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The target with -100 at these places; whole numbers as int64, since -100 does not fit into uint8."""
    return (target if target.is_floating_point() else target.long()).masked_fill(where, IGNORED)


def check_binary(name: str, targets: NDArray[Any]) -> list[Mistake]:
    """Targets of binary cross entropy: from 0 to 1, or ignored."""
    labels = targets[targets != IGNORED]
    outside = labels[(labels < 0) | (labels > 1)]
    if not outside.size:
        return []
    return [
        Mistake(
            f"A {name} label is {outside[0]:g}, and loss='bce' takes those from 0 to 1.",
            f"Divide by the largest (often 255); {IGNORED} marks what does not count (ignore= of Segmentation).",
        )
    ]


def overlap(train: Samples, validation: Samples) -> int:
    """How many validation items have inputs that also occur in the training data, or as good as equal ones."""
    labels = equal(validation, train)
    return int(np.isin(labels[: len(validation)], labels[len(validation) :]).sum())


def majority_share(targets: NDArray[Any]) -> float:
    """The share of the most frequent label: what a model that never looks would score."""
    labels = targets[targets != IGNORED]
    return float(np.unique(labels, return_counts=True)[1].max() / labels.size) if labels.size else 0.0


def reads_differ(samples: Samples) -> bool:
    """Whether the first 64 items, or 64 at random of all, differ when they are read twice; tensors never do."""
    if isinstance(samples, IndexedSamples) and isinstance(samples.read, Rows):
        return False
    random = np.random.default_rng(len(samples)).permutation(len(samples))[:READ_TWICE]
    chosen = samples.subset(sorted({*range(min(READ_TWICE, len(samples))), *random.tolist()}))
    return any(not _same(first, second) for first, second in zip(chosen.batches(), chosen.batches(), strict=True))


def unlike(output: Any, target: Any) -> DataError:
    """The error for outputs that do not pair up with their targets."""
    return DataError(
        Mistake(
            f"Outputs of shape {tuple(output.shape)} do not fit targets of shape {tuple(target.shape)}.",
            "Give the model and the targets the same shape, or choose what is compared with forward=.",
        )
    )


def _batch_mistakes(name: str, head: Samples, labelled: bool) -> Iterator[tuple[str, Mistake]]:
    """(kind, mistake) of every batch."""
    start = 0
    reading = head.untouched(READ_TWICE) if isinstance(head, IndexedSamples) else head.batches(READ_TWICE)
    for inputs, target in reading:
        parts = list(leaves(inputs))
        other = next((part for part in parts if not isinstance(part, torch.Tensor)), None)
        if other is not None:
            what = "text" if isinstance(other, str) else type(other).__name__
            yield (
                "type",
                Mistake(
                    f"The {name} inputs hold {what}, not tensors.",
                    "Tokenise or convert them in the data set, or in a DataLoader's collate_fn.",
                ),
            )
        if labelled and target is None:
            yield (
                "target",
                Mistake(
                    f"The {name} data has no targets.",
                    "Let items be (inputs, target), or dicts with a key 'label' or 'target'.",
                ),
            )
        for what, tree in (("an input", inputs), ("a target", target)):
            bad = first_not_finite(tree)
            if bad is not None:
                yield what, _not_finite(name, what, int(places_of(head)[min(start + bad, len(head) - 1)]))
        start += READ_TWICE


def _not_finite(name: str, what: str, place: int) -> Mistake:
    return Mistake(
        f"{name.capitalize()} item {place} has {what} that is NaN or infinite.",
        "Remove such items, or fix the preprocessing (division by zero, logarithm of zero).",
    )


def _first_of_each(found: Iterator[tuple[str, Mistake]]) -> Iterator[Mistake]:
    """One mistake of each kind is enough."""
    seen: set[str] = set()
    for kind, mistake in found:
        if kind not in seen:
            seen.add(kind)
            yield mistake


def _unreadable(name: str, head: Samples, error: Exception) -> Mistake:
    """Why a batch could not be read: an item that raises, or items of different shapes."""
    if getattr(head, "workers", 0) and "in DataLoader worker process" not in text_of(error):
        # Not read here to find the item: what ended a worker would end this process.
        return Mistake(
            f"A worker that reads the {name} data ended: {in_words(error)}",
            "See that nothing in the data set ends the process, and that there is memory enough.",
        )
    shapes: list[list[tuple[int, ...]]] = []
    for index, place in enumerate(places_of(head)):
        try:
            with contained():
                inputs, target = next(head.subset([index]).batches(1))
        except (Cancelled, DeadlineError):
            raise
        except Exception as cause:  # noqa: BLE001 - as above
            return Mistake(
                f"{name.capitalize()} item {place} cannot be read: {in_words(cause)}",
                "Fix or leave out that item.",
            )
        shapes.append([tuple(leaf.shape[1:]) for leaf in leaves((inputs, target)) if hasattr(leaf, "shape")])
        if shapes[index] != shapes[0]:
            pairs = zip(shapes[index], shapes[0], strict=False)
            here, there = next(((a, b) for a, b in pairs if a != b), (shapes[index], shapes[0]))
            return Mistake(
                f"{name.capitalize()} items have different shapes: item {place} {here}, "
                f"item {places_of(head)[0]} {there}.",
                "Resize or crop them to one shape, or give collate=, or a DataLoader whose collate_fn, that pads.",
            )
    return Mistake(
        f"The {name} items cannot be put into batches: {in_words(error)}",
        "Give collate=, or a DataLoader with a collate_fn, that can.",
    )


def _same(first: Any, second: Any) -> bool:
    """Bit for bit, so that a NaN equals itself."""
    ours, theirs = list(leaves(first)), list(leaves(second))
    return len(ours) == len(theirs) and all(map(_equal, ours, theirs))


def _equal(first: Any, second: Any) -> bool:
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return type(first) is type(second) and bool(first == second)
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and np.array_equal(content(first), content(second))
