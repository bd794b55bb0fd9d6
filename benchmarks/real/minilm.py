"""all-MiniLM-L6-v2 on STS-B: half the time, a quarter of the bytes, and how far down it goes, within a point.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.minilm [ROW ...] [--budget "60 min"] [--runs FOLDER]

Data, network and what is measured are those of `benchmarks.real.sts`: 128 tokens, batch 1, one thread. The ladder is
`auto` but for `smallest`, which climbs the fixed rungs below: with its goal `auto` would go on to train. Prints what
`compress` found, and a row for every attempt with its drop, size and latency.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import boildown as bd
from benchmarks.real.sts import SEARCHED, minilm, pairs

CALIBRATING = 128
WITHIN = "spearman drop <= 0.01"


@dataclass(frozen=True)
class Row:
    """A target, and how it is climbed."""

    target: tuple[str, ...]
    ladder: Any = "auto"
    goal: Any = "first"


ROWS: Mapping[str, Row] = {
    "fast": Row((WITHIN, "latency <= 0.5x")),
    "small": Row((WITHIN, "size <= 0.25x")),
    "both": Row((WITHIN, "size <= 0.25x", "latency <= 0.5x")),
    "smallest": Row(
        (WITHIN, "size <= 0.25x"),
        tuple(
            f"low-rank(ratio={ratio}, of=params, samples={CALIBRATING}) + quantize-dynamic(embeddings=4)"
            for ratio in (0.7, 0.55)
        ),
        "smallest",
    ),
}


def main() -> None:
    """Climb the rows asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--budget", default="60 min")
    parser.add_argument("--runs", type=Path, help="keep the runs here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    training = pairs("train", CALIBRATING + SEARCHED)
    task = bd.Embedding(calibration=training[SEARCHED:], validation=training[:SEARCHED], test=pairs("dev"))
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.rows:
            row = ROWS[name]
            run = bd.compress(
                minilm(), task, row.target, ladder=row.ladder, goal=row.goal, budget=given.budget,
                runs=given.runs or Path(temporary),
            )  # fmt: skip
            print(f"\n## {name}: {', '.join(row.target)}\n\n{run}\n")
            print("| rung | state | drop | size MB | size | latency |\n| --- | --- | --- | --- | --- | --- |")
            for attempt in run.candidates:
                print(told(attempt), flush=True)


def told(attempt: bd.Result) -> str:
    """An attempt as a row of a table: brackets are one-sided 95 % bounds."""
    found = attempt.measurements
    cells = [attempt.rung, attempt.state.value, "", "", "", ""]
    if (score := found.get("spearman")) is not None:
        cells[2] = f"{100 * (score.drop or 0.0):+.2f}"
        if (drop := score.intervals.get("drop")) is not None:
            cells[2] += f" [{100 * drop.low:+.2f}, {100 * drop.high:+.2f}]"
    if (size := found.get("size")) is not None:
        cells[3:5] = [f"{size.value / 1e6:.2f}", f"{size.ratio or 1:.3f}x"]
    if (time := found.get("latency")) is not None:
        cells[5] = f"{time.ratio or 1:.3f}x"
        if (ratio := time.intervals.get("ratio")) is not None:
            cells[5] += f" [{ratio.low:.3f}, {ratio.high:.3f}]"
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
