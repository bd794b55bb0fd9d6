"""One lock for the whole machine: nothing of any run computes while another is timed.

Whoever computes holds the lock together with all others who compute (`computing`) and offers it
between steps (`give_way`); whoever times holds it alone (`quiet`). Two files in the temporary
folder carry it: the room is locked shared or alone, and the gate is locked by the one who waits to
be alone, so that newcomers queue behind. Locks die with their process, so a crash frees them.

Each thread holds for itself; one that computes must not wait for another thread's `quiet`.

Where files cannot be locked (Windows, a temporary folder that cannot be written) nobody waits, and
`quiet` says that it is not known to be alone.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL = 0.02  # seconds between two tries


@contextlib.contextmanager
def computing(check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the machine together with all others who compute; waits while someone times.

    May be entered again inside itself. `check` is called while waiting and may raise.
    """
    with contextlib.ExitStack() as stack:
        if not _mine.depth and not _mine.aside:
            _mine.room = _mine.room or _open("room")
            stack.callback(_leave)
            _enter(check)
        _mine.depth += 1
        stack.callback(_step_out)
        yield


def give_way(check: Callable[[], None] = lambda: None) -> bool:
    """Between two steps: if someone wants to time, wait until they have; whether there was a wait.

    Costs about ten microseconds when nobody wants to. Without effect outside `computing` and inside
    this thread's own `quiet`.
    """
    if not _mine.depth or _mine.aside or _mine.occupied or _mine.room is None:
        return False
    gate = _open("gate")
    if gate is None:
        return False
    try:
        if _try(gate, alone=False):
            return False
    finally:
        os.close(gate)
    _unlock(_mine.room)
    _mine.aside = True
    try:
        _enter(check)
    finally:
        _mine.aside = False
    return True


@contextlib.contextmanager
def delegated() -> Iterator[None]:
    """A child of ours computes, gives way by itself, and holds the machine for itself: this thread's hold is released.

    Comes back when nobody times any more. Without effect outside `computing` and inside this thread's own `quiet`.
    """
    if not _mine.depth or _mine.aside or _mine.room is None:
        yield
        return
    _unlock(_mine.room)
    _mine.aside = True
    try:
        yield
    finally:
        _mine.aside = False
        _enter(lambda: None)


@contextlib.contextmanager
def occupied() -> Iterator[None]:
    """A child of ours computes for this thread: `give_way` is without effect, for nobody would be alone."""
    before, _mine.occupied = _mine.occupied, True
    try:
        yield
    finally:
        _mine.occupied = before


@contextlib.contextmanager
def quiet(check: Callable[[], None] = lambda: None, patience: float = math.inf) -> Iterator[bool]:
    """Hold the machine alone; the value tells whether that is so.

    Waits until everyone who computes has given way, at most `patience` seconds; after that the
    value is False and what is timed must be called noisy. This thread's own hold from `computing`
    is released meanwhile. May be entered again inside itself. `check` is called while waiting.
    """
    if _mine.aside:
        yield _mine.alone
        return
    end = time.monotonic() + patience
    gate, room = _open("gate"), _open("room")
    _mine.aside = True
    try:
        if _mine.depth and _mine.room is not None:
            _unlock(_mine.room)
        _mine.alone = _wait(gate, end, check, alone=True) and _wait(room, end, check, alone=True)
        if gate is not None and not _mine.alone:
            _unlock(gate)
        yield _mine.alone
    finally:
        _mine.aside = _mine.alone = False
        for descriptor in (room, gate):
            if descriptor is not None:
                os.close(descriptor)
        if _mine.depth:
            _enter(lambda: None)


class _Mine(threading.local):
    """What this thread holds."""

    depth = 0
    room: int | None = None
    aside = False
    """In `quiet` or waiting: it has nothing to give way with, so that `check` may call `give_way`."""
    alone = False
    occupied = False


_mine = _Mine()


def _enter(check: Callable[[], None]) -> None:
    """Lock the room together with others, once nobody holds the gate."""
    gate = _open("gate")
    try:
        _wait(gate, math.inf, check, alone=False)
        _wait(_mine.room, math.inf, check, alone=False)
    finally:
        if gate is not None:
            os.close(gate)


def _leave() -> None:
    room, _mine.room = _mine.room, None
    if room is not None:
        _unlock(room)  # not by closing alone: a forked process may have a copy of the descriptor
        os.close(room)


def _step_out() -> None:
    _mine.depth -= 1


def _wait(descriptor: int | None, end: float, check: Callable[[], None], *, alone: bool) -> bool:
    if descriptor is None:
        return False
    while not _try(descriptor, alone=alone):
        check()
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL)
    return True


if sys.platform == "win32":

    def _open(_name: str) -> int | None:
        return None

    def _try(_descriptor: int, *, alone: bool) -> bool:  # noqa: ARG001
        return True

    def _unlock(_descriptor: int) -> None:
        return None

else:
    import fcntl

    def _open(name: str) -> int | None:
        """A descriptor of a lock file that every user of the machine may lock, or `None`."""
        path = Path(tempfile.gettempdir(), f"boildown-{name}.lock")
        # Locking needs no right to write, and some systems refuse to open another user's file in a
        # shared folder with O_CREAT, so creating comes second.
        for flags in (0, os.O_CREAT | os.O_EXCL, 0):
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o666)
                if flags:
                    os.fchmod(descriptor, 0o666)  # whatever the umask
                return descriptor
        return None

    def _try(descriptor: int, *, alone: bool) -> bool:
        """Lock without waiting; whether it worked."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
