"""What is killed: a real run on handwritten digits, short, with nothing in it that depends on the clock."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import boildown as bd
from boildown.cli import main
from boildown.domain.measurement import Measurement
from boildown.engine.bench import Bench
from boildown.journal.runs import run_folders
from boildown.tasks import Classification
from boildown.testing import digits
from boildown.training import Training

HERE = Path(__file__).parent
WEIGHTS = "weights.safetensors"
TARGET = ["accuracy drop <= 5 pp", "size <= 0.6x"]
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
    """The first model without its weights."""
    return digits.network(width=16)


def task() -> Classification:
    """All digits."""
    return digits.task()


def sit(folder: Path, weights: Path, seed: int, *, by_name: bool) -> int:
    """Begin the run in `folder`, or go on with it; the exit code.

    by_name: on the command line with factories, so that attempts are climbed in a child; else with objects, in
    this process.
    """
    _stop_clock()
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
    model.load_state_dict(_state(weights))
    if begun:
        run = bd.resume(begun[0], model.eval(), task())
    else:
        run = bd.compress(model.eval(), task(), TARGET, goal="smallest", ladder=LADDER, runs=runs, seed=seed)
    return 0 if run.outcome is bd.Outcome.TARGET_MET else 1


def _state(weights: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(weights)


def _stop_clock() -> None:
    """Nothing is timed, since that would only take time; checkpoints are written as often as they can be."""

    def latency(_self: Bench, _path: Path, _sha256: str, *, glance: bool = False) -> Measurement:  # noqa: ARG001
        return Measurement("latency", 1e-4, "s", first=1e-4, ratio=1.0)

    Bench.latency = latency  # type: ignore[method-assign]
    usual = Training.__init__.__defaults__
    assert usual is not None
    Training.__init__.__defaults__ = (*usual[:-1], 0.0)  # seconds, the last of its fields
    sys.setswitchinterval(0.005)
