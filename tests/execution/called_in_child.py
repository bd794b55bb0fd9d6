"""Functions that the tests call in a child process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from boildown.errors import DataError, ExportError, Mistake
from boildown.execution import worker

_calls = 0


def count() -> int:
    global _calls
    _calls += 1
    return _calls


def add(a, b, *, scale=1):
    return (a + b) * scale


def where() -> tuple[int, int, str]:
    return os.getpid(), os.getsid(0), str(Path.cwd())


def report(total: int) -> str:
    for done in range(1, total + 1):
        worker.progress("steps", done, total)
    return "done"


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def sleep_with_grandchild(path: str) -> None:
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(path).write_text(str(grandchild.pid))
    time.sleep(60)


def fail_as_user() -> None:
    raise KeyError("weight")


def fail_as_boildown() -> None:
    raise ExportError("operator aten::foo cannot be exported: replace it.")


def fail_with_mistakes() -> None:
    raise DataError(Mistake("no labels", "give labels"), Mistake("no inputs", "give inputs"))


class Unpicklable(ExportError):
    def __init__(self, one, two):
        super().__init__(one + two)


def fail_unpicklable() -> None:
    raise Unpicklable("a", "b")


def leave(code: int) -> None:
    sys.stdout.write("reading the file\n")
    sys.stderr.write("could not go on\n")
    sys.stderr.flush()
    os._exit(code)


def crash() -> None:
    ctypes.string_at(0)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


def crash_once(path: str) -> str:
    if Path(path).exists():
        return "second time"
    Path(path).touch()
    os._exit(9)


def no_pickle() -> object:
    return lambda: None


def hold_machine(path: str, how: str, seconds: float) -> tuple[float, float]:
    """Hold the machine; the times between which it was held."""
    from boildown.execution import quiet

    with quiet.quiet() if how == "quiet" else quiet.computing():
        start = time.monotonic()
        Path(path).touch()
        time.sleep(seconds)
        return start, time.monotonic()


def take_turns(until: float) -> tuple[int, int]:
    """Compute a little, then time a little, again and again; (how often it timed, how often it was not alone)."""
    from boildown.execution import quiet

    timed = disturbed = 0
    with quiet.computing():
        while time.time() < until:
            for _ in range(3):
                time.sleep(0.01)
                quiet.give_way()
            with quiet.quiet() as still:
                time.sleep(0.02)
            timed += 1
            disturbed += not still.alone
    return timed, disturbed


def compute_in_steps(
    path: str, until: str, wanted: float, patience: float | None = None
) -> tuple[list[tuple[float, float]], int]:
    """Steps of 20 ms, giving way between them; (start, end) of each, and how often it waited."""
    from boildown.execution import quiet

    steps, waits = [], 0
    with quiet.patient(quiet.Patience(patience)), quiet.computing():
        Path(path).touch()
        while not Path(until).exists() and len(steps) * 0.02 < wanted:
            start = time.monotonic()
            time.sleep(0.02)
            steps.append((start, time.monotonic()))
            waits += quiet.give_way()
    return steps, waits
