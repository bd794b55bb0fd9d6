"""ResNet-56 in int8 with fewer blocks beside fewer channels: which is faster at the same accuracy, without training.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.depth_or_width [RUNG ...]

Everything is measured on the written file: 1,024 calibration images of the training set, 5,000 test images; latency at
batch 1, one thread, in turns with the lean float file of the network as it was.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.real.prune import setting
from benchmarks.real.timing import latency_ratio
from boildown.domain.candidate import Candidate
from boildown.engine.rung import parse_rung
from boildown.methods.base import Context, Data
from boildown.runtimes import get
from boildown.surgery.graph import capture

RUNGS = (
    "quantize-static",
    "depth(ratio=0.85) + quantize-static",
    "depth(ratio=0.75) + quantize-static",
    "depth(ratio=0.6) + quantize-static",
    "prune(ratio=0.75, multiple=8) + quantize-static",
    "prune(ratio=0.5, multiple=8) + quantize-static",
    "prune(ratio=0.4, multiple=8) + quantize-static",
)


def main(rungs: tuple[str, ...], folder: Path) -> None:
    """Print one line per rung."""
    model, task, (inputs, labels) = setting("resnet56")
    runtime = get("onnxruntime")

    def write(candidate: Candidate, path: Path) -> torch.Tensor:
        exported = folder / "exported.onnx"
        runtime.export(capture(candidate.model, *task.example()).serialize(), exported)
        runtime.write(exported, path, candidate.plan)
        session = runtime.open(path)
        found = [torch.from_numpy(session.run([part.numpy()])[0]) for part in inputs.split(100)]
        return (torch.cat(found).argmax(1) == labels).double()

    first, path = folder / "first.onnx", folder / "candidate.onnx"
    right = write(Candidate(model), first)
    print(f"float {right.mean():.2%}; {first.stat().st_size} B", flush=True)
    for rung in rungs:
        candidate, notes = Candidate(model), []
        for method in parse_rung(rung).methods:
            candidate = method.apply(candidate, task, Context(Data(None, task.calibration)))
            notes += candidate.notes
        ours = write(candidate, path)
        drop = 100 * (right - ours)
        print(
            f"{rung}: drop {drop.mean():+.2f} ± {drop.std() / len(drop) ** 0.5:.2f} pp, "
            f"size {path.stat().st_size / first.stat().st_size:.3f}x, "
            f"latency {latency_ratio(first, path, inputs[:1]):.3f}x  ({'; '.join(notes)[:60]})",
            flush=True,
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(tuple(sys.argv[1:]) or RUNGS, Path(scratch))
