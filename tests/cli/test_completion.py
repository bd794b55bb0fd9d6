"""The shell completes runs, methods and ladders, and waits for nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from boildown.cli.options import READY, ladders_beginning, methods_beginning, runs_beginning
from boildown.engine.ladder import LADDERS
from boildown.methods.registry import installed, listed


def test_methods_are_listed_without_importing_them():
    assert listed() == sorted(installed())
    assert list(methods_beginning("quantize-d")) == ["quantize-dynamic"]
    assert set(READY) == {"auto", *LADDERS}


def test_a_ladder_or_the_next_link_of_a_chain():
    assert list(ladders_beginning("post")) == ["post-training"]
    assert list(ladders_beginning("prune + quantize-s")) == ["prune + quantize-static"]
    assert "auto" not in list(ladders_beginning("prune +"))


def test_runs_are_completed_newest_first(tmp_path):
    for name in ("20260101-000000-aaaa", "20260202-000000-bbbb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journal.db").touch()
    context = SimpleNamespace(params={"runs": tmp_path})
    assert list(runs_beginning(context, "")) == ["latest", "20260202-000000-bbbb", "20260101-000000-aaaa"]
    assert list(runs_beginning(context, "202601")) == ["20260101-000000-aaaa"]


@pytest.mark.parametrize(
    ("typed", "offered"), [("boildown methods quantize-m", "quantize-mixed"), ("boildown tak", "take")]
)
def test_the_shell_gets_it_without_torch(typed, offered):
    said = "import atexit; atexit.register(lambda: print('torch' in sys.modules))"
    code = f"{said}; from boildown.cli import main; main()"
    environment = {**os.environ, "_BOILDOWN_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment["COMP_CWORD"] = str(len(typed.split()) - 1)
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = 'boildown'; {code}"],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert told.stdout.split() == [offered, "False"], told.stderr
