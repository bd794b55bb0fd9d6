"""A child process that runs functions, with deadlines, progress and an honest account of its death.

Export, measurement and every native call run in one: a crash, an endless loop or a leak there ends
the child, not the run. The child is a fresh interpreter started by name, not by multiprocessing, so
scripts without an `if __name__ == "__main__"` guard and notebooks work.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from boildown.errors import AttemptError, DeadlineError, WorkerLost, text_of
from boildown.execution.quiet import occupied
from boildown.execution.worker import PROTOCOL

_TICK = 0.1  # seconds between two calls of `check`
_LINES = 50  # of the child's output, kept for the message that tells how it died


class RemoteError(AttemptError):
    """A function raised in a child. `type` and `message` are the error's, `details` its traceback."""

    name = "error"

    def __init__(self, function: str, type: str, message: str, details: str) -> None:
        self.function = function
        self.type = type
        self.message = message
        self.details = details
        super().__init__(f"{type}: {message}" if message else type)

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str, str, str]]:
        return type(self), (self.function, self.type, self.message, self.details)


class Child:
    """A process that answers one call after another; started at the first, restarted after a death.

    Module-level caches of the functions called live as long as the process: `pid` tells whether it
    is still the same one. The process has a session of its own, so Ctrl-C in the terminal does not
    reach it, and it dies with its parent. Calls from several threads queue up. It works in
    `folder`, by default the one that was current when this was made, wherever code of the user's changes to.
    memory: the most bytes that it may ask for, where the system can hold it to that (Linux).
    """

    def __init__(self, folder: Path | None = None, memory: int | None = None) -> None:
        self._process: _Process | None = None
        self.folder = folder or Path.cwd()
        self.memory = memory
        self._one_call = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The process id, or `None` while no process runs."""
        return self._process.pid if self._process else None

    def call(
        self,
        function: str,
        *args: Any,
        deadline: float | None = None,
        check: Callable[[], None] = lambda: None,
        on_progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None,
        retries: int = 0,
        doing: str = "this step",
        **kwargs: Any,
    ) -> Any:
        """Run `"module:function"` in the child and return its value.

        Arguments and value are pickled. `deadline` is in seconds, for all tries together. `check`
        is called about ten times a second and may raise; the child is then killed. `on_progress`
        receives what the function reports through `worker.progress`. After a WorkerLost the call is
        made again, up to `retries` times. `doing` names the step in messages.

        Raises boildown's own errors as they were raised in the child, RemoteError for any other,
        DeadlineError past the deadline (the child and all it started are killed), WorkerLost when
        the process died.
        """
        end = math.inf if deadline is None else time.monotonic() + deadline

        def tick() -> None:
            check()
            if time.monotonic() >= end:
                raise DeadlineError(
                    f"{doing[0].upper()}{doing[1:]} took more than the {deadline:.3g} s it had and was stopped. "
                    "Give the run a larger budget."
                )

        call = pickle.dumps((function, args, kwargs), PROTOCOL)
        with self._one_call, occupied():
            while True:
                try:
                    return _value(function, self._exchange(doing, call, tick, on_progress))
                except WorkerLost:
                    if retries <= 0:
                        raise
                    retries -= 1

    def begin(self, function: str, *args: Any) -> None:
        """Start the process, if there is none, and let it run `"module:function"` meanwhile.

        What comes of it is dropped: the next call waits for it, and finds loaded what it has loaded.
        """
        with self._one_call:
            if self._process is None:
                self._process = _Process(self.folder)
                self._process.send(self._message(pickle.dumps((function, args, {}), PROTOCOL)))
                self._process.dropped = 1

    def _message(self, call: bytes) -> bytes:
        return pickle.dumps((ordered(sys.path, self.folder), str(self.folder), self.memory, call), PROTOCOL)

    def close(self) -> None:
        """End the process, if there is one. A later call starts a new one."""
        process, self._process = self._process, None
        if process:
            process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(
        self,
        doing: str,
        call: bytes,
        tick: Callable[[], None],
        on_progress: Callable[[str, int, int | None], None],
    ) -> tuple[Any, ...]:
        """Send the call, wait for its answer; on any error the process is killed."""
        if self._process and self._process.died():
            self._process.kill()
            self._process = None
        process = self._process = self._process or _Process(self.folder)
        try:
            process.send(self._message(call))
            while True:
                tick()
                if not process.ready(_TICK):
                    continue
                answer: tuple[Any, ...] = pickle.loads(process.receive())
                if answer[0] == "progress":
                    on_progress(*answer[1:])
                elif process.dropped:
                    process.dropped -= 1
                else:
                    return answer
        except (EOFError, ConnectionError) as error:
            self._process = None
            raise process.obituary(doing) from error
        except BaseException:
            self._process = None
            process.kill()
            raise


class _Process:
    """One life of the child: the process, its pipe and the last lines it printed.

    dropped: how many answers are still to come that nobody waits for.
    """

    dropped = 0
    _sender: threading.Thread | None = None

    def __init__(self, folder: Path) -> None:
        self._pipe, theirs = connection.Pipe()
        # Linux ties a child's life to the *thread* that started it, so only the main thread may ask.
        tied = "tied" if threading.current_thread() is threading.main_thread() else "free"
        command = [sys.executable, "-u", "-P", "-X", "faulthandler", "-c", _BEGIN]
        self._popen = subprocess.Popen(
            [*command, str(theirs.fileno()), tied, json.dumps(ordered(sys.path, folder))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            cwd=folder,
            **_inheriting(theirs.fileno()),
        )
        theirs.close()
        self._lines: deque[str] = deque(maxlen=_LINES)
        assert self._popen.stdout
        self._reader = threading.Thread(target=_keep, args=(self._popen.stdout, self._lines), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def died(self) -> bool:
        return self._popen.poll() is not None

    def send(self, message: bytes) -> None:
        """Begin to send; a child that is slow to start takes what is large long afterwards."""
        if self._sender:
            self._sender.join()
        self._sender = threading.Thread(target=self._send, args=(message,), daemon=True)
        self._sender.start()

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # the child is gone, which `ready` tells
            self._pipe.send_bytes(message)

    def receive(self) -> bytes:
        return self._pipe.recv_bytes()

    def ready(self, seconds: float) -> bool:
        """Whether an answer has come within `seconds`; raises EOFError when none ever will."""
        if self._pipe.poll(seconds):
            return True
        # What the child started may hold the pipe open after it died.
        if self.died() and not self._pipe.poll(0):
            raise EOFError
        return False

    def end(self) -> None:
        """Close the pipe, which ends the child; kill it if it does not notice."""
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(1)
        self.kill()

    def kill(self) -> None:
        """End the child and every process it started."""
        if sys.platform == "win32":
            self._popen.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it is already gone
                os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        self._reader.join(1)
        if self._sender:
            self._sender.join(1)
        self._pipe.close()

    def obituary(self, doing: str) -> WorkerLost:
        """How the process died, what may have been the cause, and the last it said; all it said is in the details."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # the pipe closes just before the process ends
            self._popen.wait(1)
        self.kill()
        code = self._popen.returncode
        last = f" The last it said: {self._lines[-1].strip()}" if self._lines else ""
        return WorkerLost(f"the process of {doing} {_death(code)}{last}", "\n".join(self._lines))


def ordered(path: Sequence[str], folder: Path) -> list[str]:
    """Where a child looks for modules: as here, but the standard library comes first.

    A file of the user's that is called like a part of it, `random.py` beside the configuration, is in nobody's way.
    folder: what entries are relative to.
    """
    places = list(dict.fromkeys(os.path.join(folder, entry) for entry in path))  # noqa: PTH118 - entries are text
    return sorted(places, key=lambda place: not _standard(place))


def _standard(place: str) -> bool:
    where = Path(place)
    if where.suffix == ".zip":
        return where.name.startswith("python") and where.is_relative_to(sys.base_prefix)
    inside = where.is_relative_to(_LIBRARY) and not {"site-packages", "dist-packages"} & set(where.parts)
    return inside or where == Path(sys.base_prefix, "DLLs")


_LIBRARY = sysconfig.get_path("stdlib")
_BEGIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from boildown.execution import worker; worker.main()"
)


def _death(code: int) -> str:
    if code >= 0:
        return f"ended by itself with exit code {code}."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    killed = f"was killed by signal {-code} ({name})"
    if name == "SIGKILL":
        return f"{killed}; the system may be out of memory: use a smaller batch size or fewer workers."
    if name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"):
        return f"{killed}: native code crashed; the rung is not usable with this model and these versions."
    return f"{killed}."


def _inheriting(channel: int) -> dict[str, Any]:
    """The arguments of Popen that hand over one descriptor and keep the terminal's Ctrl-C away."""
    if sys.platform == "win32":
        os.set_handle_inheritable(channel, True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [channel]})
        return {"startupinfo": startup, "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"pass_fds": (channel,), "start_new_session": True}


def _keep(stream: IO[str], lines: deque[str]) -> None:
    with stream:
        for line in stream:
            if line.strip():
                lines.append(line.rstrip()[:500])


def _value(function: str, answer: tuple[Any, ...]) -> Any:
    if answer[0] == "value":
        return answer[1]
    if answer[0] == "raised":
        _, error, text = answer
        raise error from RemoteError(function, type(error).__name__, text_of(error), text)
    _, kind, message, text = answer
    raise RemoteError(function, kind, message, text)
