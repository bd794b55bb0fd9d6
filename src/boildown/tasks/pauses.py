"""What is asked between two samples that are read: reading may take long, and be stopped."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 0.05


class _Mine(threading.local):
    """What this thread asks."""

    check: Callable[[], None] | None = None
    process = 0
    last = 0.0


_mine = _Mine()


@contextmanager
def asking(check: Callable[[], None]) -> Iterator[None]:
    """Whoever reads samples in this thread calls `between`, which calls `check`; it may raise."""
    before = _mine.check, _mine.process
    _mine.check, _mine.process = check, os.getpid()
    try:
        yield
    finally:
        _mine.check, _mine.process = before


def between() -> None:
    """Between two samples that are read: at most twenty times a second what `asking` said; nothing in a worker."""
    now = time.monotonic()
    if _mine.check is not None and now - _mine.last >= _EVERY and _mine.process == os.getpid():
        _mine.last = now
        _mine.check()
