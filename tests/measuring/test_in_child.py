"""Latency and memory for real: tiny ONNX files in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from boildown.domain.measurement import Measurement

WIDTH = 256


def product(path: Path, layers: int) -> Path:
    """`layers` square matrix products of 256 kB each."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 16, f"w{i}")
        for i in range(layers)
    ]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, WIDTH]) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def in_child(call: str) -> Any:
    """The value of a call in a fresh process, which must not have loaded torch."""
    code = (
        "import json, sys, numpy as np\n"
        "from boildown.measuring import latency, memory\n"
        f"inputs = [np.ones((2, {WIDTH}), np.float32)]\n"
        f"value = {call}\n"
        "assert not {'torch', 'scipy.stats'} & set(sys.modules)\n"
        "print(json.dumps(value))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_equal_files_take_equal_time(tmp_path: Path) -> None:
    """At a level so high that only a bias, not chance, can put 1 outside."""
    one, same = product(tmp_path / "a.onnx", 4), product(tmp_path / "b.onnx", 4)
    m = Measurement.from_json(
        in_child(f"latency.compare({str(one)!r}, {str(same)!r}, inputs, level=0.9999, min_seconds=1.5)")
    )
    assert 1.0 in m.intervals["ratio"]
    assert m.ratio == pytest.approx(1.0, abs=0.3)
    assert m.value > 0
    assert m.samples == len(m.raw)
    assert m.environment["runtime"].startswith("onnxruntime")


def test_a_clear_bound_ends_early(tmp_path: Path) -> None:
    large, small = product(tmp_path / "a.onnx", 40), product(tmp_path / "b.onnx", 1)
    m = Measurement.from_json(
        in_child(f"latency.compare({str(large)!r}, {str(small)!r}, inputs, threads=2, bound=20.0)")
    )
    assert m.samples == 8
    assert m.environment["threads"] == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the peak includes the imports")
def test_memory_grows_with_the_weights(tmp_path: Path) -> None:
    small, large = product(tmp_path / "a.onnx", 4), product(tmp_path / "b.onnx", 100)
    few, many = (in_child(f"memory.peak({str(path)!r}, inputs)") for path in (small, large))
    assert many - few > 96 * WIDTH * WIDTH * 4 * 0.9  # the weights of 96 layers, at least once
    assert many - few < 96 * WIDTH * WIDTH * 4 * 4


def fake(path: Path, **facts: Any) -> Path:
    path.write_text(json.dumps({**facts, "log": str(path.parent / "log")}))
    return path


def rivals(first: Path, candidate: Path, more: str = "") -> str:
    """A comparison of files of two runtimes."""
    return (
        f"latency.compare({str(first)!r}, {str(candidate)!r}, inputs, 'brisk', first_runtime='mirror', "
        f"min_seconds=0.5{more})"
    )


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged = Path(__file__).parents[1] / "plugged"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(plugged), *filter(None, [os.environ.get("PYTHONPATH")])]))


def test_files_of_two_runtimes_are_timed_in_a_process_each(fakes: None, tmp_path: Path) -> None:
    slow, fast = fake(tmp_path / "a.mirror", seconds=0.02), fake(tmp_path / "b.brisk", seconds=0.01)
    m = Measurement.from_json(in_child(rivals(slow, fast)))
    assert m.ratio == pytest.approx(0.5, abs=0.2)
    assert 0.01 <= m.value < m.first
    assert m.first >= 0.02
    assert (m.environment["runtime"], m.environment["first runtime"]) == ("brisk 1", "mirror 1")
    opened = {line.split()[0]: set() for line in (tmp_path / "log").read_text().splitlines()}
    for line in (tmp_path / "log").read_text().splitlines():
        opened[line.split()[0]].add(line.split()[1])
    assert [len(pids) for pids in opened.values()] == [1, 1], "each stays in its process"
    assert not opened["mirror"] & opened["brisk"]


@pytest.mark.parametrize(
    ("facts", "told"), [({"end": 7}, "ended with exit code 7"), ({"seconds": "long"}, "TypeError")]
)
def test_what_happens_in_the_other_process_is_told(
    fakes: None, tmp_path: Path, facts: dict[str, Any], told: str
) -> None:
    call = rivals(fake(tmp_path / "a.mirror"), fake(tmp_path / "b.brisk", **facts))
    with pytest.raises(AssertionError, match=told):
        in_child(call)
