"""Which samples serve training, calibration, search and verdict, so that none judges itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boildown.domain.task import Samples, Task
from boildown.tasks.checks import reads_differ
from boildown.tasks.data import IndexedSamples, Items, Unlabelled, read_targets

CALIBRATION_ITEMS = 512
LABELLED_SEARCH_FROM = 1000


@dataclass(frozen=True)
class Splits:
    """The samples of a run by what they serve.

    search: candidates are ranked on it; it carries labels only if `search_labelled`.
    verdict: read only to judge; shares no item with `calibration` or a labelled `search`.
    notes: what was chosen and why, in sentences.
    """

    train: Samples | None
    calibration: Samples
    search: Samples
    search_labelled: bool
    verdict: Samples
    notes: tuple[str, ...] = ()


def split(samples: Samples, targets: NDArray[np.generic] | None, seed: int) -> tuple[list[int], list[int]]:
    """Two halves of the samples' indices, each sorted; the first is the larger of unequal ones.

    targets: shape (n,) to stratify by: every class is halved to within one item, numbers are halved
    at every level; None, or more than one number per sample, halves at random.
    """
    count = len(samples)
    random = np.random.default_rng(seed).permutation(count)
    if targets is not None and np.ndim(targets) == 1:
        random = random[np.argsort(targets[random], kind="stable")]
    return _sorted(random[0::2]), _sorted(random[1::2])


def resolve(task: Task, seed: int) -> Splits:
    """Decide what every sample of the task serves.

    Verdict: `test`, else half of validation, stratified; below 1,000 validation samples all of it.
    Search: validation, or its other half; below 1,000 samples without labels, for accuracy on a few
    hundred samples is noise. Calibration: the task's, else up to 512 training items, else a slice cut
    from validation that is never scored.
    """
    notes: list[str] = []
    validation = task.validation
    calibration = task.calibration
    if calibration is None and task.train is not None:
        plain = unaugmented(task.train, validation)
        if plain is None:
            notes.append("The training data is augmented; calibration reads it as it is.")
            plain = task.train
        random = np.random.default_rng(seed).permutation(len(plain))
        calibration = plain.subset(_sorted(random[:CALIBRATION_ITEMS]))
        notes.append(f"Calibration uses {len(calibration):,} training items.")
    if calibration is None:
        calibration, validation = _cut(validation, seed)
        notes.append(f"Calibration uses {len(calibration):,} items cut from validation; they are never scored.")
    labelled = len(task.validation) >= LABELLED_SEARCH_FROM
    search: Samples
    if task.test is not None:
        search, verdict = (validation if labelled else Unlabelled(validation)), task.test
    elif labelled:
        first, second = split(validation, read_targets(validation), seed)
        search, verdict = validation.subset(first), validation.subset(second)
        notes.append(
            f"No test data: validation is halved into {len(search):,} items to search on "
            f"and {len(verdict):,} for the verdict."
        )
    else:
        search, verdict = Unlabelled(validation), validation
    if not labelled:
        notes.append(
            f"{len(task.validation):,} validation items are too few to search by score: candidates are "
            "ranked by their outputs' divergence from the first model's, without labels."
        )
    return Splits(task.train, calibration, search, labelled, verdict, tuple(notes))


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
    plain = IndexedSamples(Items(source, train.read.collate), train.indices, train.batch_size, train.workers)
    return None if reads_differ(plain) else plain


def _cut(validation: Samples, seed: int) -> tuple[Samples, Samples]:
    """(calibration, the rest): an eighth of validation, at most 512 and where possible at least 16 items."""
    count = len(validation)
    size = max(min(count // 8, CALIBRATION_ITEMS), min(16, count // 2))
    random = np.random.default_rng(seed).permutation(count)
    return validation.subset(_sorted(random[:size])), validation.subset(_sorted(random[size:]))


def _sorted(indices: NDArray[np.int64]) -> list[int]:
    return [int(index) for index in np.sort(indices)]
