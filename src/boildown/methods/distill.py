"""Distillation: the first model teaches a smaller student, by a loss that the round chooses from several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from boildown.domain.candidate import Candidate
from boildown.domain.task import Task
from boildown.methods.base import Card, Context, Pace, setting
from boildown.methods.taught import Taught, held_out, training_samples
from boildown.training import LOSSES, Choice, cycle, distil, fixed, make_loss, refusals, steps_for, tournament
from boildown.training.choose import TEAM, TRIAL
from boildown.training.scoring import metric_score
from boildown.training.views import Views

LEAST = 30
"""Steps of the first trial in a tournament: with fewer, batch norm and the rising learning rate hide who is best."""


@dataclass(frozen=True)
class Distill(Taught):
    """One round: the losses that can compare student and teacher, one of them chosen, the student trained with it."""

    card: ClassVar[Card] = Card(
        name="distill",
        version=2,
        family="distillation",
        summary="the first model teaches a smaller student, by the distillation losses that do best in a tournament",
        when="MACs, parameters or time must fall further than quantization gets them, and there is training data.",
        when_not=(
            "There is no training data, or quantization alone is enough: it takes seconds. The tournament among eight "
            "losses trains twice the steps, by three losses at the end; a loss of your choice trains them once."
        ),
        source=(
            "Hinton et al., Distilling the knowledge in a neural network (arXiv 1503.02531); each loss's own paper; "
            "the tournament: Jamieson and Talwalkar, successive halving (arXiv 1502.07943)"
        ),
        lowers=("size", "latency", "memory", "params", "macs"),
        needs=("train",),
        trains=True,
        minutes=5.0,
        order=80,
        recovers=("retrain",),
        continues=("prune", "depth", "low-rank"),
        harder={"student": "narrower", "width": 0.25},
    )

    loss: str = setting(
        "tournament",
        "how the student is compared with the teacher: a tournament among all losses, whose best teach "
        "together; the next of them in every round (cycle); or one of them",
        choices=("tournament", "cycle", *LOSSES),
    )
    round: int = setting(0, "the number of the round, for loss = cycle", least=0)
    coefficient: float = setting(1.0, "how much the distillation loss counts beside the task loss", least=0)
    views: int = setting(
        0,
        "training data that is augmented as so many fixed views of every sample, for which the teacher is asked once; "
        "0 asks it anew for every batch",
        least=0,
    )

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """A student taught by the first model; in a chain, what the chain has made so far is the student.

        Raises AttemptError without training data or a student, and what training raises.
        """
        teacher = candidate.model if context.first is None else context.first.model
        everything = training_samples(context)
        samples, holdout = held_out(everything, task, context.seed)
        student, edits, told = self.learner(candidate, task, context)
        goes_on = student is candidate.model
        if goes_on and self.loss != "tournament":
            samples = everything  # nobody has to be judged
        settings, augment = self.training(), getattr(task, "augment", None)
        left_out = refusals(tuple(LOSSES), student, teacher, task, samples)
        choice = self._choice(_suited(left_out))
        names = [name for name in choice.names if name not in left_out] or list(choice.names)
        seen = Views(samples, augment, self.views, context.seed) if self.views else samples
        augment = None if self.views else augment
        # Losses on layers cost the most: with one of them timed, the others end earlier.
        slowest = max((make_loss(name) for name in names), key=lambda loss: loss.kind == "feature")

        def timed(minutes: float) -> int:
            return steps_for(
                minutes, student, task, seen, settings=settings, teacher=teacher, losses=[slowest], augment=augment,
                seed=context.seed, device=context.device, check=context.check,
            )  # fmt: skip

        steps = self.step_count(samples, context, timed, choice.effort(len(names)))
        few: tuple[str, ...] = ()
        ranked = self.loss == "tournament" and len(names) > TEAM
        if ranked and steps < LEAST * TRIAL:
            few = (f"{steps:,} steps are too few to rank {len(names)} losses",)
            choice, ranked = fixed(names[0]), False
        found = distil(
            student, teacher, task, seen, choice, score=metric_score(task, holdout, context.device), steps=steps,
            number=self.round, coefficient=self.coefficient, settings=settings, holdout=None if goes_on else holdout,
            augment=augment, seed=context.seed, device=context.device, folder=context.folder, check=context.check,
            progress=context.progress, record=context.record,
        )  # fmt: skip
        of = f", the best of {len(names)} losses" if ranked else ""
        how = f"{told}, taught with {' + '.join(found.losses)}{of}, for {found.trained.step:,} steps"
        return candidate.derive(model=found.trained.model, edits=edits, notes=(how, *few, *found.trained.notes))

    def duration(self, pace: Pace) -> float:
        """The training, and the tournament's trials."""
        return self.lasts(pace, self._choice(_suited({})).effort(len(LOSSES)))

    def _choice(self, names: Sequence[str]) -> Choice:
        if self.loss == "tournament":
            return tournament(names)
        return cycle(names) if self.loss == "cycle" else fixed(self.loss)


def _suited(left_out: Mapping[str, str]) -> list[str]:
    """The losses to choose from: scores of classes are compared as such, and not as mere numbers too."""
    classes = any(loss.kind == "logit" for name, loss in LOSSES.items() if name not in left_out)
    return [name for name, loss in LOSSES.items() if not (classes and loss.kind == "output")]
