"""ResNet-20 with 4-bit weights and no training: what each way of rounding costs in quality, bytes and time.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.rounding [VARIANT ...]

Everything is measured on the written file: 512 calibration images of the training set (a quarter of them the
guard), 5,000 test images; the drop with its paired standard error, the divergence of the outputs, size and
latency beside the lean float file (batch 1, one thread, in turns), and the seconds that rounding took.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import boildown as bd
from benchmarks.real import data
from benchmarks.real.models import resnet20
from benchmarks.real.timing import latency_ratio
from boildown.domain.candidate import Candidate, Plan
from boildown.engine.bench import signal_to_noise
from boildown.methods.base import Context, Data, Method
from boildown.methods.learned_rounding import LearnedRounding
from boildown.methods.quantize_static import QuantizeStatic
from boildown.runtimes import get
from boildown.surgery.calibrate import weight_quantizer
from boildown.surgery.graph import capture
from boildown.surgery.plan import place

CALIBRATION = 512
_ROW = "{:<32}{:>15}{:>9}{:>7}{:>8}{:>9}{:>6}"


@dataclass(frozen=True)
class Blind(QuantizeStatic):
    """4-bit weights, each to its nearest integer, and nothing made up for."""

    search: bool = False

    def apply(self, candidate: Candidate, task: Any, context: Context) -> Candidate:
        graph = capture(candidate.model, *task.example())
        names = place(graph).weights
        weights = {n: weight_quantizer(n, graph.parameter(n), 4, search=self.search) for n in names}
        return candidate.derive(plan=Plan(weights=weights))


def four_bits(**settings: Any) -> Method:
    """learned-rounding to 4-bit weights, activations float unless said otherwise."""
    return LearnedRounding(**{"bits": 4, "activations": "float", **settings})


VARIANTS: dict[str, Callable[[], Method]] = {
    "blind, largest weight": Blind,
    "blind, least squares": lambda: Blind(search=True),
    "nearest": lambda: four_bits(rounding="nearest"),
    "error-feedback": lambda: four_bits(rounding="error-feedback"),
    "refit + error-feedback": lambda: four_bits(rounding="error-feedback", refit=True),
    "learned": four_bits,
    "refit + learned": lambda: four_bits(refit=True),
    "learned, 8-bit edges": lambda: four_bits(edges="8"),
    "learned, 8-bit activations": lambda: four_bits(activations="8-bit"),
    "8-bit static": QuantizeStatic,
    "8-bit learned": LearnedRounding,
}


def measure(folder: Path, names: Sequence[str]) -> None:
    """Measure the variants and print a row for each."""
    inputs, labels = data.cifar10_test()
    images, classes = data.cifar10_train(1)
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    task = bd.Classification(calibration=(images[drawn], classes[drawn]), validation=(inputs, labels))
    model, runtime = resnet20(), get("onnxruntime")

    def write(candidate: Candidate, path: Path) -> torch.Tensor:
        exported = folder / "exported.onnx"
        runtime.export(capture(candidate.model, *task.example()).serialize(), exported)
        runtime.write(exported, path, candidate.plan)
        session = runtime.open(path)
        return torch.cat([torch.from_numpy(session.run([part.numpy()])[0]) for part in inputs.split(100)])

    first, path = folder / "first.onnx", folder / "candidate.onnx"
    exact = write(Candidate(model), first)
    right = (exact.argmax(1) == labels).double()
    print(f"float {right.mean():.2%} of {len(labels)}; {first.stat().st_size} B\n")
    print(_ROW.format("", "drop pp", "KL", "dB", "size", "latency", "s"), flush=True)
    for name in names:
        start = time.perf_counter()
        made = VARIANTS[name]().apply(Candidate(model), task, Context(Data(None, task.calibration)))
        seconds = time.perf_counter() - start
        logits = write(made, path)
        drops = 100 * (right - (logits.argmax(1) == labels).double())
        print(
            _ROW.format(
                name, f"{drops.mean():+.2f} ± {drops.std() / len(drops) ** 0.5:.2f}",
                f"{torch.as_tensor(task.divergence(logits, exact)).mean():.4f}",
                f"{signal_to_noise(exact.numpy(), logits.numpy()):.1f}",
                f"{path.stat().st_size / first.stat().st_size:.3f}x", f"{latency_ratio(first, path, inputs[:1]):.2f}x",
                f"{seconds:.0f}",
            ),
            flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), sys.argv[1:] or list(VARIANTS))
