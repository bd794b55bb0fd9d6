"""What the ladder `auto` does with targets that no single method meets, and how good its forecasts were.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.auto [ROW ...] [--budget "60 min"] [--ladder RUNG ...]
        [--runs RUNS] [--json FILE]

Prints a row for every network and target, the attempts below it, each with its forecast and what came out, and at
last how far all forecasts were off and how many of the search's samples were scored. `--ladder` climbs fixed rungs
in their order instead. CIFAR-10 networks train on images shifted by up to 4 pixels and mirrored.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boildown as bd
from benchmarks.real import data
from benchmarks.real.models import MODELS
from benchmarks.real.progressive import shifted
from benchmarks.real.tasks import mobilenet
from boildown.engine.forecast import WORTH
from boildown.journal.journal import Journal

METRICS = ("size", "macs", "latency")
WITHIN = {"size": 1.02, "macs": 1.02, "latency": 1.25, "minutes": 2.0}
"""How many times too large or too small a forecast may be."""
EASY = 0.1
"""Candidates that lose more are counted apart: any search sees that they do."""


@dataclass(frozen=True)
class Row:
    """A network and its target."""

    model: str
    target: tuple[str, ...]


ROWS: Mapping[str, Row] = {
    "resnet56-small": Row("resnet56", ("accuracy drop <= 1.3 pp", "size <= 0.15x", "latency <= 0.48x")),
    "resnet56-fast": Row("resnet56", ("accuracy drop <= 2 pp", "latency <= 0.35x")),
    "resnet20-small": Row("resnet20", ("accuracy drop <= 1 pp", "size <= 0.15x")),
    "resnet20-tiny": Row("resnet20", ("accuracy drop <= 0.1 pp", "size <= 0.02x")),
    "mobilenet-fast": Row("mobilenet", ("accuracy drop <= 1 pp", "size <= 0.35x", "latency <= 0.8x")),
}


def task(model: str) -> bd.Classification:
    """What a network is for, with the augmentation that it was trained with."""
    if model == "mobilenet":
        return mobilenet()
    return bd.Classification(train=data.cifar10_train(), validation=data.cifar10_test(), augment=shifted)


def main() -> None:
    """Run the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--budget", default="60 min")
    parser.add_argument("--ladder", nargs="+", default="auto")
    parser.add_argument("--runs", type=Path, help="keep the runs here")
    parser.add_argument("--json", type=Path, help="also write what was measured to this file")
    given = parser.parse_args()
    found = []
    for name in given.rows:
        with tempfile.TemporaryDirectory() as temporary:
            found.append(climb(name, given.budget, given.ladder, given.runs or Path(temporary)))
        show(found[-1])
        if given.json:
            given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(*told(found), sep="\n")


def climb(name: str, budget: str, ladder: Any, runs: Path, goal: Any = "first") -> dict[str, Any]:
    """Boil one network down and tell what came of it as plain data."""
    row, start = ROWS[name], time.perf_counter()
    run = bd.compress(
        MODELS[row.model](), task(row.model), row.target, ladder=ladder, budget=budget, goal=goal, runs=runs / name,
        fresh=True,
    )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    with Journal.open(run.path, readonly=True) as journal:
        rows = journal.attempts()[1:]
        searches = [record.data for record in journal.records("search")]
        sketched = {record.data["asked"]: record.data["seconds"] for record in journal.records("forecast")}
        ending = journal.ending
    return {
        "name": name,
        "target": row.target,
        "outcome": run.outcome.name,
        "sentence": "" if ending is None else ending.sentence,
        "minutes": minutes,
        "sketching": {asked: seconds / 60 for asked, seconds in sketched.items()},
        "best": None if run.best is None else run.best.number,
        "attempts": [attempt(row, run.candidates[row.number]) for row in rows],
        "searches": searches,
        "summary": str(run),
    }


def attempt(row: Any, result: Any) -> dict[str, Any]:
    """One attempt: how it stood, what was forecast and what came out."""
    accuracy = result.measurements.get("accuracy")
    measured = {metric: result.measurements[metric].ratio for metric in METRICS if metric in result.measurements}
    forecast = {metric: row.quote[metric]["ratio"] for metric in METRICS if metric in row.quote}
    return {
        "asked": row.rung,
        "rung": row.quote.get("rung", row.rung),
        "state": row.state.value,
        "sentence": row.sentence,
        "drop": None if accuracy is None else accuracy.drop,
        "forecast": {**forecast, "minutes": row.quote.get("minutes")},
        "measured": {**measured, "minutes": row.timings.get("total", 0.0) / 60},
    }


def show(found: Mapping[str, Any]) -> None:
    """Print a row and its attempts."""
    print(f"\n## {found['name']}: {', '.join(found['target'])}\n\n{found['summary']}\n", flush=True)


def told(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table, how far forecasts were off, and what search scored."""
    yield "| network | target | outcome | by | drop, pp | size | latency | minutes |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in found:
        best = next((a for n, a in enumerate(row["attempts"], 1) if n == row["best"]), None)
        cells = ["the first model", "", "", ""]
        if best is not None:
            ratios = [best["measured"].get(metric) for metric in ("size", "latency")]
            drop = "" if best["drop"] is None else f"{100 * best['drop']:+.2f}"
            cells = [f"`{best['rung']}`", drop, *("" if ratio is None else f"{ratio:.3f}x" for ratio in ratios)]
        network, asked = ROWS[row["name"]].model, ", ".join(row["target"])
        yield f"| {network} | {asked} | {row['outcome']} | {' | '.join(cells)} | {row['minutes']:.1f} |"
    yield f"\n{sum(row['minutes'] for row in found):.1f} minutes in all"
    for metric, factor in WITHIN.items():
        for least in (0.0, WORTH) if metric == "minutes" else (0.0,):
            off = [max(a / b, b / a) for a, b in pairs(found, metric) if max(a, b) >= least]
            if off:
                held, of = sum(each <= factor for each in off), f" of at least {least:g}" if least else ""
                yield f"{metric}{of}: {held} of {len(off)} forecasts within {factor:g}x, {max(off):.3f}x at most"
    for easy in (False, True):
        of = [s for row in found for s in row["searches"] if (max(s["drop"].values(), default=0) > EASY) == easy]
        if of:
            scored, whole = (sum(search[key] for search in of) for key in ("scored", "of"))
            which = "that lost more than 10 pp" if easy else "of the others"
            yield f"search scored {scored:,} of {whole:,} samples ({scored / whole:.0%}) {which}, {len(of)} candidates"


def pairs(found: Sequence[Mapping[str, Any]], metric: str) -> Iterator[tuple[float, float]]:
    """(forecast, measured) of every attempt that was climbed."""
    for row in found:
        for each in row["attempts"]:
            forecast, measured = each["forecast"].get(metric), each["measured"].get(metric)
            if each["state"] in ("met", "missed", "undecided") and forecast and measured:
                yield forecast, measured


if __name__ == "__main__":
    main()
