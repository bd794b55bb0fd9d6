"""What stayed float, from a run to its user."""

from __future__ import annotations

import json

import pytest

import boildown as bd
from boildown.engine.attempt import Climber
from boildown.errors import InputError


def test_a_quantized_attempt_tells_what_runs_in_float_and_others_tell_nothing(run, command):
    static = run.attempt(2)
    assert static.floats.of == 5
    assert (static.floats.weights, static.floats.lost) == (0.0, ())
    assert run.attempt(0).floats is None
    assert run.attempt(1).floats is None  # skipped
    shown = command("show", run.path, "--json").data["attempts"]
    assert [each["floats"] is None for each in shown] == [True, True, False]
    assert shown[2]["floats"]["sentence"] == static.floats.sentence
    assert f"in float: {static.floats.sentence}" in command("show", run.path).out
    assert '<section id="floats">' in run.report().read_text()
    card = json.loads((run.path / "best" / "card.json").read_text())
    assert card["floats"]["sentence"] == static.floats.sentence
    assert "- In float: no layer with weights" in (run.path / "best" / "README.md").read_text()


def test_an_attempt_that_there_is_not_is_the_users_to_mend(run):
    with pytest.raises(InputError, match="has no attempt 7") as caught:
        run.attempt(7)
    assert "0, 1, 2" in str(caught.value)


def test_without_time_left_nothing_is_looked_at_and_that_is_told(
    tmp_path, digits_model, digits_task, still, monkeypatch
):
    measure = Climber._measure

    def at_last(self, attempt, candidate):
        measure(self, attempt, candidate)
        if attempt.number:
            self.budget.seconds = self.budget.elapsed

    monkeypatch.setattr(Climber, "_measure", at_last)
    run = bd.compress(
        digits_model, digits_task, ["accuracy drop <= 5 pp", "size <= 0.5x"], ladder=["quantize-static"],
        budget="10 min", runs=tmp_path, verbose=False,
    )  # fmt: skip
    assert run.best.floats.unknown == "No time was left to look."
    assert "  in float: not known: No time was left to look." in str(run)
