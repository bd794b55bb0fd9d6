"""One writer per run: a lock that dies with its process."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from boildown import files
from boildown.errors import JournalError, StrangeFileError

# Locks of POSIX records do not exclude the process that holds them, and closing any descriptor of
# the file drops them; so this process keeps its own list. They are chosen because, unlike flock,
# a forked data loader that outlives a killed run does not keep them.
_held: dict[Path, int] = {}


class WriterLock:
    """Held from construction to `release`. Raises JournalError while another process or journal holds it."""

    def __init__(self, path: Path) -> None:
        self._path = _placed(path)
        if _held.get(self._path) == os.getpid():
            raise _busy(self._path, "this process")
        try:
            files.own(self._path)
            flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | flags, 0o644)
        except StrangeFileError:
            raise
        except OSError as error:
            raise JournalError(
                f"The run folder {self._path.parent} cannot be written: {error.strerror}. "
                "Give another folder with --runs, or the right to write this one."
            ) from error
        try:
            _lock(self._descriptor)
        except OSError:
            writer = os.pread(self._descriptor, 20, 0).decode() if sys.platform != "win32" else ""
            os.close(self._descriptor)
            raise _busy(self._path, f"process {writer}" if writer else "another process") from None
        _held[self._path] = os.getpid()
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        """Let others write; harmless when repeated, and in a forked process."""
        if _held.get(self._path) == os.getpid():
            del _held[self._path]
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)  # nobody writes
                os.close(self._descriptor)


def writer(path: Path) -> int | None:
    """The process that holds the lock, told without touching it; None for none, 0 for one out of this one's sight."""
    if _held.get(_placed(path)) == os.getpid():
        return os.getpid()  # to open the file would drop the lock
    try:
        with files.opened(path, path.parent) as file:
            return _holder(file.fileno())
    except (OSError, ValueError):
        return None


def _placed(path: Path) -> Path:
    """Where the file itself lies: of a link, the link."""
    return files.real(path.parent) / path.name


def _busy(path: Path, writer: str) -> JournalError:
    return JournalError(
        f"The run {path.parent.name} is being written by {writer}. "
        "Wait until it ends, or stop it there (Ctrl-C), then resume."
    )


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    def _holder(descriptor: int) -> int | None:
        return int(os.read(descriptor, 20))

else:
    import fcntl
    import struct

    def _lock(descriptor: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _holder(descriptor: int) -> int | None:
        """Asks the system: the number that a killed process left in the file may be another's by now."""
        if sys.platform == "linux":
            layout = "hhqqi4x"
            asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, process = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        else:  # macOS and the BSDs
            layout = "qqihh4x"
            asked = struct.pack(layout, 0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
            _, _, process, kind, _ = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else int(process)
