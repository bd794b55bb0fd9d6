"""How often a verdict on samples in groups says 'proven' although it is not so, and how often it rightly does.

    python -m benchmarks.clusters [--draws 10000] [--tables NAME ...] [--processes 2] [--json FILE]

Right and wrong answers are drawn in groups of 5 and 20 samples, all of one size or of very unequal ones, in three ways
that give any two samples of a group the same correlation: every sample takes its group's answer with some probability
(`alike`), every group has rates of its own (`rates`), or some groups answer as one and the others not at all so
(`some`). A cell holds the worst of these six. Tables `false` and `few` have candidates exactly as much worse as the
condition allows, the hardest case; those of `power` are better than the condition by twice the true standard error.
Tables `means` and `means power` do the same with skewed losses and f1. In brackets: what the same samples prove where
nobody says that they are in groups. Counts are judged many draws at a time; some of every cell go the whole way a
verdict does, from scores of single samples by measurement and judgement, and must say the same.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics import MeanLoss
from boildown.domain.grammar import parse_target
from boildown.domain.task import Metric
from boildown.domain.verdict import judge
from boildown.measuring.clusters import allowed, design_effect
from boildown.measuring.quality import measure_quality
from boildown.measuring.statistics import tango_bounds, wilson_bounds
from boildown.tasks.metrics import as_metric

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LEVEL = 0.95
PROMISED = 0.06
CORRELATIONS = (0.0, 0.1, 0.3, 0.6, 0.9)
SIZES = (5, 20)
MANY, FEW, MEANS = (30, 100), (5, 10, 20), (10, 30, 100)
KINDS = ("alike", "rates", "some")
DROPS = ((0.01, 0.005), (0.03, 0.01), (0.1, 0.05))
"""(share of samples on which only one of the two models is right, how much worse the candidate is)"""
VALUES = (0.9, 0.95, 0.99)
_UNEVEN = (0.2, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.2, 1.6, 3.0)
_LESS = {"loss": 5, "f1": 50}  # by which factor bootstraps get fewer draws
_CHECKED = 2  # draws of every cell that go the whole way
_SINGLE = 2000  # draws that are judged as single samples, too
_AT_ONCE = 2000


@dataclass(frozen=True)
class Cell:
    """Groups of how many samples, how alike, and what is asked of them.

    shares: of samples that only the first model, and only the candidate, gets right; of those that are wrong where a
    value is asked for; empty for other metrics. better: by how many true standard errors the candidate is.
    """

    table: str
    groups: int
    size: int
    uneven: bool
    kind: str
    correlation: float
    shares: tuple[float, ...]
    better: float = 0.0
    metric: str = "accuracy"

    @property
    def sizes(self) -> Counts:
        """Samples in each group."""
        if not self.uneven:
            return np.full(self.groups, self.size)
        shares = np.resize(_UNEVEN, self.groups)
        return np.maximum(1, np.round(shares * self.size)).astype(np.int64)

    @property
    def effect(self) -> float:
        """The true design effect."""
        sizes = self.sizes
        return 1 + (float(np.square(sizes).sum()) / float(sizes.sum()) - 1) * self.correlation

    @property
    def truth(self) -> tuple[float, float]:
        """(how much worse the candidate is, or how good; the variance of one sample)."""
        if not self.shares:
            return 0.0, 1.0
        if len(self.shares) == 1:
            return 1 - self.shares[0], self.shares[0] * (1 - self.shares[0])
        drop = self.shares[0] - self.shares[1]
        return drop, sum(self.shares) - drop**2

    @property
    def bound(self) -> float:
        """What is asked for: the truth, or so much less that the candidate is better by `better` errors."""
        truth, variance = self.truth
        away = self.better * math.sqrt(variance * self.effect / self.sizes.sum())
        return truth - away if len(self.shares) == 1 else truth + away


def drawn(cell: Cell, draws: int, random: np.random.Generator) -> Counts:
    """How many samples of each group are of each kind of `shares`, (draws, groups, kinds)."""
    shape, sizes, rho = (draws, cell.groups), cell.sizes, cell.correlation
    shares = np.array([*cell.shares, 1 - sum(cell.shares)])
    if rho == 0:
        return random.multinomial(np.broadcast_to(sizes, shape), shares)[..., :-1]
    if cell.kind == "rates":
        rates = random.dirichlet(shares * (1 - rho) / rho, shape)
        return random.multinomial(sizes, rates / rates.sum(-1, keepdims=True))[..., :-1]
    own = np.eye(len(shares), dtype=np.int64)[random.choice(len(shares), shape, p=shares)]
    if cell.kind == "alike":
        copies = random.binomial(sizes, math.sqrt(rho), shape)
    else:
        copies = np.where(random.random(shape) < rho, sizes, 0)
    return (own * copies[..., None] + random.multinomial(sizes - copies, shares))[..., :-1]


def proven(cell: Cell, counts: Counts, *, grouped: bool = True) -> NDArray[np.bool_]:
    """Whether each draw proves the bound, (draws,)."""
    sizes = cell.sizes.astype(np.float64)
    n, found = sizes.sum(), counts.sum(1) / sizes.sum()
    each = counts[..., 0] - (counts[..., 1] if len(cell.shares) == 2 else 0)
    mean = each.sum(-1) / n
    worth = np.full(len(counts), n)
    if grouped:
        squares = n * (found.sum(-1) - mean**2)
        worth = n / design_effect(each - mean[:, None] * sizes, squares, sizes)
        worth = allowed(worth, sizes, LEVEL)
    enough, worth = worth >= 1, np.maximum(worth, 1.0)
    if len(cell.shares) == 2:
        high = tango_bounds(found[:, 0] * worth, found[:, 1] * worth, worth, LEVEL)[1]
        return enough & (high <= cell.bound + 1e-12)
    return enough & (wilson_bounds((1 - found[:, 0]) * worth, worth, LEVEL)[0] >= cell.bound - 1e-12)


def the_whole_way(cell: Cell, counts: Counts) -> bool:
    """Whether one draw, (groups, kinds), proves the bound as a verdict finds it."""
    metric = as_metric("accuracy")
    labels = np.repeat(np.arange(cell.groups), cell.sizes)
    kinds = np.concatenate([np.repeat(np.arange(len(row) + 1), [*row, size - row.sum()])
                            for row, size in zip(counts, cell.sizes, strict=True)])  # fmt: skip
    first, candidate = (kinds != 1).astype(float), (kinds != 0).astype(float)
    if len(cell.shares) == 1:
        condition = f"accuracy >= {cell.bound!r}"
        measurement = measure_quality(metric, candidate, clusters=labels, groups=True)
    else:
        condition = f"accuracy drop <= {100 * cell.bound!r} pp"
        measurement = measure_quality(metric, candidate, first, clusters=labels, groups=True)
    return judge(parse_target([condition], [metric]), {"accuracy": measurement}, confidence=LEVEL).met


def resampled(cell: Cell, draws: int, random: np.random.Generator) -> tuple[float, float]:
    """(the share of draws that prove the bound in groups, as single samples) by a metric that is no share."""
    labels, met = np.repeat(np.arange(cell.groups), cell.sizes), [0, 0]
    metric: Metric = MeanLoss() if cell.metric == "loss" else as_metric("f1")
    target = parse_target([f"{metric.name} drop <= {cell.bound!r}{' pp' * (cell.metric == 'f1')}"], [metric])
    for number in range(draws):
        first, candidate = (_losses if cell.metric == "loss" else _answers)(labels, cell.correlation, random)
        for grouped in (True, False):
            clusters = labels if grouped else None
            found = measure_quality(metric, candidate, first, clusters=clusters, groups=grouped, seed=number)
            met[grouped] += judge(target, {metric.name: found}, confidence=LEVEL).met
    return met[True] / draws, met[False] / draws


def _losses(labels: Counts, correlation: float, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Losses that differ by skewed amounts, 0 on average, of which groups share a part."""
    of_groups, own = (random.exponential(size=size) - 1 for size in (labels[-1] + 1, len(labels)))
    worse = math.sqrt(correlation) * of_groups[labels] + math.sqrt(1 - correlation) * own
    return np.zeros(len(labels)), worse


def _answers(labels: Counts, correlation: float, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Said and true of a rare class, (n, 2), by two models that err alike often; where, groups share."""

    def shared(rate: float) -> NDArray[np.bool_]:
        of_groups, own = (random.random(size) < rate for size in (labels[-1] + 1, len(labels)))
        return np.where(random.random(len(labels)) < math.sqrt(correlation), of_groups[labels], own)

    true, both = shared(0.3), shared(0.1)
    first, candidate = (np.stack([true ^ (both | shared(0.05)), true], 1).astype(float) for _ in range(2))
    return first, candidate


def rates(cell: Cell, draws: int) -> tuple[float, float, int]:
    """(share of draws that prove the bound in groups, as single samples, draws)."""
    random = np.random.default_rng([cell.groups, cell.size, cell.uneven, KINDS.index(cell.kind)])
    if not cell.shares:
        draws = max(1, draws // _LESS[cell.metric])
        return (*resampled(cell, draws, random), draws)
    met = [0, 0]
    for start in range(0, draws, _AT_ONCE):
        counts = drawn(cell, min(_AT_ONCE, draws - start), random)
        found = proven(cell, counts)
        met[0] += int(found.sum())
        if start < _SINGLE:
            met[1] += int(proven(cell, counts, grouped=False).sum())
        if start == 0:
            odd = [at for at in range(_CHECKED) if the_whole_way(cell, counts[at]) != found[at]]
            assert not odd, (cell, odd)
    return met[0] / draws, met[1] / min(draws, _SINGLE), draws


def cells(table: str) -> Iterator[Cell]:
    """The cells of a table."""
    better = 2.0 if "power" in table else 0.0
    for groups in {"few": FEW, "means": MEANS, "means power": MEANS}.get(table, MANY):
        for size in SIZES:
            for rho in CORRELATIONS[::2] if table.startswith("means") else CORRELATIONS:
                for uneven in (False, True):
                    base = Cell(table, groups, size, uneven, "alike", rho, (), better)
                    if table.startswith("means"):
                        yield replace(base, metric="loss")
                        if table == "means" and not uneven and groups < max(MEANS):
                            yield replace(base, metric="f1")
                        continue
                    for kind in KINDS if rho else KINDS[:1]:
                        for share, drop in DROPS:
                            lost, won = (share + drop) / 2, (share - drop) / 2
                            yield replace(base, kind=kind, shares=(lost, won))
                        for value in VALUES:
                            yield replace(base, kind=kind, shares=(1 - value,))


TABLES = ("false", "few", "power", "means", "means power")


def named(cell: Cell) -> str:
    """The row of a cell."""
    truth = cell.truth[0]
    if not cell.shares:
        what = {"loss": "loss, skewed", "f1": "f1 of a rare class"}[cell.metric]
    elif len(cell.shares) == 1:
        what = f"accuracy of {100 * truth:g} %"
    else:
        what = f"drop of {100 * truth:g} pp, {100 * sum(cell.shares):.1f} % discordant"
    return f"{what}, groups of {cell.size}"


def main() -> int:
    """Simulate and print the tables; 1 if a rate lies above what is promised by more than chance explains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000, help="draws a cell; a fifth for losses, a fiftieth for f1")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the rates of every cell to this file")
    given = parser.parse_args()
    start, kept, too_many = time.perf_counter(), [], []
    with ProcessPoolExecutor(given.processes) as pool:
        for table in given.tables:
            every = list(cells(table))
            found = list(pool.map(rates, every, [given.draws] * len(every), chunksize=4))
            pick = min if "power" in table else max
            columns = sorted({cell.correlation for cell in every})
            counts = " / ".join(str(groups) for groups in sorted({cell.groups for cell in every}))
            print(f"\n| {table}: proven, %, of {counts} groups (as single samples) |", end="")
            print(*(f" {rho:g} |" for rho in columns), sep="")
            print("| --- |" + " --- |" * len(columns))
            for row in dict.fromkeys(map(named, every)):
                print(f"| {row} |", end="")
                for rho in columns:
                    there = [(cell, rate) for cell, rate in zip(every, found, strict=True)
                             if named(cell) == row and cell.correlation == rho]  # fmt: skip
                    of = [[rate for cell, rate in there if cell.groups == groups]
                          for groups in sorted({cell.groups for cell, _ in there})]  # fmt: skip
                    shown = (f"{100 * pick(rate for rate, _, _ in each):.1f}" for each in of)
                    single = f"{100 * pick(rate for each in of for _, rate, _ in each):.0f}"
                    print(f" {' / '.join(shown)} ({single}) |", end="")
                print(flush=True)
            for cell, (rate, single, draws) in zip(every, found, strict=True):
                kept.append({**vars(cell), "proven": rate, "as single samples": single, "draws": draws})
                if "power" not in table and rate > PROMISED + 2.5 * math.sqrt(PROMISED * (1 - PROMISED) / draws):
                    too_many.append((cell, rate))
    print(f"\n{time.perf_counter() - start:.0f} s")
    print(*(f"TOO MANY, {100 * rate:.1f} %: {cell}" for cell, rate in too_many), sep="\n")
    if given.json:
        given.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 1 if too_many else 0


if __name__ == "__main__":
    sys.exit(main())
