"""How small networks get whose quality alone is bounded: `goal="smallest"` with `accuracy drop <= 1 pp`.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.smallest [MODEL ...] [--budget "15 min"] [--runs RUNS] [--json FILE]

Prints every network's run, its Pareto front, and a row with the best beside the size that is hoped for. ResNet-20
trains on images shifted by up to 4 pixels and mirrored; the others have no training data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boildown as bd
from benchmarks.real import auto
from benchmarks.real.models import MODELS
from benchmarks.real.tasks import TASKS
from boildown.journal.journal import Journal

TARGET = ("accuracy drop <= 1 pp",)
HOPED: Mapping[str, float] = {"resnet20": 0.134, "dscnn": 0.28, "mobilenet": 0.24}
"""The size beside the first model's, by network."""
POINTS = 5
"""Attempts that a front should have measured at least."""


def main() -> None:
    """Run the networks asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(HOPED), help=", ".join(HOPED))
    parser.add_argument("--budget", default="15 min")
    parser.add_argument("--runs", type=Path, help="keep the runs here")
    parser.add_argument("--json", type=Path, help="also write what was measured to this file")
    given = parser.parse_args()
    found = []
    for name in given.models:
        with tempfile.TemporaryDirectory() as temporary:
            found.append(boil(name, given.budget, given.runs or Path(temporary)))
        print(f"\n## {name}: {', '.join(TARGET)}\n\n{found[-1]['summary']}\n", flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(*table(found), sep="\n")


def boil(name: str, budget: str, runs: Path) -> dict[str, Any]:
    """Boil one network down and tell what came of it as plain data."""
    task, start = auto.task(name) if name == "resnet20" else TASKS[name](), time.perf_counter()
    run = bd.compress(MODELS[name](), task, TARGET, goal="smallest", budget=budget, runs=runs / name, fresh=True)
    minutes = (time.perf_counter() - start) / 60
    with Journal.open(run.path, readonly=True) as journal:
        rows, ending = journal.attempts(), journal.ending
        sketched = {record.data["asked"]: record.data["seconds"] for record in journal.records("forecast")}
    front = {result.number for result in run.front}
    return {
        "name": name,
        "outcome": run.outcome.name,
        "sentence": "" if ending is None else ending.sentence,
        "minutes": minutes,
        "sketching": sum(sketched.values()) / 60,
        "best": None if run.best is None else run.best.number,
        "attempts": [_attempt(row, run.candidates[row.number], front) for row in rows],
        "summary": str(run),
    }


def _attempt(row: Any, result: Any, front: set[int]) -> dict[str, Any]:
    measured = {name: {**m.to_json(), "raw": [], "environment": {}} for name, m in result.measurements.items()}
    return {
        "number": row.number,
        "rung": row.quote.get("rung", row.rung),
        "reason": row.reason,
        "state": row.state.value,
        "sentence": row.sentence,
        "front": row.number in front,
        "forecast": row.quote.get("minutes"),
        "seconds": dict(row.timings),
        "measured": measured,
    }


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for every network."""
    lines = ["| network | outcome | by | drop, pp | size | hoped for | measured points | minutes |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in found:
        best = row["attempts"][row["best"]]
        drop, size = (best["measured"].get(metric) or {} for metric in ("accuracy", "size"))
        points = sum(bool(attempt["measured"].get("size")) for attempt in row["attempts"])
        told = "" if drop.get("drop") is None else f"{100 * drop['drop']:+.2f}"
        cells = [row["name"], row["outcome"], f"`{best['rung']}`", told, f"{size['ratio']:.3f}x"]
        few = "" if points >= POINTS else ", too few"
        lines.append(f"| {' | '.join(cells)} | {HOPED[row['name']]}x | {points}{few} | {row['minutes']:.1f} |")
    return lines


if __name__ == "__main__":
    main()
