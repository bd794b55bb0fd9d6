"""The journal survives what happens to it: kills, other processes, other versions, other files."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boildown.domain.artifact import Artifact
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import Outcome, State
from boildown.errors import JournalError
from boildown.journal import Journal, lock, migrations
from boildown.journal.journal import _told as told
from boildown.testing.journal import JournalSuite, a_measurement


class TestConformance(JournalSuite):
    """The suite that is shipped, on the journal that is shipped."""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "20260101-000000-abcd"


def run_script(text: str, *args: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-c", text, *args],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


WRITER = """
import sys, time
from pathlib import Path
from boildown.domain.outcome import State
from boildown.journal import Journal
journal = Journal.create(Path(sys.argv[1]), {"seed": 1})
number = 0
while True:
    journal.begin_attempt(number, "prune")
    journal.record(number, "standing", {"at": number})
    journal.finish_attempt(number, State.MISSED, "missed", timings={"apply": 1.0})
    number += 1
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_kill_loses_at_most_the_step_under_way(folder):
    with run_script(WRITER, str(folder)) as writer:
        told = 0
        while told < 20:
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().split())])
    with Journal.open(folder) as journal:
        rows = journal.attempts()
        finished = [row for row in rows if row.state is State.MISSED]
        assert len(finished) >= told
        assert [row.number for row in rows] == list(range(len(rows)))
        assert all(row.state is State.RUNNING for row in rows[len(finished) :])
        assert len(rows) - len(finished) <= 1
        assert journal.facts == {"seed": 1}


def test_another_process_is_refused_by_name_and_readers_see_its_rows(folder):
    text = WRITER.replace("while True:", "if True:") + "import time; time.sleep(60)"
    with run_script(text, str(folder)) as writer:
        assert writer.stdout.readline() == "1\n"
        with pytest.raises(JournalError, match=f"{folder.name} is being written by process {writer.pid}"):
            Journal.open(folder)
        with Journal.open(folder, readonly=True) as reader:
            assert [row.state for row in reader.attempts()] == [State.MISSED]
        assert lock.writer(folder / "journal.lock") == writer.pid
        writer.kill()
        writer.wait()
    assert lock.writer(folder / "journal.lock") is None
    (folder / "journal.lock").write_text(str(os.getppid()))  # a killed writer's number, which another has got
    assert lock.writer(folder / "journal.lock") is None
    with Journal.open(folder) as journal:
        assert len(journal.attempts()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_process_neither_keeps_nor_frees_the_lock(folder):
    journal = Journal.create(folder, {})
    pid = os.fork()
    if not pid:
        journal._lock.release()
        time.sleep(0.5)
        os._exit(0)
    time.sleep(0.1)
    script = "import sys, pathlib, boildown.journal as j; print(j.Journal.open(pathlib.Path(sys.argv[1])))"
    with run_script(script, str(folder)) as other:
        assert "Journal" not in other.stdout.read()
    journal.close()
    with Journal.open(folder):
        os.waitpid(pid, 0)


def test_a_newer_journal_is_refused(folder):
    Journal.create(folder, {}).close()
    with sqlite3.connect(folder / "journal.db") as connection:
        connection.execute("INSERT INTO migrations VALUES ('9999 from the future', 'now')")
    connection.close()
    for readonly in (True, False):
        with pytest.raises(JournalError, match="newer boildown"):
            Journal.open(folder, readonly=readonly)


def test_an_older_journal_is_brought_up_to_date_by_writers_only(folder, monkeypatch):
    with Journal.create(folder, {"seed": 1}) as journal:
        journal.begin_attempt(0, "first")
    later = ("0002 later", ("ALTER TABLE facts ADD COLUMN later TEXT", "CREATE TABLE later (x)"))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, later))

    def has_later(connection):
        return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'later'").fetchall())

    before = (folder / "journal.db").read_bytes()
    with Journal.open(folder, readonly=True) as journal:
        assert journal.facts == {"seed": 1}
        assert has_later(journal._connection)
        with pytest.raises(JournalError, match="reading only"):
            journal.update_facts({})
    assert (folder / "journal.db").read_bytes() == before
    with Journal.open(folder) as journal:
        assert has_later(journal._connection)
        assert [row.rung for row in journal.attempts()] == ["first"]


def test_a_failed_migration_leaves_nothing_behind(folder, monkeypatch):
    Journal.create(folder, {"seed": 1}).close()
    broken = ("0002 broken", ("CREATE TABLE half (x)", "NO SUCH STATEMENT"))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, broken))
        with pytest.raises(JournalError, match="syntax error"):
            Journal.open(folder)
    with Journal.open(folder) as journal:
        assert journal.facts == {"seed": 1}


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to look like a file" * 20])
def test_a_foreign_file_is_told(folder, content):
    folder.mkdir(parents=True)
    (folder / "journal.db").write_bytes(content)
    with pytest.raises(JournalError, match="start a new run"):
        Journal.open(folder, readonly=True)


def test_a_damaged_file_that_sqlite_quotes_is_told(folder):
    Journal.create(folder, {}).close()
    path = folder / "journal.db"
    whole = path.read_bytes()
    at = whole.rindex(b"(kind)")  # in the statement that made an index, which SQLite repeats in its complaint
    path.write_bytes(whole[:at] + b"\xff\xff" + whole[at + 2 :])
    with pytest.raises(JournalError, match="The file is damaged"):
        Journal.open(folder, readonly=True)


def test_reads_where_nothing_can_be_written(folder):
    with Journal.create(folder, {"seed": 1}) as journal:
        journal.finish(Outcome.TARGET_MET, 0, "met", 1.0)
    (folder / "journal.lock").unlink()
    folder.chmod(0o555)
    try:
        with Journal.open(folder, readonly=True) as journal:
            assert journal.facts == {"seed": 1}
            assert journal.ending.outcome is Outcome.TARGET_MET
        if os.getuid():
            with pytest.raises(JournalError, match="cannot be written"):
                Journal.open(folder)
    finally:
        folder.chmod(0o755)


def test_a_full_disk_is_told_and_the_journal_stays_whole(folder):
    with Journal.create(folder, {"seed": 1}) as journal:
        (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
        journal._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(JournalError, match="free space on the disk, then resume"):
            journal.record(None, "event", {"text": "x" * 100_000})
        assert journal.records() == []
        journal.update_facts({"seed": 2})
    with Journal.open(folder) as journal:
        assert journal.facts == {"seed": 2}


@pytest.mark.parametrize(("free", "cure"), [(0, "free space on the disk"), (2**30, "can be read and written")])
def test_an_error_of_writing_where_nothing_fits_is_a_full_disk(folder, monkeypatch, free, cure):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(JournalError, match=cure), told(folder):
        raise sqlite3.OperationalError("disk I/O error")


def test_a_folder_that_moved_keeps_its_artifacts(folder, tmp_path):
    files = {"model.onnx": "a" * 64}
    artifact = Artifact("onnxruntime", folder / "attempts" / "1", "model.onnx", files)
    with Journal.create(folder, {}) as journal:
        journal.begin_attempt(1, "prune")
        journal.finish_attempt(1, State.MET, artifact=artifact)
        journal.begin_attempt(2, "prune")
        journal.finish_attempt(2, State.MET, artifact=artifact.at(tmp_path / "elsewhere"))
    moved = folder.rename(tmp_path / "moved")
    with Journal.open(moved, readonly=True) as journal:
        inside, outside = journal.attempts()
        assert inside.artifact.path == moved / "attempts" / "1" / "model.onnx"
        assert outside.artifact.path == tmp_path / "elsewhere" / "model.onnx"


def test_threads_may_share_the_writer(folder):
    with Journal.create(folder, {}) as journal:

        def write(number):
            for k in range(20):
                journal.record(number, "standing", {"k": k})

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        records = journal.records("standing")
        assert len(records) == 80
        assert [r.data["k"] for r in records if r.attempt == 2] == list(range(20))


# -- any sequence of operations, then reopened, gives the same rows ----------------------------------

words = st.text(max_size=8)
numbers_ = st.floats(allow_nan=False) | st.integers(-(2**60), 2**60) | st.booleans() | st.none()
plain_data = st.recursive(
    numbers_ | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(words | st.just("$float"), plain_data, max_size=3)
operations = st.one_of(
    st.tuples(st.just("begin"), st.integers(0, 3), words, mappings),
    st.tuples(st.just("finish"), st.integers(0, 3), st.sampled_from(list(State)[1:]), mappings),
    st.tuples(st.just("measure"), st.sampled_from("abc"), st.integers(0, 3), st.floats(allow_nan=False)),
    st.tuples(st.just("look"), st.integers(0, 3), st.sampled_from(["test", "half"])),
    st.tuples(st.just("record"), st.integers(0, 3) | st.none(), words, mappings),
    st.tuples(st.just("facts"), mappings),
    st.tuples(st.just("end"), st.sampled_from(Outcome), st.integers(0, 3) | st.none(), words),
    st.tuples(st.just("reopen")),
)


def state_of(journal: Journal) -> tuple[object, ...]:
    measured = [journal.measurements(number) for number in range(4)]
    keyed = [journal.measurement(key) for key in "abc"]
    return (
        journal.facts,
        journal.attempts(),
        journal.looks(),
        journal.records(),
        journal.ending,
        measured,
        keyed,
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(operations, max_size=15))
def test_any_operations_survive_reopening(sequence):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "run")
        journal, facts, states, looks, records = Journal.create(folder, {}), {}, {}, {}, []
        for name, *args in sequence:
            if name == "begin" and states.get(args[0], State.RUNNING) is State.RUNNING:
                journal.begin_attempt(args[0], args[1], quote=args[2])
                states[args[0]] = State.RUNNING
            elif name == "finish" and states.get(args[0]) is State.RUNNING:
                journal.finish_attempt(args[0], args[1], verdict=args[2], candidate=args[2])
                states[args[0]] = args[1]
            elif name == "measure":
                journal.add_measurement(args[0], args[1], Measurement("size", args[2]))
                assert journal.measurement(args[0]).value == args[2]
            elif name == "look":
                looks[args[1]] = looks.get(args[1], 0) + 1
                assert journal.add_look(*args) == looks[args[1]]
            elif name == "record":
                journal.record(*args)
                records.append(tuple(args))
            elif name == "facts":
                journal.update_facts(args[0])
                facts |= args[0]
            elif name == "end":
                journal.finish(args[0], args[1], args[2], 1.0)
                assert journal.ending.outcome is args[0]
            elif name == "reopen":
                journal.close()
                journal = Journal.open(folder)
        before = state_of(journal)
        assert journal.facts == facts
        assert {row.number: row.state for row in journal.attempts()} == states
        assert [(r.attempt, r.kind, r.data) for r in journal.records()] == records
        journal.close()
        with Journal.open(folder, readonly=True) as again:
            assert state_of(again) == before


def test_every_field_of_a_measurement_survives(folder):
    with Journal.create(folder, {}) as journal:
        journal.add_measurement("k", None, a_measurement())
        assert repr(journal.measurement("k")) == repr(a_measurement())
