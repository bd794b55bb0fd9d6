"""ResNet-20 with 4-bit weights and 8-bit activations: before and after training, and beside learned rounding.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.aware [--steps 800] [VARIANT ...]

Everything is measured on the written file: 25,000 plain training images of CIFAR-10, of which the method holds some
out, 5,000 test images; the drop with its paired standard error, the divergence of the outputs, size and latency
beside the lean float file (batch 1, one thread, in turns), and the CPU minutes that the method took.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import boildown as bd
from benchmarks.real import data
from benchmarks.real.models import resnet20
from benchmarks.real.table import Table
from boildown.domain.candidate import Candidate
from boildown.methods.base import Method
from boildown.methods.learned_rounding import LearnedRounding
from boildown.methods.quantize_aware import QuantizeAware

CALIBRATION = 512

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
    test = data.cifar10_test()
    images, classes = data.cifar10_train(1)
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    task = bd.Classification(train=(images, classes), calibration=(images[drawn], classes[drawn]), validation=test)
    first = Candidate(resnet20())
    table = Table(folder, task, test, {"float": first})
    for name in names:
        table.row(name, first, VARIANTS[name](steps))


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
