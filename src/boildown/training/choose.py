"""Which distillation loss a round uses: a fixed one, the next of several, or the winner of a tournament."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from boildown.domain.task import Samples, Task
from boildown.errors import AttemptError
from boildown.training.checkpoint import write_text
from boildown.training.distillation import probe
from boildown.training.failures import DivergenceError, MismatchError, OutOfMemoryError
from boildown.training.loop import train
from boildown.training.losses import LOSSES, make_loss
from boildown.training.settings import Augment, Check, Progress, Record, Trained, Training

Score = Callable[[nn.Module], float]
"""How good a trained student is on held-out samples; higher is better."""

Teach = Callable[[Sequence[str], int], Trained]
"""`teach(names, steps)` trains a student with these losses together, for a schedule of so many steps."""

STANDINGS = "standings.json"
TEAM = 3
TRIAL = 9
"""A trial is this part of the round's steps, on a schedule of its own."""


@dataclass(frozen=True)
class Round:
    """One round to choose a loss for.

    number: from 0. names: the losses that apply, at least one. steps: of the full schedule. folder: where
    standings are kept.
    """

    number: int
    names: Sequence[str]
    steps: int
    teach: Teach
    score: Score
    folder: Path
    record: Record


class Choice(Protocol):
    """A way to choose the loss of a round."""

    @property
    def names(self) -> tuple[str, ...]:
        """The losses to choose from."""
        ...

    def choose(self, round: Round) -> tuple[Sequence[str], Trained]:
        """The names of the losses, and the student trained with them for all of the round's steps."""
        ...

    def effort(self, count: int) -> float:
        """Steps trained in all per step of the schedule, where `count` losses apply."""
        ...


@dataclass(frozen=True)
class Fixed:
    """The same loss in every round."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The one name."""
        return (self.name,)

    def choose(self, round: Round) -> tuple[Sequence[str], Trained]:
        """Train with it."""
        return round.names[:1], round.teach(round.names[:1], round.steps)

    def effort(self, count: int) -> float:
        """One loss is trained."""
        return 1.0


@dataclass(frozen=True)
class Cycle:
    """The next loss in every round."""

    names: tuple[str, ...]

    def choose(self, round: Round) -> tuple[Sequence[str], Trained]:
        """Train with the one whose turn it is."""
        names = [round.names[round.number % len(round.names)]]
        return names, round.teach(names, round.steps)

    def effort(self, count: int) -> float:
        """One loss is trained."""
        return 1.0


@dataclass(frozen=True)
class Tournament:
    """A trial for every loss, and the best of them teach together.

    Each trains a student for a ninth of the steps, on a schedule of its own, and the best teach the student to the
    end, each loss scaled to the task's: the first rung of successive halving (Jamieson & Talwalkar 2016), after
    which the survivors join instead of going on alone. A loss on a middle layer shows late in the outputs what it
    has taught: it is always one of the team and has no trial. With eight losses, three of whom teach, the trials
    take a tenth of the steps of training with all. Ties go to the loss named first.
    """

    names: tuple[str, ...]
    team: int = TEAM

    def choose(self, round: Round) -> tuple[Sequence[str], Trained]:
        """Hold the trials; standings are kept in `folder`, and no trial is held twice."""
        path = round.folder / STANDINGS
        known: dict[str, float | None] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        failures: dict[str, AttemptError] = {}
        names, steps = list(round.names), max(1, math.floor(round.steps / TRIAL))
        if len(names) <= self.team:
            return names, round.teach(names, round.steps)
        late = [name for name in names if name in LOSSES and LOSSES[name].late]
        names = [name for name in names if name not in late]
        for name in names:
            if name in known:
                continue
            value, failure = _tried(name, steps, round.teach, round.score)
            known[name] = value if math.isfinite(value) else None
            if failure is not None:
                failures[name] = failure
            write_text(path, json.dumps(known))
            note = {} if failure is None else {"failed": str(failure)}
            round.record("standing", {"loss": name, "step": steps, "score": known[name], **note})
        scores = {name: known[name] for name in names}
        names = [*_best(scores, max(1, self.team - len(late))), *late]
        if not names:
            raise next(iter(failures.values()), AttemptError("No distillation loss trained without diverging."))
        round.record("survivors", {"step": steps, "losses": names, "scores": scores})
        return names, round.teach(names, round.steps)

    def effort(self, count: int) -> float:
        """The trials, and the student's own training."""
        return 1 + (count / TRIAL if count > self.team else 0)


def _best(scores: Mapping[str, float | None], room: int) -> list[str]:
    """The names with the highest scores, best first."""
    known = {name: score for name, score in scores.items() if score is not None}
    return sorted(known, key=lambda name: -known[name])[:room]


def fixed(name: str) -> Fixed:
    """The same loss in every round."""
    return Fixed(make_loss(name).name)


def cycle(names: Sequence[str] = tuple(LOSSES)) -> Cycle:
    """The next of `names` in every round."""
    return Cycle(tuple(make_loss(name).name for name in names))


def tournament(names: Sequence[str] = tuple(LOSSES), team: int = TEAM) -> Tournament:
    """The best of a tournament among `names` in every round, together. Raises ValueError for a team of none."""
    if team < 1:
        raise ValueError(f"team is {team}: at least one loss has to teach.")
    return Tournament(tuple(make_loss(name).name for name in names), team)


def refusals(
    names: Sequence[str], student: nn.Module, teacher: nn.Module, task: Task, samples: Samples
) -> dict[str, str]:
    """The losses that do not apply to these models and this data, with the reason."""
    count = min(8, len(samples))
    inputs, target = next(iter(samples.subset(range(count)).batches(count)))
    modes = [(module, module.training) for model in (student, teacher) for module in model.modules()]
    try:
        probed = probe(student, teacher, task, inputs, target)
    finally:
        for module, mode in modes:
            module.training = mode
    reasons = {name: make_loss(name).refuses(probed) for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


@dataclass(frozen=True)
class Distilled:
    """The student of one round, and the losses it was taught with."""

    losses: tuple[str, ...]
    trained: Trained


def distil(
    student: nn.Module,
    teacher: nn.Module,
    task: Task,
    samples: Samples,
    choice: Choice,
    *,
    score: Score,
    steps: int,
    number: int = 0,
    coefficient: float = 1.0,
    settings: Training | None = None,
    holdout: Samples | None = None,
    augment: Augment | None = None,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | None = None,
    shared: Path | None = None,
    check: Check = lambda: None,
    progress: Progress = lambda _what, _done, _total: None,
    record: Record = lambda _kind, _data: None,
) -> Distilled:
    """One round: choose the loss or losses, and train a copy of the student with them beside the task loss.

    student, teacher: on the CPU. score: ranks the contestants of a tournament, never the verdict's
        samples. number: of the round, from 0. coefficient: of each distillation loss. folder: where the
        round keeps its checkpoints; the same call goes on from there. shared: where the teacher's outputs
        are kept for other rounds; default: `folder`. The rest is as in `train`.

    Losses that do not apply are left out, with their reasons recorded. Raises MismatchError if none
    applies, and what `train` raises.
    """
    reasons = refusals(choice.names, student, teacher, task, samples)
    for name, reason in reasons.items():
        record("left out", {"loss": name, "reason": reason})
    names = [name for name in choice.names if name not in reasons]
    if not names:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise MismatchError(f"No distillation loss applies ({told}). Choose others, or another student.")
    place = nullcontext(str(folder)) if folder is not None else tempfile.TemporaryDirectory()
    with place as root:

        def teach(names: Sequence[str], until: int) -> Trained:
            return train(
                student,
                task,
                samples,
                steps=until,
                settings=settings,
                teacher=teacher,
                losses=[make_loss(name, coefficient) for name in names],
                holdout=holdout,
                augment=augment,
                seed=seed,
                device=device,
                folder=Path(root) / f"{'+'.join(names)}-{until}",
                shared=Path(root) if shared is None else shared,
                check=check,
                progress=progress,
                record=record,
            )

        chosen, trained = choice.choose(Round(number, names, steps, teach, score, Path(root), record))
    record("loss", {"round": number, "loss": " + ".join(chosen)})
    return Distilled(tuple(chosen), trained)


def _tried(name: str, steps: int, teach: Teach, score: Score) -> tuple[float, AttemptError | None]:
    """The score of a contestant; minus infinity for one that fails by its own fault."""
    try:
        value = score(teach([name], steps).model)
    except (DivergenceError, OutOfMemoryError, MismatchError) as error:
        return -math.inf, error
    return (value if math.isfinite(value) else -math.inf), None
