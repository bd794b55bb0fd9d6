"""Progressive pruning with distillation: prune a little, let the first model teach what is left, and again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Literal

from boildown.domain.candidate import Candidate
from boildown.domain.task import Task
from boildown.methods.base import INITIAL, Card, Context, Pace, setting
from boildown.methods.distill import Distill
from boildown.methods.prune import Prune, look, no_channels
from boildown.methods.smaller import quantized
from boildown.surgery.edits import take_student
from boildown.training import LOSSES


@dataclass(frozen=True)
class Progressive:
    """Rounds of pruning with repair, and distillation from the first model into what is left."""

    card: ClassVar[Card] = Card(
        name="progressive",
        version=3,
        family="pruning",
        summary="rounds of pruning with repair, each followed by distillation from the first model",
        when="MACs or parameters have to fall by half or more, quality must hold, and there is training data and time.",
        when_not=(
            "There is no training data, or quantization or plain pruning is enough: they take minutes less. Where "
            "there is time for many epochs, compare with `prune + retrain`: "
            "on ResNet-56 at half its MACs it did as well."
        ),
        source=(
            "Rounds of pruning and distillation as in Aghli and Ribeiro, Combining weight pruning and knowledge "
            "distillation (CVPR workshops 2021); pruning, repair and losses as in `prune` and `distill`"
        ),
        lowers=("size", "latency", "memory", "params", "macs"),
        needs=("calibration", "train"),
        trains=True,
        minutes=15.0,
        order=75,
        shape=("ratio", "of", "multiple"),
        recovers=("prune", "depth"),
        harder={"ratio": 0.25},
    )

    ratio: float = setting(0.5, "what is left of the cost after all rounds, such as 0.5", least=0.01, most=0.99)
    rounds: int = setting(3, "how many rounds, of equal ratios", least=1)
    ratios: tuple[float, ...] | None = setting(
        None, "one ratio per round in place of those: cost of the next student by the cost of this one, each in (0, 1)"
    )
    of: Literal["macs", "params"] = setting("macs", "the cost that the ratios are of", choices=("macs", "params"))
    minutes: float = setting(15.0, "the most minutes to train in all rounds; 0 for no limit", least=0)
    epochs: float = setting(
        1.0, "the most times to go through the training data in each round; 0 for no limit", least=0
    )
    steps: int = setting(0, "how many steps in each round, in place of minutes and epochs; 0 for those", least=0)
    finish: float = setting(20.0, "how many times as long as the others the last round trains", least=1)
    loss: str = setting(
        "tournament",
        "how each round's student is compared with the teacher: a tournament among all losses, whose best "
        "teach together; the next of them in every round (cycle); or one of them",
        choices=("tournament", "cycle", *LOSSES),
    )
    coefficient: float = setting(4.0, "how much the distillation loss counts beside the task loss", least=0)
    lr: float = setting(0.02, "the highest learning rate; for adamw take 5e-4", least=0)
    batch: int = setting(128, "samples per step", least=1)
    optimizer: Literal["adamw", "sgd"] = setting("sgd", "adamw, or sgd with momentum", choices=("adamw", "sgd"))
    multiple: int = setting(
        4, "widths after the last round are whole multiples of this; those before are free", least=1
    )
    samples: int = setting(1024, "how many calibration samples to use at most", least=1)

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether the model has channels that could go, and every ratio is one."""
        wrong = [ratio for ratio in self.ratios or () if not 0 < ratio < 1]
        if wrong:
            return f"its ratios must lie between 0 and 1, and {', '.join(f'{r:g}' for r in wrong)} does not"
        return quantized(candidate) or no_channels(candidate, task)

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The last student. Raises what pruning and training raise, naming the layer or the loss."""
        first = context.first or candidate
        student = candidate
        if context.initial_student is not None:
            student = candidate.derive(model=context.initial_student, edits=(take_student(INITIAL),))
        ratios = self._ratios
        notes: list[str] = []
        told: list[str] = []
        for number, ratio in enumerate(ratios):
            last = number == len(ratios) - 1
            prune = Prune(
                ratio=ratio, of=self.of, multiple=self.multiple if last else 1, samples=self.samples
            )  # fmt: skip
            before = look(student, task)[0].costs(self.of).full
            pruned = replace(prune.apply(student, task, context), method=f"pruning round {number + 1}")
            achieved = look(pruned, task)[0].costs(self.of).full / before
            folder = None if context.folder is None else context.folder / f"round-{number + 1}"
            student = self._distill(number, len(ratios)).apply(
                pruned, task, replace(context, folder=folder, first=first)
            )
            context.record("round", {"round": number + 1, "of": self.of, "asked": ratio, "achieved": achieved})
            if not last:
                context.keep(f"student-{number + 2}", student)
            notes.append(f"round {number + 1}: {achieved:.3f}x the {self.of}, {student.notes[0]}")
            told += student.notes[1:]
        return student.derive(notes=(*notes, *dict.fromkeys(told)))

    def duration(self, pace: Pace) -> float:
        """Every round's pruning and distillation."""
        ratios = self._ratios
        pruning = len(ratios) * Prune(samples=self.samples).duration(pace)
        return pruning + sum(self._distill(number, len(ratios)).duration(pace) for number in range(len(ratios)))

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """All rounds' pruning at once."""
        if context.initial_student is not None:
            candidate = candidate.derive(model=context.initial_student, edits=(take_student(INITIAL),))
        prune = Prune(ratio=prod(self._ratios), of=self.of, multiple=self.multiple, samples=self.samples, repair=False)
        return prune.apply(candidate, task, context)

    @property
    def _ratios(self) -> tuple[float, ...]:
        return self.ratios or (self.ratio ** (1 / self.rounds),) * self.rounds

    def _distill(self, number: int, rounds: int) -> Distill:
        longer = self.finish if number == rounds - 1 else 1.0
        return Distill(
            minutes=self.minutes * longer / (rounds - 1 + self.finish), epochs=self.epochs * longer,
            steps=round(self.steps * longer), loss=self.loss, round=number, coefficient=self.coefficient, lr=self.lr,
            batch=self.batch, optimizer=self.optimizer,
        )  # fmt: skip
