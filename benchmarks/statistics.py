"""How often a verdict says 'proven' although it is not so: nominally 5 % of the time, at most 6 % promised.

    python -m benchmarks.statistics [--repetitions 2000] [--json FILE]

Every candidate drawn here is exactly as much worse as the condition allows, the hardest case; more would be
proven less often. A verdict goes the whole way a run's does: scores of single samples, measurement with its
interval, judgement with confidence 0.95. A run that looks k times holds its k-th look to a stricter level.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boildown.domain.grammar import parse_target
from boildown.domain.task import Metric
from boildown.domain.verdict import judge
from boildown.measuring.quality import measure_quality
from boildown.tasks.metrics import as_metric

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Floats, Floats]]
"""Scores of the first model and of the candidate on n samples."""

SIZES = (150, 300, 500, 1000, 2000, 5000)
PROMISED = 0.06
_LESS = {"accuracy": 1, "loss": 4, "rmse": 20}  # by which factor bootstraps get fewer repetitions


@dataclass(frozen=True)
class Case:
    """One kind of scores, and the condition whose bound is exactly the true drop."""

    name: str
    metric: Metric
    condition: str
    draw: Draw


class MeanLoss:
    """A number per sample, averaged; of any sign, so that no ratio is measured."""

    name, unit, range, higher_is_better, decomposable = "loss", "", (-math.inf, math.inf), False, True

    def statistic(self, output: object, target: object) -> Floats:
        """Scores are drawn here, not computed from outputs."""
        raise NotImplementedError

    def compute(self, statistics: Floats) -> float:
        """The mean."""
        return float(np.mean(statistics))


def zero_one(discordant: float, drop: float) -> Draw:
    """Right or wrong: a share of samples on which only one of the two models is right."""
    lost, won = (discordant + drop) / 2, (discordant - drop) / 2
    shares = [lost, won, 0.9 - lost, 0.1 - won]

    def draw(generator: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        kind = generator.choice(4, n, p=shares)
        return np.isin(kind, (0, 2)).astype(np.float64), np.isin(kind, (1, 2)).astype(np.float64)

    return draw


def rare_and_large(generator: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Losses that mostly stay the same and sometimes grow a lot: 0.24 on average."""
    first = generator.exponential(1.0, n) + 1
    grown = np.where(generator.random(n) < 0.08, generator.exponential(3.0, n), generator.normal(0, 0.05, n))
    return first, first + grown


def skewed(generator: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Losses that all grow, a few of them by far the most: 0.3 on average."""
    first = generator.exponential(1.0, n)
    return first, first + generator.gamma(0.3, size=n)


def noisier(generator: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Squared errors of a regression whose candidate errs with 0.3 more: rmse 1 against sqrt(1.09)."""
    errors = generator.normal(size=n)
    return errors**2, (errors + generator.normal(0, 0.3, n)) ** 2


CASES = (
    *(
        Case(
            f"accuracy, {share:.0%} discordant, {100 * drop:g} pp worse", as_metric("accuracy"),
            f"accuracy drop <= {100 * drop:g} pp", zero_one(share, drop),
        )
        for share, drop in ((0.01, 0.005), (0.03, 0.01), (0.1, 0.01), (0.1, 0.05))
    ),
    Case("loss, rare and large", MeanLoss(), "loss drop <= 0.24", rare_and_large),
    Case("loss, skewed", MeanLoss(), "loss drop <= 0.3", skewed),
    Case("rmse, noisier", as_metric("rmse"), f"rmse drop <= {math.sqrt(1.09) - 1!r}", noisier),
)  # fmt: skip


def false_proofs(case: Case, n: int, repetitions: int) -> float:
    """The share of verdicts that call the condition met."""
    target = parse_target([case.condition], [case.metric])
    generator = np.random.default_rng(n)
    met = 0
    for repetition in range(repetitions):
        first, candidate = case.draw(generator, n)
        measurement = measure_quality(case.metric, candidate, first, seed=repetition)
        met += judge(target, {case.metric.name: measurement}, confidence=0.95).met
    return met / repetitions


def main() -> int:
    """Simulate and print a table; 1 if a rate lies above what is promised by more than chance explains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000, help="verdicts a cell; fewer for bootstraps")
    parser.add_argument("--json", type=Path, help="also write the rates to this file")
    given = parser.parse_args()
    start, rates, too_many = time.perf_counter(), {}, []
    print(f"| false 'proven', % | {' | '.join(f'n = {n:,}' for n in SIZES)} |")
    print("| --- |" + " --- |" * len(SIZES))
    for case in CASES:
        repetitions = max(1, given.repetitions // _LESS[case.metric.name])
        error = math.sqrt(PROMISED * (1 - PROMISED) / repetitions)
        rates[case.name] = {n: false_proofs(case, n, repetitions) for n in SIZES}
        too_many += [(case.name, n) for n, rate in rates[case.name].items() if rate > PROMISED + 2.5 * error]
        cells = (f"{100 * rate:.1f} ± {100 * math.sqrt(rate * (1 - rate) / repetitions):.1f}"
                 for rate in rates[case.name].values())  # fmt: skip
        print(f"| {case.name} ({repetitions:,} verdicts) | {' | '.join(cells)} |", flush=True)
    print(f"\n± one standard error of the simulation; {time.perf_counter() - start:.0f} s")
    print(*(f"TOO MANY: {name}, n = {n:,}" for name, n in too_many), sep="\n")
    if given.json:
        given.json.write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")
    return 1 if too_many else 0


if __name__ == "__main__":
    sys.exit(main())
