"""ResNet-56 with fewer channels, then in int8: after training beside with training.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.progressive --epochs 2 --finish 4 --save SAVED
    BOILDOWN_DATA=FOLDER python -m benchmarks.real.pruned_int8 SAVED/0 [--steps 400]

Trained as the rounds were (all training images, shifted and mirrored) and taught by the pruned network in float, as in
a run, or by ResNet-56. Everything is measured on the written file: drops on the 5,000 test images, size and latency
beside the lean float file of ResNet-56.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.real.models import resnet56
from benchmarks.real.progressive import setting
from benchmarks.real.table import Table
from boildown.domain.candidate import Candidate
from boildown.methods.quantize_aware import QuantizeAware
from boildown.methods.quantize_static import QuantizeStatic
from boildown.surgery.store import load_candidate


def measure(scratch: Path, saved: Path, steps: int) -> None:
    """Print the rows of a saved candidate: in float, quantized after training, and with training."""
    first = Candidate(resnet56())
    student = load_candidate(saved, first)
    table = Table(scratch, *setting(), {"ResNet-56": first, "the student": student})
    table.row("in float", student)
    table.row("static", student, QuantizeStatic())
    table.row("aware, taught by ResNet-56", student, QuantizeAware(steps=steps, teacher="first"), first)
    table.row("aware, taught by the student", student, QuantizeAware(steps=steps))


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("saved", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), given.saved, given.steps)


if __name__ == "__main__":
    main()
