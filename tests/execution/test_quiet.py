"""Timing and computing exclude each other across processes."""

from __future__ import annotations

import contextlib
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
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


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
    with quiet.quiet() as still:
        assert still.alone
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
    with quiet.quiet() as still:
        start = time.monotonic()
    assert still.alone
    assert start >= running.result(5)[1]


def test_patience_ends_and_is_told(other, tmp_path):
    held = tmp_path / "held"
    running = other("called_in_child:hold_machine", str(held), "computing", 0.6)
    appears(held)
    with quiet.quiet(patience=0.1) as still:
        assert not still.alone
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
    with quiet.quiet(patience=1) as still:
        assert still.alone


def test_checks_may_give_way_while_waiting(other, tmp_path):
    """A run calls one `check` everywhere, and it gives way."""
    held = tmp_path / "held"
    with quiet.computing():
        running = other("called_in_child:hold_machine", str(held), "computing", 0.3)
        appears(held)
        with quiet.quiet(quiet.give_way) as still:
            assert still.alone
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
        with quiet.quiet() as outer, quiet.quiet() as still:
            assert outer.alone
            assert still.alone
            assert not quiet.give_way()
            with quiet.computing():
                assert not quiet.give_way()
        assert not quiet.give_way()
    assert not quiet.give_way(), "without effect outside"
    with quiet.quiet(patience=0) as still:
        assert still.alone, "everything was released"


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
    with quiet.quiet(patience=0) as still:
        return still.alone


def test_giving_way_is_cheap():
    with quiet.computing():
        start = time.perf_counter()
        for _ in range(200):
            quiet.give_way()
        assert (time.perf_counter() - start) / 200 < 0.001


class Told:
    """Hears what is waited for."""

    def __init__(self):
        self.said = []

    def __call__(self, what, seconds):
        self.said.append((what, seconds))


def stopped(other_child, tmp_path, how):
    """A process that holds the machine and is stopped, as by Ctrl-Z; its id."""
    held = tmp_path / "held by the stopped"
    future = other_child("called_in_child:hold_machine", str(held), how, 60)
    appears(held)
    pid = other_child.child.pid
    os.kill(pid, signal.SIGSTOP)
    return pid, future


@pytest.fixture
def another():
    """As `other`, and its child is killed at the end."""
    with Child() as child, ThreadPoolExecutor(1) as pool:
        child.call("called_in_child:count")

        def call(*args):
            return pool.submit(child.call, *args)

        call.child, pid = child, child.pid
        yield call
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_stopped_process_that_computes_holds_up_nobody_for_longer_than_one_is_patient(another, tmp_path):
    told = Told()
    pid, _ = stopped(another, tmp_path, "computing")
    with quiet.patient(quiet.Patience(1.2, told, "mine")), quiet.computing():
        start = time.monotonic()
        with quiet.quiet() as still:
            assert not still.alone
            assert f"pid {pid}" in still.beside
        assert 1.1 < time.monotonic() - start < 3
        start = time.monotonic()
        with quiet.quiet() as still:
            assert not still.alone
        assert time.monotonic() - start < 1, "it is known to be in vain"
    (waiting, _), (waited, seconds) = told.said
    assert waiting.startswith(f"waiting for another run to end its step (pid {pid})")
    assert waiting.endswith("1 s so far")
    assert "timing beside it, which is marked" in waited
    assert seconds >= 1.2


def test_a_stopped_process_that_times_holds_up_nobody_for_longer_than_one_is_patient(another, tmp_path):
    told = Told()
    pid, _ = stopped(another, tmp_path, "quiet")
    start = time.monotonic()
    with quiet.patient(quiet.Patience(1.2, told)), quiet.computing():
        assert 1.1 < time.monotonic() - start < 3
        start = time.monotonic()
        for _ in range(10):
            assert not quiet.give_way(), "it has waited for them already"
        assert time.monotonic() - start < 1
        with quiet.quiet() as still:
            assert not still.alone
        os.kill(another.child.pid, signal.SIGKILL)
        time.sleep(0.1)
        quiet.give_way()
        with quiet.quiet() as still:
            assert still.alone, "whoever is gone holds nothing"
    assert f"finish timing (pid {pid})" in told.said[0][0]
    assert "computing beside it" in told.said[1][0]


def test_who_times_learns_that_somebody_lost_patience(other, tmp_path):
    started, done = tmp_path / "started", tmp_path / "done"
    running = other("called_in_child:compute_in_steps", str(started), str(done), 20.0, 0.2)
    appears(started)
    with quiet.quiet() as still:
        assert still.alone
        time.sleep(0.8)
    assert not still.alone
    done.touch()
    running.result(10)


def test_a_run_waits_a_tenth_in_all_and_without_a_budget_as_long_again():
    limited, endless = quiet.Patience(10.0), quiet.Patience()
    for patience in (limited, endless):
        patience.waited(8.0, alone=True, vain=False)
    assert limited.seconds(alone=True) == limited.seconds(alone=False) == 2.0
    assert endless.seconds(alone=True) == quiet.WITHOUT_BUDGET
    endless.waited(60.0, alone=True, vain=True)
    assert endless.seconds(alone=True) < 1
    assert endless.seconds(alone=False) == quiet.WITHOUT_BUDGET
    endless.waited(0.1, alone=True, vain=False)
    assert endless.seconds(alone=True) == quiet.WITHOUT_BUDGET


def test_many_who_compute_and_time_all_get_on(tmp_path):
    with ThreadPoolExecutor(3) as pool, Child() as one, Child() as two, Child() as three:
        children = (one, two, three)
        for child in children:
            child.call("called_in_child:count")
        until = time.time() + 2
        found = list(pool.map(lambda child: child.call("called_in_child:take_turns", until), children))
    assert all(timed >= 3 and disturbed == 0 for timed, disturbed in found), found


def test_locks_lie_in_a_folder_of_the_users_own(tmp_path, monkeypatch):
    previous = os.umask(0o000)
    try:
        with quiet.computing():
            pass
    finally:
        os.umask(previous)
    folder = tmp_path / "boildown"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name.partition(".")[0] for path in folder.glob("*.lock")} == {"gate", "room"}
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.lock")} == {0o600}
    assert not list(folder.glob("*.pid")), "nobody is there"


def test_where_there_is_no_runtime_folder_the_locks_lie_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with quiet.quiet(patience=0) as still:
        assert still.alone
    assert (tmp_path / "cache" / "boildown").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_somebody_else_made_is_not_used(tmp_path, monkeypatch):
    """In a shared temporary folder, where names can be taken."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"boildown-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with quiet.quiet(patience=0) as still:
        assert not still.alone
        assert not still.beside, "nothing is known"


def test_without_lock_files_nobody_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setenv("TMPDIR", "/proc")
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    with quiet.computing():
        assert not quiet.give_way()
        with quiet.quiet() as still:
            assert not still.alone
            assert not still.beside
