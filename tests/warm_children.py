"""Child processes that are forked from one that has everything imported, since most of a short child's life is imports.

Used by `conftest.py` where a test is about what children do, not about how they start: those of `tests/execution` and
of `tests/measuring` start anew as everywhere else, and so do those of the scripts that tests run. A child is what a
fresh one is but for what is imported: a session, a pipe, the environment of the moment, and its words are heard. With
COLD_CHILDREN in the environment all start anew.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from functools import cache
from multiprocessing import connection, reduction
from pathlib import Path

from boildown.execution import child

_SUBREAPER = 36
"""Of prctl: whose descendants lose their parent while it is set becomes their parent, and may wait for them."""


class Warm(child._Process):
    """A life of a child, forked by the nursery."""

    def __init__(self, _folder: Path) -> None:
        self._pipe, theirs = connection.Pipe()
        heard, said = os.pipe()
        self._popen = Started(nursery().bear(theirs.fileno(), said))
        theirs.close()
        os.close(said)
        self._lines = deque(maxlen=child._LINES)
        stream = os.fdopen(heard, encoding="utf-8", errors="replace")
        self._reader = threading.Thread(target=child._keep, args=(stream, self._lines), daemon=True)
        self._reader.start()


class Started:
    """What `child._Process` needs of a Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(found[1])
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode


class Nursery:
    """A process that has imported what children need and has one thread, so that it may be forked."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._popen = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        theirs.close()
        self._channel = ours

    def bear(self, channel: int, said: int) -> int:
        """Fork a child that serves this end of a pipe; its pid, a child of this process."""
        prctl = ctypes.CDLL(None).prctl
        prctl(_SUBREAPER, 1)
        try:
            environment = "\0".join(f"{name}={value}" for name, value in os.environ.items()).encode()
            self._channel.sendall(len(environment).to_bytes(8, "little") + environment)
            reduction.sendfds(self._channel, [channel, said])
            return int.from_bytes(_received(self._channel, 8), "little")
        finally:
            prctl(_SUBREAPER, 0)


@cache
def nursery() -> Nursery:
    """The nursery of this process; it ends with it."""
    return Nursery()


def _received(channel: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := channel.recv(count - len(data))):
            raise EOFError("the other end has gone")
        data += more
    return data


def _serve(channel: socket.socket) -> None:
    """Fork when asked to, until the other end closes."""
    while True:
        try:
            environment = _received(channel, int.from_bytes(_received(channel, 8), "little"))
        except EOFError:
            return
        pipe, said = reduction.recvfds(channel, 2)
        born, told = os.pipe()
        between = os.fork()
        if not between:  # its end makes the child the asker's own
            pid = os.fork()
            if not pid:
                _live(pipe, said, environment)
            os.write(told, pid.to_bytes(8, "little"))
            os._exit(0)
        os.waitpid(between, 0)
        channel.sendall(os.read(born, 8))
        for descriptor in (pipe, said, born, told):
            os.close(descriptor)


def _live(pipe: int, said: int, environment: bytes) -> None:
    """Become a worker."""
    import faulthandler

    from boildown.execution import worker

    try:
        os.setsid()
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.closerange(3, pipe)
        os.closerange(pipe + 1, 256)
        os.environ.clear()
        os.environ.update(pair.split("=", 1) for pair in environment.decode().split("\0"))
        faulthandler.enable()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.argv = ["worker", str(pipe), "free"]
        worker.main()
    finally:
        os._exit(97)


def _grow() -> None:
    """Import all that children use, and export once, since much of that is imported by the way."""
    import logging
    import tempfile
    from pathlib import Path

    import torch

    from boildown.engine import chain  # noqa: F401
    from boildown.measuring import latency, memory  # noqa: F401
    from boildown.runtimes import calls, get  # noqa: F401
    from boildown.runtimes.onnx import export, lean, qdq, qoperator  # noqa: F401
    from boildown.surgery.graph import capture

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    small = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten()).eval()
    with tempfile.TemporaryDirectory() as folder:
        program = capture(small, (torch.zeros(2, 1, 8, 8),), {}).serialize()
        get("onnxruntime").export(program, Path(folder, "small.onnx"))
    logging.disable(logging.NOTSET)


if __name__ == "__main__":
    asked = socket.socket(fileno=int(sys.argv[1]))
    _grow()
    _serve(asked)
