"""Which loss a round uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_networks import classification, convolutional, linear_regression, same, small_dense, train_samples

from boildown.errors import Cancelled, InputError
from boildown.training import (
    LOSSES,
    DivergenceError,
    MismatchError,
    Trained,
    Training,
    cycle,
    distil,
    fixed,
    make_loss,
    refusals,
    tournament,
    train,
)
from boildown.training.choose import Round, rungs

ALL = tuple("abcdefgh")


class Trainer:
    """Pretends to train: remembers who was trained up to where, and scores by a table."""

    def __init__(self, scores: dict[str, float], failing: tuple[str, ...] = ()) -> None:
        self.scores, self.failing = scores, failing
        self.reached: dict[str, int] = {}
        self.trained: list[tuple[str, int]] = []
        self.steps = 0
        self.told: list[tuple[str, dict[str, Any]]] = []

    def advance(self, name: str, until: int) -> Trained:
        if name in self.failing:
            raise DivergenceError("too wild")
        self.steps += max(0, until - self.reached.get(name, 0))
        self.reached[name] = max(until, self.reached.get(name, 0))
        self.trained.append((name, until))
        model = nn.Linear(1, 1)
        model.who = name  # type: ignore[assignment]
        return Trained(model, until, 900)

    def score(self, model: Any) -> float:
        return self.scores[model.who]

    def hold(self, folder: Path, names: tuple[str, ...] = ALL, eta: int = 3) -> str:
        choice = tournament(("kd",), eta)
        name, trained = choice.choose(
            Round(0, names, 900, self.advance, self.score, folder, lambda k, d: self.told.append((k, d)))
        )
        assert trained.step == 900
        return name


def test_a_tournament_halves_its_field_and_goes_on_from_where_it_was(tmp_path: Path) -> None:
    trainer = Trainer({name: -abs(ord(name) - ord("f")) for name in ALL})
    assert trainer.hold(tmp_path) == "f"
    survivors = [data for kind, data in trainer.told if kind == "survivors"]
    assert [data.pop("scores") for data in survivors] == [trainer.scores, {"f": 0, "e": -1, "g": -1}]
    assert survivors == [
        {"rung": 0, "step": 100, "losses": ["f", "e", "g"]},
        {"rung": 1, "step": 300, "losses": ["f"]},
    ]
    assert trainer.trained[:8] == [(name, 100) for name in ALL]
    assert trainer.trained[8:] == [("f", 300), ("e", 300), ("g", 300), ("f", 900)]
    standings = [data for kind, data in trainer.told if kind == "standing"]
    assert len(standings) == 11
    assert standings[0] == {"rung": 0, "loss": "a", "step": 100, "score": -5}
    # 8 x 100 + 3 x 200 + 1 x 600 of 8 x 900 steps.
    assert trainer.steps == 2000
    assert trainer.steps / 900 == pytest.approx(tournament(["kd"]).effort(8), abs=1e-5)
    assert trainer.steps / (8 * 900) < 1 / 3


@pytest.mark.parametrize(("count", "eta"), [(8, 2), (8, 3), (9, 3), (11, 3), (16, 4), (6, 2)])
def test_a_tournament_costs_about_a_third(count: int, eta: int) -> None:
    assert rungs(count, 3600, eta)[-1][1] == 1
    assert tournament(["kd"], eta).effort(count) / count <= 0.42


def test_a_tournament_of_one_or_two() -> None:
    assert rungs(1, 100, 3) == []
    assert rungs(2, 90, 3) == [(30, 1)]
    with pytest.raises(ValueError, match="eta"):
        tournament(["kd"], eta=1)


def test_the_first_named_wins_a_tie_and_who_diverges_falls_out(tmp_path: Path) -> None:
    trainer = Trainer(dict.fromkeys("abcd", 1.0), failing=("a",))
    assert trainer.hold(tmp_path, tuple("abcd")) == "b"
    assert trainer.told[0][1] == {"rung": 0, "loss": "a", "step": 100, "score": None, "failed": "too wild"}
    with pytest.raises(DivergenceError):
        Trainer({}, failing=("a", "b")).hold(tmp_path / "other", ("a", "b"))


def test_a_tournament_goes_on_and_fights_nothing_twice(tmp_path: Path) -> None:
    scores = {name: float(ord(name)) for name in ALL}
    first = Trainer(scores)
    left = [10]

    def stop(name: str, until: int) -> Trained:
        left[0] -= 1
        if left[0] < 0:
            raise Cancelled
        return Trainer.advance(first, name, until)

    first.advance = stop  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        first.hold(tmp_path)
    second = Trainer(scores)
    second.reached = dict(first.reached)
    assert second.hold(tmp_path) == "h"
    assert first.trained + second.trained == [(name, 100) for name in ALL] + [
        ("h", 300), ("g", 300), ("f", 300), ("h", 900),
    ]  # fmt: skip


def test_cycle_takes_the_next_in_every_round_and_fixed_the_same(tmp_path: Path) -> None:
    trainer = Trainer({})
    names = ("kd", "hint", "dist")
    for choice, expected in (
        (cycle(names), ["kd", "hint", "dist", "kd"]),
        (fixed("hint"), ["hint"] * 4),
    ):
        offered = choice.names
        found = [
            choice.choose(Round(n, offered, 900, trainer.advance, trainer.score, tmp_path, lambda *_: None))[0]
            for n in range(4)
        ]
        assert found == expected
    with pytest.raises(InputError, match="kd"):
        cycle(["kdd"])


def test_losses_that_do_not_apply_are_left_out_with_the_reason() -> None:
    task, student = linear_regression()
    reasons = refusals(tuple(LOSSES), student.eval(), small_dense(3).train(), task, train_samples(task))
    assert set(LOSSES) - set(reasons) == {"mse", "cosine", "relational"}
    assert "numbers, not classes" in reasons["kd"]
    assert "no layers" in reasons["hint"]
    task = classification()
    assert refusals(tuple(LOSSES), convolutional(), convolutional(8), task, train_samples(task)) == {}


def test_probing_leaves_the_modes_as_they_were() -> None:
    task, student, teacher = classification(), convolutional(), convolutional(8).eval()
    refusals(["kd"], student, teacher, task, train_samples(task))
    assert all(module.training for module in student.modules())
    assert not any(module.training for module in teacher.modules())


def test_a_round_with_a_tournament(tmp_path: Path) -> None:
    task, student, teacher = classification(), convolutional(), convolutional(8, seed=1).eval()
    told: list[tuple[str, Any]] = []
    x, y = next(task.validation.batches(32))

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return -float(nn.functional.cross_entropy(model(x), y))

    options = Training(batch=16, every=5)
    names = ["kd", "hint", "cosine", "dkd"]
    arguments: dict[str, Any] = {"score": score, "steps": 18, "settings": options, "seed": 2}
    found = distil(
        student, teacher, task, train_samples(task), tournament(names), **arguments, folder=tmp_path, number=1,
        record=lambda kind, data: told.append((kind, data)),
    )  # fmt: skip
    kinds = [kind for kind, _data in told]
    assert kinds == ["standing"] * 4 + ["survivors"] + ["standing"] * 2 + ["survivors", "loss"]
    assert told[-1][1] == {"round": 1, "loss": found.loss}
    assert found.trained.step == 18
    # The winner ends where it would have ended alone.
    alone = train(student, task, train_samples(task), steps=18, settings=options, seed=2, teacher=teacher,
                  losses=[make_loss(found.loss)])  # fmt: skip
    assert same(found.trained.model, alone.model)
    again = distil(student, teacher, task, train_samples(task), tournament(names), **arguments, folder=tmp_path)
    assert same(again.trained.model, found.trained.model)


def test_no_loss_that_applies_is_a_named_failure() -> None:
    task, student = linear_regression()
    told: list[Any] = []
    with pytest.raises(MismatchError, match="No distillation loss applies"):
        distil(
            student, student, task, train_samples(task), cycle(["kd", "hint"]), score=lambda _m: 0.0, steps=2,
            record=lambda kind, data: told.append((kind, data["loss"])),
        )  # fmt: skip
    assert told == [("left out", "kd"), ("left out", "hint")]
