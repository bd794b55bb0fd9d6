"""What one run was asked to do, fixed from its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import nn

from boildown.domain import front
from boildown.domain.deployment import Deployment
from boildown.domain.measurement import Form
from boildown.domain.rules import Rules
from boildown.domain.target import Target
from boildown.domain.task import Task
from boildown.engine.students import OBJECT, Named, key_of
from boildown.surgery.onnx_file import fixed_batch
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

    @property
    def quality(self) -> frozenset[str]:
        """The names of the task's metrics."""
        return frozenset(metric.name for metric in self.task.metrics)

    @property
    def first_quality(self) -> str:
        """The metric of quality that is told first: the first in the target, else the task's first."""
        asked = [c.metric for c in self.target.conditions if c.metric in self.quality]
        return asked[0] if asked else self.task.metrics[0].name

    @property
    def costs(self) -> tuple[str, ...]:
        """The costs that the run is about: the target's and the goal's own, or size."""
        return front.costs(self.target.conditions, self.goal)

    def rules_of(self, runtime: str = "") -> Rules:
        """What a runtime of the deployment quantizes and how; by default the first."""
        return self.rules[self.deployment.runtimes.index(runtime) if runtime else 0]

    def asks(self, metric: str) -> bool:
        """Whether the target has a condition on this metric."""
        return any(condition.metric == metric for condition in self.target.conditions)

    def is_about(self, metric: str) -> bool:
        """Whether the target or the goal names this cost."""
        return self.asks(metric) or front.GOALS.get(self.goal) == metric

    def bound(self, metric: str, form: Form) -> float | None:
        """The tightest bound on this metric in this form, if the target has one."""
        bounds = [c.bound for c in self.target.conditions if c.metric == metric and c.form == form]
        return min(bounds) if bounds else None
