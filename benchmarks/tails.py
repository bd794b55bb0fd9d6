"""Tails of single calls on a quiet and on a loaded machine: what the median does not show.

    python -m benchmarks.tails [--load 2] [--seconds 10] [--json FILE]

A chain of convolutions in int8 is held against the same in float, as a run does it; with --load, so many processes
compute beside it meanwhile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np

from boildown.domain.grammar import format_value
from boildown.domain.measurement import Measurement
from boildown.execution.child import Child
from boildown.measuring.probe import network

METRICS = ("latency p95", "latency p99", "throughput")


def busy() -> None:
    """Compute until killed."""
    square = np.random.default_rng(0).normal(size=(400, 400))
    while True:
        square = square @ square / np.linalg.norm(square)


def measured(seconds: float) -> dict[str, Measurement]:
    """The costs of single calls, and the median beside them."""
    image = np.random.default_rng(0).random((1, 64, 16, 16), np.float32)
    with tempfile.TemporaryDirectory() as folder, Child() as child:
        paths = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        for path in paths:
            path.write_bytes(network(quantized=path.stem == "int8"))
        both = [str(path) for path in paths]
        undecided = {metric: {"ratio": 1.0} for metric in METRICS}
        told = child.call("boildown.measuring.tails:compare_calls", *both, [image], METRICS, undecided, seconds=seconds)
        told["latency"] = child.call("boildown.measuring.latency:compare", *both, [image], min_seconds=seconds)
    return {name: Measurement.from_json(data) for name, data in told.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    others = [multiprocessing.Process(target=busy, daemon=True) for _ in range(given.load)]
    for process in others:
        process.start()
    try:
        found = measured(given.seconds)
    finally:
        for process in others:
            process.terminate()
    for name, m in found.items():
        ends = {form: [format_value(end, name, form) for end in (i.low, i.high)] for form, i in m.intervals.items()}
        shown = format_value(m.value, name), format_value(m.ratio or 0.0, name, "ratio")
        print(f"{name:<12} {shown[0]:>16} {shown[1]:>8}  {ends}  {m.samples} calls or quads{' ~' * m.noisy}")
    if given.json:
        given.json.write_text(json.dumps({name: m.to_json() for name, m in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
