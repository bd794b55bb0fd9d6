"""ResNet-20 with 4-bit weights and 8-bit activations: before and after training, and beside learned rounding.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.aware [--steps 800] [VARIANT ...]

Everything is measured on the written file: 25,000 plain training images of CIFAR-10, of which the method holds some
out, 5,000 test images; the drop with its paired standard error, the divergence of the outputs, size and latency
beside the lean float file (batch 1, one thread, in turns), and the CPU minutes that the method took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

import boildown as bd
from benchmarks.real import data
from benchmarks.real.models import resnet20
from benchmarks.real.timing import latency_ratio
from boildown.domain.candidate import Candidate
from boildown.engine.bench import signal_to_noise
from boildown.methods.base import Context, Data, Method
from boildown.methods.learned_rounding import LearnedRounding
from boildown.methods.quantize_aware import QuantizeAware
from boildown.runtimes import get
from boildown.surgery.graph import capture

CALIBRATION = 512
_ROW = "{:<28}{:>15}{:>9}{:>7}{:>8}{:>9}{:>9}{:>8}"

VARIANTS: dict[str, Callable[[int], Method]] = {
    "start": lambda _steps: QuantizeAware(bits=4, steps=1, lr=1e-12),
    "learned-rounding": lambda _steps: LearnedRounding(bits=4),
    "aware": lambda steps: QuantizeAware(bits=4, steps=steps),
    "aware, 8-bit edges": lambda steps: QuantizeAware(bits=4, edges="8", steps=steps),
    "aware, labels only": lambda steps: QuantizeAware(bits=4, coefficient=0.0, steps=steps),
    "aware, 8-bit weights": lambda steps: QuantizeAware(steps=steps),
}


def measure(folder: Path, names: Sequence[str], steps: int) -> None:
    """Measure the variants and print a row for each, what they record before it."""
    inputs, labels = data.cifar10_test()
    images, classes = data.cifar10_train(1)
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    task = bd.Classification(
        train=(images, classes), calibration=(images[drawn], classes[drawn]), validation=(inputs, labels)
    )
    model, runtime = resnet20(), get("onnxruntime")

    def write(candidate: Candidate, path: Path) -> tuple[torch.Tensor, Mapping[str, int]]:
        exported = folder / "exported.onnx"
        runtime.export(capture(candidate.model, *task.example()).serialize(), exported)
        facts = runtime.write(exported, path, candidate.plan).facts
        session = runtime.open(path)
        logits = torch.cat([torch.from_numpy(session.run([part.numpy()])[0]) for part in inputs.split(100)])
        return logits, facts.get("kernels", {})

    first, path = folder / "first.onnx", folder / "candidate.onnx"
    exact, _ = write(Candidate(model), first)
    right = (exact.argmax(1) == labels).double()
    print(f"float {right.mean():.2%} of {len(labels)}; {first.stat().st_size} B\n")
    print(_ROW.format("", "drop pp", "KL", "dB", "size", "latency", "integer", "CPU min"), flush=True)
    for name in names:
        start = time.process_time()
        context = Context(
            Data(task.train, task.calibration), record=lambda kind, found: print(f"  {kind}: {found}", flush=True)
        )
        made = VARIANTS[name](steps).apply(Candidate(model), task, context)
        spent = (time.process_time() - start) / 60
        logits, kernels = write(made, path)
        drops = 100 * (right - (logits.argmax(1) == labels).double())
        print(
            _ROW.format(
                name, f"{drops.mean():+.2f} ± {drops.std() / len(drops) ** 0.5:.2f}",
                f"{torch.as_tensor(task.divergence(logits, exact)).mean():.4f}",
                f"{signal_to_noise(exact.numpy(), logits.numpy()):.1f}",
                f"{path.stat().st_size / first.stat().st_size:.3f}x", f"{latency_ratio(first, path, inputs[:1]):.2f}x",
                f"{kernels.get('QLinearConv', 0)}", f"{spent:.1f}",
            ),
            flush=True,
        )  # fmt: skip


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--steps", type=int, default=800)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), given.variants, given.steps)


if __name__ == "__main__":
    main()
