"""Do the bounds hold? Exact error rates where they can be counted, seeded simulation where not."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from boildown.measuring.statistics import (
    bootstrap,
    clopper_pearson,
    level_at_look,
    mean_interval,
    median_interval,
    paired_ratio,
    paired_standard_error,
    tango,
    tango_bounds,
    wilson,
)

PROMISED = 0.06  # most false 'proven' at nominal 5 %
Floats = NDArray[np.float64]


def allowed(repetitions: int) -> float:
    """The promise plus two standard errors of the simulation."""
    return PROMISED + 2 * math.sqrt(PROMISED * (1 - PROMISED) / repetitions)


def discordant(n: int, share: float, drop: float) -> tuple[Floats, Floats, Floats]:
    """All likely (only first right, only candidate right) and their probabilities."""
    most = min(n, int(n * share + 6 * math.sqrt(n * share) + 10))
    b, c = np.meshgrid(np.arange(most + 1), np.arange(most + 1), indexing="ij")
    possible = b + c <= n
    b, c = b[possible], c[possible]
    shares = [(share + drop) / 2, (share - drop) / 2, 1 - share]
    probability = stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, shares)
    likely = probability > 1e-9
    return b[likely], c[likely], probability[likely]


# -- Tango ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [150, 300, 500, 1000, 2000, 5000])
def test_tango_proves_too_much_in_at_most_six_percent(n: int) -> None:
    """Exact: every outcome is enumerated, with the true drop exactly at the bound."""
    for bound in (0.0, 0.005, 0.01, 0.02, 0.05):
        for share in (0.01, 0.02, 0.03, 0.05, 0.1):
            if share < bound:
                continue
            b, c, probability = discordant(n, share, bound)
            low, high = tango_bounds(b, c, n, 0.95)
            assert probability[high <= bound].sum() <= PROMISED + 5e-4, (bound, share)
            assert probability[low > bound].sum() <= 0.09, (bound, share)


@pytest.mark.parametrize("k", [10, 100, 500])
def test_with_its_skewness_tango_holds_far_out(k: int) -> None:
    """That one of k slices at the bound is past it for all together: exact, by the tail of one."""
    for n in (50, 200, 1000):
        for share, bound in ((0.05, 0.05), (0.09, 0.05), (0.02, 0.01), (0.3, 0.2), (0.1, 0.0)):
            b, c, probability = discordant(n, share, bound)
            low, high = tango_bounds(b, c, n, 1 - 0.05 / k, skewed=True)
            for wrong in (low > bound, high < bound):
                assert 1 - (1 - probability[wrong].sum()) ** k <= PROMISED, (n, share, bound)


def test_with_its_skewness_tango_is_not_merely_cautious() -> None:
    b, c, probability = discordant(1000, 0.09, 0.05)
    low, _ = tango_bounds(b, c, 1000, 1 - 0.05 / 100, skewed=True)
    assert 100 * probability[low > 0.05].sum() > 0.02
    without, _ = tango_bounds(b, c, 1000, 1 - 0.05 / 100)
    assert 100 * probability[without > 0.05].sum() > 0.06, "without, it does not hold"


def test_clopper_and_pearson_are_exact() -> None:
    for right, n in ((0, 10), (10, 10), (3, 40), (181, 200)):
        found = clopper_pearson(right, n, 0.995)
        exact = stats.binomtest(right, n).proportion_ci(0.99, "exact")
        assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    with pytest.raises(ValueError, match="not a proportion"):
        clopper_pearson(3, 2, 0.95)


def test_tango_is_not_merely_cautious() -> None:
    b, c, probability = discordant(2000, 0.05, 0.01)
    _, high = tango_bounds(b, c, 2000, 0.95)
    assert probability[high <= 0.01].sum() > 0.04


def test_tango_agrees_with_a_published_interval() -> None:
    """Airway hyper-responsiveness, n = 21 with 1 and 7 discordant pairs: Fagerland, Lydersen and
    Laake, Statistics in Medicine 33 (2014), table IV."""
    interval = tango(1, 7, 21, 0.975)
    assert interval.low == pytest.approx(-0.517, abs=5e-4)
    assert interval.high == pytest.approx(-0.026, abs=5e-4)


@pytest.mark.parametrize(
    ("b", "c", "n"),
    [(0, 0, 1), (0, 0, 150), (1, 0, 1), (0, 1, 1), (150, 0, 150), (0, 150, 150), (75, 75, 150), (3, 0, 150)],
)
def test_tango_in_the_corners(b: int, c: int, n: int) -> None:
    interval = tango(b, c, n, 0.95)
    assert -1 <= interval.low <= (b - c) / n <= interval.high <= 1
    assert interval.high - interval.low > 0.001  # never certain


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 6000).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n)).flatmap(
            lambda two: st.tuples(st.just(two[0]), st.just(two[1]), st.integers(0, two[0] - two[1]))
        )
    ),
    st.floats(0.6, 0.999),
)
def test_tango_mirrors_contains_and_nests(counts: tuple[int, int, int], level: float) -> None:
    n, b, c = counts
    interval, mirrored = tango(b, c, n, level), tango(c, b, n, level)
    assert interval.low == pytest.approx(-mirrored.high, abs=1e-9)
    assert interval.low - 1e-9 <= (b - c) / n <= interval.high + 1e-9
    wider = tango(b, c, n, (1 + level) / 2)
    assert wider.low <= interval.low + 1e-9
    assert wider.high >= interval.high - 1e-9


def test_tango_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="at most n"):
        tango(3, 3, 5, 0.95)


def test_paired_standard_error_is_never_zero_and_right_for_many() -> None:
    assert paired_standard_error(0, 0, 150) > 0
    plain = math.sqrt((300 + 200) / 10_000 - 0.01**2) / 100
    assert paired_standard_error(300, 200, 10_000) == pytest.approx(plain, rel=0.01)


# -- other proportions ------------------------------------------------------------------------------


def test_wilson_agrees_with_a_published_interval() -> None:
    """81 of 263: R. G. Newcombe, Statistics in Medicine 17 (1998), table I."""
    interval = wilson(81, 263, 0.975)
    assert (interval.low, interval.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


@pytest.mark.parametrize("n", [150, 500, 1000, 5000])
def test_wilson_proves_too_much_in_at_most_six_percent(n: int) -> None:
    right = np.arange(n + 1)
    low = np.array([wilson(int(k), n, 0.95).low for k in right])
    for p in (0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99):
        assert stats.binom.pmf(right, n, p)[low >= p].sum() <= PROMISED


@pytest.mark.parametrize("n", [150, 500])
def test_paired_ratio_proves_too_much_in_at_most_six_percent(n: int) -> None:
    generator = np.random.default_rng(5)
    for first, drop, share in ((0.9, 0.02, 0.06), (0.7, 0.05, 0.15)):
        b, c = (share + drop) / 2, (share - drop) / 2
        counts = generator.multinomial(n, [b, c, first - b, 1 - first - c], 4000)
        low = np.array([paired_ratio(int(x[0]), int(x[1]), int(x[2]), 0.95).low for x in counts])
        assert np.mean(low >= (first - drop) / first) <= allowed(4000)


def test_paired_ratio_in_the_corners() -> None:
    assert paired_ratio(0, 0, 0, 0.95).high == math.inf
    same = paired_ratio(0, 0, 150, 0.95)
    assert same.low < 1 < same.high
    assert paired_ratio(5, 0, 0, 0.95).low == 0.0


# -- means ------------------------------------------------------------------------------------------


def rare_and_large(generator: np.random.Generator, n: int) -> Floats:
    """Differences of per-sample losses: mostly nothing, sometimes a lot. Mean 0.24."""
    return np.where(
        generator.random(n) < 0.08, generator.exponential(3.0, n), generator.normal(0, 0.05, n)
    )  # fmt: skip


def skewed(generator: np.random.Generator, n: int) -> Floats:
    """Mean 0.3, skewness 3.7."""
    return generator.gamma(0.3, size=n)


def false_proofs(draw: Callable[[np.random.Generator, int], Floats], truth: float, n: int, repetitions: int) -> float:
    """How often the upper bound of the mean lies at or below the truth."""
    generator = np.random.default_rng(n)
    return float(
        np.mean(
            [mean_interval(draw(generator, n), 0.95, seed=r, resamples=400).high <= truth for r in range(repetitions)]
        )
    )


@pytest.mark.parametrize(("draw", "truth"), [(rare_and_large, 0.24), (skewed, 0.3)])
@pytest.mark.parametrize(("n", "repetitions"), [(150, 1500), (500, 500), (5000, 100)])
def test_studentized_bootstrap_proves_too_much_in_at_most_six_percent(
    draw: Callable[[np.random.Generator, int], Floats], truth: float, n: int, repetitions: int
) -> None:
    assert false_proofs(draw, truth, n, repetitions) <= allowed(repetitions)


def test_naive_percentile_bootstrap_proves_too_much_at_150() -> None:
    """The reason for all this: about 12 % where 5 % is said."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(1500):
        x = rare_and_large(generator, 150)
        means = x[generator.integers(0, 150, (400, 150))].mean(axis=1)
        wrong += np.quantile(means, 0.95) <= 0.24
    assert wrong / 1500 > 0.09


def test_mean_interval_is_seeded_and_near_normal_for_many() -> None:
    x = np.random.default_rng(1).normal(2.0, 1.0, 4000)
    interval = mean_interval(x, 0.95, seed=3)
    assert interval == mean_interval(x, 0.95, seed=3)
    reach = 1.645 * x.std() / math.sqrt(4000)
    assert interval.high - x.mean() == pytest.approx(reach, rel=0.1)
    assert x.mean() - interval.low == pytest.approx(reach, rel=0.1)


def test_strict_levels_reach_beyond_the_resamples() -> None:
    x = np.random.default_rng(1).normal(0.0, 1.0, 1000)
    interval = mean_interval(x, 0.9995)
    reach = stats.norm.ppf(0.9995) * x.std() / math.sqrt(1000)
    assert interval.high - x.mean() == pytest.approx(reach, rel=0.2)


def test_mean_interval_without_spread() -> None:
    assert mean_interval([0.5] * 150, 0.95).high == math.inf  # how far a sample may lie is not known
    assert mean_interval([0.5] * 150, 0.95, seen=2.0).high == pytest.approx(0.5 + 2 * 3 / 150, rel=0.05)
    bounded = mean_interval([0.0] * 150, 0.95, span=1.0)
    assert bounded.high == pytest.approx(3 / 150, rel=0.05)  # the rule of three
    assert mean_interval([0.5], 0.95).high == math.inf


def test_one_odd_sample_proves_nothing() -> None:
    interval = mean_interval([0.0] * 149 + [1.0], 0.95)
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    bounded = mean_interval([0.0] * 149 + [1.0], 0.95, span=1.0)
    assert bounded.high == pytest.approx(stats.beta.ppf(0.95, 2, 149))


def test_mean_interval_needs_bounded_memory() -> None:
    x = np.random.default_rng(0).normal(size=50_000)
    tracemalloc.start()
    interval = mean_interval(x, 0.95)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert x.mean() in interval
    assert peak < 200e6


# -- anything else ----------------------------------------------------------------------------------


def rmse(squares: Floats) -> float:
    return math.sqrt(squares.mean())


def test_bootstrap_of_rmse_proves_too_much_in_at_most_six_percent() -> None:
    """The value of one model with long-tailed errors, and the paired drop of a noisier one."""
    repetitions, n = 250, 150
    generator = np.random.default_rng(2)
    wrong_value = wrong_drop = 0
    for seed in range(repetitions):
        squares = generator.laplace(size=n) ** 2
        interval, _ = bootstrap(lambda at, s=squares: rmse(s[at]), n, 0.95, seed=seed, resamples=400)
        wrong_value += interval.high <= math.sqrt(2)
        errors = generator.normal(size=n)
        first, candidate = errors**2, (errors + generator.normal(0, 0.3, n)) ** 2
        interval, _ = bootstrap(
            lambda at, c=candidate, f=first: rmse(c[at]) - rmse(f[at]), n, 0.95, seed=seed, resamples=400
        )
        wrong_drop += interval.high <= math.sqrt(1.09) - 1
    assert wrong_value / repetitions <= allowed(repetitions)
    assert wrong_drop / repetitions <= allowed(repetitions)


def test_bootstrap_agrees_with_the_bootstrap_of_a_mean() -> None:
    x = skewed(np.random.default_rng(4), 300)
    interval, error = bootstrap(lambda at: float(x[at].mean()), 300, 0.95, seed=1)
    plain = mean_interval(x, 0.95, seed=2)
    assert error == pytest.approx(x.std() / math.sqrt(300), rel=0.01)
    assert interval.high == pytest.approx(plain.high, rel=0.03)
    assert interval.low == pytest.approx(plain.low, rel=0.03)


@pytest.mark.parametrize("n", [2001, 20_000, 60_000])
def test_bootstrap_bounds_the_work_of_a_slow_estimate(n: int) -> None:
    x = np.random.default_rng(4).normal(size=n)
    read = 0

    def estimate(at: NDArray[np.intp]) -> float:
        nonlocal read
        read += len(at)
        return float(x[at].mean())

    interval, error = bootstrap(estimate, n, 0.95)
    assert read <= 50_000_000
    assert error == pytest.approx(x.std() / math.sqrt(n), rel=0.15)
    assert x.mean() in interval


def test_bootstrap_in_the_corners() -> None:
    constant, error = bootstrap(lambda at: 0.7, 100, 0.95, reach=lambda: 1.0)
    assert (constant.low, constant.high) == (pytest.approx(0.67, abs=5e-4), pytest.approx(0.73, abs=5e-4))
    assert error == 0.0
    single, _ = bootstrap(lambda at: 0.7, 1, 0.95)
    assert single.high == math.inf
    undefined, _ = bootstrap(lambda at: math.nan, 50, 0.95)
    assert (undefined.low, undefined.high) == (-math.inf, math.inf)


# -- medians, looks, sample sizes ---------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 8, 16, 50, 301])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_median_interval_covers_exactly_as_promised(n: int, level: float) -> None:
    interval = median_interval(np.arange(n), level)
    if math.isfinite(interval.low):
        # The median exceeds the value of rank r unless at most r samples lie below the median.
        assert stats.binom.cdf(interval.low, n, 0.5) <= 1 - level
        assert interval.low + interval.high == n - 1
        assert stats.binom.cdf(interval.low + 1, n, 0.5) > 1 - level
    else:
        assert 0.5**n > 1 - level


def test_looks_spend_no_more_than_alpha() -> None:
    assert level_at_look(0.95, 1) == pytest.approx(0.975)
    assert level_at_look(0.95, 2) == pytest.approx(1 - 0.05 / 6)
    assert sum(1 - level_at_look(0.95, k) for k in range(1, 1000)) < 0.05
    with pytest.raises(ValueError, match="counted from 1"):
        level_at_look(0.95, 0)


def test_counts_that_were_divided_may_exceed_the_number_of_samples_by_rounding():
    n = 236.3
    assert clopper_pearson(n * (1 + 1e-15), n, 0.95) == clopper_pearson(n, n, 0.95)
    with pytest.raises(ValueError, match="is not a proportion"):
        clopper_pearson(n + 1, n, 0.95)
