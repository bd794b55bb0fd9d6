"""The same model, data, target and seed, twice: the same ladder and the same files, to the byte."""

from __future__ import annotations

import pytest

import boildown as bd
from boildown.testing import digits

pytestmark = pytest.mark.usefixtures("still")

TRAINED = "distill(student=narrower, loss=kd, steps=40) + quantize-static(samples=64)"


def climbed(run):
    """What was climbed, why, how it stood, and the hash of its file."""
    return [(a.rung, a.reason, a.settled, a.state, a.sha256) for a in run._attempts]


@pytest.mark.parametrize("ladder", ["auto", [TRAINED]])
def test_the_same_run_again_is_the_same_to_the_byte(digits_model, tmp_path, ladder):
    once, again = (
        bd.compress(
            digits_model, digits.task(), ["accuracy drop <= 3 pp", "macs <= 0.6x"], ladder=ladder,
            runs=tmp_path / name, fresh=True, seed=3,
        )
        for name in ("once", "again")
    )  # fmt: skip
    assert climbed(once) == climbed(again)
    assert any(attempt[-1] for attempt in climbed(once)[1:])
    if ladder == "auto":
        assert once.outcome is bd.Outcome.TARGET_MET
        assert once.best.rung != once._attempts[once.best.number].settled, "the ratio was searched"
