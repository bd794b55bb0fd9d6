"""On a clock that the artifacts themselves move, so that no result depends on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from boildown.domain.measurement import Measurement
from boildown.measuring import latency

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


def test_stops_at_the_first_look_where_the_bound_is_clear(pretend: Callable[..., Clock]) -> None:
    pretend(twice)
    m = compare(bound=0.8)
    assert m.samples == 8
    assert "look 1" in m.intervals["ratio"].method
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
    assert any(note.startswith("noisy") for note in compare().notes)


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
