"""ResNet-56 to half its MACs: rounds of pruning and distillation beside one-shot pruning and plain fine-tuning.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.progressive [progressive|one-shot|repair-only] [--epochs 1.5]
        [--finish 2] [--rounds 3] [--loss kd] [--lr 0.01] [--coefficient 1] [--ratio 0.5]
        [--threads 1] [--folder FOLDER] [--save SAVED]

    python -m benchmarks.real.progressive --ratio 0.474 --epochs 60 --device cuda --seeds 0 1 2   # 2.11x fewer MACs
    python -m benchmarks.real.progressive --ratio 0.392 --epochs 60 --device cuda --seeds 0 1 2   # 2.55x fewer

All 50,000 training images of CIFAR-10, shifted by up to 4 pixels and mirrored; scored on the 5,000 test images.
`one-shot` prunes and repairs once and trains the result on the labels alone; give it the epochs that take as much
processor time as the rounds. FOLDER keeps checkpoints: the same command goes on from there. What was made is saved
in SAVED/SEED, for `benchmarks.real.pruned_int8`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import boildown as bd
from benchmarks.real import data
from benchmarks.real.distillation import accuracy
from benchmarks.real.models import resnet56
from boildown.domain.candidate import Candidate
from boildown.methods.base import Context, Data
from boildown.methods.progressive import Progressive
from boildown.methods.prune import Prune
from boildown.methods.retrain import Retrain
from boildown.surgery.store import save_candidate

ROUNDS = 3
CALIBRATION = 1024


def shifted(inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """A batch of images, each shifted by up to 4 pixels and mirrored at random."""
    count, channels, height, width = inputs.shape
    mirrored = torch.where(torch.rand(count, 1, 1, 1) < 0.5, inputs.flip(3), inputs)
    padded = F.pad(mirrored, (4, 4, 4, 4))
    rows = torch.randint(0, 9, (count, 1)) + torch.arange(height)
    columns = torch.randint(0, 9, (count, 1)) + torch.arange(width)
    sample, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]], target


def setting(images: int = 50_000, seed: int = 0) -> tuple[bd.Classification, data.Samples]:
    """(CIFAR-10 to train on with `shifted`, some of it drawn for calibration; the test images)."""
    x, y = (tensor[:images] for tensor in data.cifar10_train())
    drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
    test = data.cifar10_test()
    task = bd.Classification(
        train=(x, y), calibration=(x[drawn], y[drawn]), validation=(test[0][:500], test[1][:500]), augment=shifted
    )
    return task, test


def main() -> None:
    """Run one way and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", nargs="?", default="progressive", choices=("progressive", "one-shot", "repair-only"))
    parser.add_argument("--epochs", type=float, default=1.5)
    parser.add_argument("--finish", type=float, default=Progressive.finish)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--loss", default="kd")
    parser.add_argument("--lr", type=float, default=Progressive.lr)
    parser.add_argument("--coefficient", type=float, default=Progressive.coefficient)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--save", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for seed in given.seeds:
        run(given, seed, *setting(given.images, seed))


def run(given: argparse.Namespace, seed: int, task: bd.Task, test: data.Samples) -> None:
    """One seed of one way."""
    first = Candidate(resnet56())
    start, clock = time.process_time(), time.perf_counter()

    def show(kind: str, facts: Any) -> None:
        if kind in ("round", "loss", "steps", "survivors"):
            print(kind, dict(facts), f"{time.process_time() - start:.0f} s of processor", flush=True)

    def keep(name: str, candidate: Candidate) -> None:
        print(f"{name}: {accuracy(candidate.model, test):.2f} %", flush=True)

    context = Context(
        Data(task.train, task.calibration), seed=seed, first=first, record=show, keep=keep,
        device=given.device, folder=None if given.folder is None else given.folder / str(seed),
    )  # fmt: skip
    if given.way == "progressive":
        method: Any = Progressive(
            ratio=given.ratio,
            rounds=given.rounds,
            epochs=given.epochs,
            finish=given.finish,
            minutes=0,
            loss=given.loss,
            lr=given.lr,
            coefficient=given.coefficient,
        )
        made = method.apply(first, task, context)
    else:
        made = Prune(ratio=given.ratio, multiple=8).apply(first, task, context)
        print(f"repaired: {accuracy(made.model, test):.2f} %", flush=True)
        if given.way == "one-shot":
            trainer = Retrain(epochs=given.epochs, minutes=0, lr=given.lr, batch=128, optimizer="sgd")
            made = trainer.apply(made, task, context)
    if given.save is not None:
        save_candidate(made, given.save / str(seed), first, given.save)
    print("; ".join(made.notes))
    print(
        f"{given.way}, seed {seed}: {accuracy(made.model, test):.2f} % of {accuracy(first.model, test):.2f} %, "
        f"{time.process_time() - start:.0f} s of processor, {time.perf_counter() - clock:.0f} s by the clock",
        flush=True,
    )


if __name__ == "__main__":
    main()
