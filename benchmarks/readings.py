"""Readings of one and the same thing: what a verdict says of them with groups, and without.

    python -m benchmarks.readings [--subjects 100] [--readings 10] [--bound 1]

The subjects are handwritten digits of scikit-learn that the network was not trained on. Each is read some times: moved
by a pixel at most, made lighter or darker, with noise. Rungs make files of the network, and every file is measured
twice on the same readings, at 95 % confidence.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

import boildown as bd
from boildown.testing import digits

RUNGS = ("quantize-static", "prune(ratio=0.5)")


def readings(subjects: int, each: int) -> tuple[Tensor, Tensor]:
    """Every subject some times, one after the other, with the digits that they are."""
    images, labels = (part[:subjects].repeat_interleave(each, 0) for part in digits.validation_set().tensors)
    random = torch.Generator().manual_seed(0)
    places = torch.randint(0, 3, (len(images), 2), generator=random).tolist()
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    moved = torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, places, strict=True)])
    light = 1 + 0.2 * torch.randn(len(images), 1, 1, 1, generator=random)
    return (light * moved + 0.2 * torch.randn(moved.shape, generator=random)).clamp(-1, 1), labels


def main() -> int:
    """Print one row for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--readings", type=int, default=10, help="of each subject")
    parser.add_argument("--bound", type=float, default=1.0, help="the drop that is allowed, in pp")
    given = parser.parse_args()
    judged, model = readings(given.subjects, given.readings), digits.trained_network()
    subjects = torch.arange(given.subjects).repeat_interleave(given.readings)
    target = f"accuracy drop <= {given.bound:g} pp"
    print("| file | drop | without groups | with groups |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for rung in RUNGS:
            run = bd.compress(
                model, digits.task(), ["size <= 0.9x"], ladder=[rung], runs=Path(folder), verbose=False
            )  # fmt: skip
            cells = []
            for groups in (None, subjects):
                task = bd.Classification(validation=judged, groups=groups)
                (finding,) = bd.measure(run.best.artifact, task, target, confidence=0.95).findings
                assert finding.interval is not None
                low, high = (100 * end for end in (finding.interval.low, finding.interval.high))
                more = f", {finding.more}" if finding.more else ""
                cells.append(f"{finding.status.value} [{low:+.2f}, {high:+.2f}]{more}")
            print(f"| {rung} | {finding.shown} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
