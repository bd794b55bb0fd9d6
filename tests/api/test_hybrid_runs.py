"""A run whose best file has static convolutions and an LSTM that finds its grids while it runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import boildown as bd
from boildown.engine.bench import signal_to_noise
from boildown.runtimes import get
from boildown.testing import digits


class Reader(nn.Module):
    """Reads a digit row by row."""

    def __init__(self):
        super().__init__()
        self.conv, self.lstm, self.head = nn.Conv1d(8, 32, 3, padding=1), nn.LSTM(32, 144), nn.Linear(144, 10)

    def forward(self, x):
        x = F.relu(self.conv(x.flatten(1, 2)))
        return self.head(self.lstm(x.permute(2, 0, 1))[0][-1])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model, (x, y) = Reader(), digits.training_set().tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(4):
        for batch in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


TARGET = ["accuracy drop <= 1 pp", "size <= 0.33x"]


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return bd.compress(model, digits.task(), TARGET, ladder=["quantize-static"], runs=runs, verbose=False)


def test_it_meets_what_a_float_lstm_would_miss(run):
    assert run.outcome is bd.Outcome.TARGET_MET
    assert run.best.measurements["size"].ratio <= 0.33
    notes = " ".join(run.best.notes)
    assert "lstm: in int8, grids found while it runs" in notes
    assert "artifact and model agree to" in notes
    assert "scored at batch 1, as deployed" in " ".join(run.best.measurements["accuracy"].notes)


def test_its_module_is_the_simulation_and_agrees_with_the_file(run):
    x, _ = digits.validation_set().tensors
    with torch.no_grad():
        simulated = run.best.module()(x[:32]).numpy()
    (found,) = get("onnxruntime").open(run.best.artifact).run([x[:32].numpy()])
    assert signal_to_noise(simulated, found) > 30
    assert (simulated.argmax(1) == found.argmax(1)).mean() > 0.96


def test_it_is_taken_verified_and_gone_on_with(run, model, tmp_path):
    taken = bd.take(run.path, run.best.number, tmp_path / "taken")
    assert taken.read_bytes() == run.best.artifact.read_bytes()
    assert bd.verify(taken.parent).agrees
    again = bd.resume(run.path, model, digits.task())
    assert again.outcome is bd.Outcome.TARGET_MET
    assert len(again.candidates) == len(run.candidates)
    relaxed = bd.compress(
        model, digits.task(), ["accuracy drop <= 2 pp", "size <= 0.35x"], ladder=["quantize-static"],
        runs=run.path.parent, verbose=False,
    )  # fmt: skip
    assert relaxed.best.measurements["size"].value == run.best.measurements["size"].value


def test_turned_off_by_a_setting_the_size_is_missed(model, tmp_path):
    run = bd.compress(
        model, digits.task(), TARGET, ladder=["quantize-static(recurrent='float')"], runs=tmp_path, verbose=False
    )
    assert run.outcome is bd.Outcome.TARGET_MISSED
