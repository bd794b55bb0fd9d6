from __future__ import annotations

from pathlib import Path

import pytest

from boildown.measuring.size import measure_size, size_of


def test_size_counts_external_data_and_folders(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x" * 100)
    assert size_of(path) == 100
    (tmp_path / "model.onnx.data").write_bytes(b"x" * 1000)
    assert size_of(path) == 1100
    assert size_of(tmp_path) == 1100
    with pytest.raises(FileNotFoundError):
        size_of(tmp_path / "missing.onnx")


def test_size_against_the_first_model(tmp_path: Path) -> None:
    first, candidate = tmp_path / "first.onnx", tmp_path / "candidate.onnx"
    first.write_bytes(b"x" * 4000)
    candidate.write_bytes(b"x" * 1000)
    m = measure_size(candidate, first, plain=5000)
    assert (m.value, m.first, m.ratio, m.drop, m.unit) == (1000, 4000, 0.25, -3000, "B")
    assert m.notes == ("0.2x of the plain export (5,000 B)",)
    assert measure_size(candidate).ratio is None
