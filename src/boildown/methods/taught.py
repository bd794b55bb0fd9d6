"""What the methods that train a small model share: who learns, from which samples, and for how many steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
from torch import nn

from boildown.domain.candidate import Candidate, Edit
from boildown.domain.task import Samples, Task
from boildown.errors import AttemptError
from boildown.methods.base import Context, Lowers, Pace, setting
from boildown.surgery import twins
from boildown.surgery.edits import take_student
from boildown.tasks.groups import groups_of, whole_first
from boildown.tasks.splits import unaugmented
from boildown.training import Training
from boildown.training.checkpoint import write_text

STEPS = "steps.json"
_MOST_HELD_OUT = 2000
_TWINS = ("narrower", "shallower")


@dataclass(frozen=True)
class Lasting:
    """How long a training goes on."""

    minutes: float = setting(
        5.0,
        "the most minutes to train, the choice of a loss included: they become a step count once, from 20 timed steps; "
        "0 for no limit",
        least=0,
    )
    epochs: float = setting(40.0, "the most times to go through the training data; 0 for no limit", least=0)
    steps: int = setting(0, "how many steps, in place of minutes and epochs; 0 for those", least=0)
    batch: int = setting(64, "samples per step", least=1)

    def step_count(self, samples: Samples, context: Context, timed: Callable[[float], int], effort: float = 1.0) -> int:
        """How many steps to train; what depends on timing is found once, journalled, and kept for who goes on.

        timed: the steps that fit into so many minutes here. effort: steps trained in all per step of the schedule.
        Raises AttemptError where nothing limits the training.
        """
        if given := context.steps or self.steps:
            return given
        by_epochs = round(self.epochs * max(1, len(samples) // min(self.batch, len(samples))))
        if not self.minutes:
            if not by_epochs:
                raise AttemptError("Nothing says how long to train. Give minutes, epochs or steps.")
            return by_epochs
        path = None if context.folder is None else context.folder / STEPS
        if path is not None and path.exists():
            return int(json.loads(path.read_text(encoding="utf-8"))["steps"])
        by_time = timed(self.minutes / effort)
        steps = min(by_time, by_epochs) if by_epochs else by_time
        context.record("steps", {"steps": steps, "minutes": self.minutes, "fit": by_time, "epochs": by_epochs})
        if path is not None:
            write_text(path, json.dumps({"steps": steps}))
        return steps

    def lasts(self, pace: Pace, effort: float = 1.0) -> float:
        """About how many seconds the training goes on: three forward runs a step, and the teacher's."""
        seen = self.steps * self.batch if self.steps else (self.epochs or inf) * pace.train
        work = effort * seen * pace.forward * (3 * pace.share + 1)
        return 5.0 + (work if self.steps else min(work, 60 * self.minutes or inf))

    def duration(self, pace: Pace) -> float:
        """The training."""
        return self.lasts(pace)


@dataclass(frozen=True)
class Taught(Lasting):
    """The settings of a training of a small model."""

    student: str | int | None = setting(
        None,
        "who learns: narrower, shallower, or one of your students by its number or factory; by default what the chain "
        "has made so far, else your first student, else narrower",
    )
    width: float = setting(0.5, "share of the channels that a narrower student has", least=0.05, most=1)
    depth: float = setting(0.5, "share of the repeated blocks that a shallower student has", least=0, most=1)
    lr: float = setting(2e-3, "the highest learning rate; 0.1 suits sgd on networks with batch norm", least=0)
    optimizer: Literal["adamw", "sgd"] = setting("adamw", "adamw, or sgd with momentum", choices=("adamw", "sgd"))
    schedule: Literal["one-cycle", "cosine", "constant"] = setting(
        "one-cycle", "how the learning rate goes over the steps", choices=("one-cycle", "cosine", "constant")
    )

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether there are float weights to train."""
        if candidate.plan is not None or candidate.rewrite is not None:
            return "the model is quantized already; train first, then quantize"
        if not any(True for _ in candidate.model.parameters()):
            return "the model has no weights that could be trained"
        return None

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The student before it has learned anything."""
        student, edits, _ = self.learner(candidate, task, context)
        return candidate.derive(model=student, edits=edits)

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """What a chain has made so far costs no less once it is trained."""
        goes_on = behind and self.student is None
        return dict.fromkeys(("size", "latency", "memory", "params", "macs"), "") if goes_on else {}

    def training(self) -> Training:
        """How to train."""
        weight_decay = Training.weight_decay if self.optimizer == "adamw" else 5e-4
        return Training(
            optimizer=self.optimizer, lr=self.lr, batch=self.batch, schedule=self.schedule, weight_decay=weight_decay
        )

    def learner(self, candidate: Candidate, task: Task, context: Context) -> tuple[nn.Module, tuple[Edit, ...], str]:
        """The network to train, the edits that rebuild its architecture, and what it is in words.

        Raises AttemptError for a student that was not given, or a model of which there is no smaller twin.
        """
        chosen = self.student
        if chosen is None and context.first is not None and candidate.model is not context.first.model:
            return candidate.model, (), f"what {candidate.method} made"
        name = str(chosen) if chosen is not None else "0" if "0" in context.students else "narrower"
        if name in _TWINS:
            make, share = (twins.narrower, self.width) if name == "narrower" else (twins.shallower, self.depth)
            model, edits = make(candidate.model, task.example(), share, context.seed)
            return model, edits, f"a {name} twin ({share:g}x)"
        if name not in context.students:
            there = ", ".join([*context.students, *_TWINS])
            raise AttemptError(f"There is no student {name!r}. Give it in students=, or choose one of: {there}.")
        return context.students[name], (take_student(name),), f"student {name}"


def held_out(train: Samples, task: Task, seed: int) -> tuple[Samples, Samples]:
    """(what to train on, what to judge students by): a tenth of the training samples, 200 at least, 2,000 at most.

    Of small data sets at most a fifth. What is held out is read without augmentation where it can be. Which of a
    training's weights are the best it tells for a student that starts anew; one that goes on from the first model's
    weights has learned these samples with it, so that their loss tells what it remembers: such a training keeps its
    last weights, where the learning rate has come down to nothing. Groups of the training samples are held out whole.
    """
    count = min(_MOST_HELD_OUT, max(len(train) // 10, min(200, len(train) // 5)))
    plain, groups = unaugmented(train, task.validation) or train, groups_of(task, "train")
    if not count:
        return train, plain
    order = np.random.default_rng(seed).permutation(len(train))
    if groups is not None:
        order, count = whole_first(order, groups, count)
    ours, theirs = ([int(index) for index in np.sort(part)] for part in (order[count:], order[:count]))
    return train.subset(ours), plain.subset(theirs)


def training_samples(context: Context) -> Samples:
    """The samples to train on. Raises AttemptError where there are none."""
    if context.data.train is None:
        raise AttemptError("Training needs training data, and the task has none. Give the task train=.")
    return context.data.train
