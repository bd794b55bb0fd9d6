"""Reading data does not take for ever: an item that hangs is told by its number, and ends where a budget ends."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from types import FrameType

from boildown.errors import DataError, Mistake

LEAST, TOLD = 30.0, 300.0
"""Seconds that a batch may take however little is left of a budget, and after which it is told that none comes."""


class Watch:
    """How long reading a batch may take: the seconds that are `left`, but `least` at least.

    told: hears of one that does not come.
    """

    def __init__(self, left: Callable[[], float] = lambda: math.inf, least: float = LEAST) -> None:
        self.left, self.least = left, least
        self.told: Callable[[str], None] = lambda text: warnings.warn(text, stacklevel=2)


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)
_item: int | None = None


@contextlib.contextmanager
def watching(left: Callable[[], float] = lambda: math.inf, least: float = LEAST) -> Iterator[Watch]:
    """Data that are read inside are watched."""
    watch = Watch(left, least)
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)


def current() -> Watch:
    """The watch that holds here, or one that nobody looks at."""
    return _watch.get() or Watch()


def begin(item: int) -> None:
    """This item is read next."""
    global _item
    _item = item


@contextlib.contextmanager
def in_time(name: str, items: Sequence[int]) -> Iterator[None]:
    """These items are read inside.

    Raises DataError naming the one at which time ran out. Only the main thread can be interrupted, where there are
    timers (not on Windows) and nobody else uses this one.
    """
    global _item
    watch = _watch.get()
    if watch is None or not _free():
        yield
        return
    limit, warned, _item = max(watch.left(), watch.least), False, None

    def answer(_number: int, _frame: FrameType | None) -> None:
        nonlocal warned
        if warned or limit <= TOLD:
            raise _Overdue
        warned = True
        watch.told(f"{_which(name, items)} is still being read after {TOLD:g} s: it may hang.")
        signal.setitimer(signal.ITIMER_REAL, 0 if limit == math.inf else limit - TOLD)

    before = signal.signal(signal.SIGALRM, answer)
    signal.setitimer(signal.ITIMER_REAL, min(limit, TOLD))
    try:
        yield
    except _Overdue:
        cause = f"{_which(name, items)} was not read in the {limit:.0f} s that were left."
        raise DataError(Mistake(cause, "See what reading that item waits for, or leave it out.")) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Overdue(BaseException):
    """Raised into the user's code, which may catch every Exception."""


def _free() -> bool:
    """Whether the timer can be had."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return False
    unused = signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN)
    return unused and not signal.getitimer(signal.ITIMER_REAL)[0]


def _which(name: str, items: Sequence[int]) -> str:
    if _item is not None or len(items) == 1:
        return f"Item {items[0] if _item is None else _item} of {name}"
    return f"A batch of {name}, from item {items[0]} on,"
