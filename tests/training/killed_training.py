"""Trains in forked children that are killed at random moments, and once in one that is not.

Run as `python killed_training.py FOLDER KILLS SEED`; writes `whole.safetensors` and `killed.safetensors`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from training_networks import Jittered, convolutional, images, train_samples

from boildown.tasks import Classification
from boildown.training import Training, make_loss, train

STEPS = 90


def work(folder: Path, target: Path) -> None:
    task = Classification(train=Jittered(), validation=images(32, seed=1))
    options = Training(optimizer="adamw", batch=16, ema=0.9, patience=100, every=3, seconds=0.0)
    trained = train(
        convolutional(dropout=0.2), task, train_samples(task), steps=STEPS, settings=options, seed=4,
        teacher=convolutional(8, seed=1), losses=[make_loss("hint"), make_loss("kd")], holdout=task.validation,
        folder=folder,
    )  # fmt: skip
    fresh = target.with_suffix(".new")
    save_file({name: t.contiguous() for name, t in trained.model.state_dict().items()}, fresh)
    fresh.replace(target)


def forked(folder: Path, target: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            work(folder, target)
        finally:
            os._exit(0)
    return child


def main(root: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    start = time.monotonic()
    os.waitpid(forked(root / "a", root / "whole.safetensors"), 0)
    whole = time.monotonic() - start
    randomly, killed = random.Random(seed), 0
    while not (root / "killed.safetensors").exists():
        child = forked(root / "b", root / "killed.safetensors")
        if killed < kills:
            # Soon enough to be killed so often, late enough to get on.
            time.sleep(randomly.uniform(0.2, 2.0) * whole / kills + 0.03)
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                os.kill(child, signal.SIGKILL)
                killed += 1
                os.waitpid(child, 0)
        else:
            os.waitpid(child, 0)
    print(json.dumps({"killed": killed, "seconds": time.monotonic() - start}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
