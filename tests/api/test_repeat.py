"""The same model, data, target and seed, twice: the same ladder and the same files, to the byte."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.testing import digits
from boildown.training import Training, train

pytestmark = pytest.mark.usefixtures("still")

TRAINED = "distill(student=narrower, loss=kd, steps=40) + quantize-static(samples=64)"


@pytest.fixture(scope="module")
def task():
    """Digits, 1,000 to train and 300 to judge on."""
    return bd.Classification(
        train=digits.training_set(), validation=torch.utils.data.Subset(digits.validation_set(), range(300))
    )


@pytest.fixture(scope="module")
def model(task):
    """Two convolutions that have learned them: what is repeated are the run's own steps, whatever the network."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    return train(network, task, task.train, steps=150, settings=Training(lr=0.01, batch=50)).model


def climbed(run):
    """What was climbed, why, how it stood, and the hash of its file."""
    return [(a.rung, a.reason, a.settled, a.state, a.artifact and a.artifact.digest) for a in run._attempts]


@pytest.mark.parametrize("ladder", ["auto", [TRAINED]])
def test_the_same_run_again_is_the_same_to_the_byte(model, task, tmp_path, ladder):
    once, again = (
        bd.compress(
            model, task, ["accuracy drop <= 10 pp", "macs <= 0.7x"], ladder=ladder, runs=tmp_path / name, fresh=True,
            seed=3,
        )
        for name in ("once", "again")
    )  # fmt: skip
    assert climbed(once) == climbed(again)
    assert any(attempt[-1] for attempt in climbed(once)[1:])
    if ladder == "auto":
        assert once.outcome is bd.Outcome.TARGET_MET
        assert once.best.rung != once._attempts[once.best.number].settled, "the ratio was searched"
