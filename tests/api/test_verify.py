"""What a run handed over is held against its record; and the record says how to make it again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

import boildown as bd
from boildown.journal import Journal, run_folders

pytestmark = pytest.mark.usefixtures("still")
CALL = "from boildown.cli import main\nmain()\n"


@pytest.fixture
def copied(run, tmp_path):
    """The finished run in a folder of its own, to be spoilt."""
    return shutil.copytree(run.path, tmp_path / run.path.name)


@pytest.fixture
def verify(digits_model, digits_task):
    def verified(folder):
        return bd.verify(folder, digits_model, digits_task)

    return verified


def test_a_run_that_is_as_it_was_agrees_in_every_file_and_figure(run, verify):
    before = contents(run.path)
    found = verify(run.path)
    assert found.agrees, str(found)
    checks = {check.what: check for check in found.checks}
    assert {f"best/{name}" for name in ("model.onnx", "ports.json", "sample.npz", "load.py")} <= checks.keys()
    assert {"manifest.json", "size", "accuracy", "accuracy drop <= 3 pp", "size <= 0.35x"} <= checks.keys()
    assert all(check.agrees for check in found.checks)
    assert found.verdict.measurements["accuracy"].value == run.best.measurements["accuracy"].value
    assert found.verdict.measurements["accuracy"].data == "verdict"
    assert str(found).endswith(f"Run {run.id} agrees with its record.")
    assert contents(run.path) == before


def contents(folder):
    """Every file but those that SQLite keeps beside the journal while somebody reads it."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("journal.db-"))
    return {path: path.read_bytes() for path in files}


def spoil_manifest(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda folder: (folder / "best" / "model.onnx").write_bytes(b"another"), "best/model.onnx in the journal"),
        (lambda folder: (folder / "best" / "ports.json").write_text("{}"), "best/ports.json"),
        (lambda folder: (folder / "best" / "load.py").unlink(), "best/load.py"),
        (lambda folder: (folder / "best" / "more.py").write_text("print()"), "best/more.py"),
        (lambda folder: shutil.rmtree(folder / "best"), "best/model.onnx in the journal"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 9999), "manifest.json"),
        (lambda folder: spoil_manifest(folder, lambda m: m["attempts"][2].update(verdict=None)), "manifest.json"),
        (lambda folder: spoil_manifest(folder, lambda m: m["files"].update({"../../x": "0"})), "../../x"),
        (lambda folder: (folder / "attempts" / "00-first" / "model.onnx").unlink(), "the artifact of the first model"),
    ],
    ids=["artifact", "ports", "missing", "more", "nothing", "no manifest", "deep", "verdict", "path", "first"],
)  # fmt: skip
def test_what_was_changed_is_named_and_nothing_of_it_is_run(copied, verify, spoil, what):
    spoil(copied)
    found = verify(copied)
    assert not found.agrees
    assert what in [check.what for check in found.checks if check.agrees is False], str(found)
    assert found.verdict is None
    assert found.checks[-1].told.startswith("not measured again")
    assert f"does not agree with its record: {what.split()[0]}" in found.sentence or what in found.sentence


def test_a_verdict_that_was_improved_by_hand_is_found_out(copied, verify):
    with Journal.open(copied) as journal:
        (row,) = (row for row in journal.attempts() if row.verdict and row.number)
        text = json.dumps(row.verdict)
        better = json.loads(text)
        better["measurements"]["accuracy"]["value"] = 1.0
        journal.amend_attempt(row.number, row.state, row.sentence, better)
    spoil_manifest(copied, lambda manifest: manifest["attempts"][row.number].update(verdict=better))
    found = verify(copied)
    assert [check.what for check in found.checks if check.agrees is False] == ["accuracy"]
    assert "the record says 100.00 %" in found.sentence or "the record says 100.00 %" in str(found)


def test_a_condition_that_was_taken_out_of_a_verdict_is_found_out(copied, verify):
    with Journal.open(copied) as journal:
        (row,) = (row for row in journal.attempts() if row.verdict and row.number)
        fewer = json.loads(json.dumps(row.verdict))
        del fewer["findings"][1]
        journal.amend_attempt(row.number, row.state, row.sentence, fewer)
    spoil_manifest(copied, lambda manifest: manifest["attempts"][row.number].update(verdict=fewer))
    found = verify(copied)
    assert [check.what for check in found.checks if check.agrees is False] == ["the conditions"], str(found)


def test_measure_refuses_a_file_of_a_run_that_is_not_what_it_measured(copied, digits_task):
    best, first = copied / "best" / "model.onnx", copied / "attempts" / "00-first" / "model.onnx"
    whole = best.read_bytes()
    best.write_bytes(whole + b"\0")
    with pytest.raises(bd.InputError, match=r"best/model\.onnx is not the file that run .* measured as an artifact"):
        bd.measure(best, digits_task, "size <= 0.35x")
    best.write_bytes(whole)
    shutil.copy(first, first.with_name("whole.onnx"))
    first.write_bytes(first.read_bytes() + b"\0")
    with pytest.raises(bd.InputError, match="measured as the first model's artifact"):
        bd.measure(best, digits_task, "size <= 0.35x")
    shutil.copy(best, copied / "elsewhere.onnx")
    assert bd.measure(copied / "elsewhere.onnx", digits_task, "size <= 0.35x", first=first.with_name("whole.onnx")).met
    (copied / "journal.db").write_bytes(b"")
    with pytest.raises(bd.InputError, match="cannot be held against what its run measured"):
        bd.measure(best, digits_task, "size <= 0.35x")


def test_what_is_missing_or_another_is_wrong_input(run, copied, digits_model, digits_task, tmp_path):
    with pytest.raises(bd.InputError, match=r"no factory for its model and task.*\n.*boildown\.verify\("):
        bd.verify(copied)
    other = type(digits_task)(train=digits_task.train, validation=digits_task.validation.subset(range(400)))
    with pytest.raises(bd.InputError, match="The data to judge on is not what run"):
        bd.verify(copied, digits_model, other)
    Journal.create(tmp_path / "begun", {}).close()
    with pytest.raises(bd.InputError, match="has handed over nothing"):
        bd.verify(tmp_path / "begun")
    with pytest.raises(bd.InputError, match="no run"):
        bd.verify("1999", runs=tmp_path)


def test_the_call_in_the_manifest_makes_the_same_again(plugged, tmp_path, monkeypatch):
    model, task, latency = plugged.model(), plugged.task(), bd.Latency(batch=2)
    run = bd.compress(
        model, task, "size <= 0.3x", ladder=["shrink(size=0.5)", {"method": "shrink", "size": 0.2}], goal="smallest",
        runtime="mirror", seed=3, latency=latency, expected={"accuracy": 0.9}, runs=tmp_path / "runs",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").rename(tmp_path / "before")
    again = eval(run_command(tmp_path / "before" / run.id), {"boildown": bd, "model": model, "task": task})
    assert [(a.rung, a.state, a.key) for a in again.candidates] == [(a.rung, a.state, a.key) for a in run.candidates]
    assert again.best.artifact.read_bytes() == (tmp_path / "before" / run.id / "best" / "model.mirror").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_the_command_in_the_manifest_is_what_was_typed_and_makes_the_same_again(
    plugged, command, tmp_path, monkeypatch
):
    (tmp_path / "boildown.toml").write_text(
        '[model]\nfactory = "boildown_fakes:model"\n[task]\nfactory = "boildown_fakes:task"\n'
        '[target]\nconditions = ["size <= 0.3x"]\n[ladder]\nrungs = ["shrink(size=0.2)"]\n[run]\nruntime = "mirror"\n'
    )
    arguments = ["compress", str(tmp_path / "boildown.toml"), "--goal", "best", "--runs", str(tmp_path / "a b")]
    monkeypatch.setattr(sys, "argv", ["boildown", *arguments])
    made = command(*arguments, "--json").data
    (tmp_path / "a b").rename(tmp_path / "before")
    typed = run_command(tmp_path / "before" / made["run"])
    assert shlex.split(typed) == ["boildown", *arguments]

    program = tmp_path / "bin" / "boildown"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport boildown_fakes\nboildown_fakes.stop_clock()\n{CALL}")
    program.chmod(0o755)
    told = subprocess.run(
        typed, shell=True, capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (again,) = run_folders(tmp_path / "a b")
    manifests = [json.loads((run / "manifest.json").read_text()) for run in (tmp_path / "before" / made["run"], again)]
    keys = [[(attempt["key"], attempt["sha256"]) for attempt in manifest["attempts"]] for manifest in manifests]
    assert keys[0] == keys[1]
    names = {f"best/{name}" for name in ("README.md", "card.json", "manifest.json")}  # they name the run
    files = [{name: sha for name, sha in each["files"].items() if name not in names} for each in manifests]
    assert files[0] == files[1]


def run_command(folder):
    return json.loads((folder / "manifest.json").read_text())["command"]
