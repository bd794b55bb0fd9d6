"""What few samples say: they dominate a statistic, none of them differs, or many of them are one and the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from boildown.domain.grammar import parse_target
from boildown.domain.verdict import Finding, Status, judge
from boildown.measuring.quality import measure_quality
from boildown.measuring.statistics import dominant, mean_interval
from boildown.tasks.metrics import IGNORED, metric

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]


def lognormal(sigma: float) -> Draw:
    return lambda generator, n: np.exp(sigma * generator.normal(size=n))


def pareto(index: float) -> Draw:
    return lambda generator, n: 1 + generator.pareto(index, size=n)


def contaminated(times: float) -> Draw:
    """Squared errors of which five are larger on average, by a factor of times squared."""
    return lambda generator, n: np.where(generator.random(n) < 5 / n, times, generator.normal(size=n)) ** 2


def heard(condition: str, name: str, candidate: Floats, first: Floats, confidence: float | None = 0.95) -> Finding:
    chosen = metric(name)
    found = measure_quality(chosen, candidate, first, places=np.arange(len(first)) + 1000)
    return judge(parse_target([condition], [chosen]), {name: found}, confidence).findings[0]


# -- heavy tails ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lognormal(2.0), math.exp(2)),
        (lognormal(2.8), math.exp(2.8**2 / 2)),
        (lognormal(4.0), math.exp(8)),
        (pareto(1.5), 3.0),
        (contaminated(30), 1 + 5 / 400 * 899),
    ],
)
def test_heavy_tails_prove_too_much_in_at_most_six_percent(draw: Draw, truth: float) -> None:
    generator, repetitions = np.random.default_rng(0), 250
    highs = [mean_interval(draw(generator, 400), 0.95, seed=r, resamples=200).high for r in range(repetitions)]
    assert np.mean(np.array(highs) <= truth) <= 0.06 + 2 * math.sqrt(0.06 * 0.94 / repetitions)


@pytest.mark.parametrize("n", [150, 500, 5000])
def test_light_tails_are_left_alone(n: int) -> None:
    generator = np.random.default_rng(1)
    for draw in (generator.normal, generator.laplace, generator.exponential):
        assert not any(dominant(draw(size=n)) for _ in range(20))
    assert sum(bool(dominant(generator.normal(size=n) ** 2 - 1)) for _ in range(50)) <= 5


def test_the_rows_that_dominate_are_named_and_a_robust_metric_offered() -> None:
    errors = np.random.default_rng(2).normal(size=500)
    first, candidate = errors**2, (1.05 * errors) ** 2
    candidate[[17, 301]] = 900.0, 400.0
    proven = heard("rmse <= 9x", "rmse", candidate, first)
    assert proven.status is Status.UNDECIDED
    assert "items 1017 (8" in proven.note
    assert "1301" in proven.note
    assert "mae" in proven.sentence()
    seen = heard("rmse <= 9x", "rmse", candidate, first, confidence=None)
    assert (seen.status, seen.lucky) == (Status.MET, True)
    assert "could be luck" in seen.sentence()
    assert "1017" in seen.sentence()


def test_a_row_in_a_group_of_neighbours_is_named_all_the_same() -> None:
    errors = np.random.default_rng(3).normal(size=2600)
    candidate = errors**2
    candidate[2321] = 1e6
    assert "items 3321 (100%)" in heard("rmse <= 9x", "rmse", candidate, errors**2).note


def test_one_row_disproves_nothing_either() -> None:
    errors = np.random.default_rng(4).normal(size=500)
    candidate = errors**2
    candidate[3] = 5e6
    assert heard("rmse <= 2x", "rmse", candidate, errors**2).status is Status.UNDECIDED


# -- nothing differs --------------------------------------------------------------------------------


def unchanged(name: str, n: int = 300) -> Floats:
    """Statistics of a model that is neither perfect nor useless."""
    generator = np.random.default_rng(5)
    labels = (generator.random(n) < 0.15).astype(float)
    scores = labels + generator.normal(size=n)
    rows = {
        "f1": np.stack([(scores > 1).astype(float), labels], 1),
        "auc": np.stack([scores, labels], 1),
        "spearman": np.stack([scores, labels + generator.normal(size=n)], 1),
        "perplexity": np.stack([generator.gamma(4, size=n), np.full(n, 9.0)], 1),
        "rmse": generator.normal(size=n) ** 2,
        "mae": np.abs(generator.normal(size=n)),
        "miou": np.sort(generator.integers(1, 40, (n, 3, 4)), axis=1).astype(float),
    }
    return rows[name]


@pytest.mark.parametrize("name", ["f1", "auc", "spearman", "perplexity", "rmse", "mae", "miou"])
def test_no_difference_among_the_samples_is_not_certainty(name: str) -> None:
    rows = unchanged(name)
    found = measure_quality(metric(name), rows, rows.copy())
    assert found.drop == 0.0
    for form, at in (("drop", 0.0), ("ratio", 1.0)):
        if form in found.intervals:
            low, high = found.intervals[form].low, found.intervals[form].high
            assert low < at < high, form
            assert high - low > 1e-4, form
    # Three in n may differ unseen, each by as much as samples do: not everything is possible either.
    assert found.intervals["drop"].high < 0.5


def test_few_changed_answers_bound_f1_as_they_bound_accuracy() -> None:
    """One changed answer of 300 leaves room for a few more, and no more than that."""
    rows = unchanged("f1")
    changed = rows.copy()
    right = np.flatnonzero((rows[:, 0] == 1) & (rows[:, 1] == 1))[0]
    changed[right, 0] = 0
    none = measure_quality(metric("f1"), rows.copy(), rows).intervals["drop"]
    one = measure_quality(metric("f1"), changed, rows).intervals["drop"]
    assert none.high < one.high < 3 * none.high


def test_perfect_scores_do_not_prove_what_a_mistake_would_cost() -> None:
    rows = np.stack([np.arange(600) % 2, np.arange(600) % 2], 1).astype(float)
    assert measure_quality(metric("f1"), rows, rows).intervals["drop"].high == 1.0


def test_ignored_rows_stay_ignored() -> None:
    rows = unchanged("f1")
    rows[:50, 1] = IGNORED
    assert measure_quality(metric("f1"), rows, rows).intervals["drop"].high < 0.5


# -- repeated samples -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["accuracy", "mae", "rmse", "f1"])
def test_repeats_are_worth_what_one_of_each_is(name: str) -> None:
    generator = np.random.default_rng(6)
    rows = unchanged(name, 60) if name != "accuracy" else (generator.random(60) < 0.9).astype(float)
    first, candidate = rows, rows.copy()
    candidate[:20] = rows[20:40]
    many = np.tile(np.arange(60), 25)
    once = measure_quality(metric(name), candidate, first)
    repeated = measure_quality(metric(name), candidate[many], first[many], clusters=many)
    assert (repeated.samples, repeated.value) == (60, pytest.approx(once.value))
    assert "60 are different" in repeated.notes[0]
    for form, interval in once.intervals.items():
        assert repeated.intervals[form].low == pytest.approx(interval.low, rel=0.15, abs=0.01), form
        assert repeated.intervals[form].high == pytest.approx(interval.high, rel=0.15, abs=0.01), form


def test_one_large_cluster_weighs_as_one_sample_of_many() -> None:
    scores = np.ones(1000)
    clusters = np.concatenate([np.arange(500), np.full(500, 500)])
    apart = measure_quality(metric("accuracy"), scores, scores)
    together = measure_quality(metric("accuracy"), scores, scores, clusters=clusters)
    assert together.samples == 501
    assert together.intervals["drop"].high > 50 * apart.intervals["drop"].high
