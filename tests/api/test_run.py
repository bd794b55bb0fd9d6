"""One run from Python, looked at from every side."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import boildown as bd
from boildown.engine.bench import signal_to_noise
from boildown.surgery.weights import weights_hash

HANDED_OVER = {
    "model.onnx",
    "load.py",
    "ports.json",
    "sample.npz",
    "preprocess.json",
    "predict.py",
    "samples",
    "README.md",
    "card.json",
    "manifest.json",
}


def test_the_target_is_met_and_said_so(run):
    assert run.outcome is bd.Outcome.TARGET_MET
    assert [result.state.value for result in run.candidates] == ["missed", "skipped", "met"]
    assert run.best.number == 2
    assert run.best.verdict.met
    assert run.best.measurements["size"].ratio <= 0.35
    assert "convolutions and GRU would stay float" in run.candidates[1].sentence
    assert "TARGET MET" in str(run)
    assert "quantize-static" in str(run)


def test_the_first_model_is_measured_first(run):
    first = run.candidates[0]
    assert (first.number, first.rung, first.parent) == (0, "first", None)
    assert first.measurements["accuracy"].value > 0.9
    assert first.measurements["size"].value == first.artifact.stat().st_size
    assert first.measurements["latency"].ratio == 1.0
    assert first.measurements["latency"].value > 0


def test_a_met_candidate_carries_every_figure_a_person_asks_for(run):
    found = run.best.measurements
    assert {"accuracy", "size", "latency", "params", "macs", "divergence"} <= set(found)
    assert found["accuracy"].data == "verdict"
    assert found["accuracy"].samples == 797
    assert found["latency"].ratio > 0
    assert found["latency"].environment["cpu"]


def test_the_best_artifact_runs_and_its_loader_checks_it(run):
    assert run.best.artifact == run.path / "best" / "model.onnx"
    session = onnxruntime.InferenceSession(run.best.artifact)
    (port,) = session.get_inputs()
    (logits,) = session.run(None, {port.name: np.zeros((3, 1, 8, 8), np.float32)})
    assert logits.shape == (3, 10)
    done = subprocess.run(
        [sys.executable, run.path / "best" / "load.py"], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "gives the recorded outputs" in done.stdout
    ports = json.loads((run.path / "best" / "ports.json").read_text())
    assert ports["classes"] == list("0123456789")
    assert ports["inputs"][0]["name"] == port.name
    assert ports["inputs"][0]["shape"][1:] == [1, 8, 8]


def test_the_module_agrees_with_the_artifact(run, digits_task):
    module = run.best.module()
    (images, _), *_ = digits_task.validation.batches(64)
    session = onnxruntime.InferenceSession(run.best.artifact)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert signal_to_noise(module(images).numpy(), logits) >= 30


def test_the_first_models_module_is_the_first_model(run, digits_model, digits_task):
    module = run.candidates[0].module()
    assert module is not digits_model
    assert weights_hash(module) == weights_hash(digits_model)
    with pytest.raises(bd.InputError, match="made no model"):
        run.candidates[1].module()


def test_the_user_model_is_never_touched(run, digits_model):
    assert run.first.model is digits_model
    assert not digits_model.training
    assert all(parameter.requires_grad for parameter in digits_model.parameters())


def test_any_attempt_can_be_exported(run, tmp_path):
    path = run.candidates[0].export(tmp_path / "float")
    assert path == tmp_path / "float" / "model.onnx"
    assert path.read_bytes() == run.candidates[0].artifact.read_bytes()
    assert {file.name for file in path.parent.iterdir()} == HANDED_OVER
    with pytest.raises(bd.InputError, match="has no artifact") as caught:
        run.candidates[1].export(tmp_path / "skipped")
    assert "0, 2" in str(caught.value)


def test_an_artifact_can_be_exported_to_where_one_stands(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run.best.export(".")
    assert {file.name for file in tmp_path.iterdir()} == HANDED_OVER
    assert Path("model.onnx").is_file(), "the folder is still the one that was there"


def test_a_folder_with_something_in_it_is_never_replaced(run, tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(bd.InputError, match="not an empty folder"):
        run.best.export(tmp_path)
    assert (tmp_path / "precious").read_text() == "mine"


def test_the_manifest_tells_the_truth(run):
    manifest = json.loads((run.path / "manifest.json").read_text())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((run.path / name).read_bytes()).hexdigest() == digest
    assert manifest["files"].keys() >= {"best/model.onnx", "best/load.py", "best/sample.npz"}
    assert manifest["outcome"] == "TARGET_MET"
    assert manifest["best"] == 2
    assert manifest["attempts"][2]["sha256"] == manifest["files"]["best/model.onnx"]
    assert manifest["attempts"][2]["verdict"]["status"] == "met"
    assert manifest["target"] == ["accuracy drop <= 3 pp", "size <= 0.35x"]
    assert manifest["asked"]["seed"] == 0
    assert manifest["environment"]["packages"]["torch"] == torch.__version__
    assert manifest["command"] == (
        "boildown.compress(model, task, target=['accuracy drop <= 3 pp', 'size <= 0.35x'], "
        "ladder=['quantize-dynamic', 'quantize-static'])"
    )


def test_the_report_is_one_file_that_loads_nothing(run):
    page = run.report()
    assert page == run.path / "report.html"
    text = page.read_text()
    assert "quantize-static" in text
    assert 'src="http' not in text


def test_the_run_as_plain_data(run):
    data = json.loads(json.dumps(run.to_json()))
    assert data["run"] == run.id == run.path.name
    assert [attempt["state"] for attempt in data["attempts"]] == ["missed", "skipped", "met"]
    assert data["attempts"][2]["parent"] == data["attempts"][0]["key"]


def test_callbacks_hear_everything_in_order(run, events):
    kinds = [event.kind for event in events if event.kind not in ("step", "record")]
    assert kinds == ["notice", "notice", *["attempt", "verdict"] * 3, "outcome"]
    steps = {event.data["what"] for event in events if event.kind == "step"}
    assert {"export", "time", "apply quantize-static", "calibrate", "score on verdict data"} <= steps


def test_a_run_folder_holds_nothing_unexpected(run):
    names = {path.name for path in run.path.iterdir()}
    journal = {"journal.db", "journal.db-wal", "journal.db-shm", "journal.lock"}
    assert names - journal - {"attempt-0"} == {"attempts", "best", "exports", "manifest.json", "report.html"}
    assert not list(run.path.parent.glob(".new-*"))
