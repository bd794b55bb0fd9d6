"""One lock for each user of a machine: nothing of any of their runs computes while another is timed.

Whoever computes holds the lock together with all others who compute (`computing`) and offers it
between steps (`give_way`); whoever times holds it alone (`quiet`). Two files in the user's own
runtime folder carry it: the room is locked shared or alone, and the gate is locked by the one who
waits to be alone, so that newcomers queue behind. Locks die with their process, so a crash frees them.

Nobody waits for ever (`Patience`): after a while it is computed beside who times, which marks their
figure, and timed beside who computes, which marks one's own. A stopped process holds up nobody longer.

Each thread holds for itself; one that computes must not wait for another thread's `quiet`.

Where files cannot be locked (Windows, a user without a folder) nobody waits, and `quiet` says that
it is not known to be alone.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WITHOUT_BUDGET = 60.0
"""Seconds of the longest wait of who has no budget."""

_POLL = 0.02  # seconds between two tries
_GRACE = 0.5  # that everyone waits for a step to end
_FIRST_TOLD, _TOLD_EVERY = 1.0, 10.0
_NAMED = 3


@dataclass
class Quiet:
    """How quiet it is while something is timed.

    alone: nobody computes beside it, as far as is known. beside: who does, in words; empty where that is not known,
    because files cannot be locked here.
    """

    alone: bool = False
    beside: str = ""


class Patience:
    """How long a thread waits for others, and whom it tells.

    seconds: in all; None for a minute at a stretch. told: hears every ten seconds what is waited for, in a sentence,
    and for how long so far. run: what others call it. After a wait that was given up the next ones are half a
    second, until one of the same kind is not in vain.
    """

    def __init__(
        self, seconds: float | None = None, told: Callable[[str, float], None] = lambda _what, _seconds: None,
        run: str = "",
    ) -> None:  # fmt: skip
        self.told, self.run = told, run
        self._longest = WITHOUT_BUDGET if seconds is None else seconds
        self.left = float("inf") if seconds is None else seconds
        self.spent = 0.0
        self._given_up: set[bool] = set()

    def seconds(self, *, alone: bool) -> float:
        """How long the next wait may take."""
        return max(_GRACE, 0.0 if alone in self._given_up else min(self._longest, self.left))

    def waited(self, seconds: float, *, alone: bool, vain: bool) -> None:
        """Account for a wait."""
        self.left -= seconds
        self.spent += seconds
        (self._given_up.add if vain else self._given_up.discard)(alone)


@contextlib.contextmanager
def patient(patience: Patience) -> Iterator[None]:
    """Wait with this patience, everywhere in this thread."""
    before, _mine.patience = _mine.patience, patience
    try:
        yield
    finally:
        _mine.patience = before


def next_wait() -> float:
    """How long the next wait of this thread for who times may take: a child's that computes for it."""
    return _mine.patience.seconds(alone=False)


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
            _mine.held = _mine.held or _try(_mine.room, alone=False)
            return False
    finally:
        os.close(gate)
    if not _mine.held:  # it has waited for them already
        _disturb(_mine.room)
        return False
    _release()
    _mine.aside = True
    try:
        _enter(check)
    finally:
        _mine.aside = False
    return True


@contextlib.contextmanager
def delegated(check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A child of ours computes, gives way by itself, and holds the machine for itself: this thread's hold is released.

    Comes back when nobody times any more. Without effect outside `computing` and inside this thread's own `quiet`.
    """
    if not _mine.depth or _mine.aside or _mine.room is None:
        yield
        return
    _release()
    _mine.aside = True
    try:
        yield
    finally:
        try:
            _enter(check)
        finally:
            _mine.aside = False


@contextlib.contextmanager
def occupied() -> Iterator[None]:
    """A child of ours computes for this thread: `give_way` is without effect, for nobody would be alone."""
    before, _mine.occupied = _mine.occupied, True
    try:
        yield
    finally:
        _mine.occupied = before


@contextlib.contextmanager
def quiet(check: Callable[[], None] = lambda: None, patience: float | None = None) -> Iterator[Quiet]:
    """Hold the machine alone; the value tells whether that is so, and afterwards whether it was.

    Waits until everyone who computes has given way, at most `patience` seconds, by default as this thread is patient;
    after that it is not alone, and what is timed must be marked. This thread's own hold from `computing`
    is released meanwhile. May be entered again inside itself. `check` is called while waiting.
    """
    if _mine.aside:
        yield _mine.quiet
        return
    gate, room = _open("gate"), _open("room")
    found = _mine.quiet = Quiet()
    _mine.aside = True
    _say("timing")
    try:
        if _mine.depth and _mine.room is not None:
            _release()
        found.alone = _lock(gate, room, check, alone=True, seconds=patience)
        if room is not None and gate is not None and not found.alone:
            found.beside = _who("computing", "timing") or "another run"
            _unlock(gate)
            _disturb(room)
        before = _disturbed(room)
        yield found
        if found.alone and before != _disturbed(room):
            found.alone, found.beside = False, _who("computing", "timing") or "another run"
    finally:
        for descriptor in (room, gate):
            if descriptor is not None:
                os.close(descriptor)
        try:
            if _mine.depth:
                _say("computing")
                _enter(check)
            else:
                _say("")
        finally:
            _mine.aside, _mine.quiet = False, Quiet()


class _Mine(threading.local):
    """What this thread holds."""

    depth = 0
    room: int | None = None
    held = False
    """The room is locked; not so where others took too long, until nobody times."""
    aside = False
    """In `quiet` or waiting: it has nothing to give way with, so that `check` may call `give_way`."""
    quiet = Quiet()
    occupied = False

    def __init__(self) -> None:
        self.patience = Patience()


_mine = _Mine()


def _enter(check: Callable[[], None]) -> None:
    """Lock the room together with others, once nobody holds the gate; go on without where that takes too long."""
    _say("computing")
    gate = _open("gate")
    try:
        _mine.held = _lock(gate, _mine.room, check, alone=False)
    finally:
        if gate is not None:
            os.close(gate)
    if not _mine.held:
        _disturb(_mine.room)


def _release() -> None:
    _mine.held = False
    if _mine.room is not None:
        _unlock(_mine.room)


def _leave() -> None:
    room = _mine.room
    _release()  # not by closing alone: a forked process may have a copy of the descriptor
    _mine.room = None
    if room is not None:
        os.close(room)
    _say("")


def _step_out() -> None:
    _mine.depth -= 1


def _lock(
    gate: int | None, room: int | None, check: Callable[[], None], *, alone: bool, seconds: float | None = None
) -> bool:
    """Lock the gate and then the room, with as much patience as there is; whether it worked."""
    if gate is None or room is None:
        return False
    patience, start = _mine.patience, time.monotonic()
    most = patience.seconds(alone=alone) if seconds is None else seconds
    tell = start + _FIRST_TOLD
    for descriptor in (gate, room):
        while not _try(descriptor, alone=alone):
            check()
            now = time.monotonic()
            if now >= start + most:
                patience.waited(now - start, alone=alone, vain=True)
                if now >= start + _FIRST_TOLD:
                    then = "timing beside it, which is marked" if alone else "computing beside it"
                    told = f"waited {now - start:.0f} s for {_for(alone, descriptor is gate)}: {then}"
                    patience.told(told, now - start)
                return False
            if now >= tell:
                told = f"waiting for {_for(alone, descriptor is gate)}, {now - start:.0f} s so far"
                patience.told(told, now - start)
                tell = now + _TOLD_EVERY
            time.sleep(_POLL)
    patience.waited(time.monotonic() - start, alone=alone, vain=False)
    return True


def _for(alone: bool, at_gate: bool) -> str:
    """What is waited for, in words."""
    timing = at_gate or not alone
    who = _who("timing" if timing else "computing")
    return f"another run to {'finish timing' if timing else 'end its step'}{who and f' ({who})'}"


def _who(*doing: str) -> str:
    """Which other processes do one of these things, in words."""
    folder, found = _folder(), []
    for path in sorted(folder.glob(f"*.{_machine()}.pid")) if folder is not None else ():
        pid = int(path.name.partition(".")[0])
        try:
            os.kill(pid, 0)
            what, _, run = path.read_text(encoding="utf-8").partition(" ")
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except OSError:
            continue
        else:
            if pid != os.getpid() and what in doing:
                found.append(f"pid {pid}" + (f", run {run}" if run else ""))
    return "; ".join([*found[:_NAMED], *(["..."] if found[_NAMED:] else [])])


def _say(what: str) -> None:
    """Tell others what this process does: who waits for it says so."""
    folder = _folder()
    if folder is None:
        return
    path = folder / f"{os.getpid()}.{_machine()}.pid"
    with contextlib.suppress(OSError):
        if what:
            path.write_text(f"{what} {_mine.patience.run}", encoding="utf-8")
        else:
            path.unlink(missing_ok=True)


def _disturbed(room: int | None) -> int:
    """Changes when someone computes beside who times."""
    return 0 if room is None else os.fstat(room).st_mtime_ns


def _disturb(room: int | None) -> None:
    if room is not None:
        with contextlib.suppress(OSError):
            os.utime(room)


@cache
def _machine() -> str:
    """The name of this machine as part of a file name: a home folder may be shared by several."""
    return re.sub(r"[^\w-]", "-", platform.node()) or "here"


if sys.platform == "win32":

    def _folder() -> Path | None:
        return None

    def _open(_name: str) -> int | None:
        return None

    def _try(_descriptor: int, *, alone: bool) -> bool:  # noqa: ARG001
        return True

    def _unlock(_descriptor: int) -> None:
        return None

else:
    import fcntl

    def _folder() -> Path | None:
        """The folder of this user's locks, which nobody else can hold; None where there is none."""
        get = os.environ.get
        return _own_folder(get("XDG_RUNTIME_DIR", ""), get("XDG_CACHE_HOME", ""), get("HOME", ""), get("TMPDIR", ""))

    @cache
    def _own_folder(runtime: str, cached: str, _home: str, _temporary: str) -> Path | None:
        """The first place that can be had: the runtime folder, the cache, one named after the user in a shared folder.

        The arguments are what the places depend on.
        """
        user, places = os.getuid(), list[tuple[Path, Path]]()
        run = Path(runtime or f"/run/user/{user}")
        if run.is_absolute() and run.is_dir() and os.lstat(run).st_uid == user:
            places.append((run / "boildown", run))
        with contextlib.suppress(RuntimeError):  # no home
            usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
            kept = Path(cached) if cached else usual
            places.append((kept / "boildown", kept))
        shared = Path(tempfile.gettempdir())
        for folder, parent in (*places, (shared / f"boildown-{user}", shared)):
            with contextlib.suppress(OSError):
                parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir(mode=0o700, exist_ok=True)
                found = os.lstat(folder)
                if stat.S_ISDIR(found.st_mode) and found.st_uid == user and os.access(folder, os.W_OK):
                    if stat.S_IMODE(found.st_mode) & 0o077:
                        folder.chmod(0o700)
                    return folder
        return None

    def _open(name: str) -> int | None:
        """A descriptor of a lock file of this user's, or `None`."""
        for _ in range(2):
            folder = _folder()
            if folder is None:
                return None
            with contextlib.suppress(OSError):
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                return os.open(folder / f"{name}.{_machine()}.lock", flags, 0o600)
            _own_folder.cache_clear()  # it was there, and may have been cleared away
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
