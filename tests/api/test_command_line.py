"""The command line on digits: attempts run in a child, a missed target is relaxed, every command tells of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("cli-runs")


@pytest.fixture(scope="module")
def missed(command, project, runs):
    """A target that no rung meets."""
    return command(
        "compress", project / "boildown.toml", "--runs", runs, "--json",
        "--target", "accuracy drop <= 3 pp", "--target", "size <= 0.1x",
    )  # fmt: skip


@pytest.fixture(scope="module")
def relaxed(command, project, runs, missed):
    """The same with a target that the second rung meets."""
    return command("compress", project / "boildown.toml", "--runs", runs)


@pytest.fixture(scope="module")
def latest(command, runs, relaxed):
    return command("show", "latest", "--runs", runs, "--json").data


def test_a_missed_target_names_the_cheapest_relaxation(missed):
    assert missed.code == 1
    assert missed.data["outcome"] == "TARGET_MISSED"
    assert "would be met by attempt 2 (quantize-static)" in missed.data["sentence"]
    assert "size <= 0.2" in missed.data["sentence"]
    assert [attempt["state"] for attempt in missed.data["attempts"]] == ["missed", "skipped", "missed"]
    assert missed.data["best"] == 2


def test_every_attempt_is_told_in_a_line_where_no_terminal_shows_it(missed):
    lines = missed.err.splitlines()
    assert any(line.startswith("first model: ") and "accuracy" in line for line in lines)
    assert any(line.startswith(" 2 quantize-static: ") for line in lines)


def test_the_nearest_candidate_is_judged_in_full(missed):
    verdict = missed.data["attempts"][2]["verdict"]
    assert verdict["measurements"]["accuracy"]["data"] == "verdict"
    assert verdict["measurements"]["accuracy"]["samples"] == 797


def test_a_relaxed_target_reuses_what_was_made(relaxed, latest, missed):
    assert relaxed.code == 0
    assert "TARGET MET" in relaxed.out
    before, after = missed.data["attempts"][2], latest["attempts"][2]
    assert f"reused from run {missed.data['run']}" in after["notes"]
    assert (after["key"], after["sha256"]) == (before["key"], before["sha256"])
    assert after["verdict"]["measurements"]["accuracy"] == before["verdict"]["measurements"]["accuracy"]


def test_the_manifest_has_the_command_that_was_given(latest):
    manifest = json.loads(Path(latest["path"], "manifest.json").read_text())
    assert manifest["command"].startswith("boildown ")
    assert manifest["asked"]["factories"]["model"] == "project_model:build"


def test_runs_lists_the_newest_first(command, runs, latest, missed):
    told = command("runs", "--runs", runs)
    assert told.code == 0
    assert [line.split()[0] for line in told.out.splitlines()] == [latest["run"], missed.data["run"]]
    data = command("runs", "--runs", runs, "--json").data
    assert [run["outcome"] for run in data] == ["TARGET_MET", "TARGET_MISSED"]
    assert "no runs in" in command("runs", "--runs", runs / "none").out


def test_show_takes_a_prefix_or_latest(command, runs, latest):
    told = command("show", latest["run"][:-1], "--runs", runs)
    assert told.code == 0
    assert latest["run"] in told.out
    wrong = command("show", "1999", "--runs", runs)
    assert wrong.code == 2
    assert latest["run"] in wrong.err


def test_report_writes_the_page_anew(command, runs, latest):
    page = Path(latest["report"])
    page.unlink()
    told = command("report", "--runs", runs)
    assert told.code == 0
    assert Path(told.out.strip()) == page
    assert page.is_file()


def test_take_gives_any_attempt(command, runs, tmp_path):
    told = command("take", "latest", 0, "--to", tmp_path / "float", "--runs", runs)
    assert told.code == 0
    assert Path(told.out.strip()) == tmp_path / "float" / "model.onnx"
    assert (tmp_path / "float" / "load.py").is_file()
    wrong = command("take", "latest", 1, "--runs", runs)
    assert wrong.code == 2
    assert "has no artifact" in wrong.err


def test_measure_is_a_gate(command, project, latest, tmp_path):
    config, artifact = project / "boildown.toml", latest["artifact"]
    passed = command("measure", artifact, "--config", config)
    assert passed.code == 0
    assert "met: All 2 conditions are met." in passed.out
    assert "accuracy drop <= 3 pp is met" in passed.out
    closed = command("measure", artifact, "--config", config, "--target", "size <= 0.1x", "--json")
    assert closed.code == 1
    assert closed.data["status"] == "missed"
    elsewhere = command("measure", artifact, "--config", config, "--runtime", "eager")
    assert elsewhere.code == 2
    assert "can execute code when it is loaded" in elsewhere.err


def test_measure_says_what_it_cannot_know(command, project, latest, tmp_path):
    config = project / "boildown.toml"
    bare = tmp_path / "model.onnx"
    bare.write_bytes(Path(latest["artifact"]).read_bytes())
    told = command("measure", bare, "--config", config, "--target", "size <= 0.3x", "--target", "macs <= 1 M")
    assert told.code == 2
    assert "first model, whose artifact is not known" in told.err
    assert "counted on the model" in told.err
    assert command("measure", bare, "--config", config, "--target", "size <= 30 kB").code == 0
    assert command("measure", tmp_path / "absent.onnx", "--config", config).code == 2
    bare.write_bytes(b"nonsense")
    broken = command("measure", bare, "--config", config, "--target", "size <= 30 kB")
    assert broken.code == 2
    assert "cannot be opened" in broken.err or "model.onnx" in broken.err


def test_resume_of_a_finished_run_does_nothing_again(command, runs, latest):
    told = command("resume", "latest", "--runs", runs, "--json")
    assert told.code == 0
    before = {a["number"]: (a["sha256"], a["seconds"]) for a in latest["attempts"]}
    assert {a["number"]: (a["sha256"], a["seconds"]) for a in told.data["attempts"]} == before


def test_wrong_input_leaves_nothing_behind(command, project, tmp_path):
    told = command(
        "compress", project / "boildown.toml", "--runs", tmp_path / "new", "--budget", "soon", "--goal", "fast",
        "--ladder", "quantise", "--target", "sise <= 3",
    )  # fmt: skip
    assert told.code == 2
    assert told.err.count("error: ") == told.err.count("cure: ") == 4
    assert not (tmp_path / "new").exists()
    assert command("compress", project / "absent.toml").code == 2


def test_methods_lists_cards_and_shows_one(command):
    from boildown.methods.registry import cards

    told = command("methods")
    assert [line.split()[0] for line in told.out.splitlines()] == list(cards())
    one = command("methods", "quantize-static")
    assert "arXiv" in one.out
    assert "ranges = minmax" in one.out
    assert {card["name"] for card in command("methods", "--json").data} == set(cards())
    wrong = command("methods", "quantise-static")
    assert wrong.code == 2
    assert "Did you mean 'quantize-static'?" in wrong.err


def test_doctor_tells_what_the_machine_has(command):
    told = command("doctor")
    assert "int8" in told.out
    data = command("doctor", "--json").data
    assert data["advice"]
    assert data["packages"]["torch"]


def test_init_writes_a_start_and_never_over_it(command, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "task", raising=False)  # of another test's project
    told = command("init", tmp_path)
    assert told.code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"boildown.toml", "task.py"}
    again = command("init", tmp_path)
    assert again.code == 2
    assert "exists already" in again.err
    unfilled = command("compress", tmp_path / "boildown.toml", "--runs", tmp_path / "runs")
    assert unfilled.code == 2
    assert "task:build" in unfilled.err


def test_verify_says_what_agrees_and_ends_with_its_code(command, runs, latest, tmp_path):
    told = command("verify", "latest", "--runs", runs)
    assert told.code == 0, told.out
    assert f"Run {latest['run']} agrees with its record." in told.out
    folder = shutil.copytree(latest["path"], tmp_path / "copy")
    (folder / "best" / "ports.json").write_text("{}")
    changed = command("verify", folder, "--json")
    assert changed.code == 1
    assert changed.data["agrees"] is False
    assert command("verify", "1999", "--runs", runs).code == 2
