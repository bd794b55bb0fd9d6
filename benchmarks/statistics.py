"""How often a verdict says 'proven' although it is not so: nominally 5 % of the time, at most 6 % promised.

    python -m benchmarks.statistics [--repetitions 2000] [--tables NAME ...] [--json FILE]

Every candidate of the tables `false` and `heavy` is exactly as much worse as the condition allows, the hardest
case; more would be proven less often. Those of `heavy` have errors of which few decide, and those of `unseen`
differ from the first model on few samples. Table `power` says how often a candidate is proven that is better than
the condition by twice the standard error, and what the bootstrap alone would prove, without a word of few samples.
A verdict goes the whole way a run's does: scores of single samples, measurement with its interval, judgement
with confidence 0.95. A run that looks k times holds its k-th look to a stricter level.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import repeat
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from boildown.domain.grammar import parse_target
from boildown.domain.task import Metric
from boildown.domain.verdict import judge
from boildown.measuring import statistics
from boildown.measuring.quality import measure_quality
from boildown.tasks.metrics import as_metric

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Floats, Floats]]
"""Scores of the first model and of the candidate on n samples."""

SIZES = (150, 300, 500, 1000, 2000, 5000)
HEAVY_SIZES = (150, 500, 2000)
PROMISED = 0.06
_LESS = {"accuracy": 1, "loss": 4, "rmse": 20, "f1": 20}  # by which factor bootstraps get fewer repetitions


@dataclass(frozen=True)
class Case:
    """One kind of scores, and the condition whose bound is exactly the true drop.

    n: how many samples are drawn.
    """

    name: str
    metric: Metric
    condition: str
    draw: Draw
    n: int = 0


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


def squared(errors: Callable[[np.random.Generator, int], Floats]) -> Draw:
    """Squared errors: standard normal ones of the first model, and others of the candidate."""

    def draw(generator: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        return generator.normal(size=n) ** 2, errors(generator, n) ** 2

    return draw


def contaminated(rare: float, times: float) -> Draw:
    """Standard normal errors, of which `rare` on average are as large as `times` standard deviations."""
    return squared(
        lambda generator, n: np.where(generator.random(n) < rare / n, times, generator.normal(size=n))
    )  # fmt: skip


def shifted(noise: Callable[[np.random.Generator, int], Floats]) -> Draw:
    """Losses that grow by noise whose mean is 0."""

    def draw(generator: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        first = generator.exponential(1.0, n)
        return first, first + noise(generator, n)

    return draw


def rarely_changed(changed: float) -> Draw:
    """Classes said and labels of a rare class, (n, 2): `changed` answers on average turn from right to wrong."""

    def draw(generator: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        labels = generator.random(n) < 0.12
        first = np.where(generator.random(n) < 0.1, ~labels, labels)
        right = first == labels
        candidate = np.where(right & (generator.random(n) < changed / n), ~first, first)
        return np.stack([first, labels], 1).astype(float), np.stack([candidate, labels], 1).astype(float)

    return draw


def heavy() -> list[Case]:
    """Errors of which few decide; the bound of each is the true drop of the mean squared error, or of its root."""
    kinds: dict[str, tuple[Callable[[int], float], Callable[[int], Draw]]] = {}
    for sigma in (1.0, 1.4, 2.0):
        kinds[f"lognormal errors, sigma {sigma:g}"] = (
            lambda _, s=sigma: math.exp(2 * s * s),
            lambda _, s=sigma: squared(lambda generator, n: np.exp(s * generator.normal(size=n))),
        )  # fmt: skip
    for index in (1.5, 2.0, 3.0):
        kinds[f"Pareto, tail index {index:g}"] = (
            lambda _, a=index: a / (a - 1),
            lambda _, a=index: squared(lambda generator, n: np.sqrt(1 + generator.pareto(a, size=n))),
        )  # fmt: skip
    for times in (5.0, 10.0, 100.0):
        kinds[f"5 in n as large as {times:g} sd"] = (
            lambda n, t=times: 1 + 5 / n * (t * t - 1),
            lambda _, t=times: contaminated(5, t),
        )  # fmt: skip
    cases = []
    for name, (mean, draw) in kinds.items():
        for n in HEAVY_SIZES:
            loss, rmse = f"loss drop <= {mean(n) - 1!r}", f"rmse <= {math.sqrt(mean(n))!r}x"
            cases += [
                Case(f"{name}: mean", MeanLoss(), loss, draw(n), n),
                Case(f"{name}: rmse", as_metric("rmse"), rmse, draw(n), n),
            ]
    return cases


def unseen() -> list[Case]:
    """F1 of a rare class; the bound is the true drop, found by counting."""
    cases = []
    for changed in (0.5, 2.0, 8.0):
        for n in HEAVY_SIZES:
            generator, f1 = np.random.default_rng(1), as_metric("f1")
            first, candidate = (
                np.concatenate(parts)
                for parts in zip(*(rarely_changed(changed)(generator, n) for _ in range(2_000_000 // n)), strict=True)
            )
            drop = f1.compute(first) - f1.compute(candidate)
            cases.append(Case(f"f1, {changed:g} in n changed", f1, f"f1 drop <= {100 * drop!r} pp",
                              rarely_changed(changed), n))  # fmt: skip
    return cases


def power() -> list[Case]:
    """Candidates better than the condition by twice the standard error."""
    laplace = math.sqrt(0.5)
    rows: list[tuple[str, Metric, float, float, str, Draw]] = [
        ("accuracy, 3% discordant", as_metric("accuracy"), 0.01, 0.03 - 0.01**2, "pp", zero_one(0.03, 0.01)),
        ("loss, normal differences", MeanLoss(), 0.0, 1.0, "", shifted(lambda g, n: g.normal(size=n))),
        ("loss, Laplace differences", MeanLoss(), 0.0, 1.0, "", shifted(lambda g, n: g.laplace(0, laplace, n))),
        ("loss, absolute Laplace errors", MeanLoss(), 0.0, 1.0, "",
         shifted(lambda g, n: np.abs(g.laplace(size=n)) - 1)),
        ("rmse, normal errors", as_metric("rmse"), 0.0, 1.0, "", squared(lambda g, n: g.normal(size=n))),
        ("rmse, noisier by 0.3", as_metric("rmse"), math.sqrt(1.09) - 1, _spread(noisier), "", noisier),
        ("rmse, Laplace errors", as_metric("rmse"), math.sqrt(2) - 1, 3.0, "", squared(lambda g, n: g.laplace(size=n))),
    ]  # fmt: skip
    cases = []
    for name, metric, drop, spread, unit, draw in rows:
        for n in HEAVY_SIZES:
            bound = drop + 2 * math.sqrt(spread / n)
            condition = f"{metric.name} drop <= {100 * bound if unit else bound!r} {unit}"
            cases.append(Case(name, metric, condition.strip(), draw, n))
    return cases


def _spread(draw: Draw) -> float:
    """n times the variance of the drop of rmse, from a million samples."""
    first, candidate = draw(np.random.default_rng(2), 1_000_000)
    roots = [math.sqrt(rows.mean()) for rows in (candidate, first)]
    return float(np.var(candidate / roots[0] - first / roots[1]) / 4)


def proven(table: str, position: int, repetitions: int) -> tuple[float, float]:
    """(the share of verdicts that call the condition met, the same where few samples may dominate in silence).

    Of the case at a position in a table: its functions do not travel between processes.
    """
    case = cases_of(table)[position]
    n = case.n
    target = parse_target([case.condition], [case.metric])
    generator = np.random.default_rng(n)
    met = [0, 0]
    for repetition in range(repetitions):
        first, candidate = case.draw(generator, n)
        for silent in (False, True):
            with patch.object(statistics, "dominant", lambda _: {}) if silent else nullcontext():
                measurement = measure_quality(case.metric, candidate, first, seed=repetition)
            met[silent] += judge(target, {case.metric.name: measurement}, confidence=0.95).met
            if case.metric.name == "accuracy":  # no bootstrap
                met[1] = met[0]
                break
    return met[0] / repetitions, met[1] / repetitions


TABLES: dict[str, Callable[[], list[Case]]] = {
    "false": lambda: [replace(case, n=n) for case in CASES for n in SIZES],
    "heavy": heavy,
    "unseen": unseen,
    "power": power,
}


@cache
def cases_of(table: str) -> list[Case]:
    """The cells of a table."""
    return TABLES[table]()


def main() -> int:
    """Simulate and print the tables; 1 if a rate lies above what is promised by more than chance explains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000, help="verdicts a cell; fewer for bootstraps")
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--json", type=Path, help="also write the rates to this file")
    given = parser.parse_args()
    start, rates, too_many = time.perf_counter(), {}, []
    with ProcessPoolExecutor() as pool:
        for table in given.tables:
            cases = cases_of(table)
            counts = [max(1, given.repetitions // _LESS[case.metric.name]) for case in cases]
            found = list(pool.map(proven, repeat(table), range(len(cases)), counts))
            sizes = sorted({case.n for case in cases})
            print(f"\n| proven, % ({table}): as it is / silent | {' | '.join(f'n = {n:,}' for n in sizes)} |")
            print("| --- |" + " --- |" * len(sizes))
            for name in dict.fromkeys(case.name for case in cases):
                cells = {case.n: (*rate, count) for case, rate, count in zip(cases, found, counts, strict=True)
                         if case.name == name}  # fmt: skip
                rates[f"{table}: {name}"] = {
                    n: {"proven": a, "silent": b, "verdicts": c} for n, (a, b, c) in cells.items()
                }
                shown = (f"{100 * a:.1f} / {100 * b:.1f}" for a, b, _ in cells.values())
                print(f"| {name} ({next(iter(cells.values()))[2]:,} verdicts) | {' | '.join(shown)} |", flush=True)
                if table != "power":
                    too_many += [(name, n) for n, (rate, _, count) in cells.items()
                                 if rate > PROMISED + 2.5 * math.sqrt(PROMISED * (1 - PROMISED) / count)]  # fmt: skip
    print(f"\n{time.perf_counter() - start:.0f} s")
    print(*(f"TOO MANY: {name}, n = {n:,}" for name, n in too_many), sep="\n")
    if given.json:
        given.json.write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")
    return 1 if too_many else 0


if __name__ == "__main__":
    sys.exit(main())
