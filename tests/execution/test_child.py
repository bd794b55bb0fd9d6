"""Functions run in a child; every way the child may end is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from boildown.errors import AttemptError, Cancelled, DataError, DeadlineError, ExportError, WorkerLost
from boildown.execution import worker
from boildown.execution.child import Child, RemoteError

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and sessions are of POSIX")


@pytest.fixture(scope="module")
def shared():
    with Child() as child:
        yield child


def gone(pid: int, within: float = 5.0) -> bool:
    """Whether the process ends within this many seconds (a zombie has ended)."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_value_arguments_and_arrays_travel(shared):
    array = np.arange(200_000, dtype=np.float32).reshape(2, -1)
    assert np.array_equal(shared.call("called_in_child:add", array, b=array, scale=2), array * 4)


def test_one_process_answers_many_calls(shared):
    first = shared.call("called_in_child:count")
    pid = shared.pid
    assert shared.call("called_in_child:count") == first + 1
    assert shared.pid == pid


def test_starts_at_the_first_call_only():
    child = Child()
    assert child.pid is None
    child.close()


def test_what_was_begun_is_done_before_the_next_call_and_never_told():
    with Child() as child:
        child.begin("called_in_child:count")
        pid = child.pid
        assert child.call("called_in_child:count") == 2
        child.begin("called_in_child:count")  # it is there already
        assert (child.call("called_in_child:count"), child.pid) == (3, pid)
    with Child() as child:
        child.begin("called_in_child:nothing")
        assert child.call("called_in_child:count") == 1


def test_a_death_in_what_was_begun_loses_the_call_that_waits_for_it():
    with Child() as child:
        child.begin("os:_exit", 3)
        assert child.call("called_in_child:count", retries=1) == 1


@posix
def test_has_its_own_session_and_stays_in_the_folder_where_it_began(shared, tmp_path, monkeypatch):
    pid, session, folder = shared.call("called_in_child:where")
    assert pid == session != os.getsid(0)
    assert folder == str(Path.cwd())
    monkeypatch.chdir(tmp_path)
    assert shared.call("called_in_child:where")[2] == folder


def test_modules_added_to_the_path_later_are_found(shared, tmp_path, monkeypatch):
    (tmp_path / "added_later.py").write_text("def seven():\n    return 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert shared.call("added_later:seven") == 7


def test_progress_is_heard_and_never_floods(shared):
    heard = []
    value = shared.call("called_in_child:report", 5000, on_progress=lambda *report: heard.append(report))
    assert value == "done"
    assert heard[-1] == ("steps", 5000, 5000)
    assert len(heard) < 500


def test_progress_is_silent_outside_a_child():
    worker.progress("steps", 1, 1)


def test_foreign_errors_keep_type_message_and_traceback(shared):
    with pytest.raises(RemoteError, match=r"^KeyError: 'weight'") as caught:
        shared.call("called_in_child:fail_as_user")
    assert isinstance(caught.value, AttemptError)
    assert caught.value.type == "KeyError"
    assert "in fail_as_user" in caught.value.details
    assert shared.call("called_in_child:add", 1, 2) == 3


def test_own_errors_come_back_as_themselves(shared):
    with pytest.raises(ExportError, match="aten::foo") as caught:
        shared.call("called_in_child:fail_as_boildown")
    assert "in fail_as_boildown" in caught.value.__cause__.details
    with pytest.raises(DataError) as mistakes:
        shared.call("called_in_child:fail_with_mistakes")
    assert [mistake.cure for mistake in mistakes.value.mistakes] == ["give labels", "give inputs"]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("called_in_child:fail_unpicklable", "Unpicklable"),
        ("called_in_child:no_pickle", "PicklingError|AttributeError"),
        ("called_in_child:missing", "AttributeError"),
        ("no_such_module:f", "ModuleNotFoundError"),
    ],
)
def test_what_cannot_travel_or_be_found_is_told(shared, function, kind):
    pid = shared.pid
    with pytest.raises(RemoteError, match=kind):
        shared.call(function)
    assert shared.pid == pid


def test_remote_error_survives_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(RemoteError("m:f", "KeyError", "'x'", "trace")))
    assert (error.type, error.details, str(error)) == ("KeyError", "trace", "KeyError: 'x'")


@posix
def test_deadline_kills_the_child_and_what_it_started(tmp_path):
    path = tmp_path / "pid"
    with Child() as child:
        child.call("called_in_child:count")
        started = time.monotonic()
        with pytest.raises(DeadlineError, match=r"took more than the 1\.5 s it had"):
            child.call("called_in_child:sleep_with_grandchild", str(path), deadline=1.5)
        assert time.monotonic() - started < 4
        assert child.pid is None
        assert gone(int(path.read_text()))
        assert child.call("called_in_child:add", 1, 2) == 3, "a new process takes over"


@posix
def test_deadline_holds_while_the_arguments_are_sent():
    with Child() as child:
        child.call("called_in_child:count")
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(DeadlineError):
            child.call("called_in_child:add", bytes(10**7), b"", deadline=0.3)
        assert child.pid is None


def test_check_may_cancel():
    calls = []

    def check():
        calls.append(time.monotonic())
        if len(calls) > 5:
            raise Cancelled("enough")

    with Child() as child:
        with pytest.raises(Cancelled):
            child.call("called_in_child:sleep", 60, check=check)
        assert child.pid is None
    assert calls[-1] - calls[0] < 2


def test_a_lost_worker_tells_code_and_last_words():
    with Child() as child, pytest.raises(WorkerLost, match="exit code 7") as caught:
        child.call("called_in_child:leave", 7)
    assert "reading the file" in caught.value.details
    assert "could not go on" in str(caught.value)


@posix
@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGKILL, r"signal 9 \(SIGKILL\).*out of memory"), (signal.SIGTERM, "SIGTERM")],
)
def test_a_killed_worker_names_the_signal(number, words):
    with Child() as child, pytest.raises(WorkerLost, match=words):
        child.call("called_in_child:kill_self", int(number))


@posix
def test_a_native_crash_shows_where():
    with Child() as child, pytest.raises(WorkerLost, match=r"SIGSEGV.*native code crashed") as caught:
        child.call("called_in_child:crash")
    assert "in crash" in caught.value.details, "faulthandler's traceback is kept"


def test_a_lost_worker_is_tried_again_if_asked(tmp_path):
    with Child() as child:
        assert child.call("called_in_child:crash_once", str(tmp_path / "mark"), retries=1) == "second time"


@posix
def test_a_death_between_calls_goes_unnoticed():
    with Child() as child:
        pid = child.call("called_in_child:where")[0]
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        assert child.call("called_in_child:where")[0] != pid


def test_calls_from_threads_queue_up(shared):
    values = []

    def add(number):
        values.append(shared.call("called_in_child:add", number, 0))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(values) == list(range(5))


@posix
def test_a_child_started_in_a_thread_outlives_the_thread():
    child = Child()
    thread = threading.Thread(target=child.call, args=("called_in_child:count",))
    thread.start()
    thread.join()
    time.sleep(0.1)
    pid = child.pid
    assert child.call("called_in_child:count") == 2
    assert child.pid == pid
    child.close()
    assert gone(pid)


@posix
@pytest.mark.parametrize("where", ["main", "thread"])
def test_scripts_without_a_main_guard_work_and_children_die_with_them(where, tmp_path):
    call = "child.call('called_in_child:sleep_with_grandchild', sys.argv[1])"
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, threading\n"
        "from boildown.execution.child import Child\n"
        "child = Child()\n"
        "print(child.call('called_in_child:where')[0], flush=True)\n"
        + (call if where == "main" else f"threading.Thread(target=lambda: {call}).start()")
    )
    grandchild = tmp_path / "pid"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(grandchild)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with parent:
        pid = int(parent.stdout.readline())
        while not (grandchild.exists() and grandchild.read_text()):
            time.sleep(0.02)
        parent.kill()
    assert gone(pid)


def test_execution_needs_no_torch():
    parts = ", ".join(f"boildown.execution.{part}" for part in ("child", "worker", "quiet", "interrupt"))
    code = f"import sys, {parts}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_standard_library_comes_before_the_users_own_files(tmp_path, monkeypatch):
    for name in ("types", "random", "statistics"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('of the user')")
    (tmp_path / "task_of_the_user.py").write_text("def answer(): import statistics; return statistics.mean([41, 43])")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with Child() as child:
        assert child.call("task_of_the_user:answer") == 42
