"""How often a verdict on the worst of k slices is wrong, and how often it says what is so: the power beside.

    python -m benchmarks.slices [--draws 10000] [--samples 200 500 2000] [--json FILE]

Slices of equal size are drawn, measured and judged as in a run, with confidence 0.95. Nominally 5 % of proofs are
false where one slice is exactly at the bound and all others are far better (the hardest case of an intersection-union
test: Berger 1982), and nominally 5 % of misses where all slices are exactly at the bound (Holm's first step). Both
are held to 6 %. Proofs that use the stricter intervals, which hold for all slices together, stand beside: they are
not needed, and cost power.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from boildown.domain.grammar import parse_target
from boildown.domain.measurement import Measurement
from boildown.domain.target import Target
from boildown.domain.verdict import Status, judge
from boildown.engine.slices import worst_of
from boildown.measuring.quality import measure_quality
from boildown.tasks.metrics import as_metric

CONFIDENCE, PROMISED = 0.95, 0.06
ACCURACY = as_metric("accuracy")
Shares = tuple[float, ...]
"""Of samples that only the first model has right, and that only the candidate has; or that the candidate has right."""


@dataclass(frozen=True)
class Kind:
    """A condition, and the shares of slices that are at its bound, far better, better, and worse."""

    condition: str
    at_bound: Shares
    far_better: Shares
    better: Shares
    worse: Shares


KINDS = (
    Kind("worst class accuracy drop <= 5 pp", (0.07, 0.02), (0.0, 0.0), (0.02, 0.01), (0.17, 0.02)),
    Kind("worst class accuracy >= 90 %", (0.9,), (0.995,), (0.95,), (0.8,)),
)
COUNTS = (10, 100)


@dataclass(frozen=True)
class Row:
    """What slices of a table are like: all alike, but for one that is `odd`."""

    name: str
    others: str
    odd: str
    wrong: Status | None
    """The status that is false; None where it is the power that is told."""


ROWS = (
    Row("one at the bound, the others far better", "far_better", "at_bound", Status.MET),
    Row("all at the bound", "at_bound", "at_bound", Status.MISSED),
    Row("all better", "better", "better", None),
    Row("one worse, the others at the bound", "at_bound", "worse", None),
)


@cache
def measured(lost: int, won: int, right: int, n: int, k: int) -> tuple[Measurement, Measurement]:
    """One of k slices of n samples, of which one of the two models or both have some right; and the same as if it had
    to prove everything by the interval that holds for all slices together."""
    kinds = np.repeat([0, 1, 2, 3], [lost, won, right, n])[:n]
    first, own = np.isin(kinds, (0, 2)).astype(float), np.isin(kinds, (1, 2)).astype(float)
    together = 1 - (1 - CONFIDENCE) / k
    plain = measure_quality(ACCURACY, own, first, level=CONFIDENCE)
    wide = measure_quality(ACCURACY, own, first, level=together, far=True)
    found = replace(plain, metric="accuracy[class=a]", simultaneous=wide.intervals)
    return found, replace(found, intervals=wide.intervals)


def rates(kind: Kind, row: Row, k: int, n: int, draws: int) -> tuple[float, float, float]:
    """The shares of verdicts that are met, missed, and met if the intervals for all together had to prove it."""
    target = parse_target([kind.condition], [ACCURACY], slices={"class": ["a"]})
    generator, counts = np.random.default_rng([k, n]), Counter[Status | str]()
    odd, others = getattr(kind, row.odd), getattr(kind, row.others)
    for _ in range(draws):
        drawn = {*_draw(generator, odd, n, 1), *_draw(generator, others, n, k - 1)}  # equal slices say the same
        slices = [measured(*each, n, k) for each in sorted(drawn)]
        status = _status(target, [plain for plain, _ in slices])
        counts[status] += 1
        if status is Status.MET:
            counts["strict"] += _status(target, [strict for _, strict in slices]) is Status.MET
    return counts[Status.MET] / draws, counts[Status.MISSED] / draws, counts["strict"] / draws


def _draw(generator: np.random.Generator, shares: Shares, n: int, count: int) -> list[tuple[int, int, int]]:
    """(only the first model right, only the candidate, both) of some slices, as far as the condition is about them."""
    found = generator.multinomial(n, [*shares, 1 - sum(shares)], size=count).tolist()
    if len(shares) == 1:
        return [(0, 0, right) for right, _ in found]
    return [(lost, won, max(0, round(0.9 * n) - lost)) for lost, won, _ in found]


def _status(target: Target, slices: Sequence[Measurement]) -> Status:
    name = target.conditions[0].metric
    return judge(target, {name: worst_of(name, slices, higher_is_better=True)}, CONFIDENCE).status


def main() -> int:
    """Simulate and print the table; 1 if a rate lies above what is promised by more than chance explains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000, help="verdicts a row")
    parser.add_argument("--samples", type=int, nargs="+", default=[200, 500, 2000], help="of every slice")
    parser.add_argument("--json", type=Path, help="also write the rates to this file")
    given = parser.parse_args()
    start, too_many, found = time.perf_counter(), list[str](), list[dict[str, object]]()
    rows = [(kind, row, k, n) for kind in KINDS for row in ROWS for k in COUNTS for n in given.samples]
    print("| condition | slices | k | n each | met, % | missed, % | met by the intervals for all, % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with ProcessPoolExecutor() as pool:
        rated = pool.map(rates, *zip(*rows, strict=True), [given.draws] * len(rows))
        for (kind, row, k, n), (met, missed, strict) in zip(rows, rated, strict=True):
            wrong = {Status.MET: met, Status.MISSED: missed}.get(row.wrong) if row.wrong else None
            shown = [f"{100 * rate:.2f}" for rate in (met, missed, strict)]
            at = None if row.wrong is None else 0 if row.wrong is Status.MET else 1
            shown = [f"**{text}**" if place == at else text for place, text in enumerate(shown)]
            print(f"| {kind.condition} | {row.name} | {k} | {n:,} | {' | '.join(shown)} |", flush=True)
            found.append({
                "condition": kind.condition, "slices": row.name, "k": k, "n": n, "met": met, "missed": missed,
                "met by the intervals for all": strict,
            })  # fmt: skip
            if wrong is not None and wrong > PROMISED + 2.5 * math.sqrt(PROMISED * (1 - PROMISED) / given.draws):
                too_many.append(f"TOO MANY: {kind.condition}, {row.name}, k = {k}, n = {n:,}: {wrong:.2%}")
    print(f"\nIn bold what is wrong, of {given.draws:,} verdicts a row; {time.perf_counter() - start:.0f} s")
    print(*too_many, sep="\n")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if too_many else 0


if __name__ == "__main__":
    sys.exit(main())
