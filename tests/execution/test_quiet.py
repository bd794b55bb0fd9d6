"""Timing and computing exclude each other across processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from boildown.errors import Cancelled
from boildown.execution import quiet
from boildown.execution.child import Child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files are locked on POSIX only")


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """Lock files of this test alone, for this process and its children."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def other():
    with Child() as child, ThreadPoolExecutor(1) as pool:
        child.call("called_in_child:count")
        yield lambda *args: pool.submit(child.call, *args)


def appears(path: Path) -> None:
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_two_processes_compute_together(other, tmp_path):
    with quiet.computing():
        held = other("called_in_child:hold_machine", str(tmp_path / "held"), "computing", 0)
        assert held.result(5)


def test_quiet_waits_until_computing_gives_way(other, tmp_path):
    started, done = tmp_path / "started", tmp_path / "done"
    running = other("called_in_child:compute_in_steps", str(started), str(done), 20.0)
    appears(started)
    with quiet.quiet() as alone:
        assert alone
        start = time.monotonic()
        time.sleep(0.3)
        end = time.monotonic()
    time.sleep(0.1)
    done.touch()
    steps, waits = running.result(10)
    assert waits == 1
    assert not [step for step in steps if step[0] < end and step[1] > start], "a step ran while it was quiet"
    assert steps[0][0] < start
    assert steps[-1][1] > end, "it computed before and after"


def test_nobody_is_alone_while_a_child_computes(other, tmp_path):
    with quiet.computing(), Child() as child:
        child.call("called_in_child:count")
        timed = other("called_in_child:hold_machine", str(tmp_path / "held"), "quiet", 0)
        child.call("called_in_child:sleep", 0.5, check=quiet.give_way)
        end = time.monotonic()
        while not timed.done():
            quiet.give_way()
        assert timed.result()[0] > end


def test_a_hold_is_released_while_a_child_holds_for_itself(other, tmp_path):
    with quiet.computing():
        with quiet.delegated():
            assert other("called_in_child:hold_machine", str(tmp_path / "held"), "quiet", 0).result(10)
        timed = other("called_in_child:hold_machine", str(tmp_path / "again"), "quiet", 0)
        time.sleep(0.3)
        assert not timed.done(), "the hold is back"
        while not timed.done():
            quiet.give_way()


def test_newcomers_wait_while_it_is_quiet(other, tmp_path):
    held = tmp_path / "held"
    running = other("called_in_child:hold_machine", str(held), "quiet", 0.4)
    appears(held)
    with quiet.computing():
        start = time.monotonic()
    assert start >= running.result(5)[1]


def test_quiet_excludes_quiet(other, tmp_path):
    held = tmp_path / "held"
    running = other("called_in_child:hold_machine", str(held), "quiet", 0.3)
    appears(held)
    with quiet.quiet() as alone:
        start = time.monotonic()
    assert alone
    assert start >= running.result(5)[1]


def test_patience_ends_and_is_told(other, tmp_path):
    held = tmp_path / "held"
    running = other("called_in_child:hold_machine", str(held), "computing", 0.6)
    appears(held)
    with quiet.quiet(patience=0.1) as alone:
        assert not alone
        with quiet.computing():
            pass
    running.result(5)


def test_waiting_can_be_cancelled(other, tmp_path):
    held = tmp_path / "held"
    running = other("called_in_child:hold_machine", str(held), "computing", 0.5)
    appears(held)

    def check():
        raise Cancelled("stop")

    with pytest.raises(Cancelled), quiet.quiet(check):
        pass
    running.result(5)
    with quiet.quiet(patience=1) as alone:
        assert alone


def test_checks_may_give_way_while_waiting(other, tmp_path):
    """A run calls one `check` everywhere, and it gives way."""
    held = tmp_path / "held"
    with quiet.computing():
        running = other("called_in_child:hold_machine", str(held), "computing", 0.3)
        appears(held)
        with quiet.quiet(quiet.give_way) as alone:
            assert alone
        running.result(5)
        waiting = other("called_in_child:hold_machine", str(tmp_path / "alone"), "quiet", 0.2)
        gave_way = False
        while not gave_way:
            gave_way = quiet.give_way(lambda: assert_nothing(quiet.give_way()))
        waiting.result(5)


def assert_nothing(gave_way: bool) -> None:
    assert not gave_way


def test_a_crash_frees_the_machine(tmp_path):
    held = tmp_path / "held"
    with Child() as child, ThreadPoolExecutor(1) as pool:
        child.call("called_in_child:count")
        running = pool.submit(child.call, "called_in_child:hold_machine", str(held), "quiet", 30)
        appears(held)
        os.kill(child.pid, signal.SIGKILL)
        with quiet.computing():
            pass
        assert running.exception(5)


def test_nests_in_itself():
    with quiet.computing(), quiet.computing():
        with quiet.quiet() as alone, quiet.quiet() as still:
            assert alone
            assert still
            assert not quiet.give_way()
            with quiet.computing():
                assert not quiet.give_way()
        assert not quiet.give_way()
    assert not quiet.give_way(), "without effect outside"
    with quiet.quiet(patience=0) as alone:
        assert alone, "everything was released"


def test_the_hold_comes_back_after_quiet():
    with quiet.computing():
        with quiet.quiet():
            pass
        seen = []
        thread = threading.Thread(target=lambda: seen.append(_is_quiet_possible()))
        thread.start()
        thread.join()
        assert seen == [False]
    assert _is_quiet_possible()


def _is_quiet_possible() -> bool:
    with quiet.quiet(patience=0) as alone:
        return alone


def test_giving_way_is_cheap():
    with quiet.computing():
        start = time.perf_counter()
        for _ in range(200):
            quiet.give_way()
        assert (time.perf_counter() - start) / 200 < 0.001


def test_lock_files_serve_every_user(tmp_path):
    previous = os.umask(0o077)
    try:
        with quiet.computing():
            pass
    finally:
        os.umask(previous)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("boildown-*")}
    assert modes == {"boildown-gate.lock": 0o666, "boildown-room.lock": 0o666}


def test_without_lock_files_nobody_waits(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    with quiet.computing():
        assert not quiet.give_way()
        with quiet.quiet() as alone:
            assert not alone
