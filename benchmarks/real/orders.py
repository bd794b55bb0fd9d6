"""Would a fixed order of the same rungs have been quicker than `auto`? Every order is replayed.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.orders AUTO.json [--json FILE]

AUTO.json is what `benchmarks.real.auto --json` wrote; of it the rows that `auto` met are looked at, for the others take
every order all of its time. Every rung that `auto` climbed to a verdict for one of them is climbed for all of them, in
a run that does not stop (`goal="best"`, kept in FILE); then, for every order of these rungs, the time is added up that
each row takes until a rung meets its target, or for all rungs where none does. A chain that goes on from what an
earlier attempt has made counts as that quick: the fixed orders get the benefit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.real.auto import climb

MET, JUDGED = "TARGET_MET", ("met", "missed", "undecided")


def main() -> None:
    """Climb what is not known yet, and print the orders' times beside `auto`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("auto", type=Path)
    parser.add_argument("--json", type=Path, help="what was climbed; rows that are in it are not climbed again")
    given = parser.parse_args()
    thought = [row for row in json.loads(given.auto.read_text(encoding="utf-8")) if row["outcome"] == MET]
    rungs = list(dict.fromkeys(a["asked"] for row in thought for a in row["attempts"] if a["state"] in JUDGED))
    known = json.loads(given.json.read_text(encoding="utf-8")) if given.json and given.json.exists() else {}
    for row in thought:
        if row["name"] not in known:
            with tempfile.TemporaryDirectory() as runs:
                known[row["name"]] = climb(row["name"], "10 h", rungs, Path(runs), goal="best")
            if given.json:
                given.json.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    times = {name: timed(found) for name, found in known.items()}
    for name, found in times.items():
        told = ", ".join(f"{rung} {took:.1f}{' met' if met else ''}" for rung, (took, met) in found.items())
        print(f"{name}: {told}")
    same = [row for row in thought if any(met for _, met in times[row["name"]].values()) == (row["outcome"] == MET)]
    print(f"{len(same)} of {len(thought)} rows end with the same verdict")
    totals = sorted((sum(minutes(times[row["name"]], order) for row in same), order) for order in permutations(rungs))
    ours = sum(sum(a["measured"]["minutes"] for a in row["attempts"]) + sum(row["sketching"].values()) for row in same)
    (least, quickest), (most, _), middle = totals[0], totals[-1], median(total for total, _ in totals)
    quicker = sum(total < ours for total, _ in totals)
    print(
        f"minutes of attempts and sketches: auto {ours:.1f}, {len(totals):,} orders {least:.1f} to {most:.1f}, "
        f"median {middle:.1f}; {quicker:,} of them quicker than auto; the quickest: {', '.join(quickest)}"
    )


def timed(found: Mapping[str, Any]) -> dict[str, tuple[float, bool]]:
    """(minutes with those of its sketches, whether it met the target) of every rung that was climbed."""
    return {
        a["asked"]: (a["measured"]["minutes"] + found["sketching"].get(a["asked"], 0.0), a["state"] == "met")
        for a in found["attempts"]
    }


def minutes(times: Mapping[str, tuple[float, bool]], order: Sequence[str]) -> float:
    """How long a row takes in this order: until a rung meets the target."""
    total = 0.0
    for rung in order:
        total += times[rung][0]
        if times[rung][1]:
            break
    return total


if __name__ == "__main__":
    main()
