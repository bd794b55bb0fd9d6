"""Whether a file is a journal of boildown: looked at before SQLite opens it, which may write beside what it opens."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from boildown import files
from boildown.errors import JournalError, StrangeFileError
from boildown.journal import migrations

SECONDS = 60.0
"""The most that one statement takes."""

_HEADER, _AT = 100, 68
_MAGIC = b"SQLite format 3\0"
_MOST = 256 << 20
_LONGEST = 64 << 20
_STEPS = 10_000
_BESIDE = ("-wal", "-shm", "-journal")


def identify(path: Path) -> None:
    """Raise JournalError for a file that is no journal of boildown, unchanged, and for links and the like beside it."""
    try:
        for beside in _BESIDE:
            files.own(path.with_name(path.name + beside))
        with files.opened(path, path.parent) as file:
            header = file.read(_HEADER)
            size = file.seek(0, 2)
    except (StrangeFileError, OSError) as error:
        raise JournalError(f"The journal in {path.parent} cannot be used: {error}") from error
    known = header.startswith(_MAGIC)
    if known and size > _MOST:
        raise JournalError(
            f"The journal in {path.parent} cannot be used: {path.name} has {size >> 20:,} MB, more than "
            f"the {_MOST >> 20} of the largest that boildown writes. Bring it back from a copy."
        )
    if known and (name := int.from_bytes(header[_AT : _AT + 4])) != migrations.ID:
        if name:
            raise _foreign(path)
        with contextlib.closing(
            sqlite3.connect(f"{files.real(path).as_uri()}?immutable=1", uri=True, isolation_level=None)
        ) as connection:
            limit(connection)
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchall():
                raise _foreign(path)
            check(connection, path)


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise JournalError unless every table that is read is one as boildown makes it, with nothing attached to it."""
    ours = _shape()
    tables = {table for _, _, table, _ in ours}
    found = {
        (kind, name, table, _plain(sql))
        for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
        if name in tables or table in tables
    }
    if found != ours:
        kind, name, *_ = sorted((found - ours) or (ours - found), key=str)[0]
        raise JournalError(
            f"The journal in {path.parent} is not as boildown makes it: see its {kind} {name!r}. "
            "Bring it back from a copy, or start a new run."
        )


def limit(connection: sqlite3.Connection) -> Callable[[], None]:
    """Bound what a connection reads and how long a statement takes; what is returned starts the time anew."""
    until = time.monotonic() + SECONDS

    def start() -> None:
        nonlocal until
        until = time.monotonic() + SECONDS

    connection.execute("PRAGMA trusted_schema = OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
    return start


@functools.cache
def _shape() -> frozenset[tuple[str, str, str, str]]:
    """What a journal is made of: type, name, table and statement of everything in it."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrations.migrate(connection, "")
        rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return frozenset((kind, name, table, _plain(sql)) for kind, name, table, sql in rows)


def _plain(sql: str | None) -> str:
    return " ".join((sql or "").split())


def _foreign(path: Path) -> JournalError:
    return JournalError(
        f"{path} was made by another program: it is no journal of boildown, and is left as it is. "
        "`boildown runs` lists the runs there are."
    )
