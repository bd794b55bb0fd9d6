"""Which loss a round uses."""

from __future__ import annotations

from collections.abc import Sequence
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
from boildown.training.choose import Round

ALL = tuple("abcdefgh")


class Trainer:
    """Pretends to train: remembers who taught for how long, and scores by a table."""

    def __init__(self, scores: dict[str, float], failing: tuple[str, ...] = ()) -> None:
        self.scores, self.failing = scores, failing
        self.taught: list[tuple[str, int]] = []
        self.told: list[tuple[str, dict[str, Any]]] = []

    def teach(self, names: Sequence[str], steps: int) -> Trained:
        if set(names) & set(self.failing):
            raise DivergenceError("too wild")
        self.taught.append(("+".join(names), steps))
        model = nn.Linear(1, 1)
        model.who = names[0]  # type: ignore[assignment]
        return Trained(model, steps, steps)

    def score(self, model: Any) -> float:
        return self.scores[model.who]

    def hold(self, folder: Path, names: tuple[str, ...] = ALL, team: int = 3) -> Sequence[str]:
        choice = tournament(("kd",), team)
        found, trained = choice.choose(
            Round(0, names, 900, self.teach, self.score, folder, lambda k, d: self.told.append((k, d)))
        )
        assert trained.step == 900
        return found


def test_all_have_a_trial_and_the_best_teach_together(tmp_path: Path) -> None:
    trainer = Trainer({name: -abs(ord(name) - ord("f")) for name in ALL})
    assert trainer.hold(tmp_path) == ["f", "e", "g"]
    assert trainer.taught == [*((name, 100) for name in ALL), ("f+e+g", 900)]
    standings = [data for kind, data in trainer.told if kind == "standing"]
    assert standings[0] == {"loss": "a", "step": 100, "score": -5}
    assert len(standings) == 8
    assert trainer.told[-1] == ("survivors", {"step": 100, "losses": ["f", "e", "g"], "scores": trainer.scores})
    spent = sum(steps for _, steps in trainer.taught)
    assert spent / 900 == pytest.approx(tournament(["kd"]).effort(8), abs=1e-5)
    assert spent < 8 * 900 / 3


def test_a_loss_that_shows_late_has_no_trial_and_always_teaches(tmp_path: Path) -> None:
    trainer = Trainer({"kd": 0.1, "dist": 0.4, "rkd": 0.2, "dkd": 0.3, "hint": 0.0})
    assert trainer.hold(tmp_path, ("kd", "hint", "dist", "rkd", "dkd")) == ["dist", "dkd", "hint"]
    assert [name for name, steps in trainer.taught if steps == 100] == ["kd", "dist", "rkd", "dkd"]


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
def test_no_more_than_the_team_have_no_trial(tmp_path: Path, names: tuple[str, ...]) -> None:
    trainer = Trainer({})
    assert trainer.hold(tmp_path, names) == list(names)
    assert trainer.taught == [("+".join(names), 900)]
    assert tournament(["kd"]).effort(len(names)) == 1


def test_a_team_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        tournament(["kd"], team=0)


def test_the_first_named_wins_a_tie_and_who_diverges_falls_out(tmp_path: Path) -> None:
    trainer = Trainer(dict.fromkeys("abcd", 1.0), failing=("a",))
    assert trainer.hold(tmp_path, tuple("abcd"), team=2) == ["b", "c"]
    assert trainer.told[0][1] == {"loss": "a", "step": 100, "score": None, "failed": "too wild"}
    with pytest.raises(DivergenceError):
        Trainer({}, failing=("a", "b")).hold(tmp_path / "other", ("a", "b"), team=1)


def test_a_tournament_goes_on_and_holds_no_trial_twice(tmp_path: Path) -> None:
    scores = {name: float(ord(name)) for name in ALL}
    first = Trainer(scores)
    left = [5]

    def stop(names: Sequence[str], steps: int) -> Trained:
        left[0] -= 1
        if left[0] < 0:
            raise Cancelled
        return Trainer.teach(first, names, steps)

    first.teach = stop  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        first.hold(tmp_path)
    second = Trainer(scores)
    assert second.hold(tmp_path) == ["h", "g", "f"]
    assert first.taught + second.taught == [*((name, 100) for name in ALL), ("h+g+f", 900)]


def test_cycle_takes_the_next_in_every_round_and_fixed_the_same(tmp_path: Path) -> None:
    trainer = Trainer({})
    names = ("kd", "hint", "dist")
    for choice, expected in (
        (cycle(names), ["kd", "hint", "dist", "kd"]),
        (fixed("hint"), ["hint"] * 4),
    ):
        offered = choice.names
        found = [
            choice.choose(Round(n, offered, 900, trainer.teach, trainer.score, tmp_path, lambda *_: None))[0]
            for n in range(4)
        ]
        assert [list(names) for names in found] == [[name] for name in expected]
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
    kinds = [kind for kind, _data in told if kind != "curve"]
    assert kinds == ["standing"] * 3 + ["survivors", "loss"]
    assert told[-1][1] == {"round": 1, "loss": " + ".join(found.losses)}
    assert len(found.losses) == 3
    assert found.losses[-1] == "hint"
    assert found.trained.step == 18
    # The survivors end where they would have ended without a tournament.
    alone = train(student, task, train_samples(task), steps=18, settings=options, seed=2, teacher=teacher,
                  losses=[make_loss(name) for name in found.losses])  # fmt: skip
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
