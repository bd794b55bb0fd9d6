"""Which distillation loss a round uses: a fixed one, the next of several, or the winner of a tournament."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from boildown.domain.task import Samples, Task
from boildown.errors import AttemptError
from boildown.training.distillation import probe
from boildown.training.failures import DivergenceError, MismatchError, OutOfMemoryError
from boildown.training.loop import train
from boildown.training.losses import LOSSES, make_loss
from boildown.training.settings import Augment, Check, Progress, Record, Trained, Training

Score = Callable[[nn.Module], float]
"""How good a trained student is on held-out samples; higher is better."""

Advance = Callable[[str, int], Trained]
"""`advance(name, step)` trains with a loss up to a step of the full schedule, going on from where it was."""

STANDINGS = "standings.json"
ETA = 3


@dataclass(frozen=True)
class Round:
    """One round to choose a loss for.

    number: from 0. names: the losses that apply, at least one. steps: of the full schedule. folder: where
    standings are kept.
    """

    number: int
    names: Sequence[str]
    steps: int
    advance: Advance
    score: Score
    folder: Path
    record: Record


class Choice(Protocol):
    """A way to choose the loss of a round."""

    @property
    def names(self) -> tuple[str, ...]:
        """The losses to choose from."""
        ...

    def choose(self, round: Round) -> tuple[str, Trained]:
        """The name of the loss and the student trained with it for all of the round's steps."""
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

    def choose(self, round: Round) -> tuple[str, Trained]:
        """Train with it."""
        return round.names[0], round.advance(round.names[0], round.steps)

    def effort(self, count: int) -> float:
        """One loss is trained."""
        return 1.0


@dataclass(frozen=True)
class Cycle:
    """The next loss in every round."""

    names: tuple[str, ...]

    def choose(self, round: Round) -> tuple[str, Trained]:
        """Train with the one whose turn it is."""
        name = round.names[round.number % len(round.names)]
        return name, round.advance(name, round.steps)

    def effort(self, count: int) -> float:
        """One loss is trained."""
        return 1.0


@dataclass(frozen=True)
class Tournament:
    """Successive halving (Jamieson & Talwalkar 2016): all losses train a little, the best part goes on.

    Of n losses, all train for steps / eta^k with k = ceil(log_eta n); after each rung the best 1 / eta of
    them go on, from their own state, for eta times as long; one trains to the end. With eight losses
    and eta = 3 that costs 28 % of training all of them. Ties go to the loss named first.
    """

    names: tuple[str, ...]
    eta: int = ETA

    def choose(self, round: Round) -> tuple[str, Trained]:
        """Hold the tournament; standings are kept in `folder`, and none is fought twice."""
        path = round.folder / STANDINGS
        known: dict[str, float | None] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        left = list(round.names)
        failures: dict[str, AttemptError] = {}
        for rung, (until, room) in enumerate(rungs(len(left), round.steps, self.eta)):
            results: dict[str, float] = {}
            for name in left:
                key = f"{rung}/{name}"
                if key not in known:
                    value, failure = _tried(name, until, round.advance, round.score)
                    known[key] = value if math.isfinite(value) else None
                    if failure is not None:
                        failures[name] = failure
                    _write(path, known)
                    note = {} if failure is None else {"failed": str(failure)}
                    round.record("standing", {"rung": rung, "loss": name, "step": until, "score": known[key], **note})
                kept = known[key]
                results[name] = -math.inf if kept is None else kept
            alive = [name for name in left if results[name] > -math.inf]
            if not alive:
                raise next(iter(failures.values()), AttemptError("No distillation loss trained without diverging."))
            left = sorted(alive, key=lambda name: -results[name])[:room]
            scores = {name: known[f"{rung}/{name}"] for name in results}
            round.record("survivors", {"rung": rung, "step": until, "losses": left, "scores": scores})
        return left[0], round.advance(left[0], round.steps)

    def effort(self, count: int) -> float:
        """What all contestants are trained for, and the winner to the end."""
        fine = 10**6
        left, reached, spent = count, 0, 0
        for until, room in rungs(count, fine, self.eta):
            spent, reached, left = spent + left * (until - reached), until, room
        return (spent + fine - reached) / fine


def fixed(name: str) -> Fixed:
    """The same loss in every round."""
    return Fixed(make_loss(name).name)


def cycle(names: Sequence[str] = tuple(LOSSES)) -> Cycle:
    """The next of `names` in every round."""
    return Cycle(tuple(make_loss(name).name for name in names))


def tournament(names: Sequence[str] = tuple(LOSSES), eta: int = ETA) -> Tournament:
    """The winner of a tournament among `names` in every round."""
    if eta < 2:
        raise ValueError(f"eta is {eta}: of each rung at least half must fall out, so 2 or more.")
    return Tournament(tuple(make_loss(name).name for name in names), eta)


def rungs(count: int, steps: int, eta: int) -> list[tuple[int, int]]:
    """(step to train up to, how many go on) for each rung of a tournament before its final; none for one loss."""
    high = 0
    while eta**high < count:
        high += 1
    return [
        (max(1, round(steps / eta ** (high - rung))), 1 if rung == high - 1 else math.ceil(count / eta ** (rung + 1)))
        for rung in range(high)
    ]


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
    """The student of one round, and the loss it was taught with."""

    loss: str
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
    """One round: choose the loss, and train a copy of the student with it beside the task loss.

    student, teacher: on the CPU. score: ranks the contestants of a tournament, never the verdict's
        samples. number: of the round, from 0. coefficient: of the distillation loss. folder: where the
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

        def advance(name: str, until: int) -> Trained:
            return train(
                student,
                task,
                samples,
                steps=steps,
                settings=settings,
                teacher=teacher,
                losses=[make_loss(name, coefficient)],
                holdout=holdout,
                augment=augment,
                seed=seed,
                device=device,
                folder=Path(root) / name,
                shared=Path(root) if shared is None else shared,
                until=until,
                check=check,
                progress=progress,
                record=record,
            )

        name, trained = choice.choose(Round(number, names, steps, advance, score, Path(root), record))
    record("loss", {"round": number, "loss": name})
    return Distilled(name, trained)


def _tried(name: str, until: int, advance: Advance, score: Score) -> tuple[float, AttemptError | None]:
    """The score of a contestant; minus infinity for one that fails by its own fault."""
    try:
        value = score(advance(name, until).model)
    except (DivergenceError, OutOfMemoryError, MismatchError) as error:
        return -math.inf, error
    return (value if math.isfinite(value) else -math.inf), None


def _write(path: Path, standings: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"new-{path.name}")
    fresh.write_text(json.dumps(standings), encoding="utf-8")
    fresh.replace(path)
