"""What is killed: a real run on handwritten digits, short, with nothing in it that depends on the clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from multiprocessing import connection
from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.warm_children import Started
from torch import nn

import boildown as bd
from boildown.cli import main
from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.measurement import Measurement
from boildown.engine.bench import Bench
from boildown.execution import child, quiet, worker
from boildown.journal.runs import run_folders
from boildown.runtimes import get
from boildown.surgery.graph import capture
from boildown.tasks import Classification
from boildown.testing import digits
from boildown.training import Training, train

WEIGHTS, BORN = "weights.safetensors", "born.txt"
TARGET = ["accuracy drop <= 5 pp", "size <= 0.7x"]
LADDER = ["quantize-static(samples=64)", "prune(ratio=0.7) + quantize-static(samples=64)", "retrain(steps=150)"]
CONFIG = """
[model]
factory = "benchmarks.crash.work:network"
weights = "{weights}"
[task]
factory = "benchmarks.crash.work:task"
[target]
conditions = {target}
goal = "smallest"
[ladder]
rungs = {ladder}
[run]
seed = {seed}
"""


def network() -> nn.Module:
    """The first model without its weights: two convolutions with batch norm, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def task() -> Classification:
    """All digits."""
    return digits.task()


def trained() -> nn.Module:
    """The first model. This process has then imported, and done once, whatever a sitting forked from it may need."""
    given = task()
    assert given.train is not None
    torch.manual_seed(0)
    model = train(network(), given, given.train, steps=250, settings=Training(lr=0.01, batch=50)).model
    program = capture(Candidate(model).model, *given.example()).serialize()
    get("onnxruntime").export(program, Path(os.environ["TMPDIR"], "warm.onnx"))
    return model


def sit(folder: Path, weights: Path, seed: int, *, by_name: bool) -> int:
    """Begin the run in `folder`, or go on with it; the exit code.

    by_name: on the command line with factories, so that attempts are climbed in a child; else with objects, in
    this process.
    """
    _stop_clock()
    child._Process = Forked  # type: ignore[misc]
    Forked.book = folder / BORN
    runs = folder / "runs"
    begun = run_folders(runs)
    if by_name:
        config = folder / "boildown.toml"
        config.write_text(CONFIG.format(weights=weights, target=TARGET, ladder=LADDER, seed=seed), encoding="utf-8")
        try:
            main(["resume", "latest", "--runs", str(runs)] if begun else ["compress", str(config), "--runs", str(runs)])
        except SystemExit as ended:
            return int(ended.code or 0)
    model = network()
    model.load_state_dict(load_file(weights))
    if begun:
        run = bd.resume(begun[0], model.eval(), task())
    else:
        run = bd.compress(model.eval(), task(), TARGET, goal="smallest", ladder=LADDER, runs=runs, seed=seed)
    return 0 if run.outcome is bd.Outcome.TARGET_MET else 1


class Forked(child._Process):
    """A child process that is forked instead of started anew: its life is work, and not imports.

    All else is as in any other: a session of its own, the same pipe and program, and it dies with its parent.
    """

    book: Path
    """Where those who were born are written down."""

    def __init__(self) -> None:
        self._pipe, theirs = connection.Pipe()
        pid = os.fork()
        if not pid:
            try:
                _become_worker(theirs.fileno())
            finally:
                os._exit(97)
        theirs.close()
        with self.book.open("a", encoding="utf-8") as file:
            file.write(f"{pid}\n")
        self._popen: subprocess.Popen[str] = Started(pid)  # type: ignore[assignment]
        self._lines: deque[str] = deque()  # what it says goes where the sitting's own words go
        self._reader = threading.Thread(target=lambda: None)
        self._reader.start()


def _become_worker(channel: int) -> None:
    """What a fresh interpreter would be, but for what is imported; nothing of the parent's stays open."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.closerange(3, channel)
    os.closerange(channel + 1, os.sysconf("SC_OPEN_MAX"))
    quiet._mine = quiet._Mine()
    sys.argv = ["worker", str(channel), "tied"]
    worker.main()


def _stop_clock() -> None:
    """Nothing is timed, since that would only take time; checkpoints are written as often as they can be."""

    def latency(_self: Bench, _artifact: Artifact, *, glance: bool = False) -> Measurement:  # noqa: ARG001
        return Measurement("latency", 1e-4, "s", first=1e-4, ratio=1.0)

    Bench.latency = latency  # type: ignore[method-assign]
    usual = Training.__init__.__defaults__
    assert usual is not None
    Training.__init__.__defaults__ = (*usual[:-1], 0.0)  # seconds, the last of its fields
    sys.setswitchinterval(0.005)
