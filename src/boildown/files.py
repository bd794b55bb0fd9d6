"""Files in folders that others may have filled: never through a link, and only what is a file.

The way is walked name by name from a folder that the caller vouches for, with O_NOFOLLOW. Where a system lacks that
(Windows), every name is looked at before it is opened.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from boildown.errors import StrangeFileError

TEXT = 64 << 20
"""Bytes of the largest text that is read."""

_SPARSE, _CLAIMED = 64 << 20, 64
_BLOCK = 512
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_FOLLOWED = _FLAGS - getattr(os, "O_NOFOLLOW", 0)
_BY_NAME = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_DIRECTORY")
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
)


def as_json(data: Any) -> str:
    """Plain data as the text of a JSON file; numbers that JSON lacks become null, and what else it lacks text."""
    return json.dumps(_finite(data), indent=2, default=str) + "\n"


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data


def real(path: Path) -> Path:
    """The path without links; where they lead in a circle, as it is named."""
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError there


def opened(path: Path, below: Path | None = None) -> BufferedReader:
    """A file opened for reading.

    below: a folder that it lies in, on the way from which no link is followed; without one they are, for paths that
    the user gave. Raises StrangeFileError for what is no file, or one that claims far more than the disk holds of it.
    """
    if below is not None:
        check(path, below)
        descriptor = _walked(path, below)
    else:
        with _named(path):
            descriptor = os.open(path, os.O_RDONLY | _FOLLOWED)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise strange(path, _kind(found.st_mode))
        if found.st_size > _SPARSE and getattr(found, "st_blocks", found.st_size) * _BLOCK < found.st_size / _CLAIMED:
            raise strange(path, f"a file that claims {found.st_size / 1e9:,.1f} GB and holds next to nothing")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: Path, below: Path | None = None, most: int = TEXT) -> str:
    """The text of a file; see `opened`. Raises StrangeFileError for one of more than `most` bytes."""
    with opened(path, below) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise strange(path, f"larger than {most >> 20} MB")
    return data.decode("utf-8")


def check(path: Path, below: Path) -> None:
    """Raise StrangeFileError where a name on the way from `below` to a file is a link, or the end is no file.

    What is not there is left for who opens it.
    """
    names = path.relative_to(below).parts if path.is_relative_to(below) else ()
    if not names or ".." in names:
        raise strange(path, f"outside {below}")
    for count in range(1, len(names) + 1):
        step = below.joinpath(*names[:count])
        try:
            mode = os.lstat(step).st_mode
        except FileNotFoundError:
            return
        if not (stat.S_ISREG(mode) if count == len(names) else stat.S_ISDIR(mode)):
            raise strange(step, _kind(mode))


def own(path: Path) -> None:
    """Raise StrangeFileError unless a file that is written in place is one, with no second name elsewhere."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise strange(path, _kind(found.st_mode))
        if found.st_nlink > 1:
            raise strange(
                path, f"one file under {found.st_nlink} names (hard links)", "Replace it by a copy of itself."
            )


def walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in order; none where there is no folder.

    Raises StrangeFileError for anything that is neither a file nor a folder, the folder itself included.
    """
    try:
        mode = os.lstat(folder).st_mode
    except FileNotFoundError:
        return
    waiting = [folder]
    if not stat.S_ISDIR(mode):
        raise strange(folder, _kind(mode))
    while waiting:
        inner = []
        with os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    inner.append(Path(entry.path))
                elif stat.S_ISREG(mode):
                    yield Path(entry.path)
                else:
                    raise strange(Path(entry.path), _kind(mode))
        waiting += reversed(inner)


def survey(folder: Path, names: Iterable[str]) -> None:
    """Raise StrangeFileError where anything below these names in a folder is neither a file nor a folder."""
    for name in names:
        for _ in walk(folder / name):
            pass


def replace(path: Path, data: str | bytes) -> None:
    """Write a file that is there whole or not at all, in place of what has its name; a link is replaced itself."""
    fresh = make_room(path)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)
    fresh.replace(path)


def make_room(path: Path) -> Path:
    """The name under which a file is written before it replaces `path`; nothing has it any more."""
    fresh = path.with_name(f"new-{path.name}")
    remove(fresh)
    return fresh


def make_folder(path: Path) -> Path:
    """A new folder beside `path`, of a name that nothing had."""
    while True:
        fresh = path.with_name(f".new-{path.name[:100]}-{secrets.token_hex(4)}")
        with contextlib.suppress(FileExistsError):
            fresh.mkdir(parents=True)
            return fresh


def remove(path: Path) -> None:
    """Remove what has this name, with all that lies in a folder; of a link itself alone."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)  # it follows no links
        else:
            path.unlink()


def copy(source: Path, target: Path, below: Path | None = None) -> None:
    """Copy one file to a name that nothing has; see `opened`."""
    with opened(source, below) as file, target.open("xb") as fresh:
        shutil.copyfileobj(file, fresh, 1 << 20)


def strange(path: Path, what: str, cure: str = "") -> StrangeFileError:
    """The error for what lies where a file or a folder of boildown's should."""
    return StrangeFileError.of(
        f"{path} is {what}.",
        cure or "boildown opens and writes files of its own only: move it away, or bring the folder back from a copy.",
    )


def _walked(path: Path, below: Path) -> int:
    """A descriptor of the file, every name on the way opened in the folder before it."""
    if not _BY_NAME:
        with _named(path):
            return os.open(path, os.O_RDONLY | _FLAGS)
    *folders, name = path.relative_to(below).parts
    with _named(path):
        at = os.open(below, os.O_RDONLY | os.O_DIRECTORY | _FOLLOWED)
        try:
            for folder in folders:
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=at)
                os.close(at)
                at = inner
            return os.open(name, os.O_RDONLY | _FLAGS, dir_fd=at)
        finally:
            os.close(at)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the system says of a part of a path, said of the whole of it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "no file")
