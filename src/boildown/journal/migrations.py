"""The shape of the journal, as named steps that are never changed once released, only added to."""

from __future__ import annotations

import sqlite3

from boildown.errors import JournalError

MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "0001 first shape",
        (
            "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
            """CREATE TABLE attempts (
                number INTEGER PRIMARY KEY, rung TEXT NOT NULL, reason TEXT NOT NULL, parent TEXT,
                candidate_key TEXT, quote TEXT NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL,
                ended TEXT, sentence TEXT NOT NULL DEFAULT '', verdict TEXT, candidate TEXT, artifact TEXT,
                sha256 TEXT, timings TEXT NOT NULL DEFAULT '{}', notes TEXT NOT NULL DEFAULT '[]')""",
            "CREATE INDEX attempts_by_key ON attempts (candidate_key)",
            """CREATE TABLE measurements (
                id INTEGER PRIMARY KEY, key TEXT NOT NULL, attempt INTEGER, body TEXT NOT NULL,
                at TEXT NOT NULL, UNIQUE (key, attempt))""",
            "CREATE INDEX measurements_by_attempt ON measurements (attempt)",
            """CREATE TABLE looks (
                data TEXT NOT NULL, k INTEGER NOT NULL, attempt INTEGER NOT NULL, at TEXT NOT NULL,
                PRIMARY KEY (data, k))""",
            """CREATE TABLE records (
                id INTEGER PRIMARY KEY, attempt INTEGER, kind TEXT NOT NULL, data TEXT NOT NULL,
                at TEXT NOT NULL)""",
            "CREATE INDEX records_by_kind ON records (kind)",
            """CREATE TABLE endings (
                id INTEGER PRIMARY KEY, outcome TEXT NOT NULL, best_attempt INTEGER, sentence TEXT NOT NULL,
                seconds REAL NOT NULL, at TEXT NOT NULL)""",
        ),
    ),
)


def missing(connection: sqlite3.Connection) -> list[tuple[str, tuple[str, ...]]]:
    """The steps not yet made in this file.

    Raises JournalError when the file has steps unknown here: a newer boildown wrote it.
    """
    made = {name for (name,) in connection.execute("SELECT name FROM migrations")}
    unknown = sorted(made - {name for name, _ in MIGRATIONS})
    if unknown:
        raise JournalError(
            f"The journal was written by a newer boildown (it has {unknown[-1]!r}). "
            "Install that version or a later one to read it."
        )
    return [step for step in MIGRATIONS if step[0] not in made]


def migrate(connection: sqlite3.Connection, at: str) -> None:
    """Make every missing step, all or none; `at` is the time kept beside their names."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied TEXT NOT NULL)")
        for name, statements in missing(connection):
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (name, at))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
