"""Load times: medians of neighbours in turns, and a real file in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from boildown.execution.child import Child
from boildown.measuring.loading import summarise, times
from boildown.measuring.probe import network


def test_ratios_are_of_neighbours_and_intervals_have_ends() -> None:
    count = times(0.95)
    first, own = [0.1 + 0.01 * turn for turn in range(count)], [0.05 + 0.005 * turn for turn in range(count)]
    found = summarise(first, own, 0.95)
    assert found.ratio == pytest.approx(0.5)
    assert found.intervals["value"].low < found.value < found.intervals["value"].high <= max(own)
    assert (found.metric, found.unit, found.samples) == ("load time", "s", count)
    assert 0.5 ** times(0.999) < 0.001


def test_a_file_is_loaded_for_real(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network(quantized=False))
    with Child() as child:
        took = child.call("boildown.measuring.loading:load", str(path), "onnxruntime", 1, False)
    assert 0 < took < 30
