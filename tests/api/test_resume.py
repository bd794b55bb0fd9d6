"""Runs that are killed, stopped or out of budget go on where they stood; what is known is not done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import boildown as bd
from boildown.journal.journal import Journal

HERE = Path(__file__).parents[1]
CONFIG = """
[model]
factory = "boildown_fakes:model"
[task]
factory = "boildown_fakes:task"
[target]
conditions = ["accuracy drop <= 2 pp", "size <= 0.3x"]
[ladder]
rungs = ["shrink(size=0.6)", "shrink(size=0.2, how='wait once', marker='{marker}')"]
[run]
runtime = "mirror"
"""
MAIN = "import boildown_fakes; boildown_fakes.stop_clock(); from boildown.cli import main; main()"
SCRIPT = """
import boildown as bd, boildown_fakes
boildown_fakes.stop_clock()
run = bd.compress(
    boildown_fakes.model(), boildown_fakes.task(), ["accuracy drop <= 2 pp", "size <= 0.3x"],
    ladder=["shrink(size=0.6)", "shrink(size=0.2, how='wait once', marker='{marker}')"],
    runtime="mirror", runs="{runs}",
)
print(run.outcome.name, run.best.number)
"""
REBUILD = """
import sys
from pathlib import Path
from boildown.api.climbing import _attempts
from boildown.domain.candidate import Candidate
from boildown.journal.journal import Journal
import boildown_fakes
folder = Path(sys.argv[1])
with Journal.open(folder, readonly=True) as journal:
    print([attempt.candidate.method for attempt in _attempts(journal, folder, Candidate(boildown_fakes.model()))])
"""


@pytest.fixture
def started(plugged):
    """Starts a Python process and waits until the second rung is being climbed."""
    processes = []

    def start(arguments, marker, text=None):
        path = os.pathsep.join([str(HERE / "plugged"), *sys.path])
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        processes.append(process)
        if text is not None:
            process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
        end = time.monotonic() + 120
        while not marker.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def journalled(folder):
    with Journal.open(folder, readonly=True) as journal:
        return {row.number: row for row in journal.attempts()}


def compressing(started, folder):
    """A run on the command line, under way in `folder`."""
    marker = folder / "marker"
    (folder / "boildown.toml").write_text(CONFIG.format(marker=marker))
    return started(["-c", MAIN, "compress", str(folder / "boildown.toml"), "--runs", str(folder / "runs")], marker)


def test_a_run_that_is_killed_goes_on_where_it_stood(started, command, still, tmp_path):
    runs = tmp_path / "runs"
    process = compressing(started, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = runs.iterdir()
    before = journalled(folder)
    assert [row.state.value for row in before.values()] == ["missed", "missed", "running"]

    told = command("resume", "latest", "--runs", runs, "--json")
    assert (told.code, told.data["outcome"], told.data["best"]) == (0, "TARGET_MET", 2)
    after = journalled(folder)
    assert after[0] == before[0]
    assert after[1] == before[1]
    assert after[2].candidate_key == before[2].candidate_key
    assert (folder / "best" / "model.mirror").is_file()


def test_ctrl_c_ends_with_130_and_can_be_resumed(started, command, still, tmp_path):
    runs = tmp_path / "runs"
    process = compressing(started, tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "CANCELLED" in out
    assert (next(runs.iterdir()) / "report.html").is_file()
    assert command("resume", "--runs", runs).code == 0


def test_a_script_without_a_guard_stops_and_resumes_with_its_objects(started, plugged, still, tmp_path):
    marker, runs = tmp_path / "marker", tmp_path / "runs"
    process = started(["-"], marker, SCRIPT.format(marker=marker, runs=runs))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.split() == ["CANCELLED", "1"], err
    (folder,) = runs.iterdir()
    artifact = (folder / "attempts" / "00-first" / "model.mirror").read_bytes()

    with pytest.raises(bd.InputError, match="no factory for its model and task") as caught:
        bd.resume(folder)
    assert f"boildown.resume({str(folder)!r}," in str(caught.value)
    with pytest.raises(bd.InputError, match=r"no factory for its task.*\n.*task=\.\.\."):
        bd.resume(folder, plugged.model())
    other = plugged.model()
    other.weight.data *= 2
    with pytest.raises(bd.InputError, match="The model is not what run"):
        bd.resume(folder, other, plugged.task())
    with pytest.raises(bd.InputError, match="The data to judge on is not what run"):
        bd.resume(folder, plugged.model(), plugged.task(401))
    assert (folder / "attempts" / "00-first" / "model.mirror").read_bytes() == artifact

    before = journalled(folder)
    run = bd.resume(folder, plugged.model(), plugged.task())
    assert (run.outcome, run.best.number) == (bd.Outcome.TARGET_MET, 2)
    assert [journalled(folder)[number] for number in (0, 1)] == [before[0], before[1]]
    assert [result.state.value for result in run.candidates] == ["missed", "missed", "met"]


def compress(plugged, runs, *rungs, **options):
    target = options.pop("target", ["accuracy drop <= 2 pp", "size <= 0.3x"])
    return bd.compress(
        plugged.model(), plugged.task(), target, ladder=list(rungs), runtime="mirror", runs=runs, **options
    )


def test_a_budget_that_is_too_small_can_be_enlarged(plugged, still, tmp_path):
    run = compress(plugged, tmp_path, "shrink(size=0.2)", budget="0.01 s")
    assert run.outcome is bd.Outcome.OUT_OF_BUDGET
    assert run.best is None
    assert run.candidates == []
    with Journal.open(run.path, readonly=True) as journal:
        sentence = journal.ending.sentence
    assert sentence.startswith("The budget ended before the first model was measured")
    assert "Resume the run with a larger budget" in sentence
    assert sentence in str(run)
    still_too_small = bd.resume(run.path, plugged.model(), plugged.task())
    assert still_too_small.outcome is bd.Outcome.OUT_OF_BUDGET
    resumed = bd.resume(run.path, plugged.model(), plugged.task(), budget="10 min")
    assert resumed.outcome is bd.Outcome.TARGET_MET
    assert len(resumed.candidates) == 2


class Slow(torch.utils.data.Dataset):
    """Samples that take long to read."""

    def __init__(self, samples, seconds):
        self.samples, self.seconds = samples, seconds

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return self.samples[index]


def test_data_that_takes_longer_to_read_than_the_budget_ends_the_run_and_is_told(plugged, still, tmp_path):
    samples = [(inputs[0], target[0]) for inputs, target in plugged.task().validation.batches(1)]
    data = Slow(samples, 0.02)
    given = {"target": ["size <= 0.3x"], "ladder": ["shrink(size=0.2)"], "runtime": "mirror", "runs": tmp_path}
    start = time.monotonic()
    run = bd.compress(plugged.model(), bd.Classification(validation=data), budget="0.5 s", **given)
    assert time.monotonic() - start < 0.02 * len(samples)
    assert run.outcome is bd.Outcome.OUT_OF_BUDGET
    assert "reading the data" in str(run)
    data.seconds = 0
    resumed = bd.resume(run.path, plugged.model(), bd.Classification(validation=data), budget="10 min")
    assert resumed.outcome is bd.Outcome.TARGET_MET


def test_candidates_are_reused_unless_a_fresh_run_is_asked_for(plugged, still, tmp_path):
    first = compress(plugged, tmp_path, "shrink(size=0.4)")
    assert first.outcome is bd.Outcome.TARGET_MISSED
    again = compress(plugged, tmp_path, "shrink(size=0.4)", target="size <= 0.5x")
    assert again.outcome is bd.Outcome.TARGET_MET
    assert f"reused from run {first.id}" in again.best.notes
    assert "shrunk" in again.best.notes
    assert again.best.key == first.candidates[1].key
    fresh = compress(plugged, tmp_path, "shrink(size=0.4)", target="size <= 0.5x", fresh=True)
    assert not any("reused" in note for note in fresh.best.notes)
    assert fresh.best.key == first.candidates[1].key
    other = compress(plugged, tmp_path, "shrink(size=0.4)", target="size <= 0.5x", seed=1)
    assert not any("reused" in note for note in other.best.notes)


def test_a_damaged_candidate_is_not_reused(plugged, still, tmp_path):
    first = compress(plugged, tmp_path, "shrink(size=0.4)")
    (attempt,) = first.path.glob("attempts/01-*")
    (attempt / "candidate.json").write_text("{")
    again = compress(plugged, tmp_path, "shrink(size=0.4)", target="size <= 0.5x")
    assert again.outcome is bd.Outcome.TARGET_MET
    assert not any("reused" in note for note in again.best.notes)


def test_resume_refuses_an_artifact_that_was_changed(plugged, still, tmp_path):
    run = compress(plugged, tmp_path, "shrink(size=0.4)")
    (path,) = run.path.glob("attempts/01-*/model.mirror")
    whole = path.read_text()
    path.write_text(whole + " ")
    with pytest.raises(bd.BoildownError, match="not the one that was measured"):
        bd.resume(run.path, plugged.model(), plugged.task())
    path.write_text(whole)
    first = run.path / "attempts" / "00-first" / "model.mirror"
    first.write_text(first.read_text() + " ")
    kept = contents(first.parent)
    with pytest.raises(bd.BoildownError, match="not the one that was measured"):
        bd.resume(run.path, plugged.model(), plugged.task())
    assert contents(first.parent) == kept, "what was measured is looked at before anything is written"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_process_that_has_loaded_no_method_rebuilds_edited_candidates(plugged, tmp_path):
    run = bd.compress(
        plugged.model(), plugged.task(), "size <= 0.01x", ladder=["learned-rounding(steps=1)"], runs=tmp_path
    )
    assert run.candidates[1].artifact is not None
    path = os.pathsep.join([str(HERE / "plugged"), *sys.path])
    told = subprocess.run(
        [sys.executable, "-c", REBUILD, str(run.path)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert "learned-rounding" in told.stdout, told.stderr
