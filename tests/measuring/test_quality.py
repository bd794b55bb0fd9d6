from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from means import Mean
from numpy.typing import NDArray
from scipy import stats

from boildown.domain.measurement import Measurement
from boildown.errors import AttemptError
from boildown.measuring.quality import measure_quality, summarise_divergence

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rmse(Mean):
    name: str = "rmse"
    higher_is_better: bool = False
    range: tuple[float, float] = (0.0, math.inf)
    decomposable: bool = False

    def compute(self, statistics: Floats) -> float:
        return math.sqrt(statistics.mean())


@dataclass(frozen=True)
class Spearman(Mean):
    name: str = "spearman"
    range: tuple[float, float] = (-1.0, 1.0)
    decomposable: bool = False

    def compute(self, statistics: Floats) -> float:
        return float(stats.spearmanr(statistics[:, 0], statistics[:, 1]).statistic)


@dataclass(frozen=True)
class Miou(Mean):
    """Per-image (intersection, union) of each class, shape (n, classes, 2)."""

    name: str = "miou"
    decomposable: bool = False

    def compute(self, statistics: Floats) -> float:
        total = statistics.sum(axis=0)
        return float((total[:, 0] / total[:, 1]).mean())


ACCURACY, ERROR = Mean(), Mean("error", higher_is_better=False)
LOSS = Mean("loss", higher_is_better=False, range=(0.0, math.inf))
RNG = np.random.default_rng(0)


def answers(right: int, n: int = 1000) -> Floats:
    return (np.arange(n) < right).astype(float)


def test_accuracy_drop_is_paired_and_bounded_by_tango() -> None:
    first, candidate = answers(930), answers(920)
    candidate[-3:] = 1.0  # three that only the candidate gets right
    m = measure_quality(ACCURACY, candidate, first)
    assert (m.value, m.first, m.drop) == (0.923, 0.93, pytest.approx(0.007))
    assert m.ratio == pytest.approx(0.923 / 0.93)
    assert m.intervals["drop"].method.startswith("Tango")
    assert m.intervals["value"].method.startswith("Wilson")
    assert m.intervals["ratio"].method.startswith("Bonett")
    # Unpaired, the standard error would be three times as large.
    assert m.standard_error == pytest.approx(math.sqrt(13) / 1000, rel=0.1)
    assert m.intervals["drop"].high < 0.007 + 2 * m.standard_error
    assert (m.samples, m.data) == (1000, "verdict")
    for form in ("value", "drop", "ratio"):
        assert m.observed(form) in m.intervals[form]


def test_worse_is_positive_whichever_direction_is_better() -> None:
    first, candidate = answers(70), answers(90)
    worse = measure_quality(ERROR, candidate, first)
    better = measure_quality(ACCURACY, candidate, first)
    assert worse.drop == pytest.approx(0.02)
    assert better.drop == pytest.approx(-0.02)
    assert worse.intervals["drop"].low > 0 > better.intervals["drop"].high
    assert worse.intervals["drop"].low == pytest.approx(-better.intervals["drop"].high)


def test_the_same_answers_are_not_certainty() -> None:
    m = measure_quality(ACCURACY, answers(140, 150), answers(140, 150))
    assert m.drop == 0.0
    assert m.intervals["drop"].high > 0.01
    assert m.standard_error is not None
    assert m.standard_error > 0


def test_a_mean_of_losses_uses_the_studentized_bootstrap() -> None:
    first = RNG.gamma(0.5, size=400)
    candidate = first + np.abs(RNG.normal(0.0, 0.1, 400))
    m = measure_quality(LOSS, candidate, first, seed=4)
    assert m.drop == pytest.approx(candidate.mean() - first.mean())
    assert m.intervals["drop"].method == "studentized bootstrap"
    assert m.standard_error == pytest.approx((candidate - first).std() / 20)
    assert m.intervals["drop"].low > 0
    width = m.intervals["value"].high - m.intervals["value"].low
    assert m.intervals["drop"].high - m.intervals["drop"].low < width / 4  # pairing pays
    assert m == measure_quality(LOSS, candidate, first, seed=4)
    assert m.intervals["ratio"].low > 1


def test_a_mean_of_rows_averages_each_row() -> None:
    rows = RNG.random((50, 3))
    assert measure_quality(Mean(), rows).standard_error == pytest.approx(rows.mean(axis=1).std() / math.sqrt(50))


def test_rmse_drop_and_ratio() -> None:
    errors = RNG.normal(size=300)
    first, candidate = errors**2, (1.1 * errors) ** 2
    m = measure_quality(Rmse(), candidate, first)
    assert m.ratio == pytest.approx(1.1)
    assert m.drop == pytest.approx(0.1 * math.sqrt(first.mean()))
    # Every resample has the same ratio, but a sample that was not seen may not.
    assert 1.1 < m.intervals["ratio"].high < 1.2
    assert m.intervals["drop"].low < m.drop < m.intervals["drop"].high


def test_spearman_over_rows() -> None:
    target = RNG.normal(size=250)
    first = np.stack([target + RNG.normal(0, 0.3, 250), target], axis=1)
    candidate = np.stack([first[:, 0] + RNG.normal(0, 0.3, 250), target], axis=1)
    m = measure_quality(Spearman(), candidate, first)
    assert m.ratio is None
    assert "ratio" not in m.intervals
    assert m.intervals["drop"].low > 0
    assert m.standard_error == pytest.approx(m.drop / 5, rel=0.6)
    assert m.intervals["value"].high <= 1.0


def test_miou_keeps_counts_of_each_image() -> None:
    union = RNG.integers(50, 100, (120, 4)).astype(float)
    first = np.stack([union * RNG.uniform(0.7, 1.0, (120, 4)), union], axis=2)
    candidate = first.copy()
    candidate[:, :, 0] *= RNG.uniform(0.9, 1.0, (120, 4))
    m = measure_quality(Miou(), candidate, first)
    assert m.intervals["drop"].low < m.drop < m.intervals["drop"].high
    assert m.intervals["drop"].low > 0.02


def test_bounds_stay_within_the_range_of_the_metric() -> None:
    m = measure_quality(Mean("score"), np.array([1.0] * 30 + [0.99]), np.array([1.0] * 31))
    assert m.intervals["value"].high <= 1.0
    assert m.intervals["drop"].high <= 1.0


def test_without_a_first_model_only_the_value() -> None:
    m = measure_quality(ACCURACY, answers(700), data="search", environment={"machine": "x"})
    assert (m.first, m.drop, m.ratio) == (None, None, None)
    assert set(m.intervals) == {"value"}
    assert m.standard_error == pytest.approx(math.sqrt(0.7 * 0.3 / 1000))
    assert (m.data, m.environment) == ("search", {"machine": "x"})


def test_a_stricter_level_widens_and_is_kept() -> None:
    first, candidate = answers(930), answers(920)
    usual, strict = (measure_quality(ACCURACY, candidate, first, level=level) for level in (0.95, 0.99))
    assert strict.intervals["drop"].high > usual.intervals["drop"].high
    assert strict.intervals["drop"].level == 0.99


def test_journal_round_trip() -> None:
    m = measure_quality(ACCURACY, answers(900), answers(930))
    assert Measurement.from_json(json.loads(json.dumps(m.to_json()))) == m


def test_what_is_not_finite_is_a_named_failure() -> None:
    rows = answers(900)
    rows[7] = math.nan
    with pytest.raises(AttemptError, match=r"accuracy of the candidate .* on 1 of 1000 .*sample 7"):
        measure_quality(ACCURACY, rows, answers(900))
    constant = np.ones((20, 2))
    with pytest.warns(stats.ConstantInputWarning), pytest.raises(AttemptError, match="constant output"):
        measure_quality(Spearman(), constant)


class Scored(Mean):
    """Leaves out samples that have no score."""

    def compute(self, statistics: Floats) -> float:
        return float(np.nanmean(statistics))


def test_samples_without_a_score_do_not_count() -> None:
    kept = np.arange(1000) % 3 > 0
    first, candidate = answers(930), answers(920)
    expected = measure_quality(ACCURACY, candidate[kept], first[kept])
    first[~kept] = candidate[~kept] = math.nan
    assert measure_quality(Scored(), candidate, first) == expected
    assert measure_quality(Scored(), candidate).samples == kept.sum()
    first[0] = 1.0  # a candidate alone must not choose what it is judged on
    with pytest.raises(AttemptError, match="accuracy of the candidate"):
        measure_quality(Scored(), candidate, first)


def test_different_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="same samples"):
        measure_quality(ACCURACY, answers(9, 10), answers(9, 11))
    with pytest.raises(ValueError, match="no statistics"):
        measure_quality(ACCURACY, np.zeros(0))


def test_divergence() -> None:
    m = summarise_divergence([0.1, 0.2, 0.3, 0.4])
    assert m.value == pytest.approx(0.25)
    assert m.standard_error == pytest.approx(np.std([0.1, 0.2, 0.3, 0.4], ddof=1) / 2)
    assert (m.metric, m.data, m.samples) == ("divergence", "search", 4)
    assert summarise_divergence([0.1]).standard_error is None
    with pytest.raises(AttemptError, match="divergence"):
        summarise_divergence([0.1, math.inf])
