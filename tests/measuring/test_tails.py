"""Tails: what is promised of their intervals, and calls on a clock that the artifacts move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from boildown.domain.measurement import Measurement
from boildown.measuring import latency
from boildown.measuring.tails import (
    calls_for,
    compare_calls,
    quantile_interval,
    quantile_ratio_interval,
    rate_interval,
    rate_ratio_interval,
)

Floats = NDArray[np.float64]


def most_often(rate: float, repetitions: int) -> float:
    """How often something of this rate happens, give or take what is chance in so many repetitions."""
    return rate + 2.5 * math.sqrt(rate * (1 - rate) / repetitions)


# -- intervals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "n"), [(0.95, 200), (0.95, 2000), (0.99, 500), (0.99, 3000)])
def test_a_quantile_is_below_its_bound_as_often_as_promised(q: float, n: int) -> None:
    random, repetitions = np.random.default_rng(0), 400
    draws = np.exp(random.normal(size=(repetitions, n)))
    truth = math.exp(float(np.quantile(np.random.default_rng(1).normal(size=2_000_000), q)))
    found = [quantile_interval(draw, q, 0.95) for draw in draws]
    assert np.mean([i.high < truth for i in found]) <= most_often(0.05, repetitions)
    assert np.mean([i.low > truth for i in found]) <= most_often(0.05, repetitions)
    assert np.mean([i.high - i.low < math.inf for i in found]) > 0.5 or n == 500


def test_too_few_values_have_no_upper_bound_and_it_is_known_how_many_would_do() -> None:
    assert calls_for(0.99, 0.95) == 299
    random = np.random.default_rng(2)
    assert quantile_interval(random.random(298), 0.99, 0.95).high == math.inf
    assert quantile_interval(random.random(40), 0.95, 0.95).high == math.inf


def test_load_that_comes_and_goes_proves_no_more_than_independent_calls() -> None:
    """Calls are slower for a while now and then; what is asked for is the quantile in the long run."""

    def draw(random: np.random.Generator, n: int) -> Floats:
        loaded = np.repeat(random.random(-(-n // 300)) < 0.3, 300)[:n]
        return np.asarray(np.exp(0.1 * random.normal(size=n)) * np.where(loaded, 3.0, 1.0))

    truth = float(np.quantile(draw(np.random.default_rng(3), 3_000_000), 0.95))
    random, repetitions = np.random.default_rng(4), 200
    highs = [quantile_interval(draw(random, 3000), 0.95, 0.95).high for _ in range(repetitions)]
    assert np.mean(np.array(highs) < truth) <= most_often(0.06, repetitions)


@pytest.mark.parametrize(("q", "calls"), [(0.95, 20), (0.99, 60)])
def test_a_ratio_of_tails_is_proven_as_seldom_as_promised(q: float, calls: int) -> None:
    random, repetitions, quads = np.random.default_rng(5), 120, 80
    false = 0
    for _ in range(repetitions):
        shared = np.exp(0.3 * random.normal(size=(quads, 1)))  # what slows a quad slows both
        first, candidate = (shared * np.exp(0.4 * random.normal(size=(quads, calls))) for _ in range(2))
        false += quantile_ratio_interval(list(first), list(candidate), q, 0.95).high < 1.0
    assert false / repetitions <= most_often(0.05, repetitions)


def test_a_ratio_of_tails_is_found_where_both_are_slowed_together() -> None:
    random = np.random.default_rng(6)
    shared = np.exp(0.3 * random.normal(size=(200, 1)))
    first, candidate = (shared * scale * np.exp(0.1 * random.normal(size=(200, 20))) for scale in (1.0, 0.5))
    found = quantile_ratio_interval(list(first), list(candidate), 0.95, 0.95)
    assert 0.45 < found.low < 0.5 < found.high < 0.55
    few = quantile_ratio_interval(list(first[:19]), list(candidate[:19]), 0.95, 0.95)
    assert (few.low, few.high) == (-math.inf, math.inf)


def test_rates_are_proven_as_seldom_as_promised() -> None:
    random, repetitions = np.random.default_rng(7), 400
    false_value = false_ratio = 0
    for _ in range(repetitions):
        shared = np.exp(np.cumsum(0.02 * random.normal(size=(60, 1)), axis=0))
        first, candidate = (shared * np.exp(0.1 * random.normal(size=(60, 10))) for _ in range(2))
        false_ratio += rate_ratio_interval(list(first), list(candidate), 0.95).low > 1.0
        alike = np.exp(0.1 * random.normal(size=(60, 10)))
        false_value += rate_interval(list(alike), 0.95, 4).low > 4 / math.exp(0.005)
    assert false_value / repetitions <= most_often(0.05, repetitions)
    assert false_ratio / repetitions <= most_often(0.05, repetitions)


# -- calls ------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only when an artifact runs; `cost` gives seconds for (artifact, call)."""

    def __init__(self, cost: Callable[[str, int], float]) -> None:
        self.cost, self.now, self.count = cost, 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def perf_counter_ns(self) -> int:
        return round(self.now * 1e9)

    def version(self) -> str:
        return "pretended 1"

    def open(self, path: Path, threads: int = 1, *, trust: bool = False) -> Any:
        return SimpleNamespace(run=lambda arrays: self.run(path.name))

    def run(self, name: str) -> None:
        self.count += 1
        self.now += self.cost(name, self.count)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Clock]]:
    def install(cost: Callable[[str, int], float]) -> Clock:
        clock = Clock(cost)
        monkeypatch.setattr(latency, "get", lambda name: clock)
        monkeypatch.setattr(latency, "time", clock)
        return clock

    return install


def compare(metrics: tuple[str, ...], bounds: dict[str, Any], **options: Any) -> dict[str, Measurement]:
    found = compare_calls("slow", "fast", [np.zeros((1, 4), np.float32)], metrics, bounds, **options)
    return {name: Measurement.from_json(data) for name, data in found.items()}


def stumbling(share: float) -> Callable[[str, int], float]:
    """Some calls take ten times as long; `slow` takes twice as long as `fast`."""
    random = np.random.default_rng(8)
    return lambda name, call: (0.002 if name == "slow" else 0.001) * (10.0 if random.random() < share else 1.0)


def test_the_tail_is_seen_where_the_median_is_not(pretend: Callable[..., Clock]) -> None:
    pretend(stumbling(0.03))
    m = compare(("latency p95", "latency p99"), {"latency p95": {"value": 0.005}, "latency p99": {"value": 0.005}})
    assert (m["latency p95"].value, m["latency p99"].value) == (pytest.approx(0.001), pytest.approx(0.01))
    assert m["latency p99"].first == pytest.approx(0.02)
    assert m["latency p95"].intervals["value"].high < 0.005 < m["latency p99"].intervals["value"].low
    assert (m["latency p99"].unit, m["latency p99"].environment["threads"]) == ("s", 1)


def test_throughput_counts_samples_and_every_stumble(pretend: Callable[..., Clock]) -> None:
    pretend(stumbling(0.1))
    m = compare(("throughput",), {"throughput": {"ratio": 1.5}}, batch=8)["throughput"]
    assert m.value == pytest.approx(8 / 0.0019, rel=0.15)
    assert m.ratio == pytest.approx(2.0, rel=0.3)
    assert m.drop == pytest.approx(m.first - m.value)
    assert m.intervals["ratio"].low > 1.5


def test_slow_calls_are_taken_longer_for_the_sake_of_a_bound(pretend: Callable[..., Clock]) -> None:
    clock = pretend(lambda name, call: 0.05)
    m = compare(("latency p99",), {"latency p99": {"value": 1.0}}, seconds=20.0)["latency p99"]
    assert 20 < clock.now < 90
    assert m.samples >= calls_for(0.99, 0.975)  # as for the first of several looks, at least


def test_that_calls_were_too_few_is_told(pretend: Callable[..., Clock]) -> None:
    clock = pretend(lambda name, call: 1.0)
    m = compare(("latency p99",), {"latency p99": {"value": 2.0}}, seconds=20.0)["latency p99"]
    assert clock.now < 110
    assert m.intervals["value"].high == math.inf
    assert "calls are too few for a bound at 95 %: " in m.notes[0]
