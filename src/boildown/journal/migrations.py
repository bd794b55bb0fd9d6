"""The shape of the journal, as named steps that are never changed once released, only added to."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from boildown.domain.artifact import Artifact
from boildown.domain.deployment import HERE
from boildown.errors import JournalError
from boildown.journal import plain
from boildown.measuring.environment import hardware_of

ID = int.from_bytes(b"boil")
"""The `application_id` of a journal; those of boildown 0.1 have 0."""

Change = str | Callable[[sqlite3.Connection], None]
"""One statement, or what takes more."""


def _deployment(connection: sqlite3.Connection) -> None:
    """Runtime, hardware, batch and threads become a deployment, with the hardware that was meant."""
    facts = _facts(connection)
    asked = facts.get("asked")
    if not isinstance(asked, dict) or not {"runtime", "hardware", "latency"} <= asked.keys():
        return
    latency = asked.pop("latency")
    called = latency if isinstance(latency, dict) else {}
    given = {"runtime": asked.pop("runtime"), "form": "lean", "hardware": asked.pop("hardware"), **called, "on": HERE}
    meant = given["hardware"]
    with contextlib.suppress(KeyError, TypeError):  # an environment that boildown does not write
        meant = hardware_of(facts["environment"]) if meant == HERE else meant
    new = {"asked": {**asked, "deployment": given}, "deployment": {**given, "hardware": meant}}
    rows = [(name, plain.dumps(value)) for name, value in new.items()]
    connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)
    connection.execute("DELETE FROM facts WHERE name IN ('runtime', 'hardware', 'latency')")


def _artifacts(connection: sqlite3.Connection) -> None:
    """The path and the sha256 of an attempt's one file become an artifact; the column sha256 is no longer used."""
    facts = _facts(connection)
    runtime = version = ""
    with contextlib.suppress(KeyError, TypeError):  # facts that boildown does not write
        runtime, packages = str(facts["deployment"]["runtime"]), facts["environment"]["packages"]
        package = {"onnxruntime": "onnxruntime", "eager": "torch"}.get(runtime)
        version = "" if package is None else f"{package} {packages[package]}"
    for number, artifact, sha256 in connection.execute(
        "SELECT number, artifact, sha256 FROM attempts WHERE artifact IS NOT NULL"
    ).fetchall():
        path = PurePath(str(artifact))
        kept = Artifact(runtime, Path(path.parent), path.name, {path.name: str(sha256 or "")}, version)
        value = plain.dumps({"folder": path.parent.as_posix(), **kept.to_json()})
        connection.execute("UPDATE attempts SET artifact = ?, sha256 = NULL WHERE number = ?", (value, number))


def _facts(connection: sqlite3.Connection) -> dict[str, Any]:
    return {name: plain.loads(value) for name, value in connection.execute("SELECT name, value FROM facts")}


MIGRATIONS: tuple[tuple[str, tuple[Change, ...]], ...] = (
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
    ("0002 artifacts of several files, and deployments", (_deployment, _artifacts)),
)


def missing(connection: sqlite3.Connection) -> list[tuple[str, tuple[Change, ...]]]:
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
        connection.execute(f"PRAGMA application_id = {ID}")
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied TEXT NOT NULL)")
        for name, changes in missing(connection):
            for change in changes:
                connection.execute(change) if isinstance(change, str) else change(connection)
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (name, at))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
