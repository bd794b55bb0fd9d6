"""Data sets that hang, that change, that go elsewhere: told by name, or in nobody's way."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import pytest
import torch
from test_students import line, mirrored

import boildown as bd
from boildown.journal.journal import Journal
from boildown.tasks.watch import current

PROJECT = """
import os, sys
import torch, boildown as bd, boildown_fakes

class Wandering(torch.utils.data.Dataset):
    rows = boildown_fakes.samples(100, 1)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        os.chdir({away!r})
        return self.rows[0][index], self.rows[1][index]

def build():
    validation = boildown_fakes.samples(400, 2)
    return bd.Classification(train=Wandering(), validation=validation, metrics=[boildown_fakes.Fragile()])
"""


class Rows(torch.utils.data.Dataset):
    """Samples of which reading one does what it is told, once it is told to."""

    def __init__(self, samples, item, does):
        self.x, self.y = samples
        self.item, self.does, self.armed = item, does, True

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if self.armed and index == self.item:
            self.does()
        return self.x[index], self.y[index]


def hang():
    while True:
        with contextlib.suppress(Exception):  # as code does that tries again and again
            time.sleep(0.02)


def sooner():
    current().left, current().least = (lambda: 0.3), 0.1  # in place of what a budget leaves, and of half a minute


def test_an_item_that_hangs_before_a_run_ends_with_the_budget_and_is_named(mirror, tmp_path):
    class Hanging(Rows):
        def __getitem__(self, index):
            sooner()
            return super().__getitem__(index)

    data = Hanging(mirror.samples(400, 2), 200, hang)
    with pytest.raises(bd.InputError, match=r"Item 200 of Hanging was not read in the .* s that were left") as caught:
        mirrored(
            mirror, tmp_path / "runs", "shrink", task=bd.Classification(validation=data), budget="1 h", verbose=False
        )
    assert "leave it out" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_an_item_that_hangs_in_a_training_fails_that_attempt_alone(mirror, tmp_path):
    data = Rows(mirror.samples(100, 1), 7, hang)
    data.armed = False

    def arm(event):
        if event.kind == "attempt" and event.data["attempt"].number == 1:
            data.armed = True
            sooner()

    task = bd.Classification(train=data, validation=mirror.samples(400, 2), metrics=[mirror.Fragile()])
    rungs = ("retrain(steps=100)", "shrink(size=0.2)")
    run = mirrored(mirror, tmp_path, *rungs, task=task, students=[line()], callbacks=arm)
    assert [result.state.value for result in run.candidates[1:]] == ["failed", "missed"]
    assert "Item 7 of Rows was not read in the 0 s that were left" in run.candidates[1].sentence


@pytest.mark.parametrize("how", ["a value", "an order", "a label", "one more"])
def test_resume_refuses_other_training_data_than_the_run_began_with(mirror, tmp_path, how):
    x, y = mirror.samples(100, 1)

    def task(x, y):
        data = Rows((x, y), -1, hang)
        return bd.Classification(train=data, validation=mirror.samples(400, 2), metrics=[mirror.Fragile()])

    run = mirrored(mirror, tmp_path, "shrink(size=0.5)", task=task(x, y))
    other, labels = x.clone(), y.clone()
    if how == "a value":
        other[50, 3] += 1e-3
    elif how == "an order":
        other, labels = other.flip(0), labels.flip(0)
    elif how == "a label":
        labels[99] = (labels[99] + 1) % 10
    else:
        other, labels = torch.cat([x, x[:1]]), torch.cat([y, y[:1]])
    kept = (run.path / "manifest.json").read_bytes()
    with pytest.raises(bd.InputError, match=r"The data to train on are not what run .* began with.\n.*new run"):
        bd.resume(run.path, mirror.model(), task(other, labels))
    assert (run.path / "manifest.json").read_bytes() == kept
    assert bd.resume(run.path, mirror.model(), task(x.clone(), y.clone())).outcome is run.outcome


def test_resume_takes_training_data_that_differ_whenever_they_are_read(mirror, tmp_path):
    class Augmented(Rows):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + 0.01 * torch.randn(10), y

    def task():
        train = Augmented(mirror.samples(100, 1), -1, hang)
        return bd.Classification(train=train, validation=mirror.samples(400, 2), metrics=[mirror.Fragile()])

    run = mirrored(mirror, tmp_path, "shrink(size=0.5)", task=task())
    assert bd.resume(run.path, mirror.model(), task()).outcome is run.outcome


@pytest.mark.parametrize("where", ["here", "in a child"])
def test_a_data_set_that_goes_to_another_folder_leaves_the_run_in_its_own(mirror, tmp_path, monkeypatch, where):
    here, away = tmp_path / "here", tmp_path / "away"
    here.mkdir()
    away.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.syspath_prepend(str(here))
    (here / "wandering_task.py").write_text(PROJECT.format(away=str(away)))
    rungs = {"target": "size <= 0.01x", "ladder": ["retrain(steps=3)", "shrink(size=0.2)"], "runs": "runs"}
    if where == "here":
        from wandering_task import build

        run = bd.compress(mirror.model(), build(), students=[line()], runtime="mirror", **rungs)
        sys.modules.pop("wandering_task")
    else:
        (here / "wandering_student.py").write_text("from test_students import line as build")
        students = ["wandering_student:build"]
        monkeypatch.syspath_prepend(os.path.dirname(__file__))  # noqa: PTH120
        run = bd.compress("boildown_fakes:model", "wandering_task:build", students=students, runtime="mirror", **rungs)
    assert [result.state.value for result in run.candidates[1:]] == ["missed", "missed"]
    assert run.path.parent == here / "runs"
    assert run.best.artifact.is_file()
    assert list(away.iterdir()) == []
    assert {path.name for path in here.iterdir()} <= {
        "runs",
        "wandering_task.py",
        "wandering_student.py",
        "__pycache__",
    }
    with Journal.open(run.path, readonly=True) as journal:
        assert all(row.artifact.path.is_file() for row in journal.attempts())
