"""A run beside one that is stuck: it ends with its budget, says what it waited for, and marks what it timed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import boildown as bd
from boildown.execution import quiet

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files are locked on POSIX only")

HOLD = """
import sys, time
from boildown.execution import quiet
named = quiet.patient(quiet.Patience(run="stuck"))
named.__enter__()
with quiet.quiet() if sys.argv[1] == "times" else quiet.computing():
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["times", "computes"])
def test_a_run_beside_a_stopped_one_keeps_its_budget_and_marks_its_figures(plugged, tmp_path, monkeypatch, how):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, how], stdout=subprocess.PIPE, text=True)
    steps = []
    try:
        assert holder.stdout.readline() == "holds\n"
        os.kill(holder.pid, signal.SIGSTOP)
        start = time.monotonic()
        run = bd.compress(
            plugged.model(), plugged.task(), ["size <= 0.3x"], ladder=["shrink(size=0.2)"], runtime="mirror",
            runs=tmp_path / "runs", budget="20 s",
            callbacks=[lambda event: steps.append(event.data["what"]) if event.kind == "step" else None],
        )  # fmt: skip
        assert time.monotonic() - start < 35
    finally:
        holder.kill()
        holder.wait()
    waits = [step for step in steps if step.startswith("wait")]
    assert any(f"(pid {holder.pid}, run stuck)" in step and step.endswith("so far") for step in waits)
    assert any(step.startswith("waited 2 s") for step in waits)
    timed = [found for each in run.candidates for found in each.measurements.values() if found.metric == "latency"]
    assert timed
    assert all(found.noisy and not found.alone for found in timed)
    assert "~" in str(run)
    with quiet.quiet(patience=0) as still:
        assert still.alone
