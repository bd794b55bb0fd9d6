"""A foreign package: a method that shrinks, fails, hangs or dies as it is told, and a model to do it to."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

import boildown as bd
from boildown.domain.candidate import Edit
from boildown.domain.measurement import Measurement

POISON = 12345.0


@dataclass(frozen=True)
class Shrink:
    """Makes a smaller file, at the price of some answers."""

    card: ClassVar[bd.Card] = bd.Card(
        name="shrink",
        version=1,
        family="quantization",
        summary="a file of any size that answers wrongly as often as it is told",
        when="In tests.",
        when_not="Anywhere else.",
        source="made up",
        lowers=("size",),
        minutes=1.0,
        order=900,
    )

    size: float = bd.setting(0.5, "ratio of the file's size")
    flips: float = bd.setting(0.0, "share of the answers that are wrong")
    how: str = bd.setting("well", "well, or how it fails")
    marker: str = bd.setting("", "a file that says it has died before")

    def applies_to(self, candidate, task):
        return "it was told not to" if self.how == "refuse" else None

    def apply(self, candidate, task, context):
        if self.how == "raise":
            raise ZeroDivisionError("this model is too round")
        if self.how == "input error":
            raise bd.InputError.of("this model is not for me", "take another")
        if self.how == "full disk":
            raise OSError(28, "No space left on device")
        if self.how == "touch":
            with torch.no_grad():
                candidate.model.weight += 1
        if self.how == "wait" or (self.how == "wait once" and not Path(self.marker).exists()):
            Path(self.marker).write_text("waiting")
            while True:
                context.check()
                time.sleep(0.02)
        if self.how == "die" or (self.how == "die once" and not Path(self.marker).exists()):
            if self.marker:
                Path(self.marker).write_text("died")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            sys.exit(0)
        if self.how == "exit at once":
            os._exit(0)
        context.record("tried", {"how": self.how})
        if self.how == "crash":
            return candidate.derive(rewrite=Edit("shrink", 1, {"size": self.size, "crash": True}))
        if self.how == "centred":
            return candidate.derive(rewrite=Edit("shrink", 1, {"size": self.size, "centred": True}))
        poison = {"poison": POISON} if self.how == "poison" else {"poison": float("nan")} if self.how == "nan" else {}
        return candidate.derive(
            rewrite=Edit("shrink", 1, {"size": self.size, "flips": self.flips, **poison}), notes=("shrunk",)
        )


@dataclass(frozen=True)
class Stall:
    """Never ends."""

    # No ladder chooses it by itself: it lowers what no target here asks for.
    card: ClassVar[bd.Card] = replace(Shrink.card, name="stall", minutes=0.02, order=901, lowers=("memory",))

    checks: bool = bd.setting(True, "whether it asks if it may go on")

    def applies_to(self, candidate, task):
        return None

    def apply(self, candidate, task, context):
        while True:
            time.sleep(0.02)
            if self.checks:
                context.check()


def stop_clock():
    """From now on this process times nothing: every artifact is as fast."""
    from boildown.engine.bench import Bench

    Bench.latency = lambda self, artifact, **_how: Measurement("latency", 1e-4, "s", 1e-4, ratio=1.0)


class Fragile:
    """Accuracy that cannot stand an output of 12345."""

    name, higher_is_better, unit, range, decomposable = "accuracy", True, "", (0.0, 1.0), True

    def statistic(self, output, target):
        if bool((output == POISON).any()):
            raise ArithmeticError("cannot stand 12345")
        return (output.argmax(1) == target).float().numpy()

    def compute(self, statistics):
        return float(statistics.mean())


def model():
    """The identity of ten numbers."""
    made = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.eye(10))
    return made


def samples(count, seed):
    """Numbers whose largest is the label, but for a tenth."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 10, generator=generator)
    y = x.argmax(1)
    y[::10] = (y[::10] + 1) % 10
    return x, y


def task(count=400):
    """Which of ten numbers is the largest."""
    return bd.Classification(train=samples(100, 1), validation=samples(count, 2), metrics=[Fragile()])


def large_task():
    """Enough to search on labels."""
    return task(1200)
