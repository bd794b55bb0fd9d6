"""The journal of one run: `journal.db` in its folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from boildown.domain.artifact import Artifact, is_changed
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import Outcome, State
from boildown.errors import JournalError, in_words
from boildown.files import real
from boildown.journal import guard, migrations, plain
from boildown.journal.lock import WriterLock, writer
from boildown.journal.rows import AttemptRow, Ending, Look, Record

FILE = "journal.db"
_LOCK = "journal.lock"
_ROOM = 1 << 20
"""Bytes that a step of a run writes at least: with less the disk is full."""
_RUNNING = State.RUNNING.value
_COLUMNS = ", ".join(field.name for field in fields(AttemptRow))
_open: Counter[Path] = Counter()
"""Journals that this process has open: to close another descriptor of one would drop SQLite's locks on it."""


class Journal:
    """What a run has done so far, kept in SQLite (WAL) as plain JSON.

    Made by `create` and `open`. One process writes; any number may read meanwhile. Every write is
    on disk when its method returns, so a killed process loses at most the step under way. Methods
    may be called from any thread. Every method raises JournalError where the file cannot be used.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock: WriterLock | None) -> None:
        self.folder = folder
        self._connection = connection
        self._lock = lock
        self._one_at_a_time = threading.RLock()
        self._path = real(folder / FILE)
        self._file = _identity(self._path) if lock else None
        self._start = guard.limit(connection)
        self._closed = False
        _open[self._path] += 1

    @classmethod
    def create(cls, folder: Path, facts: Mapping[str, Any]) -> Self:
        """Start the journal of a new run; the folder is made if need be.

        Raises JournalError if the folder has a journal already.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(folder / FILE):
            raise JournalError(f"{folder} has a journal already. Resume that run, or give another folder.")
        with _told(folder), contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
            connection.execute(
                f"PRAGMA application_id = {migrations.ID}"
            )  # before the rest, which lies beside at first
        journal = cls._written(folder)
        journal.update_facts(facts)
        return journal

    @classmethod
    def open(cls, folder: Path, readonly: bool = False) -> Self:
        """The journal of an existing run.

        Raises JournalError if there is none, it is damaged, of a newer version, or (unless
        `readonly`) being written by another process.
        """
        if not (folder / FILE).is_file():
            raise JournalError(f"There is no journal in {folder}. `boildown runs` lists the runs there are.")
        with _told(folder):
            if not _open[real(folder / FILE)]:
                guard.identify(folder / FILE)
        if readonly:
            return cls._read(folder)
        with _told(folder), contextlib.closing(_readonly(folder / FILE)) as connection:
            migrations.missing(connection)  # one of a newer version is left as it is
            guard.check(connection, folder / FILE)
        return cls._written(folder)

    @classmethod
    def _written(cls, folder: Path) -> Self:
        lock = WriterLock(folder / _LOCK)
        with contextlib.ExitStack() as undo:
            undo.callback(lock.release)
            with _told(folder):
                connection = sqlite3.connect(folder / FILE, isolation_level=None, check_same_thread=False)
                undo.callback(connection.close)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                with readable(folder):
                    migrations.migrate(connection, _now())
            undo.pop_all()
        return cls(folder, connection, lock)

    @classmethod
    def _read(cls, folder: Path) -> Self:
        with _told(folder):
            connection = _readonly(folder / FILE)
            try:
                old_shape = migrations.missing(connection)
                guard.check(connection, folder / FILE)
            except BaseException:
                connection.close()
                raise
            if old_shape:
                # A file of an older version must not be changed by reading it: bring a copy up to date.
                with contextlib.closing(connection) as old:
                    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
                    old.backup(connection)
                with readable(folder):
                    migrations.migrate(connection, _now())
        return cls(folder, connection, None)

    def close(self) -> None:
        """Release the file and the right to write it."""
        with self._one_at_a_time:
            if not self._closed:
                self._closed = True
                _open[self._path] -= 1
            self._connection.close()
            if self._lock:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the run -------------------------------------------------------------------------------------

    @property
    def writer(self) -> int | None:
        """The process that writes this journal, where it is one of this machine; None for none."""
        return writer(self.folder / _LOCK)

    @property
    def facts(self) -> dict[str, Any]:
        """What holds for the whole run: target, goal, seed, versions and so on."""
        with readable(self.folder):
            return {name: plain.loads(value) for name, value in self._rows("SELECT name, value FROM facts")}

    def update_facts(self, facts: Mapping[str, Any]) -> None:
        """Add facts; those of the same name are replaced."""
        rows = [(name, plain.dumps(value)) for name, value in facts.items()]
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def finish(self, outcome: Outcome, best_attempt: int | None, sentence: str, seconds: float) -> None:
        """The run has ended, for now: a resumed run ends again. `seconds` are of all sittings."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO endings (outcome, best_attempt, sentence, seconds, at) VALUES (?, ?, ?, ?, ?)",
                (outcome.name, best_attempt, sentence, seconds, _now()),
            )

    @property
    def ending(self) -> Ending | None:
        """How the run ended last, or `None` if it never has."""
        query = "SELECT outcome, best_attempt, sentence, seconds, at FROM endings ORDER BY id DESC LIMIT 1"
        with readable(self.folder):
            for outcome, *rest in self._rows(query):
                return Ending(Outcome[outcome], *rest)
        return None

    # -- attempts ------------------------------------------------------------------------------------

    def begin_attempt(
        self,
        number: int,
        rung: str,
        reason: str = "",
        parent: str | None = None,
        candidate_key: str | None = None,
        quote: Mapping[str, Any] | None = None,
    ) -> None:
        """An attempt starts: why this rung, from which parent, at what expected cost.

        One that a killed process left RUNNING may start again; its measurements stay findable by
        key but are no longer its own. Raises JournalError for an attempt that has finished.
        """
        with self._writing() as connection:
            if self._state(number) not in (None, _RUNNING):
                raise JournalError(f"Attempt {number} has finished; a finished attempt is never done again.")
            connection.execute("UPDATE measurements SET attempt = NULL WHERE attempt = ?", (number,))
            connection.execute(
                "INSERT OR REPLACE INTO attempts "
                "(number, rung, reason, parent, candidate_key, quote, state, started) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (number, rung, reason, parent, candidate_key, plain.dumps(quote or {}), _RUNNING, _now()),
            )

    def finish_attempt(
        self,
        number: int,
        state: State,
        sentence: str = "",
        *,
        verdict: Mapping[str, Any] | None = None,
        candidate: Mapping[str, Any] | None = None,
        artifact: Artifact | None = None,
        timings: Mapping[str, float] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """An attempt has ended; `timings` are seconds by kind of work.

        Raises JournalError unless the attempt is running.
        """
        values = {
            "state": state.value,
            "ended": _now(),
            "sentence": sentence,
            "verdict": None if verdict is None else plain.dumps(verdict),
            "candidate": None if candidate is None else plain.dumps(candidate),
            "artifact": None if artifact is None else self._kept(artifact),
            "timings": plain.dumps(timings or {}),
            "notes": plain.dumps(list(notes)),
        }
        with self._writing() as connection:
            if self._state(number) != _RUNNING:
                raise JournalError(f"Attempt {number} is not running, so it cannot finish.")
            columns = ", ".join(f"{name} = :{name}" for name in values)
            connection.execute(f"UPDATE attempts SET {columns} WHERE number = :number", {**values, "number": number})

    def amend_attempt(self, number: int, state: State, sentence: str, verdict: Mapping[str, Any] | None) -> None:
        """A finished attempt was judged again, on more samples than before; without a verdict where that failed.

        Raises JournalError unless the attempt has finished.
        """
        with self._writing() as connection:
            if self._state(number) in (None, _RUNNING):
                raise JournalError(f"Attempt {number} has not finished, so its verdict cannot be amended.")
            connection.execute(
                "UPDATE attempts SET state = ?, sentence = ?, verdict = ? WHERE number = ?",
                (state.value, sentence, None if verdict is None else plain.dumps(verdict), number),
            )

    def attempts(self) -> list[AttemptRow]:
        """Every attempt in order of its number."""
        with readable(self.folder):
            return [self._attempt(row) for row in self._rows(f"SELECT {_COLUMNS} FROM attempts ORDER BY number")]

    def attempts_of(self, candidate_key: str) -> list[AttemptRow]:
        """The attempts at one candidate."""
        query = f"SELECT {_COLUMNS} FROM attempts WHERE candidate_key = ? ORDER BY number"
        with readable(self.folder):
            return [self._attempt(row) for row in self._rows(query, candidate_key)]

    def files(self, row: AttemptRow) -> dict[Path, str]:
        """The files of a finished attempt, its artifact's first, and the sha256 that each had; none without one."""
        artifact = row.artifact
        if artifact is None:
            return {}
        with readable(self.folder):
            beside = dict((row.candidate or {}).get("files", {}))
            own = {path: artifact.files[path.relative_to(artifact.folder).as_posix()] for path in artifact.paths}
            return own | {artifact.folder / name: str(sha256) for name, sha256 in beside.items()}

    def changed(self, row: AttemptRow) -> list[Path]:
        """The files of a finished attempt that are gone or not those that were journalled."""
        return [path for path, sha256 in self.files(row).items() if is_changed(path, sha256, self._around(path))]

    def _around(self, path: Path) -> Path | None:
        """The run folder, for a file that lies in it."""
        return self.folder if path.is_relative_to(self.folder) else None

    # -- measurements, looks, records ----------------------------------------------------------------

    def add_measurement(self, key: str, attempt: int | None, measurement: Measurement) -> None:
        """Keep a measurement; the same key of the same attempt is replaced."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO measurements (key, attempt, body, at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (key, attempt) DO UPDATE SET body = excluded.body, at = excluded.at",
                (key, attempt, plain.dumps(measurement.to_json()), _now()),
            )

    def measurement(self, key: str) -> Measurement | None:
        """The latest measurement of this key."""
        query = "SELECT body FROM measurements WHERE key = ? ORDER BY at DESC, id DESC LIMIT 1"
        with readable(self.folder):
            for (body,) in self._rows(query, key):
                return Measurement.from_json(plain.loads(body))
        return None

    def measurements(self, attempt: int) -> list[Measurement]:
        """The measurements of an attempt, in the order they were made."""
        query = "SELECT body FROM measurements WHERE attempt = ? ORDER BY id"
        with readable(self.folder):
            return [Measurement.from_json(plain.loads(body)) for (body,) in self._rows(query, attempt)]

    def add_look(self, attempt: int, data: str) -> int:
        """An attempt looks at the verdict's data, or at the clock; which look this is, from 1.

        data: the fingerprint of those samples, or what is timed.
        """
        with self._writing() as connection:
            ((k,),) = connection.execute("SELECT 1 + COUNT(*) FROM looks WHERE data = ?", (data,)).fetchall()
            connection.execute("INSERT INTO looks VALUES (?, ?, ?, ?)", (data, k, attempt, _now()))
        return int(k)

    def looks(self) -> list[Look]:
        """Every look in order."""
        return [Look(*row) for row in self._rows("SELECT attempt, data, k, at FROM looks ORDER BY at, k")]

    def record(self, attempt: int | None, kind: str, data: Mapping[str, Any]) -> None:
        """Keep something of a kind that only its writer and the report know."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO records (attempt, kind, data, at) VALUES (?, ?, ?, ?)",
                (attempt, kind, plain.dumps(dict(data)), _now()),
            )

    def records(self, kind: str | None = None) -> list[Record]:
        """The records of one kind, or all, in order."""
        query = "SELECT attempt, kind, data, at FROM records WHERE ?1 IS NULL OR kind = ?1 ORDER BY id"
        with readable(self.folder):
            return [Record(attempt, name, plain.loads(data), at) for attempt, name, data, at in self._rows(query, kind)]

    # -- SQLite --------------------------------------------------------------------------------------

    def _state(self, number: int) -> str | None:
        for (state,) in self._rows("SELECT state FROM attempts WHERE number = ?", number):
            return str(state)
        return None

    def _kept(self, artifact: Artifact) -> str:
        path, folder = real(artifact.folder), real(self.folder)
        where = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
        return plain.dumps({"folder": where, **artifact.to_json()})

    def _attempt(self, row: tuple[Any, ...]) -> AttemptRow:
        values = dict(zip((field.name for field in fields(AttemptRow)), row, strict=True))
        for name, kind in _PLAIN.items():
            values[name] = None if values[name] is None else plain.loads(values[name])
            if not isinstance(values[name], kind) and not (values[name] is None and name in _MAY_LACK):
                raise TypeError(f"the {name} of attempt {values['number']} is no {kind.__name__}")
        if not all(isinstance(seconds, int | float) for seconds in values["timings"].values()):
            raise TypeError(f"the timings of attempt {values['number']} are no numbers")
        if (kept := values["artifact"]) is not None:
            values["artifact"] = Artifact.from_json(kept, self.folder / str(kept["folder"]))
        return AttemptRow(**{**values, "state": State(values["state"]), "notes": tuple(map(str, values["notes"]))})

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._one_at_a_time, _told(self.folder):
            self._start()
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside is kept, or nothing."""
        if self._lock is None:
            raise JournalError(f"The journal in {self.folder} was opened for reading only.")
        with self._one_at_a_time, _told(self.folder):
            if _identity(self._path) != self._file:
                raise JournalError(
                    f"The journal in {self.folder} was deleted, moved or replaced while the run was at work. "
                    "What was made stays in attempts/. Bring the journal back from a copy, or start a new run."
                )
            self._start()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Read what is in a journal: JournalError where it is not what boildown writes."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise JournalError(
            f"The journal in {folder} holds what boildown does not write ({in_words(error)}). "
            "Bring it back from a copy, or start a new run."
        ) from error


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What SQLite says, as cause and cure."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where its message quotes a damaged file
        said = str(error) if isinstance(error, sqlite3.Error) else "database disk image is malformed"
        if "full" in said or ("I/O" in said and _no_room(folder)):
            cure = "The journal is intact up to the last finished step: free space on the disk, then resume."
        elif "not a database" in said or "malformed" in said:
            cure = "The file is damaged or no journal: bring it back from a copy, or start a new run."
        elif "interrupted" in said:
            cure = f"A statement took more than {guard.SECONDS:g} s: bring the file back from a copy."
        elif "no such table" in said:
            cure = "It was not made by boildown, or its run ended before it began: start a new run."
        else:
            cure = "See that the folder can be read and written and that no other program holds the file."
        raise JournalError(f"The journal in {folder} cannot be used: {said}. {cure}") from error


def _no_room(folder: Path) -> bool:
    """Whether hardly anything fits on the disk: SQLite calls some writes that fail for it I/O errors."""
    try:
        return shutil.disk_usage(folder).free < _ROOM
    except OSError:
        return False


def _readonly(path: Path) -> sqlite3.Connection:
    """A connection that cannot write.

    Reading beside a writer needs files next to the journal; where the folder cannot be written and
    there is no writer, the file is read as it lies.
    """
    uri = real(path).as_uri()
    try:
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        if path.with_name(f"{path.name}-wal").exists():
            raise
        connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    return connection


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_PLAIN = {"quote": dict, "verdict": dict, "candidate": dict, "artifact": dict, "timings": dict, "notes": list}
_MAY_LACK = ("verdict", "candidate", "artifact")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
