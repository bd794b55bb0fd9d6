"""Whether budgets are kept: runs of 1, 3, 6 and 12 minutes, each alone and beside another run.

    BOILDOWN_DATA=FOLDER python -m benchmarks.budgets [ROW ...] [--minutes 1 3 6 12] [--beside no yes] [--scale 1]
        [--json FILE]

Every run is a process of its own, and so is the one beside it, which climbs ResNet-20 until the first has ended. A row
of the table tells the wall time of `compress`, by how much it passed the budget, the share of it that attempts took
(the first model's apart), whether the target was met, and how many attempts passed search and have no verdict. A
budget is kept where it is passed by at most 10 % or 15 s. Exit code 1 where one is not, or a verdict is missing.
`--scale 0.5` halves the budgets. MiniLM needs what `benchmarks.real.sts` needs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import boildown as bd
from benchmarks.real import data
from benchmarks.real.models import MODELS
from benchmarks.real.progressive import shifted
from benchmarks.real.sts import SEARCHED, minilm, pairs
from benchmarks.real.tasks import keywords
from boildown.domain.task import Task
from boildown.domain.verdict import Status, judge
from boildown.journal.journal import Journal

SHARE, SECONDS = 0.1, 15.0
"""What a budget may be passed by: the larger of the two."""
NEIGHBOUR, AHEAD = "resnet20", 2.0
"""Who runs beside, and the seconds that it begins before."""
CALIBRATING = 128
HEAD = ("network", "budget s", "beside", "wall s", "over s", "attempts", "first", "outcome", "no verdict", "kept")


@dataclass(frozen=True)
class Row:
    """A network, what it is for, and a target that the first rungs miss."""

    model: Callable[[], nn.Module]
    task: Callable[[], Task]
    target: tuple[str, ...]


def _cifar10() -> bd.Classification:
    return bd.Classification(train=data.cifar10_train(), validation=data.cifar10_test(), augment=shifted)


def _sentences() -> bd.Embedding:
    training = pairs("train", CALIBRATING + SEARCHED)
    return bd.Embedding(calibration=training[SEARCHED:], validation=training[:SEARCHED], test=pairs("dev"))


ROWS: Mapping[str, Row] = {
    "resnet20": Row(MODELS["resnet20"], _cifar10, ("accuracy drop <= 1 pp", "size <= 0.12x", "latency <= 0.4x")),
    "dscnn": Row(MODELS["dscnn"], keywords, ("accuracy drop <= 1 pp", "size <= 0.25x")),
    "minilm": Row(minilm, _sentences, ("spearman drop <= 0.01", "size <= 0.25x", "latency <= 0.5x")),
}


def main() -> None:
    """Run the rows asked for, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 3, 6, 12])
    parser.add_argument("--beside", nargs="+", choices=("no", "yes"), default=("no", "yes"))
    parser.add_argument("--scale", type=float, default=1.0, help="of all budgets")
    parser.add_argument("--json", type=Path, help="also write what was measured to this file")
    parser.add_argument("--one", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        with tempfile.TemporaryDirectory() as runs:
            print(json.dumps(climb(given.rows[0], given.one, Path(runs))))
        return
    found: list[dict[str, Any]] = []
    _tell(HEAD)
    for name in given.rows:
        for minutes in given.minutes:
            for beside in given.beside:
                found.append(measure(name, 60 * minutes * given.scale, beside=beside == "yes"))
                _tell(cells(found[-1]))
                if given.json:
                    given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(not all(row["kept"] and not row["without verdict"] for row in found))


def measure(name: str, seconds: float, *, beside: bool) -> dict[str, Any]:
    """One run in a process of its own."""
    neighbour = _started(NEIGHBOUR, 24 * 3600.0, subprocess.DEVNULL) if beside else None
    try:
        if neighbour is not None:
            time.sleep(AHEAD)
        start = time.perf_counter()
        run = _started(name, seconds, subprocess.PIPE)
        said, _ = run.communicate()
        whole = time.perf_counter() - start
    finally:
        if neighbour is not None:
            os.killpg(neighbour.pid, signal.SIGKILL)
            neighbour.wait()
    if run.returncode:
        raise RuntimeError(f"{name} with {seconds:.0f} s ended with exit code {run.returncode}")
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    over = told["wall"] - seconds
    return {**told, "beside": beside, "process": whole, "over": over, "kept": over <= max(SHARE * seconds, SECONDS)}


def climb(name: str, seconds: float, runs: Path) -> dict[str, Any]:
    """Boil one network down in this process, and tell what came of it as plain data."""
    torch.set_num_threads(1)
    row = ROWS[name]
    model, task, start = row.model(), row.task(), time.perf_counter()
    run = bd.compress(model, task, row.target, budget=seconds, runs=runs)
    wall = time.perf_counter() - start
    with Journal.open(run.path, readonly=True) as journal:
        rows, facts, ending = journal.attempts(), journal.facts, journal.ending
        measured = {row.number: {m.metric: m for m in journal.measurements(row.number)} for row in rows}
    took = [row.timings.get("total", 0.0) for row in rows]
    return {
        "name": name,
        "target": row.target,
        "budget": seconds,
        "wall": wall,
        "outcome": run.outcome.name,
        "sentence": "" if ending is None else ending.sentence,
        "best": None if run.best is None else run.best.number,
        "first": sum(took[:1]) / wall,
        "attempts": sum(took[1:]) / wall,
        "seconds": facts.get("seconds"),
        "rungs": [
            {"rung": row.rung, "state": row.state.value, "seconds": seconds, "sentence": row.sentence}
            for row, seconds in zip(rows, took, strict=True)
        ],
        "without verdict": [
            row.rung for row in rows[1:] if row.verdict is None and _passed(run.job, measured[row.number])
        ],
    }


def _passed(job: Any, found: Mapping[str, Any]) -> bool:
    """Whether what search measures was measured, and none of it misses the target."""
    looked = "divergence" in found or job.quality & found.keys()
    timed = "latency" in found or not job.asks("latency")
    return bool("size" in found and looked and timed) and judge(job.target, found).status is not Status.MISSED


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    return (
        row["name"], f"{row['budget']:.0f}", "another" if row["beside"] else "alone", f"{row['wall']:.1f}",
        f"{row['over']:+.1f}", f"{row['attempts']:.0%}", f"{row['first']:.0%}", row["outcome"],
        str(len(row["without verdict"])), "yes" if row["kept"] else "NO",
    )  # fmt: skip


def _started(name: str, seconds: float, output: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.budgets", name, "--one", str(seconds)]
    return subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, text=True, start_new_session=True)


def _tell(row: tuple[str, ...]) -> None:
    widths = (10, 10, 9, 8, 8, 10, 7, 15, 12, 5)
    print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


if __name__ == "__main__":
    main()
