"""Pruning and closed-form repair without any training, on real networks.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.prune [resnet56] [resnet20] [mobilenet] [--threads 2]

CIFAR-10: 1,024 calibration images of the training set, accuracy on the 5,000 test images. MobileNetV1 0.25: images
0 to 99 calibrate, accuracy on the other 300. Seconds are by the clock, capture and all measurements included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import boildown as bd
from benchmarks.real import data
from benchmarks.real.distillation import accuracy
from benchmarks.real.models import mobilenet, resnet20, resnet56
from boildown.domain.candidate import Candidate
from boildown.methods.base import Context, Data
from boildown.methods.depth import Depth
from boildown.methods.prune import Prune

LAST = ("features.26.0.weight",)
"""The last pointwise convolution of MobileNet, which the classifier reads."""

CASES: dict[str, Sequence[Any]] = {
    "resnet56": (
        Prune(ratio=0.75),
        Prune(ratio=0.5),
        Prune(ratio=0.5, widths="uniform"),
        Prune(ratio=0.5, widths="uniform", importance="activation"),
        Prune(ratio=0.5, widths="uniform", importance="magnitude", repair=False),
        Depth(ratio=0.75),
        Depth(ratio=0.5),
    ),
    "resnet20": (
        Prune(ratio=0.5, of="params"),
        Prune(ratio=0.5, of="params", widths="uniform", importance="magnitude", repair=False),
        Prune(ratio=0.5),
    ),
    "mobilenet": (
        Prune(ratio=0.82, multiple=1, samples=100),
        Prune(ratio=0.82, multiple=1, widths="uniform", keep=LAST, samples=100),
        Prune(ratio=0.82, multiple=1, widths="uniform", importance="activation", keep=LAST, samples=100),
        Prune(ratio=0.82, multiple=1, widths="uniform", importance="activation", keep=LAST, repair=False, samples=100),
        Prune(ratio=0.72, multiple=16, samples=100),
    ),
}  # fmt: skip


def setting(name: str) -> tuple[nn.Module, bd.Task, data.Samples]:
    """(network, task with calibration samples, what to score on)."""
    if name == "mobilenet":
        x, y = data.imagenet()
        test = x[100:], y[100:]
        return mobilenet(), bd.Classification(calibration=(x[:100], y[:100]), validation=test), test
    test = data.cifar10_test()
    x, y = data.cifar10_train(1)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:1024]
    model = resnet56() if name == "resnet56" else resnet20()
    return model, bd.Classification(calibration=(x[chosen], y[chosen]), validation=test), test


def main() -> None:
    """Print one line per way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(CASES), choices=[[], *CASES])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.models:
        model, task, test = setting(name)
        print(f"{name}: float {accuracy(model, test):.2f} %", flush=True)
        for method in CASES[name]:
            start = time.perf_counter()
            # A copy, so that no case profits from what another has looked at.
            own, _, _ = setting(name)
            made = method.apply(Candidate(own), task, Context(Data(None, task.calibration)))
            seconds = time.perf_counter() - start
            settings = {k: v for k, v in vars(method).items() if v != getattr(type(method)(), k)}
            told = ", ".join(f"{k}={v}" for k, v in settings.items())
            print(
                f"  {method.card.name}({told}): {accuracy(made.model, test):.2f} %, {made.notes[0]}, {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
