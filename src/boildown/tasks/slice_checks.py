"""Conditions on slices held against the data, before any work: whether there are samples, and enough of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

import numpy as np

from boildown.domain.names import Name, name_of, written
from boildown.domain.target import Condition, Target
from boildown.domain.task import Metric, Task
from boildown.errors import DataError, Mistake
from boildown.measuring.statistics import level_at_look, paired_ratio, tango, wilson
from boildown.tasks.slices import CLASS, Labels, Values, labels_of, of, rows_of
from boildown.tasks.splits import Splits

LEAST = 5
"""Samples of a slice, below which nothing is said of any metric."""
_MOST = 10**7
_FAR = 0.5
"""Below this share of the samples that it takes a slice has far too few."""
_NAMED = 5
_ROUNDING = 1e-9


def check_slices(target: Target, task: Task, splits: Splits, confidence: float | None) -> list[str]:
    """What the user should know of the slices that a target names.

    Raises DataError with everything for which a condition on a slice cannot be judged: a slice without samples, a
    metric that has no meaning there, slices of which most have far fewer samples than their condition takes.
    """
    mistakes, notes = list[Mistake](), list[str]()
    metrics = {metric.name: metric for metric in task.metrics}
    for condition in target.conditions:
        name = name_of(condition.metric)
        if name is None or not name.key or name.base not in metrics:
            continue
        found = _Asked(condition, name, metrics[name.base], task, splits, confidence)
        wrong = list(found.mistakes())
        mistakes += wrong
        notes += [] if wrong else found.notes()
    if mistakes:
        raise DataError(*mistakes)
    return list(dict.fromkeys(notes))


@dataclass(frozen=True)
class _Asked:
    """One condition on a slice, or on the worst of some."""

    condition: Condition
    name: Name
    metric: Metric
    task: Task
    splits: Splits
    confidence: float | None
    counts: Mapping[str, int] = field(init=False)
    """Different samples of the verdict in every slice of the key that has any."""
    labels: Labels | None = field(init=False)

    def __post_init__(self) -> None:
        labels = labels_of(self.task, self.name.key, self.splits.verdict, judged=True)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "counts", {} if labels is None else self._counted(labels))

    def mistakes(self) -> Iterator[Mistake]:
        """Why it cannot be judged."""
        text, name = f"`{self.condition.text}`", self.name
        if self.labels is None:
            key = name.key
            cure = f"Give slices={{{key!r}: {{'validation': ..., 'test': ...}}}}, or a function."
            yield Mistake(f"{text}: the verdict is on test, of which no slices by {key!r} are known.", cure)
        elif self._within_classes and getattr(self.metric, "across", False):
            cause = f"{text}: {name.base} compares samples of different classes, and within one it has no meaning."
            yield Mistake(cause, f"Ask for {name.base} of all samples, or for another metric of each class.")
        elif name.worst and not self.counts:
            yield Mistake(
                f"{text}: no sample to judge on is in any slice by {name.key!r}.", "Give such, or leave it out."
            )
        elif not name.worst and name.value not in self.counts:
            cure = "Give some, or leave the condition out."
            yield Mistake(f"{text}: no sample to judge on is in the slice {name.slice}.", cure)
        elif name.worst and 2 * (few := self._far_too_few) > len(self.counts):
            cause = (
                f"{text}: {few:,} of its {len(self.counts):,} slices have far too few samples to judge on, "
                f"{median(self.counts.values()):g} in the middle of all: {self._takes}."
            )
            yield Mistake(cause, f"Give {self.least:,} samples of each, join slices to fewer, or ask for less.")

    def notes(self) -> list[str]:
        """What is worth knowing of its slices."""
        name, told = self.name, []
        assert self.labels is not None
        if outside := int((self.labels == "").sum()):
            told.append(f"{outside:,} of {len(self.labels):,} samples to judge on are in no slice by {name.key!r}")
        if not name.worst:
            return told
        if absent := [value for value in Values(self.task)[name.key] if value not in self.counts]:
            told.append(f"no sample to judge on is in the slices {_some(absent, name)}: they are not judged")
        if few := [value for value, count in self.counts.items() if count < self.least]:
            so = "" if self.confidence is None else "; as it is, the target cannot be met with this confidence"
            told.append(f"few samples to judge on are in the slices {_some(few, name, self.counts)}: {self._takes}{so}")
        if self._within_classes and not self.metric.decomposable:
            told.append(f"{name.base} is no mean over samples: within one class it may say something else")
        return told

    @property
    def least(self) -> int:
        """The samples that a slice takes which is as good as can be expected."""
        return max(LEAST, self._enough or 0)

    @property
    def _far_too_few(self) -> int:
        """How many of the slices have far too few samples."""
        return sum(count < max(LEAST, _FAR * self.least) for count in self.counts.values())

    @property
    def _takes(self) -> str:
        if not self._enough or self._enough < LEAST:
            return f"of fewer than {LEAST} nothing can be said"
        errs = "gets wrong" if self.condition.form == "value" else "loses"
        if self.confidence is None:
            return f"a slice that {errs} one sample still holds with {self.least:,} or more"
        return f"a slice that {errs} nothing is proven with {self.least:,} or more"

    @cached_property
    def _enough(self) -> int | None:
        """Of how many samples a share may be to hold; None where more do not help, or for what is no share."""
        condition, metric = self.condition, self.metric
        if not metric.decomposable or tuple(metric.range) != (0, 1):
            return None
        upper = condition.operator in ("<=", "<")
        bound = condition.bound + (_ROUNDING if upper else -_ROUNDING)
        level = None if self.confidence is None else level_at_look(self.confidence, 1)

        def holds(n: int) -> bool:
            lost = 1 / n
            if condition.form == "drop":
                return (lost if level is None else tango(0, 0, n, level).high) <= bound
            if condition.form == "ratio":
                return upper or (1 - lost if level is None else paired_ratio(0, 0, n, level).low) >= bound
            if upper:
                return (lost if level is None else wilson(0, n, level).high) <= bound
            return (1 - lost if level is None else wilson(n, n, level).low) >= bound

        return _first(holds)

    @property
    def _within_classes(self) -> bool:
        """Whether all samples of a slice have the same class."""
        given = getattr(self.task, "given_slices", {})
        return self.name.key == CLASS and CLASS not in given and CLASS in of(self.task, "validation")

    def _counted(self, labels: Labels) -> dict[str, int]:
        clusters, rows = self.splits.verdict_clusters, rows_of(labels)
        return {value: len(at) if clusters is None else len(np.unique(clusters[at])) for value, at in rows.items()}


def _first(holds: Callable[[int], bool]) -> int | None:
    """The least whole number from which on something holds; None where that is very large."""
    high = 1
    while not holds(high):
        if high > _MOST:
            return None
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _some(values: Sequence[str], name: Name, counts: Mapping[str, int] | None = None) -> str:
    shown = [f"{written(name.key)}={written(value)}" + (f" ({counts[value]:,})" if counts else "") for value in values]
    more = f" and {len(shown) - _NAMED:,} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more
