"""Measurements of slices: of one, and of the worst of all that a key tells apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from boildown.domain.measurement import Form, Interval, Measurement
from boildown.domain.names import Name, name_of
from boildown.domain.task import Metric
from boildown.engine.job import Job
from boildown.journal.keys import hash_of
from boildown.tasks.slices import labels_of, rows_of

Rows = NDArray[np.intp]

One = Callable[[Metric, Rows, float, bool], Measurement]
"""Measures a metric on some rows, with intervals at a level; whether that lies far out."""

Part = Literal["search", "verdict"]


class Slicer:
    """The slices of a job's samples, and what is measured of them: on the search's samples only what is asked for."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._found: dict[tuple[str, Part], tuple[dict[str, Rows], str]] = {}

    def rows(self, key: str, which: Part) -> dict[str, Rows]:
        """The rows of every slice that has any, in the order of their values."""
        return self._look(key, which)[0]

    def names(self, which: Part) -> tuple[Name, ...]:
        """What is measured on these samples: the worst of slices, and slices, that have any."""
        found = self._job.sliced(asked=which == "search")
        return tuple(n for n in found if (rows := self.rows(n.key, which)) and (n.worst or n.value in rows))

    def key(self, name: str, which: Part) -> dict[str, str]:
        """What the key of a measurement says of the slices that it is of; nothing for any other."""
        found = name_of(name)
        return {"slices": self._look(found.key, which)[1]} if found is not None and found.key else {}

    def identity(self) -> str:
        """A hash of the slices that the target asks for; empty where it asks for none."""
        keys = sorted({name.key for name in self._job.sliced(asked=True)})
        return hash_of([[key, self._look(key, "verdict")[1]] for key in keys]) if keys else ""

    def measure(self, which: Part, level: float, one: One) -> list[Measurement]:
        """Every slice, and the worst of those of one key with each of them.

        The intervals of one slice hold at `level`; `simultaneous` ones of k at 1 - (1 - level) / k each, so that with
        `level` all of them hold (Bonferroni).
        """
        metrics, found = {metric.name: metric for metric in self._job.metrics}, dict[str, Measurement]()
        for name in self.names(which):
            metric, rows = metrics[name.base], self.rows(name.key, which)
            if not name.worst:
                table = found[str(Name(name.base, name.key))]
                own = next(each for each in table.slices if each.metric == str(name))
                found[str(name)] = replace(own, simultaneous={}, environment=table.environment)
                continue
            together, slices = 1 - (1 - level) / len(rows), list[Measurement]()
            for value, at in rows.items():
                plain = one(metric, at, level, False)
                wide = plain if len(rows) == 1 else one(metric, at, together, True)
                called = str(replace(name, value=value))
                slices.append(replace(plain, metric=called, simultaneous=wide.intervals, environment={}))
            worst = worst_of(str(name), slices, higher_is_better=metric.higher_is_better)
            found[str(name)] = replace(worst, environment=plain.environment)
        return list(found.values())

    def _look(self, key: str, which: Part) -> tuple[dict[str, Rows], str]:
        """(the rows of every slice, a hash of what slice every sample is in)."""
        if (key, which) not in self._found:
            splits, judged = self._job.splits, which == "verdict"
            samples = splits.verdict if judged else splits.search
            labels = labels_of(self._job.task, key, samples, judged=judged)
            self._found[key, which] = ({}, "") if labels is None else (rows_of(labels), hash_of(labels.tolist()))
        return self._found[key, which]


def worst_of(name: str, slices: Sequence[Measurement], *, higher_is_better: bool) -> Measurement:
    """The worst of some slices, with each of them; value, first, drop and ratio are each those of the worst in it."""

    def bad(each: Measurement, form: Form) -> float:
        found, sign = each.observed(form), -1.0 if higher_is_better and form != "drop" else 1.0
        return -math.inf if found is None else math.inf if math.isnan(found) else sign * found

    forms: tuple[Form, ...] = ("value", "drop", "ratio")
    # Of those that are as bad in a form, such as the first model's that have all lost nothing, the one of lower value.
    of = {form: max(slices, key=lambda each: (bad(each, form), bad(each, "value"))) for form in forms}
    decides = of["value"] if of["drop"].drop is None else of["drop"]
    intervals: dict[Form, Interval] = {
        form: found.intervals[form] for form, found in of.items() if form in found.intervals
    }
    firsts = [each.first for each in slices if each.first is not None]
    return replace(
        decides,
        metric=name,
        value=of["value"].value,
        first=((min if higher_is_better else max)(firsts) if firsts else None),
        drop=of["drop"].drop,
        ratio=of["ratio"].ratio,
        intervals=intervals,
        simultaneous={},
        slices=tuple(slices),
        notes=(),
    )
