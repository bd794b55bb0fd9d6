from __future__ import annotations

from pathlib import Path

from boildown.domain.artifact import Artifact
from boildown.measuring.size import measure_size


def test_size_against_the_first_model(tmp_path: Path) -> None:
    (tmp_path / "first.x").write_bytes(b"x" * 4000)
    (tmp_path / "candidate.x").write_bytes(b"x" * 600)
    (tmp_path / "candidate.bin").write_bytes(b"x" * 400)
    first = Artifact.read("mine", tmp_path / "first.x")
    candidate = Artifact.read("mine", tmp_path / "candidate.x", [tmp_path / "candidate.bin"])
    m = measure_size(candidate, first, plain=5000)
    assert (m.value, m.first, m.ratio, m.drop, m.unit) == (1000, 4000, 0.25, -3000, "B")
    assert m.notes == ("0.2x of the plain export (5,000 B)",)
    assert measure_size(candidate).ratio is None
