"""ResNet-56 taught to a network with ResNet-20's architecture: every distillation loss, retrain and the tournament.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.distillation --json FILE [--seeds 3] [--epochs 4] [--lr 0.002]
        [--rows tournament retrain kd ...]

10,000 training images of CIFAR-10, plain (not augmented), the same steps for every row; a seed sets the student's
first weights and the order of the images. The tournament ranks on 1,000 further training images, and every row is
scored on the 5,000 test images by the network that came out. Seconds are of the processor. Regret is the best single
loss of that seed minus the tournament's. What is in FILE is not done again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import boildown as bd
from benchmarks.real import data
from benchmarks.real.models import CifarResNet, resnet56
from boildown.training import LOSSES, Training, distil, fixed, tournament, train

IMAGES, JUDGES = 10_000, 1_000
NAMES = tuple(name for name, loss in LOSSES.items() if loss.kind != "output")


def accuracy(model: nn.Module, samples: data.Samples) -> float:
    """Per cent of right answers."""
    x, y = samples
    with torch.inference_mode():
        found = torch.cat([model(part).argmax(1) for part in x.split(250)])
    return 100 * float((found == y).double().mean())


def table(path: Path, rows: Sequence[str], seeds: int, epochs: int, lr: float) -> dict[str, Any]:
    """The accuracies by row and seed, written to `path` as they come."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    x, y = data.cifar10_train(1)
    judges, test = (x[IMAGES : IMAGES + JUDGES], y[IMAGES : IMAGES + JUDGES]), data.cifar10_test()
    task = bd.Classification(train=(x[:IMAGES], y[:IMAGES]), validation=judges)
    assert task.train is not None
    teacher, settings = resnet56(), Training(lr=lr)
    steps = epochs * (IMAGES // settings.batch)
    for seed in range(seeds):
        for row in rows:
            if f"{row}/{seed}" in known:
                continue
            torch.manual_seed(seed)
            student, start, loss = CifarResNet(20), time.process_time(), row
            if row == "retrain":
                trained = train(student, task, task.train, steps=steps, settings=settings, seed=seed)
            else:
                choice = tournament(NAMES) if row == "tournament" else fixed(row)
                done = distil(
                    student, teacher, task, task.train, choice, score=lambda model: accuracy(model, judges),
                    steps=steps, settings=settings, seed=seed,
                )  # fmt: skip
                trained, loss = done.trained, " + ".join(done.losses)
            seconds = time.process_time() - start
            known[f"{row}/{seed}"] = {
                "accuracy": accuracy(trained.model, test), "loss": loss, "seconds": seconds, "notes": trained.notes,
            }  # fmt: skip
            print(row, seed, known[f"{row}/{seed}"], flush=True)
            path.write_text(json.dumps(known, indent=1))
    return known


def show(known: dict[str, Any], seeds: int) -> None:
    """Means, and what the tournament missed."""
    rows = [
        row
        for row in dict.fromkeys(key.partition("/")[0] for key in known)
        if all(f"{row}/{seed}" in known for seed in range(seeds))
    ]
    for row in rows:
        found = [known[f"{row}/{seed}"] for seed in range(seeds)]
        scores = [cell["accuracy"] for cell in found]
        chosen = f"  ({', '.join(cell['loss'] for cell in found)})" if row == "tournament" else ""
        spread = statistics.stdev(scores) if seeds > 1 else 0.0
        seconds = statistics.fmean(cell["seconds"] for cell in found)
        print(f"{row:<24}{statistics.fmean(scores):7.2f} +- {spread:.2f} %{seconds:8.0f} s{chosen}")
    single = [row for row in rows if row not in ("tournament", "retrain")]
    if "tournament" not in rows or not single:
        return
    regrets, shares = [], []
    for seed in range(seeds):
        cells = {row: known[f"{row}/{seed}"] for row in rows}
        best = max(cells[row]["accuracy"] for row in single)
        regrets.append(best - cells["tournament"]["accuracy"])
        shares.append(cells["tournament"]["seconds"] / sum(cells[row]["seconds"] for row in single))
    print(f"regret {statistics.fmean(regrets):.2f} pp ({', '.join(f'{each:.2f}' for each in regrets)})")
    print(f"cost of trying all {statistics.fmean(shares):.2f}x")


def main() -> None:
    """Fill the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=["tournament", "retrain", *NAMES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    show(table(given.json, given.rows, given.seeds, given.epochs, given.lr), given.seeds)


if __name__ == "__main__":
    main()
