"""What is no journal of boildown is refused, and left as it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from boildown.errors import JournalError
from boildown.journal import Journal
from boildown.journal.migrations import ID

OLD = Path(__file__).parents[1] / "old_runs"


@pytest.fixture
def folder(tmp_path):
    """A run folder with a journal."""
    Journal.create(tmp_path / "run", {"seed": 0}).close()
    return tmp_path / "run"


def changed(folder, *statements):
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as base:
        for statement in statements:
            base.execute(statement)
        base.commit()


@pytest.mark.parametrize("wal", [False, True])
@pytest.mark.parametrize("name", [0, 7])
@pytest.mark.parametrize("readonly", [False, True])
def test_another_programs_file_is_left_as_it_is(tmp_path, wal, name, readonly):
    changed(tmp_path, f"PRAGMA application_id = {name}", *(["PRAGMA journal_mode = WAL"] if wal else []))
    changed(tmp_path, "CREATE TABLE entries (day, text)", "INSERT INTO entries VALUES ('monday', 'dear diary')")
    before = (tmp_path / "journal.db").read_bytes()
    with pytest.raises(JournalError, match="made by another program"):
        Journal.open(tmp_path, readonly=readonly)
    assert (tmp_path / "journal.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["journal.db"]


def test_a_journal_is_known_by_its_id_and_an_old_one_by_its_tables(folder, tmp_path):
    assert int.from_bytes((folder / "journal.db").read_bytes()[68:72]) == ID
    old = shutil.copytree(next(path for path in OLD.iterdir() if path.is_dir()), tmp_path / "old")
    with Journal.open(old, readonly=True) as journal:
        assert journal.attempts()
    Journal.open(old).close()
    assert int.from_bytes((old / "journal.db").read_bytes()[68:72]) == ID
    with Journal.open(old, readonly=True) as journal:
        assert journal.attempts()


@pytest.mark.parametrize(
    "statements",
    [
        [
            "DROP TABLE facts",
            "CREATE VIEW facts AS WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more) "
            "SELECT 'x' AS name, n AS value FROM more",
        ],
        ["CREATE TRIGGER more AFTER INSERT ON facts BEGIN DELETE FROM attempts; END"],
        ["CREATE INDEX slow ON facts (abs(length(value)))"],
        ["DROP TABLE looks"],
        ["ALTER TABLE facts ADD COLUMN more GENERATED ALWAYS AS (value || value)"],
    ],
    ids=["view", "trigger", "index", "gone", "column"],
)
@pytest.mark.parametrize("readonly", [False, True])
def test_a_journal_with_other_tables_is_refused(folder, statements, readonly):
    changed(folder, *statements)
    with pytest.raises(JournalError, match="not as boildown makes it"):
        Journal.open(folder, readonly=readonly)


def test_tables_of_others_beside_ours_do_no_harm(folder):
    changed(folder, "CREATE TABLE notes (text)", "ANALYZE", "VACUUM")
    with Journal.open(folder, readonly=True) as journal:
        assert journal.facts == {"seed": 0}


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
@pytest.mark.parametrize(
    "name", ["journal.db", "journal.db-wal", "journal.db-shm", "journal.db-journal", "journal.lock"]
)
@pytest.mark.parametrize(
    "plant", [os.symlink, os.link, lambda _mine, path: os.mkfifo(path)], ids=["link", "hard", "pipe"]
)
def test_links_and_pipes_in_the_place_of_its_files_are_refused(folder, tmp_path, name, plant):
    mine = tmp_path / "mine"
    mine.write_bytes((folder / "journal.db").read_bytes())
    (folder / name).unlink(missing_ok=True)
    plant(mine, folder / name)
    before = mine.read_bytes()
    with contextlib.suppress(JournalError, OSError), Journal.open(folder, readonly=True) as journal:
        assert journal.writer is None
    if not (name == "journal.db" and plant is os.link):  # a copy of links may be read
        with pytest.raises((JournalError, OSError)):
            Journal.open(folder)
    assert mine.read_bytes() == before


def test_a_journal_that_vanishes_is_noticed_at_the_next_write(folder):
    with Journal.open(folder) as journal:
        journal.update_facts({"a": 1})
        (folder / "journal.db").unlink()
        with pytest.raises(JournalError, match="deleted, moved or replaced"):
            journal.update_facts({"a": 2})
