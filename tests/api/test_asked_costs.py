"""Tails, throughput, load time and planned memory: measured where a condition asks for them, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import boildown as bd
from boildown.engine import costs
from boildown.errors import InputError
from boildown.measuring.planned import planned

TARGET = [
    "accuracy drop <= 50 pp", "size <= 0.9x", "latency p95 <= 10 s", "latency p99 <= 10 s", "throughput >= 0.01x",
    "load time <= 60 s", "planned memory <= 0.9x",
]  # fmt: skip
NEW = {"latency p95", "latency p99", "throughput", "load time", "planned memory"}


def test_every_cost_is_measured_judged_and_shown(tmp_path, still, command):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(12, 96), nn.ReLU(), nn.Linear(96, 3)).eval(), torch.randn(300, 12)
    with torch.no_grad():
        task = bd.Classification(calibration=x[:50], validation=(x, model(x).argmax(1)))
    run = bd.compress(
        model, task, TARGET, ladder=["quantize-static"], deployment=bd.Deployment(batch=4),
        runs=tmp_path, verbose=False,
    )  # fmt: skip
    assert run.outcome is bd.Outcome.TARGET_MET
    found = run.best.measurements
    assert found.keys() >= NEW
    assert 0 < found["latency p95"].value <= found["latency p99"].value
    assert found["throughput"].value > 4 / found["latency p99"].value
    assert found["load time"].samples >= 7
    inputs = [np.zeros((4, 12), np.float32)]
    assert found["planned memory"].value == planned(run.best.artifact, inputs)
    assert found["planned memory"].ratio < 0.9
    first = run.candidates[0].measurements
    assert (first["throughput"].ratio, first["latency p99"].ratio, first["planned memory"].ratio) == (1.0, 1.0, 1.0)
    shown = str(run)
    assert all(condition.split(" <=")[0].split(" >=")[0] in shown for condition in TARGET)
    assert "samples/s" in shown
    assert all(name in run.report().read_text() for name in NEW)
    told = command("show", run.path, "--json")
    assert set(told.out.split('"')) >= NEW
    assert set(run.front and [r.number for r in run.front]) <= {0, 1}


def test_nothing_more_is_measured_where_nobody_asks(run):
    assert not NEW & run.best.measurements.keys()


def test_a_plan_is_refused_of_files_that_have_no_graph_to_read(digits_model, digits_task, tmp_path):
    with pytest.raises(InputError, match="planned from the graph of an ONNX file"):
        bd.compress(digits_model, digits_task, ["planned memory <= 0.5x"], runtime="eager", runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_flag_asks_for_a_cost_that_no_condition_is_about(run, digits_task, monkeypatch):
    monkeypatch.setattr(costs, "GLANCE", 0.3)
    target = ["size <= 10 MB"]
    verdict = bd.measure(run.best.artifact, digits_task, target, costs=["throughput", "planned memory"])
    assert verdict.met
    assert verdict.measurements["throughput"].value > 0
    assert verdict.measurements["planned memory"].value > 4 * 64
    assert "latency p99" not in verdict.measurements
    with pytest.raises(InputError, match="names none that is measured"):
        bd.measure(run.best.artifact, digits_task, target, costs=["speed"])
