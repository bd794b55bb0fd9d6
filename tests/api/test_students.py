"""Students of the user's own, and trainings that are killed: through compress, resume and the command line."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.candidate import Candidate
from boildown.domain.target import Target
from boildown.engine.chain import link_key
from boildown.engine.job import Job
from boildown.journal.journal import Journal
from boildown.methods.base import Context, Data
from boildown.methods.retrain import Retrain
from boildown.surgery.weights import weights_hash
from boildown.tasks.splits import resolve
from boildown.testing import digits

TARGET = ["accuracy drop <= 1 pp", "size <= 0.01x"]
KILLED = """
import sys
import torch
torch.set_num_threads(1)
import boildown as bd, boildown_fakes
from boildown.training import course
from test_students import line

boildown_fakes.stop_clock()
write, taken = course.Course._write, []

def written(self, *, last):
    write(self, last=True)
    if len(taken) > 2:
        print("under way", flush=True)
        input()
    taken.append(self.step)

course.Course._write = written
bd.compress(
    boildown_fakes.model(), boildown_fakes.task(), "size <= 0.01x", runs=sys.argv[1], students=[line()],
    ladder=["retrain(epochs=300, minutes=9.5)"], runtime="mirror",
)
"""


def small(width=8, seed=0):
    torch.manual_seed(seed)
    return digits.network(width)


def line(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 10))


def compressed(model, runs, *rungs, **options):
    return bd.compress(model, digits.task(), TARGET, ladder=list(rungs), runs=runs, **options)


def test_students_are_looked_at_before_the_run_begins(digits_model, still, tmp_path):
    students = [nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), nn.Linear(3, 10)]
    with pytest.raises(bd.InputError) as caught:
        compressed(digits_model, tmp_path / "runs", "retrain", students=students)
    told = str(caught.value)
    assert "student 0 have shape (8, 7) (float32), the first model's shape (8, 10)" in told
    assert "Student 1 cannot be used: RuntimeError: " in told
    with pytest.raises(bd.InputError, match=r"student 1 is 3, no torch\.nn\.Module") as caught:
        compressed(digits_model, tmp_path / "runs", "retrain", students=[small(), 3], initial_student="none")
    with pytest.raises(bd.InputError, match="factory 'none:such' cannot be imported"):
        compressed(digits_model, tmp_path / "runs", "retrain(student='none:such')")
    assert not (tmp_path / "runs").exists()


def mirrored(plugged, runs, *rungs, target="size <= 0.01x", task=None, **options):
    return bd.compress(
        plugged.model(), task or plugged.task(), target, ladder=list(rungs), runs=runs, runtime="mirror", **options
    )


def test_students_given_as_modules_are_needed_again_to_resume(mirror, tmp_path):
    run = mirrored(mirror, tmp_path, "retrain(steps=2)", students=[line()], initial_student=line(1))
    assert run.candidates[1].state is bd.State.MISSED
    made, model, task = run.candidates[1].module(), mirror.model(), mirror.task()
    with pytest.raises(bd.InputError, match="no factory for its students and initial_student") as caught:
        bd.resume(run.path, model, task)
    assert "students=..., initial_student=..." in str(caught.value)
    with pytest.raises(bd.InputError, match="The students are not what run"):
        bd.resume(run.path, model, task, students=[line(2)], initial_student=line(1))
    again = bd.resume(run.path, model, task, students=[line()], initial_student=line(1))
    assert weights_hash(again.candidates[1].module()) == weights_hash(made)
    other = mirrored(mirror, tmp_path, "retrain(steps=2)", students=[line(2)])
    assert other.candidates[1].key != run.candidates[1].key, "another student makes another candidate"
    assert "reused" not in str(other.candidates[1].notes)


def test_another_recipe_makes_another_candidate(plugged):
    def flipped(inputs, target):
        return -inputs, target

    def keys(**options):
        task = bd.Classification(train=plugged.samples(100, 1), validation=plugged.samples(400, 2), **options)
        job = Job(task, resolve(task, 0), Target(()), students={"0": line()})
        return [link_key("first", method, job) for method in (Retrain(), plugged.Shrink())]

    usual, *others = (
        keys(), keys(augment=flipped), keys(loss=nn.CrossEntropyLoss()), keys(training_step=lambda m, x, y: m(x).sum()),
    )  # fmt: skip
    assert keys() == usual
    assert len({trained for trained, _shrunk in (usual, *others)}) == 4
    assert {shrunk for _trained, shrunk in others} == {usual[1]}, "what does not train does not ask"


def test_a_chain_goes_on_from_what_an_earlier_attempt_has_made(mirror, tmp_path):
    run = mirrored(mirror, tmp_path, "distill(steps=9)", "distill(steps=9) + shrink(size=0.5)", students=[line()])
    with Journal.open(run.path, readonly=True) as journal:
        assert [record.attempt for record in journal.records("loss")] == [1]
    first, second = run.candidates[1:]
    assert second.parent == first.key
    made = [note for note in first.notes if "taught with" in note or "losses" in note]
    assert made
    assert [note for note in second.notes if note in made] == made


def test_no_training_data_is_said_in_words(mirror, tmp_path):
    task = bd.Classification(validation=mirror.samples(400, 2), metrics=[mirror.Fragile()])
    run = mirrored(mirror, tmp_path, "distill", "retrain", task=task)
    assert [result.state.value for result in run.candidates[1:]] == ["skipped"] * 2
    assert run.candidates[1].sentence == "distill needs train data, and the task has none"


def test_a_training_that_fails_is_of_its_attempt_alone(mirror, tmp_path):
    def explode(model, inputs, target):
        return nn.functional.cross_entropy(model(inputs), target) * float("nan")

    task = bd.Classification(
        train=mirror.samples(100, 1), validation=mirror.samples(400, 2), metrics=[mirror.Fragile()],
        training_step=explode,
    )  # fmt: skip
    run = mirrored(
        mirror, tmp_path, "retrain(steps=60)", "retrain(steps=1, student=5)", "shrink(size=0.2)", task=task,
        students=[line()], target=["accuracy drop <= 3 pp", "size <= 0.3x"],
    )  # fmt: skip
    assert [result.state.value for result in run.candidates[1:]] == ["failed", "failed", "met"]
    assert run.candidates[1].sentence.startswith("diverged: The loss was nan at step")
    assert "no student '5'" in run.candidates[2].sentence
    with Journal.open(run.path, readonly=True) as journal:
        assert len(journal.records("rollback")) == 2
    assert not (run.path / "training").exists()


def test_data_that_fail_in_the_middle_of_a_training_fail_that_attempt_alone(mirror, tmp_path):
    class Worn(list):
        left = math.inf

        def __getitem__(self, index):
            self.left -= 1
            if self.left < 0:
                raise OSError("the server is gone")
            return super().__getitem__(index)

    def wear(event):
        if event.kind == "attempt" and event.data["attempt"].number == 1:
            train.left = 1000

    x, y = mirror.samples(400, 1)
    train = Worn(zip(x, y, strict=True))
    task = bd.Classification(train=train, validation=mirror.samples(400, 2), metrics=[mirror.Fragile()])
    rungs = ("retrain(steps=100)", "shrink(size=0.2)")
    run = mirrored(mirror, tmp_path, *rungs, task=task, students=[line()], callbacks=wear)
    assert [result.state.value for result in run.candidates[1:]] == ["failed", "missed"]
    assert "could not be read at step" in run.candidates[1].sentence
    assert "OSError: the server is gone" in run.candidates[1].sentence


def test_a_student_of_a_factory_learns_in_a_child(mirror, tmp_path, monkeypatch):
    (tmp_path / "own_student.py").write_text("from test_students import line as build")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    rungs = ["distill(steps=2)", "distill(steps=2) + shrink(size=0.5)", "retrain(steps=2, student='own_student:build')"]
    run = bd.compress(
        "boildown_fakes:model", "boildown_fakes:task", "size <= 0.01x", ladder=rungs, students=["own_student:build"],
        runtime="mirror", runs=tmp_path / "runs",
    )  # fmt: skip
    assert [result.state.value for result in run.candidates[1:]] == ["missed"] * 3
    assert any("student 0, taught with" in note for note in run.candidates[2].notes)
    assert "student own_student:build, trained for 2 steps" in run.candidates[3].notes
    with Journal.open(run.path, readonly=True) as journal:
        assert [record.attempt for record in journal.records("loss")] == [1], "the chain went on from attempt 1"
        assert 'students=["own_student:build"]' in journal.facts["command"].replace("'", '"')
    assert len(bd.resume(run.path).candidates) == 4


def test_a_killed_training_goes_on_to_the_same_weights(mirror, tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[1] / "plugged"), str(Path(__file__).parent), *sys.path])
    runs, errors = tmp_path / "runs", tmp_path / "errors.txt"
    with errors.open("w") as file:
        killed = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(runs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
            text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    assert killed.stdout.readline() == "under way\n", errors.read_text()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (folder,) = runs.iterdir()
    (kept,) = (folder / "training").iterdir()
    assert {path.name for path in kept.iterdir()} == {"checkpoint.safetensors", "steps.json"}

    torch.set_num_threads(1)
    run = bd.resume(folder, mirror.model(), mirror.task(), students=[line()])
    context = Context(Data(mirror.task().train, None), students={"0": line()})
    whole = Retrain(steps=300).apply(Candidate(mirror.model()), mirror.task(), context)
    assert weights_hash(run.candidates[1].module()) == weights_hash(whole.model)
    assert "student 0, trained for 300 steps" in run.candidates[1].notes
    assert not (folder / "training").exists()
    with Journal.open(folder, readonly=True) as journal:
        assert [record.data["steps"] for record in journal.records("steps")] == [300], "timed once, and kept"
