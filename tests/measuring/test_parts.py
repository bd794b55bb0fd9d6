"""Intervals from scores of parts: dealt fairly, and as seldom wrong as promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from boildown.measuring.parts import LEAST, MOST, UNITS, dealt, interval_of_parts
from boildown.measuring.statistics import units_of


def test_parts_share_nothing_leave_nothing_out_and_keep_clusters_whole() -> None:
    clusters = np.random.default_rng(0).integers(0, 90, 1000)
    parts = dealt(units_of(clusters, 1000), seed=0)
    assert len(parts) == 90 // UNITS
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert max(map(len, parts)) - min(map(len, parts)) <= 30
    owners = [set(clusters[part]) for part in parts]
    assert sum(map(len, owners)) == len(set(clusters))
    assert [p.tolist() for p in dealt(units_of(clusters, 1000), seed=0)] == [p.tolist() for p in parts]


def test_few_samples_make_no_parts_and_many_no_more_than_ten() -> None:
    assert dealt(units_of(None, LEAST * UNITS - 1), 0) == []
    assert len(dealt(units_of(None, LEAST * UNITS), 0)) == LEAST
    assert len(dealt(units_of(None, 5000), 0)) == MOST


def f1(labels: NDArray[np.int64], said: NDArray[np.int64]) -> float:
    return float(2 * (labels & said).sum() / (labels.sum() + said.sum()))


@pytest.mark.parametrize("n", [300, 2000])
def test_a_drop_in_f1_is_proven_as_seldom_as_promised(n: int) -> None:
    """Both models are as good; that the candidate lost nothing is what must not be disproven, nor a gain proven."""
    random, repetitions = np.random.default_rng(1), 120
    false = 0
    for _ in range(repetitions):
        labels = random.integers(0, 2, n)
        said = [np.where(random.random(n) < 0.15, 1 - labels, labels) for _ in range(2)]
        whole, *each = (
            f1(labels[at], said[0][at]) - f1(labels[at], said[1][at])
            for at in (np.arange(n), *dealt(units_of(None, n), 0))
        )
        false += interval_of_parts(whole, each, 0.95, count=n)[0].high < 0
    assert false / repetitions <= 0.06 + 2.5 * math.sqrt(0.06 * 0.94 / repetitions)


def test_that_no_part_differs_does_not_prove_that_none_could() -> None:
    bounded, error = interval_of_parts(0.0, np.zeros(10), 0.95, count=300, span=1.0)
    assert bounded.high == pytest.approx(3 / 300, rel=0.01)
    assert error == 0.0
    assert interval_of_parts(0.0, np.zeros(10), 0.95, count=300)[0].high == math.inf
