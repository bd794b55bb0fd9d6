"""Half the bytes: what float16 weights cost in score and time.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.half [NETWORK ...] [--samples 500]

Of the networks of `benchmarks.real.models`: both files are scored on the same samples and called in turns, batch 1, one
thread, by processor time, so that a crowded machine matters little. Prints a row for each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.real import tasks
from benchmarks.real.models import MODELS
from boildown.domain.candidate import Edit
from boildown.engine.bench import signal_to_noise
from boildown.runtimes import get
from boildown.surgery.graph import capture

_CALLS = 40


def row(name: str, count: int, folder: Path) -> str:
    """What both files of a network are and do."""
    runtime, task = get("onnxruntime"), tasks.TASKS[name]()
    inputs, labels = next(iter(task.validation.batches(count)))
    runtime.export(capture(MODELS[name](), *task.example()).serialize(), folder / "exported.onnx")
    whole = runtime.write(folder / "exported.onnx", folder / "float.onnx")
    half = runtime.write(folder / "exported.onnx", folder / "half.onnx", rewrite=Edit("half"))
    sessions = [runtime.open(folder / file) for file in ("float.onnx", "half.onnx")]
    answers = [np.concatenate([s.run([part.numpy()])[0] for part in inputs.split(100)]) for s in sessions]
    right = [100 * float((answer.argmax(1) == labels.numpy()).mean()) for answer in answers]
    spent = [0.0, 0.0]
    for call in range(_CALLS):
        for which in (0, 1) if call % 2 else (1, 0):
            start = time.process_time()
            sessions[which].run([inputs[:1].numpy()])
            spent[which] += (time.process_time() - start) * (call > 3)
    return (
        f"| {name} | {right[0]:.2f} | {right[0] - right[1]:+.2f} | {signal_to_noise(*answers):.0f} "
        f"| {half.size / whole.size:.3f}x | {spent[1] / spent[0]:.2f}x | {len(half.facts['float32'])} |"
    )


def main() -> None:
    """Measure the networks asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=list(MODELS))
    parser.add_argument("--samples", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | score, % | drop, pp | dB | size | processor time | float32 tensors |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in given.networks:
        with tempfile.TemporaryDirectory() as scratch:
            print(row(name, given.samples, Path(scratch)), flush=True)


if __name__ == "__main__":
    main()
