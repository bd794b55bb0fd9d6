"""An evaluation of the user's own, asked of exported files: as a whole, and part by part where it takes indices."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.measurement import Form, Interval, Measurement
from boildown.domain.task import Runnable
from boildown.engine.metric_checks import out_of_range
from boildown.errors import AttemptError, Cancelled, DataError, InputError, WorkerLost, contained, in_words
from boildown.measuring.parts import LEAST, UNITS, dealt, interval_of_parts
from boildown.measuring.quality import compared
from boildown.measuring.statistics import units_of
from boildown.tasks.data import places_of
from boildown.tasks.evaluating import INDICES, Evaluated, assumed, takes_indices, values_of
from boildown.tasks.general import written

if TYPE_CHECKING:
    from boildown.engine.bench import Bench, Ran

NO_INTERVAL = "evaluate takes no indices, and one number says nothing of its noise"
"""Why the numbers of an evaluation have no interval."""

_MEND = "Mend evaluate: it is given the exported file, which is called as the model is."


@dataclass(frozen=True)
class Scores:
    """What an evaluation returned of one artifact, by name: of all samples, and of every part.

    why: there are no parts.
    """

    whole: Mapping[str, float]
    parts: tuple[Mapping[str, float], ...] = ()
    why: str = ""

    @property
    def digest(self) -> str:
        """A hash of them."""
        told = json.dumps([dict(self.whole), list(map(dict, self.parts))], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


class Exported:
    """An exported file as an evaluation sees it: called like the torch module, with tensors or arrays, and no more.

    `eval`, `train(False)` and `to` give it back as it is; it runs on the CPU, and outputs come back where inputs were.
    """

    training = False
    device = torch.device("cpu")

    def __init__(self, run: Runnable, example: Any) -> None:
        leaves = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, torch.Tensor)]
        object.__setattr__(self, "_run", run)
        object.__setattr__(self, "_types", {leaf.dtype for leaf in leaves if leaf.is_floating_point()})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        args, kwargs = pytree.tree_map(self._tensor, (args, kwargs))
        output = self._run(*args, **kwargs)
        device = given[0].device if given else self.device
        return pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.to(device), output)

    def eval(self) -> Exported:
        """Itself."""
        return self

    def to(self, *_where: Any, **_how: Any) -> Exported:
        """Itself: an exported file stays what it is."""
        return self

    def train(self, mode: bool = True) -> Exported:
        """Itself, where it is not to be trained. Raises AttributeError."""
        if mode:
            raise AttributeError("the exported file cannot be trained: evaluate may only call it")
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"the exported file cannot be changed ({name} = ...): evaluate may only call it")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the exported file has no {name}: evaluate may only call it")

    def _tensor(self, leaf: Any) -> Any:
        """An array as a tensor, of the type that the model takes where that is one of floating point."""
        if not isinstance(leaf, np.ndarray):
            return leaf
        made = torch.from_numpy(np.ascontiguousarray(leaf))
        types: set[torch.dtype] = self._types
        return made.to(next(iter(types))) if made.is_floating_point() and len(types) == 1 else made


class Evaluations:
    """Asks the task's evaluation of the artifacts of a bench; of each but once."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._scores: dict[Ran, Scores] = {}

    def scores(self, candidate: Candidate | None, artifact: Artifact) -> Scores:
        """What it returns of an artifact; of any other than the first model's the names that it returned of that.

        Raises DataError where it raises, or returns other names or no finite numbers, or impossible ones of the first
        model.
        """
        if artifact.ran not in self._scores:
            bench = self._bench
            assert bench.first is not None
            is_first = bench.is_first(artifact)
            names = self._named if is_first else tuple(self.scores(candidate, bench.first).whole)
            model = Exported(bench.model(candidate, artifact), bench.job.task.example())
            with bench.timed("measure"):
                self._scores[artifact.ran] = found = self._asked(model, names)
            impossible = [m for metric in self._metrics(found) for m in out_of_range(metric, found.whole[metric.name])]
            if is_first and impossible:
                raise DataError(*impossible)
        return self._scores[artifact.ran]

    def measured(
        self, candidate: Candidate | None, artifact: Artifact, level: float, environment: Mapping[str, Any]
    ) -> list[Measurement]:
        """Every number of an artifact beside the first model's, with intervals at `level` where there are parts."""
        bench = self._bench
        assert bench.first is not None
        base = self.scores(candidate, bench.first)
        shared = {"evaluate": written(self._function), "first": bench.first_hash, "scores": base.digest, "level": level}
        keys = {
            metric.name: bench.key(metric.name, artifact, "verdict", higher=metric.higher_is_better, **shared)
            for metric in self._metrics(base)
        }
        known = [measurement for key in keys.values() if (measurement := bench.recall(key)) is not None]
        if len(known) == len(keys):
            return known
        own = self.scores(candidate, artifact)
        found = [self._measurement(metric, own, base, level, environment) for metric in self._metrics(base)]
        for measurement in found:
            bench.keep(keys[measurement.metric], measurement)
        return found

    # -- helpers -------------------------------------------------------------------------------------

    @property
    def _function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = self._bench.job.task.evaluate  # type: ignore[attr-defined]
        return function

    @property
    def _named(self) -> tuple[str, ...]:
        """What the target and the task name of it."""
        return tuple(metric.name for metric in getattr(self._bench.job.task, "evaluated", ()))

    def _metrics(self, scores: Scores) -> list[Evaluated]:
        """What is known of every number; what the task measures by itself is not taken from here too."""
        declared = {metric.name: metric for metric in self._bench.job.evaluated}
        own = {metric.name for metric in self._bench.job.metrics}
        return [declared.get(name) or assumed(name) for name in scores.whole if name not in own]

    def _asked(self, model: Exported, names: Sequence[str]) -> Scores:
        bench = self._bench
        samples, seed = bench.job.splits.verdict, bench.job.seed
        places = places_of(samples)
        if not takes_indices(self._function):
            bench.progress("evaluate", 0, None)
            return Scores(self._values(model, None, names), why=NO_INTERVAL)
        units = units_of(bench.job.splits.verdict_clusters, len(samples))
        parts = dealt(units, seed)
        bench.progress("evaluate", 0, 1 + len(parts))
        whole = self._values(model, places, names)
        if not parts:
            few = f"{len(units):,} independent samples are too few to deal into {LEAST} parts of {UNITS}"
            return Scores(whole, why=f"no interval: {few}")
        found = []
        for number, part in enumerate(parts, 1):
            bench.check()
            bench.progress("evaluate", number, 1 + len(parts))
            try:
                found.append(self._values(model, places[part], tuple(whole)))
            except InputError as error:
                why = f"no interval: on a part of {len(part):,} samples {error.mistakes[0].cause}"
                return Scores(whole, why=why)
        return Scores(whole, tuple(found))

    def _values(self, model: Exported, places: Iterable[int] | None, names: Sequence[str]) -> dict[str, float]:
        given = {} if places is None else {INDICES: [int(place) for place in places]}
        try:
            with contained(), torch.no_grad():
                returned = self._function(model, **given)
        except (AttemptError, Cancelled, WorkerLost):
            raise
        except Exception as error:
            raise DataError.of(f"evaluate raised {in_words(error)}", _MEND) from error
        try:
            return values_of(returned, names)
        except InputError as error:
            raise DataError(*error.mistakes) from error

    def _measurement(
        self, metric: Evaluated, own: Scores, base: Scores, level: float, environment: Mapping[str, Any]
    ) -> Measurement:
        bench, name = self._bench, metric.name
        point = compared(metric, own.whole[name], base.whole[name])
        samples = bench.job.splits.verdict
        told = replace(point, data="verdict", environment=dict(environment))
        if not own.parts or not base.parts:
            return replace(told, notes=(own.why or base.why,))
        count = len(units_of(bench.job.splits.verdict_clusters, len(samples)))
        values, firsts = (np.array([part[name] for part in scores.parts]) for scores in (own, base))
        (low, high), span = metric.range, metric.range[1] - metric.range[0]
        worse = firsts - values if metric.higher_is_better else values - firsts
        assert point.drop is not None
        of_value, _ = interval_of_parts(point.value, values, level, count=count, span=span)
        of_drop, error = interval_of_parts(point.drop, worse, level, count=count, span=span)
        intervals: dict[Form, Interval] = {
            "value": _within(of_value, low, high), "drop": _within(of_drop, -span, span),
        }  # fmt: skip
        if point.ratio is not None and point.ratio > 0 and (values > 0).all() and (firsts > 0).all():
            logs, _ = interval_of_parts(math.log(point.ratio), np.log(values / firsts), level, count=count)
            intervals["ratio"] = replace(logs, low=math.exp(logs.low), high=math.exp(min(logs.high, 700.0)))
        return replace(told, intervals=intervals, standard_error=error, samples=count)


def _within(interval: Interval, low: float, high: float) -> Interval:
    return replace(interval, low=max(interval.low, low), high=min(interval.high, high))
