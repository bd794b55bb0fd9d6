"""What many runs have in common: names, reuse, which one is meant."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from boildown.domain.artifact import Artifact
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import State
from boildown.errors import InputError
from boildown.journal import Journal, find_finished, find_measurement, resolve_run, run_folders, run_id


@pytest.fixture
def runs(tmp_path):
    """Three runs with a finished attempt at candidate `c`, and folders of no use."""
    for number, state in enumerate([State.MISSED, State.MET, State.FAILED]):
        folder = tmp_path / f"2026010{number + 1}-000000-abc{number}"
        artifact = folder / "model.onnx"
        with Journal.create(folder, {}) as journal:
            artifact.write_bytes(bytes([number]))
            journal.begin_attempt(1, "prune", candidate_key="c")
            journal.add_measurement("m", 1, Measurement("size", number))
            journal.finish_attempt(1, state, artifact=Artifact.read("onnxruntime", artifact))
    (tmp_path / "20260109-000000-beef").mkdir()
    (tmp_path / "20260109-000000-beef" / "journal.db").write_bytes(b"damaged" * 100)
    (tmp_path / "notes.txt").write_text("not a run")
    return tmp_path


def test_ids_are_times_with_four_digits():
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", run_id())
    assert len({run_id() for _ in range(5)}) > 1


def test_the_newest_finished_attempt_is_found(runs):
    folder, row = find_finished(runs, "c")
    assert (folder.name, row.state) == ("20260102-000000-abc1", State.MET)
    assert find_finished(runs, "c", exclude=folder)[0].name == "20260101-000000-abc0"
    assert find_finished(runs, "c", exclude=folder.name)[0].name == "20260101-000000-abc0"
    assert find_finished(runs, "other") is None
    assert find_finished(runs / "missing", "c") is None


def test_an_artifact_that_changed_is_not_reused(runs):
    (runs / "20260102-000000-abc1" / "model.onnx").write_bytes(b"changed")
    (runs / "20260101-000000-abc0" / "model.onnx").unlink()
    assert find_finished(runs, "c") is None


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("[]")])
def test_a_candidate_whose_weights_or_lineage_changed_is_not_reused(runs, spoil):
    folder = runs / "20260104-000000-abc3"
    with Journal.create(folder, {}) as journal:
        files = {name: folder / name for name in ("model.onnx", "candidate.json")}
        for path in files.values():
            path.write_text("{}")
        sha256 = hashlib.sha256(b"{}").hexdigest()
        journal.begin_attempt(1, "prune", candidate_key="c")
        beside = {"files": {"candidate.json": sha256}}
        journal.finish_attempt(
            1, State.MET, artifact=Artifact.read("onnxruntime", files["model.onnx"]), candidate=beside
        )
    assert find_finished(runs, "c")[0] == folder
    spoil(files["candidate.json"])
    assert find_finished(runs, "c")[0].name == "20260102-000000-abc1"


def test_damaged_rows_of_one_run_do_not_stop_the_search(runs):
    with Journal.open(runs / "20260103-000000-abc2") as journal:
        journal._connection.execute("UPDATE measurements SET body = '{}'")
    assert find_measurement(runs, "m").value == 1


def test_the_newest_measurement_is_found(runs):
    assert find_measurement(runs, "m").value == 2
    assert find_measurement(runs, "m", exclude="20260103-000000-abc2").value == 1
    assert find_measurement(runs, "n") is None


def test_a_run_is_meant_by_path_id_prefix_or_latest(runs):
    wanted = runs / "20260102-000000-abc1"
    assert resolve_run(runs, str(wanted)) == wanted
    assert resolve_run(runs, wanted.name) == wanted
    assert resolve_run(runs, "20260102") == wanted
    assert resolve_run(runs, "latest").name == "20260109-000000-beef"
    shutil.copytree(wanted, runs / "20260102")
    assert resolve_run(runs, "20260102") == runs / "20260102", "an exact name wins over a prefix"


@pytest.mark.parametrize(
    ("text", "message"),
    [("2026", "could be any of 4 runs"), ("1999", "There is no run '1999'"), ("", "could be any of 4 runs")],
)
def test_an_unclear_run_names_the_choices(runs, text, message):
    with pytest.raises(InputError, match=message) as caught:
        resolve_run(runs, text)
    assert "20260101-000000-abc0" in caught.value.mistakes[0].cure


def test_no_runs_at_all(tmp_path):
    assert run_folders(tmp_path) == []
    with pytest.raises(InputError, match="no runs"):
        resolve_run(tmp_path, "latest")
