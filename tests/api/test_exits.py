"""Code of the user's that ends the program ends no command with the exit code of a verdict."""

from __future__ import annotations

import sys

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from test_students import line, mirrored

import boildown as bd

PROJECT = """
import sys, torch, boildown as bd

class Gone(BaseException): pass
{at_import}

class Rows(torch.utils.data.Dataset):
    def __len__(self): return 400
    def __getitem__(self, index):
        if index == 350: {in_item}
        if index == 150: {in_early_item}
        return torch.eye(4)[index % 4], index % 4

class Seen:
    name, higher_is_better, unit, range, decomposable = "accuracy", True, "", (0.0, 1.0), True
    def statistic(self, output, target):
        {in_metric}
        return (output.argmax(1) == target).float().numpy()
    def compute(self, statistics): return float(statistics.mean())

def task():
    {in_factory}
    data = torch.utils.data.DataLoader(Rows(), batch_size=64, num_workers={workers})
    return bd.Classification(validation=data, metrics=[Seen()])

def model():
    {in_model}
    return torch.nn.Sequential(torch.nn.Linear(4, 4))
"""
PLACES = ("at_import", "in_item", "in_early_item", "in_metric", "in_factory", "in_model")
CONFIG = """
[model]
factory = "{0}:model"
[task]
factory = "{0}:task"
[target]
conditions = ["accuracy >= 90 %"]
"""


@pytest.fixture
def written(tmp_path, monkeypatch, request):
    """Writes a project whose code says something at one place; returns the configuration."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def write(place, says, workers=0):
        name = f"given_{abs(hash(request.node.name))}"
        code = PROJECT.format(**{**dict.fromkeys(PLACES, "pass"), place: says}, workers=workers)
        (tmp_path / f"{name}.py").write_text(code)
        (tmp_path / "boildown.toml").write_text(CONFIG.format(name))
        return name

    return write


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """An exported file."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", ports[:1], ports[1:])
    path = tmp_path_factory.mktemp("file") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("place", "says", "workers"),
    [
        ("at_import", "sys.exit(0)", 0),
        ("in_factory", "sys.exit()", 0),
        ("in_item", "sys.exit(0)", 0),
        ("in_item", "raise Gone('away')", 1),
        ("in_item", "import os; os._exit(0)", 1),
        ("in_early_item", "import os; os._exit(0)", 1),
        ("in_metric", "sys.exit(1)", 0),
    ],
)
def test_measure_fails_where_the_users_code_ends_the_program(written, command, identity, place, says, workers):
    name = written(place, says, workers)
    ended = command("measure", identity, "--config", "boildown.toml")
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert "cure: " in ended.err
    if "os._exit" not in says:  # it leaves no trace of where it was called
        assert f"{name}.py, line " in ended.err
        assert "would have ended the program: " in ended.err


@pytest.mark.parametrize("place", ["in_model", "in_item"])
def test_compress_fails_before_a_run_begins(written, command, tmp_path, place):
    name = written(place, "sys.exit(0)")
    for arguments in (("compress", "boildown.toml"), ("compress", "boildown.toml", "--dry-run")):
        ended = command(*arguments)
        assert (ended.code, f"{name}.py, line " in ended.err) == (2, True)
    assert not (tmp_path / "runs").exists()


def test_from_python_it_is_an_input_error_that_knows_the_cause(written, identity, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    name = written("in_metric", "sys.exit(0)")
    with pytest.raises(bd.InputError, match=rf"{name}\.py, line \d+, in statistic, would have ended") as caught:
        bd.measure(identity, f"{name}:task", "accuracy >= 90 %")
    assert isinstance(caught.value.__cause__, SystemExit)


def test_ctrl_c_in_the_users_code_is_still_ctrl_c(written, command, identity):
    written("in_item", "raise KeyboardInterrupt")
    assert command("measure", identity, "--config", "boildown.toml").code == 130


def test_a_training_that_ends_the_program_fails_its_attempt_alone(mirror, tmp_path):
    def loss(output, target):
        if len(output) > 20 and output.requires_grad and losses.append(0) is None and len(losses) > 2:
            sys.exit(0)
        return torch.nn.functional.cross_entropy(output, target)

    losses = []
    task = bd.Classification(
        train=mirror.samples(100, 1), validation=mirror.samples(400, 2), metrics=[mirror.Fragile()], loss=loss
    )
    heard = []

    def listen(event):
        heard.append(event.kind)
        sys.exit(0)

    rungs = ("retrain(steps=20)", "shrink(size=0.2)")
    run = mirrored(mirror, tmp_path, *rungs, task=task, students=[line()], callbacks=listen)
    assert [result.state.value for result in run.candidates[1:]] == ["failed", "missed"]
    assert "test_exits.py, line " in run.candidates[1].sentence
    assert "in loss, would have ended the program: SystemExit(0)" in run.candidates[1].sentence
    assert len(heard) == 1, "it is not called again"
