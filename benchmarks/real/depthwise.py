"""A depthwise network taught by ResNet-56, then in int8 and with 4-bit weights: after training beside with training.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.depthwise --folder FOLDER [--steps 300] [VARIANT ...]

A MobileNetV1 for CIFAR-10, distilled on the training images, shifted and mirrored; FOLDER keeps it, and the next call
quantizes the same network. Everything is measured on the written file: drops on the 5,000 test images, size and latency
beside the network's own lean float file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.real.models import CifarMobileNet, resnet56
from benchmarks.real.progressive import setting
from benchmarks.real.table import Table
from boildown.domain.candidate import Candidate
from boildown.methods.base import Context, Data, Method
from boildown.methods.distill import Distill
from boildown.methods.learned_rounding import LearnedRounding
from boildown.methods.quantize_aware import QuantizeAware
from boildown.methods.quantize_static import QuantizeStatic
from boildown.surgery.store import CANDIDATE, load_candidate, save_candidate

TEACHING = Distill(student="0", loss="hint", minutes=0, epochs=6, batch=128, optimizer="sgd", lr=0.1)

ALONE = "taught by itself"
"""What ends the names of variants whose teacher is the float network, as in a run, and not ResNet-56."""

VARIANTS: dict[str, Callable[[int], Method]] = {
    "static": lambda _steps: QuantizeStatic(),
    "learned rounding": lambda _steps: LearnedRounding(),
    "aware": lambda steps: QuantizeAware(steps=steps, teacher="first"),
    f"aware, {ALONE}": lambda steps: QuantizeAware(steps=steps),
    "4 bits, nearest": lambda _steps: LearnedRounding(bits=4, rounding="nearest"),
    "4 bits, learned rounding": lambda _steps: LearnedRounding(bits=4),
    "4 bits, aware": lambda steps: QuantizeAware(bits=4, steps=steps, teacher="first"),
    f"4 bits, aware, {ALONE}": lambda steps: QuantizeAware(bits=4, steps=steps),
}


def student(folder: Path, first: Candidate) -> Candidate:
    """The depthwise network as `folder` keeps it, taught by the first model if it is not there yet."""
    torch.manual_seed(0)
    students = {"0": CifarMobileNet().eval()}
    if not (folder / CANDIDATE).exists():
        task, _test = setting()
        start = time.process_time()
        context = Context(Data(task.train, task.calibration), folder=folder / "checkpoints", students=students)
        made = TEACHING.apply(first, task, context)
        print(f"{made.notes[0]}: {time.process_time() - start:.0f} s of processor", flush=True)
        save_candidate(made, folder, first, folder)
    return load_candidate(folder, first, students)


def measure(scratch: Path, folder: Path, names: Sequence[str], steps: int) -> None:
    """Print a row for each variant, what they record before it."""
    first = Candidate(resnet56())
    taught = student(folder, first)
    table = Table(scratch, *setting(), {"float": taught})
    for name in names:
        table.row(name, taught, VARIANTS[name](steps), None if name.endswith(ALONE) else first)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), given.folder, given.variants, given.steps)


if __name__ == "__main__":
    main()
