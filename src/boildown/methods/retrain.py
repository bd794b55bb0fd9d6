"""A small model trained on the training data: the honest baseline that every other method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from boildown.domain.candidate import Candidate
from boildown.domain.task import Task
from boildown.methods.base import Card, Context
from boildown.methods.taught import Taught, held_out, training_samples
from boildown.training import steps_for, train


@dataclass(frozen=True)
class Retrain(Taught):
    """The student learns from the labels alone, for as long as `distill` would teach it."""

    card: ClassVar[Card] = Card(
        name="retrain",
        version=2,
        family="training",
        summary="a small model trained on the training data, without a teacher",
        when="There is much labelled training data, or a small architecture of your own to compare everything with.",
        when_not="The first model could teach it: distill costs as much and loses less.",
        source="Plain supervised training; one cycle of the learning rate: Smith and Topin (arXiv 1708.07120)",
        lowers=("size", "latency", "memory", "params", "macs"),
        needs=("train",),
        trains=True,
        minutes=5.0,
        order=90,
        continues=("prune", "depth", "low-rank"),
        harder={"student": "narrower", "width": 0.25},
    )

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """A trained student; in a chain, what the chain has made so far, trained further.

        Raises AttemptError without training data or a student, and what training raises.
        """
        everything = training_samples(context)
        student, edits, told = self.learner(candidate, task, context)
        goes_on = student is candidate.model
        samples, holdout = (everything, None) if goes_on else held_out(everything, task, context.seed)
        settings, augment = self.training(), getattr(task, "augment", None)

        def timed(minutes: float) -> int:
            return steps_for(
                minutes, student, task, samples, settings=settings, augment=augment, seed=context.seed,
                device=context.device, check=context.check,
            )  # fmt: skip

        trained = train(
            student, task, samples, steps=self.step_count(samples, context, timed), settings=settings, holdout=holdout,
            augment=augment, seed=context.seed, device=context.device, folder=context.folder, check=context.check,
            progress=context.progress, record=context.record,
        )  # fmt: skip
        notes = (f"{told}, trained for {trained.step:,} steps", *trained.notes)
        return candidate.derive(model=trained.model, edits=edits, notes=notes)
