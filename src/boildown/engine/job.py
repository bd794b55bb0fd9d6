"""What one run was asked to do, fixed from its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from torch import nn

from boildown.domain import front
from boildown.domain.deployment import Deployment
from boildown.domain.grammar import FOLLOWS, LARGER, base_of, set_of
from boildown.domain.measurement import Form
from boildown.domain.names import Name, name_of
from boildown.domain.rules import Rules
from boildown.domain.target import Target
from boildown.domain.task import Metric, Task
from boildown.engine.students import OBJECT, Named, key_of
from boildown.surgery.onnx_file import fixed_batch
from boildown.tasks.evaluating import ALONE, Evaluated
from boildown.tasks.splits import Splits

Goal = Literal["first", "smallest", "fastest", "best"]
GOALS: tuple[Goal, ...] = ("first", "smallest", "fastest", "best")


@dataclass(frozen=True)
class Factories:
    """Where a child process finds the model, its weights, the task and the students, as `module:callable`."""

    model: str | None = None
    task: str | None = None
    weights: str | None = None
    path: tuple[str, ...] = ()
    students: Named = ()

    @property
    def complete(self) -> bool:
        """Whether a child can build everything by itself."""
        return None not in (self.model, self.task) and OBJECT not in dict(self.students).values()


@dataclass(frozen=True)
class Job:
    """What one run was asked to do."""

    task: Task
    splits: Splits
    target: Target
    goal: Goal = "first"
    confidence: float | None = None
    deployment: Deployment = Deployment()
    """With the hardware that is meant by "this machine"."""
    rules: tuple[Rules, ...] = (Rules(),)
    """What every runtime of the deployment quantizes and how, in their order."""
    device: str = "cpu"
    batch_size: int = 64
    seed: int = 0
    factories: Factories = Factories()
    expected: Mapping[str, float] = field(default_factory=dict)
    students: Mapping[str, nn.Module] = field(default_factory=dict)
    samples: bool = True
    """Whether some of the user's data is handed over beside the artifact."""
    where: str = ""
    """The set that is looked at, where that is not the main one."""
    also: tuple[str, ...] = ()
    """Costs that are measured although no condition is about them."""
    file: Mapping[str, Any] = field(default_factory=dict)
    """What the file that the first model came as calls its inputs, outputs and axes; see `runtimes.port_names`."""

    @cached_property
    def students_key(self) -> str | None:
        """A hash of the students' weights and code, None without any. Raises AttemptError for what is not captured."""
        return key_of(self.students, self.task)

    @property
    def ports(self) -> dict[str, Any]:
        """What inputs and outputs are called in the files that are written: as the user says, else as in the file."""
        own: dict[str, Any] = dict(getattr(self.task, "ports", {}))
        return own | {name: own.get(name) or told for name, told in self.file.items()}

    @property
    def fixed_batch(self) -> int | None:
        """How many samples files take at a time, where the one that the first model came as says so."""
        axes: Mapping[str, Any] = self.file.get("axes", {})
        return fixed_batch(axes.get("inputs", ()))

    @property
    def level(self) -> float:
        """The one-sided level of intervals: what was asked for, or 95 %."""
        return self.confidence if self.confidence is not None else 0.95

    @cached_property
    def likeness(self) -> tuple[Metric, ...]:
        """What holds outputs against the first model's, as far as it is asked for; all where nothing else is judged."""
        offered: tuple[Metric, ...] = getattr(self.task, "likeness", ())
        alone = not (self.task.metrics or self.evaluated)
        named = {base_of(c.metric) for c in self.target.conditions if set_of(c.metric) is None}
        return tuple(metric for metric in offered if alone or metric.name in named)

    @property
    def scored(self) -> tuple[Metric, ...]:
        """What can be measured sample by sample, on any set."""
        return (*self.task.metrics, *getattr(self.task, "likeness", ()))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured sample by sample: the metrics of the task, then `likeness`; of other sets what is asked."""
        every = (*self.task.metrics, *self.likeness)
        asked = {condition.metric for condition in self.target.conditions}
        return tuple(metric for metric in every if metric.name in asked) if self.where else every

    @property
    def evaluated(self) -> tuple[Evaluated, ...]:
        """What an evaluation of the user's own returns, as far as it is named; empty where there is none."""
        if self.where or getattr(self.task, "evaluate", None) is None:
            return ()
        named: tuple[Evaluated, ...] = getattr(self.task, "evaluated", ())
        return named or (Evaluated(ALONE, assumed=True),)

    @cached_property
    def quality(self) -> frozenset[str]:
        """The names of all metrics of quality, and those of slices and of other sets that the target asks for."""
        own = frozenset(metric.name for metric in (*self.metrics, *self.evaluated))
        scored = frozenset(metric.name for metric in self.scored)
        return own | {c.metric for c in self.target.conditions if base_of(c.metric) in scored}

    def on(self, name: str) -> Job:
        """What is asked for on one of the other sets, by the names of the task's metrics."""
        asked = (c for c in self.target.conditions if set_of(c.metric) == name)
        target = Target(tuple(replace(condition, metric=base_of(condition.metric)) for condition in asked))
        task: Any = self.task
        if self.task.metrics and not getattr(task, "labelled_on", lambda _: True)(name):
            task = task.without_labels()
        return replace(self, task=task, splits=self.splits.others[name], target=target, where=name)

    def sliced(self, *, asked: bool = False) -> tuple[Name, ...]:
        """What is measured of slices: for every key the worst with all of them, and each that a condition is about.

        Keys are those of the target and, unless only what is `asked` for is meant, those that the task was given: all
        of them tell samples of the main set apart.
        """
        if self.where or not self.metrics:
            return ()
        named = [name for c in self.target.conditions if (name := name_of(c.metric)) is not None and name.key]
        given = [] if asked else getattr(self.task, "given_slices", ())
        tables = [Name(name.base, name.key) for name in named]
        tables += [Name(self.metrics[0].name, key) for key in given if key not in {name.key for name in named}]
        return tuple(dict.fromkeys((*tables, *named)))

    @property
    def first_quality(self) -> str:
        """The metric of quality that is told first: the first in the target, else the task's first."""
        asked = [c.metric for c in self.target.conditions if c.metric in self.quality]
        return asked[0] if asked else (*self.task.metrics, *self.evaluated, *self.likeness)[0].name

    @property
    def costs(self) -> tuple[str, ...]:
        """The costs that the run is about: the target's and the goal's own, or size."""
        return front.costs(self.target.conditions, self.goal)

    def rules_of(self, runtime: str = "") -> Rules:
        """What a runtime of the deployment quantizes and how; by default the first."""
        return self.rules[self.deployment.runtimes.index(runtime) if runtime else 0]

    def asks(self, metric: str) -> bool:
        """Whether the target has a condition on this metric, or it is to be measured in any case."""
        return metric in self.also or any(condition.metric == metric for condition in self.target.conditions)

    def is_about(self, metric: str) -> bool:
        """Whether the target or the goal names this cost, or one that follows it."""
        followed = {FOLLOWS.get(condition.metric) for condition in self.target.conditions}
        return self.asks(metric) or metric in followed or front.GOALS.get(self.goal) == metric

    def bound(self, metric: str, form: Form) -> float | None:
        """The tightest bound on this metric in this form, if the target has one."""
        bounds = [c.bound for c in self.target.conditions if c.metric == metric and c.form == form]
        return (max if metric in LARGER else min)(bounds, default=None)
