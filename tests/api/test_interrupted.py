"""Whatever stops a run from outside: the journal is whole, the reason is told, and it goes on where it stood."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import boildown as bd
from boildown.errors import JournalError
from boildown.execution import child
from boildown.journal import HIDDEN, Journal, run_folders

pytestmark = pytest.mark.usefixtures("still")
TARGET = ["accuracy drop <= 2 pp", "size <= 0.3x"]
GOOD = "shrink(size=0.2)"
SIDE_BY_SIDE = """
import os, sys
import boildown as bd, boildown_fakes

boildown_fakes.stop_clock()
children = []
for _ in range(2):
    if not (child := os.fork()):
        run = bd.compress(
            boildown_fakes.model(), boildown_fakes.task(), ["accuracy drop <= 2 pp", "size <= 0.3x"],
            ladder="shrink(size=0.2)", runtime="mirror", runs=sys.argv[1],
        )
        os._exit(0 if run.outcome is bd.Outcome.TARGET_MET else 1)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.fixture
def compress(plugged, tmp_path):
    """Climbs rungs on the fakes."""

    def compressed(*rungs, runs=tmp_path / "runs", **options):
        options = {"ladder": list(rungs), "runtime": "mirror", "runs": runs, **options}
        return bd.compress(plugged.model(), plugged.task(), TARGET, **options)

    return compressed


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB, where the user may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    tool = shutil.which("mount")
    made = (
        tool
        and not subprocess.run([tool, "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True).returncode
    )
    if not made:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def signalled(*numbers):
    """A callback that sends this process signals once the first rung is climbed."""

    def callback(event):
        if event.kind == "attempt" and event.data["attempt"].number == 1:
            for place, number in enumerate(numbers):
                threading.Timer(0.3 * (place + 1), os.kill, (os.getpid(), number)).start()

    return callback


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_this_process_ends_in_order_and_the_run_goes_on(compress, plugged, tmp_path, number):
    marker = tmp_path / "marker"
    run = compress(f"shrink(size=0.2, how='wait once', marker='{marker}')", callbacks=signalled(number))
    assert run.outcome is bd.Outcome.CANCELLED
    assert (run.path / "report.html").is_file()
    assert bd.resume(run.path, plugged.model(), plugged.task()).outcome is bd.Outcome.TARGET_MET


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_twice_ends_at_once_and_the_run_goes_on(compress, plugged, tmp_path, monkeypatch):
    answer, born = signal.getsignal(signal.SIGINT), []

    class Known(child._Process):
        def __init__(self, folder):
            super().__init__(folder)
            born.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(child, "_Process", Known)
        patch.setattr(plugged.Stall, "apply", lambda *_: time.sleep(20))
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            compress("stall(checks=false)", GOOD, callbacks=signalled(signal.SIGINT, signal.SIGINT))
        assert time.monotonic() - began < 19
    assert signal.getsignal(signal.SIGINT) is answer, "a notebook goes on"
    assert born
    assert all(process.died() for process in born)
    (folder,) = run_folders(tmp_path / "runs")
    with Journal.open(folder, readonly=True) as journal:
        assert [row.state.value for row in journal.attempts()] == ["missed", "running"]
    monkeypatch.setattr(plugged.Stall, "apply", lambda _self, candidate, *_: candidate.derive(notes=("moved on",)))
    assert bd.resume(folder, plugged.model(), plugged.task()).outcome is bd.Outcome.TARGET_MET


def test_a_disk_that_fills_up_is_told_and_the_run_goes_on(compress, plugged, small_disk):
    filler = small_disk / "filler"

    def fill(event):
        if event.kind == "attempt" and event.data["attempt"].number == 1:
            with filler.open("wb", buffering=0) as file:
                try:
                    while file.write(b"x" * 4096):
                        pass
                except OSError:
                    pass

    with pytest.raises(bd.BoildownError, match=r"disk is full|free space on the disk"):
        compress(GOOD, runs=small_disk / "runs", callbacks=fill)
    filler.unlink()
    (folder,) = run_folders(small_disk / "runs")
    run = bd.resume(folder, plugged.model(), plugged.task())
    assert (run.outcome, run.best.number) == (bd.Outcome.TARGET_MET, 1)


def test_a_folder_that_became_readonly_can_be_read_and_says_why_not_more(compress, plugged, small_disk, command):
    run = compress(GOOD, runs=small_disk / "runs")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert command("show", run.path).code == 0
    with pytest.raises(JournalError, match="cannot be written: Read-only file system"):
        bd.resume(run.path, plugged.model(), plugged.task())
    told = command("report", run.path)
    assert told.code == 3
    assert "Read-only file system" in told.err
    assert "fault" not in told.err
    with pytest.raises(bd.InputError, match="cannot be written: Read-only file system"):
        compress(GOOD, runs=small_disk / "runs")


def test_one_run_has_one_writer_and_any_readers(compress, plugged, command, tmp_path):
    told = []

    def read(event):
        if event.kind in ("attempt", "verdict"):
            (folder,) = run_folders(tmp_path / "runs")
            told.append(command("show", folder, "--json").data["outcome"])
            told.append(command("runs", "--runs", tmp_path / "runs").code)
            with pytest.raises(JournalError, match="is being written by"):
                bd.resume(folder, plugged.model(), plugged.task())

    assert compress(GOOD, callbacks=read).outcome is bd.Outcome.TARGET_MET
    assert told == [None, 0] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
def test_runs_side_by_side_do_not_meet(plugged, tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[1] / "plugged"), *sys.path])
    told = subprocess.run(
        [sys.executable, "-c", SIDE_BY_SIDE, str(tmp_path)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    runs = run_folders(tmp_path)
    assert len(runs) == 2
    for run in runs:
        with Journal.open(run, readonly=True) as journal:
            assert journal.ending.outcome is bd.Outcome.TARGET_MET
            assert [row.state.value for row in journal.attempts()] == ["missed", "met"]
        assert (run / "best" / "model.mirror").is_file()


def test_a_run_begins_whole_or_not_at_all(compress, plugged, tmp_path, monkeypatch):
    def killed(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "update_facts", killed)
        with pytest.raises(KeyboardInterrupt):
            compress(GOOD)
    left = tmp_path / "runs" / f"{HIDDEN}20260101-000000-abcd"
    Journal.create(left, {}).close()  # as a killed process leaves it
    assert run_folders(tmp_path / "runs") == []
    run = compress(GOOD)
    assert run_folders(tmp_path / "runs") == [run.path]


def test_a_file_that_is_not_what_was_measured_stops_the_run(compress, plugged):
    run = compress("shrink(size=0.4)")
    for name in ("01-*/model.mirror", "01-*/candidate.json", "00-*/weights.safetensors"):
        (path,) = run.path.glob(f"attempts/{name}")
        whole = path.read_bytes()
        for spoil in (lambda path=path, whole=whole: path.write_bytes(whole + b" "), path.unlink):
            spoil()
            with pytest.raises(bd.BoildownError, match=rf"{path.name}\) is not the one that was measured"):
                bd.resume(run.path, plugged.model(), plugged.task())
        path.write_bytes(whole)
    assert bd.resume(run.path, plugged.model(), plugged.task()).outcome is run.outcome


def test_a_candidate_that_cannot_be_read_is_told_as_cause_and_cure(compress, plugged):
    run = compress("shrink(size=0.4)")
    with contextlib.closing(sqlite3.connect(run.path / "journal.db")) as connection:
        connection.execute("UPDATE attempts SET candidate = NULL")  # older runs kept no hashes of these files
        connection.commit()
    (path,) = run.path.glob("attempts/01-*/candidate.json")
    for text in ('{"edits": 3}', path.read_text().replace('"weights":', '"wieghts":')):
        path.write_text(text)
        with pytest.raises(bd.BoildownError, match="candidate of attempt 1 cannot be read"):
            bd.resume(run.path, plugged.model(), plugged.task())
