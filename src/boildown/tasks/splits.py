"""Which samples serve training, calibration, search and verdict, so that none judges itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from boildown.domain.task import Samples, Task
from boildown.errors import DataError
from boildown.tasks.checks import not_finite, reads_differ
from boildown.tasks.data import IndexedSamples, Items, Unlabelled, places_of, read_targets
from boildown.tasks.groups import Ids, Units, groups_of, units_of
from boildown.tasks.repeats import Labels

CALIBRATION_ITEMS = 512
LABELLED_SEARCH_FROM = 1000
_TOLD_FROM = 0.01
"""The share of repeated samples from which on they are told."""


@dataclass(frozen=True)
class Splits:
    """The samples of a run by what they serve.

    search: candidates are ranked on it; it carries labels only if `search_labelled`.
    verdict: read only to judge; shares no item with `calibration` or a labelled `search`.
    notes: what was chosen and why, in sentences.
    search_clusters, verdict_clusters: a label for each sample, the same for equal ones, which are one independent
        sample between them, and for those of one group; None where all are independent.
    search_grouped, verdict_grouped: they are groups, whose samples need not say the same.
    others: the same for the other sets that conditions name: second data sets and corruptions.
    """

    train: Samples | None
    calibration: Samples
    search: Samples
    search_labelled: bool
    verdict: Samples
    notes: tuple[str, ...] = ()
    search_clusters: Labels | None = None
    verdict_clusters: Labels | None = None
    search_grouped: bool = False
    verdict_grouped: bool = False
    others: Mapping[str, Splits] = field(default_factory=dict)


def split(
    samples: Samples, targets: NDArray[np.generic] | None, seed: int, clusters: Labels | None = None
) -> tuple[list[int], list[int]]:
    """Two halves of the samples' indices, each sorted; the first is the larger of unequal ones.

    targets: shape (n,) to stratify by: every class is halved to within one item, numbers are halved
    at every level; None, or more than one number per sample, halves at random. clusters: samples of one label stay
    together, and the labels are halved.
    """
    count = len(samples)
    random = np.random.default_rng(seed).permutation(count)
    clusters = np.arange(count) if clusters is None else clusters
    _, labels, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    random = random[np.argsort(-sizes[labels[random]], kind="stable")]
    if targets is not None and np.ndim(targets) == 1:
        random = random[np.argsort(targets[random], kind="stable")]
    together = _together(random, clusters)
    return sorted(chain(*together[0::2])), sorted(chain(*together[1::2]))


def judged_alone(samples: Samples, groups: Ids | None = None) -> Splits:
    """All samples for the verdict, where nothing is searched; groups: the id of each sample's group."""
    units = units_of("scored", samples, groups)
    return Splits(
        None, samples, samples, False, samples, _told("scored", samples, units), None, units.clusters,
        verdict_grouped=units.grouped,
    )  # fmt: skip


def resolve(task: Task, seed: int) -> Splits:
    """Decide what every sample of the task serves.

    Verdict: `test`, else half of validation, stratified; below 1,000 validation samples all of it.
    Search: validation, or its other half; below 1,000 samples without labels, for accuracy on a few
    hundred samples is noise, and where an evaluation of the user's own is all there is. Calibration: the task's,
    else up to 512 training items, else a slice cut from validation that is never scored. Equal samples, and groups,
    count once, and serve one of these.
    Raises DataError where items to calibrate with are not finite, or one group is all that is left to judge on.
    """
    validation = task.validation
    units = judged = units_of("validation", validation, groups_of(task, "validation"))
    calibration, rest, told = _calibration(task, seed, units.clusters)
    notes = [*_told("validation", validation, units), *told]
    if task.calibration is None and task.train is not None and (mistakes := not_finite("train", calibration)):
        raise DataError(*mistakes)
    left = np.array(range(len(validation)) if rest is None else rest, np.int64)
    validation = validation if rest is None else validation.subset(rest)
    scored = bool(task.metrics) or getattr(task, "evaluate", None) is None
    labelled = scored and units.count >= LABELLED_SEARCH_FROM
    search: Samples
    search_clusters = verdict_clusters = units.of(left)
    if task.test is not None:
        search, verdict = (validation if labelled else Unlabelled(validation)), task.test
        judged = units_of("test", verdict, groups_of(task, "test"))
        verdict_clusters = judged.clusters
        notes += _told("test", verdict, judged)
    elif labelled:
        first, second = split(validation, read_targets(validation), seed, search_clusters)
        search, verdict = validation.subset(first), validation.subset(second)
        search_clusters, verdict_clusters = units.of(left[first]), units.of(left[second])
        notes.append(
            f"No test data: validation is halved into {len(search):,} items to search on "
            f"and {len(verdict):,} for the verdict."
        )
    else:
        search, verdict = Unlabelled(validation), validation
    if not scored:
        notes.append(
            "The search does not evaluate: candidates are ranked by their outputs' divergence from the first model's, "
            "and evaluated for the verdict."
        )
    elif not labelled:
        what = "groups of validation items" if units.grouped else "validation items"
        different = "different " if not units.grouped and units.count < len(task.validation) else ""
        notes.append(
            f"{units.count:,} {different}{what} are too few to search "
            "by score: candidates are ranked by their outputs' divergence from the first model's, without labels."
        )
    if judged.grouped and verdict_clusters is not None and len(np.unique(verdict_clusters)) == 1:
        raise DataError.of(
            "One group is all that calibration leaves to judge on, and it says nothing of others.",
            "Give calibration= or train= data, or more groups.",
        )
    return Splits(
        task.train, calibration, search, labelled, verdict, tuple(notes), search_clusters, verdict_clusters,
        units.grouped, judged.grouped,
    )  # fmt: skip


def learning(task: Task, seed: int) -> Splits:
    """What methods learn from, as `resolve` decides it, for a process that judges nothing."""
    cut = task.calibration is None and task.train is None
    units = units_of("validation", task.validation, groups_of(task, "validation")) if cut else None
    calibration, _, _ = _calibration(task, seed, None if units is None else units.clusters)
    return Splits(task.train, calibration, task.validation, False, task.validation)


def unaugmented(train: Samples, validation: Samples) -> Samples | None:
    """The training samples without random augmentation, or None where it cannot be taken off.

    Samples that read the same twice are returned as they are. Otherwise, if both data sets are of one
    type that keeps its preprocessing in `transform`, training items are read with validation's.
    """
    if not reads_differ(train):
        return train
    if not isinstance(train, IndexedSamples) or not isinstance(validation, IndexedSamples):
        return None
    if not isinstance(train.read, Items) or not isinstance(validation.read, Items):
        return None
    ours, theirs = train.read.source, validation.read.source
    if type(ours) is not type(theirs) or not hasattr(ours, "transform"):
        return None
    source = copy.copy(ours)
    for name in ("transform", "transforms"):
        if hasattr(theirs, name):
            setattr(source, name, getattr(theirs, name))
    read = copy.copy(train.read)
    read.source = source
    plain = IndexedSamples(read, train.indices, train.batch_size, train.workers, train.places)
    return None if reads_differ(plain) else plain


def _calibration(task: Task, seed: int, clusters: Labels | None) -> tuple[Samples, list[int] | None, tuple[str, ...]]:
    """(calibration, what it leaves of validation where it is cut from it, how it was chosen)."""
    if task.calibration is not None:
        return task.calibration, None, ()
    if task.train is None:
        cut, rest = _cut(len(task.validation), seed, clusters)
        told = f"Calibration uses {len(cut):,} items cut from validation; they are never scored."
        return task.validation.subset(cut), rest, (told,)
    plain, notes = unaugmented(task.train, task.validation), list[str]()
    if plain is None:
        notes.append("The training data is augmented; calibration reads it as it is.")
        plain = task.train
    random = np.random.default_rng(seed).permutation(len(plain))
    calibration = plain.subset(_sorted(random[:CALIBRATION_ITEMS]))
    return calibration, None, (*notes, f"Calibration uses {len(calibration):,} training items.")


def _cut(count: int, seed: int, clusters: Labels | None) -> tuple[list[int], list[int]]:
    """(calibration, the rest): an eighth of validation, at most 512 and where possible at least 16 items.

    Samples of one label stay together, so that it may be somewhat more or less.
    """
    size = max(min(count // 8, CALIBRATION_ITEMS), min(16, count // 2))
    random = np.random.default_rng(seed).permutation(count)
    cut: list[int] = []
    for together in [] if clusters is None else _together(random, clusters):
        if len(cut) + len(together) <= size or (not cut and len(together) <= count // 2):
            cut += together
    cut = cut or random[:size].tolist()
    return sorted(cut), sorted(set(range(count)) - set(cut))


def _together(order: NDArray[np.int64], clusters: Labels) -> list[list[int]]:
    """The samples of each label, in the order of the first of them."""
    found: dict[int, list[int]] = {}
    for index in order.tolist():
        found.setdefault(int(clusters[index]), []).append(index)
    return list(found.values())


def _told(name: str, samples: Samples, units: Units) -> tuple[str, ...]:
    """What there is to know of groups and of repeated samples, in sentences; a few go without saying."""
    count, found = len(samples), units.found
    if count - found.distinct < _TOLD_FROM * count or (units.grouped and found.natural):
        return units.notes
    if found.clusters is None:
        return (
            *units.notes,
            f"The {count:,} {name} samples hold {found.distinct:,} different inputs, as is natural where so few are "
            "possible: each counts as independent. If they are copies, leave them out.",
        )
    _, labels, counts = np.unique(found.clusters, return_inverse=True, return_counts=True)
    places = places_of(samples)[labels == labels[np.argmax(counts[labels] > 1)]]
    return (
        *units.notes,
        f"The {count:,} {name} samples are {found.distinct:,} different ones, some repeated (items {places[0]} and "
        f"{places[1]} are equal): equal samples are never parted, and count as one in intervals.",
    )


def _sorted(indices: NDArray[np.int64]) -> list[int]:
    return [int(index) for index in np.sort(indices)]
