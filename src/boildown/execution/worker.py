"""The program of a child process: answer calls until the parent is gone.

Started by `child.Child` with CHANNEL and TIED as arguments. `CHANNEL` is an inherited descriptor (a handle on Windows)
of one end of a pipe; each message is a pickle of protocol 5:

    to the worker     (sys.path, working directory, limit of memory, pickle of (function, args, kwargs))
    from the worker   ("progress", what, done, total)    any number of times
                      ("value", value) | ("raised", error, traceback) | ("failed", type, message, traceback)

Only the parent and its own child ever hold the two ends, so nothing foreign is unpickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from functools import reduce
from multiprocessing import connection
from typing import Any

from boildown.errors import BoildownError, contained, text_of

PROTOCOL = 5
_PROGRESS_EVERY = 0.05  # seconds: a loop may report each step without flooding the pipe

_channel: connection.Connection | None = None
_sending = threading.Lock()
_last_progress = 0.0


def progress(what: str, done: int, total: int | None = None) -> None:
    """Tell the parent's `on_progress` how far a long step is; silent when not in a child.

    Reports that follow each other within 50 ms are dropped, except the one where `done == total`.
    """
    global _last_progress
    now = time.monotonic()
    if _channel is None or (now - _last_progress < _PROGRESS_EVERY and done != total):
        return
    _last_progress = now
    _send(_channel, pickle.dumps(("progress", what, done, total), PROTOCOL))


def resolve(name: str) -> Any:
    """The object that `"module:attribute"` names; the attribute may have dots."""
    module, _, attribute = name.partition(":")
    return reduce(getattr, attribute.split("."), importlib.import_module(module))


def main() -> None:
    """Serve calls until the other end of the pipe closes."""
    global _channel
    channel, tied = sys.argv[1:]
    _channel = _connect(int(channel))
    if tied == "tied":
        _die_with_parent()
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Reading in a thread of its own notices at once that the parent is gone, even in a long call.
    threading.Thread(target=_read, args=(_channel, calls), daemon=True).start()
    while True:
        _send(_channel, _answer(calls.get()))


def _answer(message: bytes) -> bytes:
    """Run one call; the pickled answer, whatever happens."""
    try:
        sys.path[:], folder, memory, call = pickle.loads(message)
        _bound(memory)
        if folder != os.getcwd():  # noqa: PTH109 - a string is compared
            os.chdir(folder)
        function, args, kwargs = pickle.loads(call)
        with contained():
            value = resolve(function)(*args, **kwargs)
        return pickle.dumps(("value", value), PROTOCOL)
    except BaseException as error:  # noqa: BLE001 - it is not swallowed, the parent raises it
        text = traceback.format_exc()
        if isinstance(error, BoildownError) and (own := _portable(error, text)):
            return own
        return pickle.dumps(("failed", type(error).__qualname__, text_of(error), text), PROTOCOL)


def _bound(memory: int | None) -> None:
    """Let the system refuse this process more bytes of its own: what asks for more gets a MemoryError."""
    if memory is not None and sys.platform == "linux":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        most = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _portable(error: BoildownError, text: str) -> bytes | None:
    """The pickled answer that carries the error itself, if it survives the journey."""
    try:
        answer = pickle.dumps(("raised", error, text), PROTOCOL)
        pickle.loads(answer)
    except (pickle.PicklingError, TypeError, AttributeError, ImportError):
        return None
    return answer


def _send(channel: connection.Connection, message: bytes) -> None:
    with _sending, contextlib.suppress(BrokenPipeError):  # the reading thread ends the process
        channel.send_bytes(message)


def _read(channel: connection.Connection, calls: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            calls.put(channel.recv_bytes())
    except (EOFError, OSError):
        _end()


def _end() -> None:
    """End this process and every process it started."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _connect(channel: int) -> Any:
    """This end of the pipe: a connection over a descriptor, on Windows over a handle."""
    if sys.platform == "win32":
        return connection.PipeConnection(channel)
    return connection.Connection(channel)


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the parent's starting thread ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
