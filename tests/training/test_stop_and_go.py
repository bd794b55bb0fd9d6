"""A training that was killed and one that was not end with the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_networks import Jittered, classification, convolutional, images, linear_regression, same, train_samples

from boildown.errors import Cancelled
from boildown.tasks import Classification
from boildown.training import Training, make_loss, train
from boildown.training.checkpoint import CHECKPOINT

HERE = Path(__file__).parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize(("kills", "seed"), [(20, 1)])
def test_killed_at_random_moments(kills: int, seed: int, tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "killed_training.py"), str(tmp_path), str(kills), str(seed)]
    path = os.pathsep.join([str(HERE), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["killed"] >= kills // 2
    whole, killed = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def stopping(at: int) -> Any:
    left = [at]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Cancelled

    return check


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stops", [(1,), (7, 2, 9), (12, 9)])
def test_stopped_and_gone_on(optimizer: Any, stops: tuple[int, ...], tmp_path: Path) -> None:
    task = Classification(train=Jittered(48), validation=images(16))
    options = Training(optimizer=optimizer, lr=0.01, batch=16, every=4, seconds=1000.0)
    arguments: dict[str, Any] = {
        "steps": 22, "settings": options, "teacher": convolutional(8, seed=1),
        "losses": [make_loss("attention_transfer"), make_loss("dist", 0.5)], "seed": 9,
    }  # fmt: skip
    whole = train(convolutional(dropout=0.5), task, train_samples(task), **arguments)
    for stop in stops:
        with pytest.raises(Cancelled):
            train(
                convolutional(dropout=0.5),
                task,
                train_samples(task),
                **arguments,
                folder=tmp_path,
                check=stopping(stop),
            )
    on = train(convolutional(dropout=0.5), task, train_samples(task), **arguments, folder=tmp_path)
    assert same(on.model, whole.model)
    assert on.history == whole.history


def test_a_rollback_after_going_on_is_the_same_rollback(tmp_path: Path) -> None:
    task, student = linear_regression()
    wild = Training(optimizer="sgd", lr=1.0, schedule="constant", clip=None, batch=16, every=4, momentum=0.5)
    whole = train(student, task, train_samples(task), steps=30, settings=wild)
    assert whole.notes
    for stop in (3, 9, 14):
        with pytest.raises(Cancelled):
            train(student, task, train_samples(task), steps=30, settings=wild, folder=tmp_path, check=stopping(stop))
    on = train(student, task, train_samples(task), steps=30, settings=wild, folder=tmp_path)
    assert on.notes == whole.notes
    assert same(on.model, whole.model)


def test_until_stops_on_the_way_and_a_finished_training_is_not_redone(tmp_path: Path) -> None:
    task, student = classification(), convolutional()
    options = Training(batch=16, every=50)
    whole = train(student, task, train_samples(task), steps=20, settings=options)
    part = train(student, task, train_samples(task), steps=20, settings=options, folder=tmp_path, until=7)
    assert part.step == 7
    on = train(student, task, train_samples(task), steps=20, settings=options, folder=tmp_path)
    assert same(on.model, whole.model)
    again = train(student, task, train_samples(task), steps=20, settings=options, folder=tmp_path, check=stopping(0))
    assert same(again.model, whole.model)


def test_the_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    task, student = classification(), convolutional()
    options = Training(batch=16)
    samples = train_samples(task)
    train(student, task, samples, steps=5, settings=options, folder=tmp_path)
    told: list[str] = []
    for changed in ({"seed": 1}, {"steps": 6}, {"settings": Training(batch=8)}):
        arguments = {"steps": 5, "settings": options, **changed}
        fresh = train(student, task, samples, **arguments)
        found = train(
            student, task, samples, **arguments, folder=tmp_path, record=lambda kind, _data: told.append(kind)
        )
        assert same(fresh.model, found.model)
    other = convolutional(seed=8)
    found = train(other, task, samples, steps=5, settings=options, folder=tmp_path)
    assert same(found.model, train(other, task, samples, steps=5, settings=options).model)
    assert told == ["checkpoint", "curve"] * 3


@pytest.mark.parametrize("kept", [0, 7, 100, -8])
def test_a_checkpoint_is_data_and_a_damaged_one_is_told_and_made_anew(kept: int, tmp_path: Path) -> None:
    task, student = classification(), convolutional()
    whole = train(student, task, train_samples(task), steps=3, settings=Training(batch=16), folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:kept])
    told: list[str] = []
    again = train(
        student, task, train_samples(task), steps=3, settings=Training(batch=16), folder=tmp_path,
        record=lambda kind, data: told.append(f"{kind}: {data.get('note')}"),
    )  # fmt: skip
    assert same(again.model, whole.model)
    assert told[1:] == ["curve: None"]
    assert told[0].startswith("checkpoint: The checkpoint checkpoint.safetensors is damaged")
