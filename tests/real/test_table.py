"""The rows of the benchmarks' tables: paired drops, and ratios to the first of the files they are held against."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.real import table
from benchmarks.real.table import Table, drop
from torch import nn

import boildown as bd
from boildown.domain.candidate import Candidate
from boildown.methods.quantize_static import QuantizeStatic


def test_a_drop_is_paired() -> None:
    first = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0], dtype=torch.double)
    ours = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0], dtype=torch.double)
    assert drop(first, ours) == "+12.50 ± 12.50"  # one image of eight: sqrt(1/8) / sqrt(8)
    assert drop(ours, first) == "-12.50 ± 12.50"
    assert drop(first, first) == "+0.00 ± 0.00"


def test_rows_beside_two_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "latency_ratio", lambda _first, _path, _inputs: 1.0)
    torch.manual_seed(0)
    images = torch.randn(64, 3, 8, 8)
    network, other = (nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 5)) for _ in "ab")
    with torch.no_grad():
        labels = network(images).argmax(1)
    task = bd.Classification(calibration=(images, labels), validation=(images, labels))
    rows = Table(tmp_path, task, (images, labels), {"float": Candidate(network), "other": Candidate(other)})
    rows.row("static", Candidate(network), QuantizeStatic())
    first, second, _head, printed = capsys.readouterr().out.splitlines()
    assert first.startswith("float: 100.00% of 64")
    assert not second.startswith("other: 100.00%")
    static = [cell.strip() for cell in printed.split("|")]
    assert float(static[1]) > 90
    assert float(static[2].split()[0]) == pytest.approx(100 - float(static[1]), abs=0.01)
    assert float(static[3].split()[0]) < -20, "the labels are not the other network's"
    assert float(static[6].removesuffix("x")) < 0.35
    assert static[8] == "1", "the convolution runs on integers"
