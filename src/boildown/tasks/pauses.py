"""What is asked between two samples that are read: reading may take long, and be stopped."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 0.05
_asked: tuple[Callable[[], None], int, int] | None = None
_last = 0.0


@contextmanager
def asking(check: Callable[[], None]) -> Iterator[None]:
    """Whoever reads samples in this thread calls `between`, which calls `check`; it may raise."""
    global _asked
    before, _asked = _asked, (check, os.getpid(), threading.get_ident())
    try:
        yield
    finally:
        _asked = before


def between() -> None:
    """Between two samples that are read: at most twenty times a second what `asking` said; nothing in a worker."""
    global _last
    now = time.monotonic()
    if _asked is None or now - _last < _EVERY:
        return
    check, process, thread = _asked
    if (process, thread) == (os.getpid(), threading.get_ident()):
        _last = now
        check()
