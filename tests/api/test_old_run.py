"""A run folder that boildown 0.1 made when an artifact was one file, and one of a version that is not yet."""

from __future__ import annotations

import contextlib
import json
import runpy
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import torch

import boildown as bd
from boildown.cli import main
from boildown.journal import Journal
from boildown.measuring.environment import hardware_of, resolved

OLD = Path(__file__).parents[1] / "old_runs" / "20261129-023318-60b8"
"""Never to be changed: tests work on a copy."""


@pytest.fixture
def old(tmp_path, monkeypatch):
    """(a copy of the folder, the module with its network and its task)."""
    monkeypatch.syspath_prepend(str(OLD.parent))
    import old_network

    yield Path(shutil.copytree(OLD, tmp_path / "runs" / OLD.name)), old_network
    sys.modules.pop("old_network")


@pytest.fixture
def environment():
    return json.loads((OLD / "manifest.json").read_text(encoding="utf-8"))["environment"]


def command(*words):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return ended.value.code


def content(folder):
    """What lies in a folder, but for what SQLite keeps beside a journal while it is read."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {path.relative_to(folder): path.read_bytes() for path in files}


def same_torch(environment):
    if environment["packages"]["torch"] != torch.__version__:
        pytest.skip("another torch captures another graph, and has other keys")


def test_it_is_shown_reported_and_taken(old, tmp_path, capsys):
    folder, _ = old
    before = content(folder)
    assert command("show", str(folder), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["outcome"] == "TARGET_MET"
    assert shown["artifact"] == str(folder / "best" / "model.onnx")
    assert [attempt["artifact"] for attempt in shown["attempts"]][::2] == [
        "attempts/00-first/model.onnx", "attempts/02-quantize-static/model.onnx",
    ]  # fmt: skip
    taken = bd.take(folder, 2, tmp_path / "taken")
    assert taken.read_bytes() == (OLD / "best" / "model.onnx").read_bytes()
    runpy.run_path(str(taken.parent / "load.py"), run_name="__main__")
    assert (taken.parent / "predict.py").is_file()
    assert content(folder) == before, "reading changes nothing"
    assert command("report", str(folder)) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "quantize-static" in page
    assert "onnxruntime" in page


def test_it_is_verified_and_gone_on_with(old, environment):
    same_torch(environment)
    folder, made = old
    found = bd.verify(folder, made.network(), made.task())
    assert found.agrees, str(found)
    assert found.verdict.met
    again = bd.resume(folder, made.network(), made.task())
    assert again.outcome is bd.Outcome.TARGET_MET
    assert again.best.files.digest == json.loads((OLD / "manifest.json").read_text())["files"]["best/model.onnx"]


def test_its_candidates_are_used_again_where_they_were_made_for_the_same(old, environment, still):
    same_torch(environment)
    folder, made = old
    hardware = hardware_of(environment)
    for wanted, reused in ((hardware, True), ("arm64" if hardware != "arm64" else "x86-any", False)):
        run = bd.compress(
            made.network(), made.task(), ["accuracy drop <= 2 pp", "size <= 0.35x"], ladder=["prune(ratio=0.9)"],
            hardware="this machine" if wanted == resolved("this machine") else wanted, runs=folder.parent,
        )  # fmt: skip
        with Journal.open(run.path, readonly=True) as journal:
            refused = [record.data for record in journal.records("not reused")]
        assert (f"reused from run {OLD.name}" in run.best.notes) is reused
        assert [record["run"] for record in refused] == ([] if reused else [OLD.name])
        assert all(f"made for {hardware}" in record["why"] and wanted in record["why"] for record in refused)


def test_a_folder_of_a_newer_version_is_refused_and_left_as_it_is(old, capsys, tmp_path):
    folder, made = old
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as connection:
        connection.execute("INSERT INTO migrations VALUES ('9999 what nobody knows yet', '2030')")
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")
    before = content(folder)
    for asked in (
        lambda: bd.take(folder, 2, tmp_path / "taken"),
        lambda: bd.verify(folder, made.network(), made.task()),
        lambda: bd.resume(folder, made.network(), made.task()),
        lambda: bd.compress(made.network(), made.task(), "size <= 1 B", ladder=["shrunk"], runs=folder.parent),
    ):
        with pytest.raises((bd.JournalError, bd.InputError)):
            asked()
    for name in ("show", "report", "resume"):
        assert command(name, str(folder)) != 0
        assert "newer boildown" in capsys.readouterr().err
    assert content(folder) == before
    assert not (tmp_path / "taken").exists()
