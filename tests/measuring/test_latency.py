"""On a clock that the artifacts themselves move, so that no result depends on this machine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarks.timing import Replay, chosen, looked, read
from numpy.typing import NDArray

from boildown.domain.measurement import Measurement
from boildown.measuring import latency
from boildown.measuring.statistics import median_rank

INPUTS = [np.zeros((1, 4), np.float32)]
LOADING = 0.005


class Clock:
    """Time that passes only when an artifact runs; `cost` gives seconds for (artifact, now)."""

    def __init__(self, cost: Callable[[str, float], float]) -> None:
        self.cost, self.now = cost, 0.0
        self.ran: list[str] = []
        self.opened: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def perf_counter_ns(self) -> int:
        return round(self.now * 1e9)

    def version(self) -> str:
        return "pretended 1"

    def open(self, path: Path, threads: int = 1, *, trust: bool = False) -> Any:
        self.opened.append(path.name)
        self.now += LOADING
        return SimpleNamespace(run=lambda arrays: self.run(path.name))

    def run(self, name: str) -> None:
        self.ran.append(name)
        self.now += self.cost(name, self.now)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Clock]]:
    def install(cost: Callable[[str, float], float]) -> Clock:
        clock = Clock(cost)
        monkeypatch.setattr(latency, "get", lambda name: clock)
        monkeypatch.setattr(latency, "time", clock)
        return clock

    return install


def compare(**options: Any) -> Measurement:
    return Measurement.from_json(latency.compare("slow", "fast", INPUTS, **options))


def twice(name: str, now: float) -> float:
    return 0.002 if name == "slow" else 0.001


def test_ratio_and_times(pretend: Callable[..., Clock]) -> None:
    clock = pretend(twice)
    m = compare()
    assert m.ratio == pytest.approx(0.5)
    assert (m.value, m.first, m.drop) == (pytest.approx(0.001), pytest.approx(0.002), pytest.approx(-0.001))
    assert m.intervals["ratio"].low == pytest.approx(0.5)
    assert (m.metric, m.unit, m.samples) == ("latency", "s", len(m.raw))
    assert m.environment["runtime"] == "pretended 1"
    assert m.environment["threads"] == 1
    assert clock.now == pytest.approx(2.0, abs=0.8)


def test_blocks_alternate_and_sessions_swap(pretend: Callable[..., Clock]) -> None:
    clock = pretend(twice)
    compare(min_seconds=1.0)
    blocks: list[str] = []
    for name in clock.ran:
        if not blocks or blocks[-1] != name:
            blocks.append(name)
    assert len(blocks) > 20
    assert {tuple(clock.opened[i : i + 2]) for i in range(0, len(clock.opened), 2)} == {
        ("slow", "fast"),
        ("fast", "slow"),
    }
    assert clock.ran.count("fast") == pytest.approx(2 * clock.ran.count("slow"), rel=0.2)


def test_drift_cancels(pretend: Callable[..., Clock]) -> None:
    pretend(lambda name, now: twice(name, now) * (1 + now))
    m = compare()
    assert m.ratio == pytest.approx(0.5, rel=0.01)


def test_stops_at_the_first_peek_where_the_bound_is_clear(pretend: Callable[..., Clock]) -> None:
    pretend(twice)
    m = compare(bound=0.8)
    assert m.samples == 8
    assert "peek 1" in m.intervals["ratio"].method
    assert m.intervals["ratio"].level == 0.95
    assert compare(bound=0.8, value_bound=0.005).samples == 8


def test_goes_on_to_the_end_where_it_is_not(pretend: Callable[..., Clock]) -> None:
    for bounds in ({"bound": 0.5}, {"value_bound": 0.001}):
        clock = pretend(lambda name, now: twice(name, now) * np.random.default_rng(int(now * 1e6)).uniform(0.9, 1.1))
        m = compare(**bounds, seconds=10.0)
        assert clock.now == pytest.approx(10.0, abs=1.0)
        assert m.samples > 100
        assert m.notes == () or not m.notes[0].startswith("noisy")


def test_a_slow_model_still_gets_one_quad(pretend: Callable[..., Clock]) -> None:
    pretend(lambda name, now: 20.0)
    m = compare(bound=0.5, seconds=30.0)
    assert m.samples == 1
    assert m.intervals["ratio"].high == float("inf")


def test_noise_is_said(pretend: Callable[..., Clock]) -> None:
    pretend(lambda name, now: 0.001 * (3 if name == "fast" and int(now * 10) % 2 else 1))
    m = compare()
    assert any(note.startswith("noisy: block ratios spread by ") for note in m.notes)
    assert m.noisy
    pretend(lambda name, now: 0.001 * (1.2 if name == "fast" and int(now * 10) % 2 else 1))
    m = compare()
    assert any(note.startswith("block ratios spread by ") for note in m.notes), "told, and too little for a mark"
    assert not m.noisy


def test_alone(pretend: Callable[..., Clock]) -> None:
    pretend(twice)
    m = Measurement.from_json(latency.alone("fast", INPUTS))
    assert m.value == pytest.approx(0.001)
    assert (m.first, m.ratio) == (None, None)
    assert set(m.intervals) == {"value"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin threads to cores")
def test_cores_are_pinned_while_timing_and_given_back(pretend: Callable[..., Clock]) -> None:
    before = os.sched_getaffinity(0)
    seen = set()

    def cost(name: str, now: float) -> float:
        seen.add(len(os.sched_getaffinity(0)))
        return 0.001

    pretend(cost)
    m = compare()
    assert seen == {1}
    assert len(m.environment["pinned"]) == 1
    assert os.sched_getaffinity(0) == before


def sometimes_loaded(draws: int, quads: int, alike: int, seed: int = 0) -> NDArray[np.float64]:
    """Block ratios with a median of 1, (draws, quads): others come, stay for so many on average, and go."""
    random = np.random.default_rng(seed)
    begins = random.random((draws, quads)) < 1 / alike
    load = np.take_along_axis(
        random.normal(0, 0.1, (draws, quads)), np.maximum.accumulate(np.where(begins, np.arange(quads), 0), 1), 1
    )
    return np.exp(load + random.normal(0, 0.2, (draws, quads)))


def false_proofs(ratios: NDArray[np.float64], level: float) -> tuple[float, float]:
    """How often the interval lies below the true median of 1: as it is made, and as if neighbours were not alike."""
    above = (ratios > 1).sum(axis=1)
    rank = median_rank(ratios.shape[1], level)
    return float((above <= latency.rank_in_series(ratios, level)).mean()), float((above <= rank).mean())


@pytest.mark.parametrize(("quads", "alike"), [(64, 4), (512, 16)])
@pytest.mark.parametrize("level", [0.95, 0.975])
def test_neighbours_that_are_alike_prove_no_more_than_promised(quads: int, alike: int, level: float) -> None:
    made, naive = false_proofs(sometimes_loaded(2000, quads, alike), level)
    assert made <= 1.2 * (1 - level) + 2 * math.sqrt(level * (1 - level) / 2000)
    assert naive > 1.4 * (1 - level)


def test_neighbours_that_are_not_cost_little() -> None:
    ratios = np.exp(np.random.default_rng(1).normal(0, 0.2, (500, 512)))
    rank, independent = latency.rank_in_series(ratios, 0.975), median_rank(512, 0.975)
    assert rank.max() <= independent
    assert np.median(512 / 2 - rank) < 1.4 * (512 / 2 - independent)
    few = latency.rank_in_series(ratios[:, :31], 0.975)
    assert set(few) == {median_rank(31, 0.975)}


def test_equal_times_are_known_exactly(pretend: Callable[..., Clock]) -> None:
    assert latency.rank_in_series(np.ones(64), 0.99) == median_rank(64, 0.99)
    pretend(twice)
    m = compare()
    assert m.samples > 32
    assert m.intervals["ratio"].high == pytest.approx(0.5)
    assert (m.spread, m.noisy) == (pytest.approx(0.0, abs=1e-3), False)


def test_recorded_blocks_prove_no_more_than_promised() -> None:
    worst = Replay(next(each for each in read() if (each.network, each.file) == ("resnet20", "int8")), 300, run=32)
    rates = looked(worst)
    assert rates["one look, neighbours independent"] > 0.08
    assert rates["looks 1 and 2"] <= 0.06
    by_its_own, anew, *_ = chosen(worst, 2)
    assert anew <= 0.06
    assert anew < by_its_own
