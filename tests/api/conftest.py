"""Projects and runs that several tests look at."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors.torch import save_file

import boildown as bd
from boildown.cli import main
from boildown.engine.bench import Bench

MODEL = """
from boildown.testing import digits

def build():
    return digits.network(width=16)
"""
TASK = """
from boildown.testing import digits

def build():
    return digits.task()
"""
CONFIG = """
[model]
factory = "project_model:build"
weights = "weights.safetensors"
[task]
factory = "project_task:build"
[target]
conditions = ["accuracy drop <= 3 pp", "size <= 0.35x"]
[ladder]
rungs = ["quantize-dynamic", "quantize-static"]
"""


@dataclass
class Told:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str
    data: object = field(default=None)


def told(*arguments) -> Told:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert "Traceback" not in err.getvalue()
    data = json.loads(out.getvalue()) if "--json" in arguments and caught.value.code < 2 else None
    return Told(caught.value.code, out.getvalue(), err.getvalue(), data)


@pytest.fixture(scope="session")
def command():
    """The command line as a function."""
    return told


@pytest.fixture(scope="session")
def project(tmp_path_factory, digits_model) -> Path:
    """A folder with a configuration, factories and trained weights."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "project_model.py").write_text(MODEL)
    (folder / "project_task.py").write_text(TASK)
    (folder / "boildown.toml").write_text(CONFIG)
    save_file(digits_model.state_dict(), folder / "weights.safetensors")
    before = list(sys.path)
    yield folder
    sys.path[:] = before


@pytest.fixture(scope="session")
def events() -> list:
    """What the callbacks of `run` received."""
    return []


@pytest.fixture(scope="session")
def run(tmp_path_factory, digits_model, digits_task, events) -> bd.Run:
    """A finished run from Python: dynamic does not apply, static meets the target."""
    return bd.compress(
        digits_model,
        digits_task,
        ["accuracy drop <= 3 pp", "size <= 0.35x"],
        ladder=["quantize-dynamic", "quantize-static"],
        runs=tmp_path_factory.mktemp("runs"),
        callbacks=[events.append],
    )


@pytest.fixture
def mirror(plugged, still, monkeypatch):
    """The foreign package; its runtime gives back the input, whatever a student has learned."""
    monkeypatch.setattr(Bench, "agree", lambda self, candidate, path: "not compared")
    return plugged
