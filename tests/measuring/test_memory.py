from __future__ import annotations

import mmap
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from boildown.measuring import memory

MB = 1_000_000
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's own peak is read on Linux")


class Hungry:
    """A runtime whose sessions keep `kept` bytes and need `passing` bytes more during a call."""

    def __init__(self, kept: int, passing: int = 0) -> None:
        self.kept, self.passing = kept, passing

    def version(self) -> str:
        return "hungry 1"

    def open(self, path: Path, threads: int = 1, *, trust: bool = False) -> Any:
        kept = fresh(self.kept)
        return SimpleNamespace(run=lambda arrays: [kept, fresh(self.passing)][:1])


def fresh(count: int) -> Any:
    """Ones in a mapping of their own: the heap would give out again what tests before have freed."""
    ones = np.frombuffer(mmap.mmap(-1, max(count, 1)), np.uint8)
    ones[:] = 1
    return ones


@linux
@pytest.mark.parametrize(("kept", "passing"), [(40 * MB, 0), (20 * MB, 60 * MB)])
def test_peak_counts_what_is_kept_and_what_passes(monkeypatch: pytest.MonkeyPatch, kept: int, passing: int) -> None:
    monkeypatch.setattr(memory, "get", lambda name: Hungry(kept, passing))
    assert memory.peak("any", []) == pytest.approx(kept + passing, abs=3 * MB)


@linux
def test_without_permission_to_reset_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset_peak", lambda: False)
    monkeypatch.setattr(memory, "get", lambda name: Hungry(30 * MB))
    assert memory.peak("any", []) == pytest.approx(30 * MB, abs=3 * MB)


def test_summarise_takes_medians() -> None:
    m = memory.summarise([40 * MB, 39 * MB, 90 * MB], [10 * MB, 11 * MB, 9 * MB])
    assert (m.value, m.first, m.ratio, m.drop) == (10 * MB, 40 * MB, 0.25, -30 * MB)
    assert m.raw == (10 * MB, 11 * MB, 9 * MB)
    assert m.notes == ()


def test_summarise_refuses_a_ratio_of_next_to_nothing() -> None:
    m = memory.summarise([3 * MB] * 3, [MB, MB, 2 * MB])
    assert m.ratio is None
    assert m.value == MB
    assert "1.00 MB is below 2 MB" in m.notes[0]
