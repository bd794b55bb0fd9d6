"""What samples in groups prove: they are neither as many independent ones, nor one and the same."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from benchmarks.clusters import PROMISED, Cell, drawn, proven, the_whole_way
from means import Mean
from numpy.typing import NDArray
from scipy import stats

from boildown.domain.grammar import parse_target
from boildown.domain.measurement import Measurement
from boildown.domain.verdict import Finding, Status, Verdict, judge
from boildown.measuring.clusters import FEW, effective
from boildown.measuring.quality import measure_quality
from boildown.measuring.sequential import EarlyStop
from boildown.measuring.statistics import tango, units_of
from boildown.tasks.metrics import metric

Floats = NDArray[np.float64]

ACCURACY = Mean()
LOSS = Mean("loss", higher_is_better=False, range=(0.0, math.inf))


def groups(count: int, size: int) -> NDArray[np.intp]:
    return np.repeat(np.arange(count), size)


def scores(count: int, size: int, lost: int, alike: bool) -> tuple[Floats, Floats]:
    """Both models' 0/1 scores: `lost` samples are lost one in each group, or in as few groups as they fill."""
    first = np.ones((count, size))
    candidate = first.copy()
    if alike:
        candidate.reshape(-1)[:lost] = 0
    else:
        candidate[:lost, 0] = 0
    return first.reshape(-1), candidate.reshape(-1)


def heard(condition: str, found: Measurement, confidence: float | None = 0.95) -> Finding:
    return judge(parse_target([condition], [metric("accuracy")]), {"accuracy": found}, confidence).findings[0]


# -- how often it is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 20])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["alike", "rates", "some"])
def test_groups_prove_too_much_in_at_most_six_percent(size: int, correlation: float, kind: str) -> None:
    """What `benchmarks.clusters` shows with more draws and in more cases."""
    draws = 1500
    for uneven, shares in ((False, (0.02, 0.01)), (True, (0.0075, 0.0025)), (False, (0.05,)), (True, (0.01,))):
        cell = Cell("false", FEW, size, uneven, kind, correlation, shares)
        random = np.random.default_rng(size)
        rate = float(proven(cell, drawn(cell, draws, random)).mean())
        assert rate <= PROMISED + 2.5 * math.sqrt(PROMISED * (1 - PROMISED) / draws), (cell, rate)


def test_verdicts_say_what_the_simulation_counts() -> None:
    for shares, uneven in (((0.06, 0.04), True), ((0.1,), False), ((0.004, 0.001), False)):
        cell = Cell("power", 40, 5, uneven, "alike", 0.3, shares, 2.0)
        counts = drawn(cell, 6, np.random.default_rng(3))
        assert [the_whole_way(cell, draw) for draw in counts] == proven(cell, counts).tolist()


def test_taken_for_independent_the_same_samples_prove_far_too_much() -> None:
    cell = Cell("false", 100, 20, False, "alike", 0.9, (0.03, 0.02))
    counts = drawn(cell, 1000, np.random.default_rng(0))
    assert proven(cell, counts, grouped=False).mean() > 0.25


@pytest.mark.parametrize("count", [6, 12, 25])
def test_few_groups_with_skewed_losses_prove_too_much_seldom(count: int) -> None:
    random, draws, false = np.random.default_rng(8), 300, 0
    for _ in range(draws):
        worse = np.repeat(random.exponential(size=count), 5)
        found = measure_quality(LOSS, worse, 0 * worse, clusters=groups(count, 5), groups=True)
        false += found.intervals["drop"].high <= 1.0
    assert false / draws <= 0.06 + 2.5 * math.sqrt(0.06 * 0.94 / draws)


# -- between one sample each and one sample in all ----------------------------------------------------


@pytest.mark.parametrize("lost", [0, 20, 50])
def test_samples_that_differ_singly_are_worth_more_than_those_that_differ_together(lost: int) -> None:
    count, size = 100, 10
    worse = []
    for alike in (False, True):
        first, candidate = scores(count, size, lost, alike)
        found = measure_quality(ACCURACY, candidate, first, clusters=groups(count, size), groups=True)
        worse.append(found.intervals["drop"].high)
        assert (found.samples, found.groups) == (1000, 100)
        assert found.notes == ("1,000 samples in 100 groups",)
    independent = tango(lost, 0, count * size, 0.95).high
    as_groups = tango(lost / size, 0, count, 0.95).high
    assert independent < worse[0] <= worse[1]
    assert worse[1] == pytest.approx(as_groups, rel=0.06)
    if lost:
        assert worse[0] < (independent + as_groups) / 2


@pytest.mark.parametrize("name", ["accuracy", "mae", "f1", "auc"])
def test_no_difference_in_g_groups_proves_no_more_than_in_g_samples(name: str) -> None:
    random = np.random.default_rng(1)
    labels = (random.random(400) < 0.3).astype(float)
    rows = {
        "accuracy": (random.random(400) < 0.9).astype(float),
        "mae": random.gamma(2, size=400),
        "f1": np.stack([np.where(random.random(400) < 0.1, 1 - labels, labels), labels], 1),
        "auc": np.stack([labels + random.normal(size=400), labels], 1),
    }[name]
    found = measure_quality(metric(name), rows, rows.copy(), clusters=groups(40, 10), groups=True)
    alone = measure_quality(metric(name), rows[::10], rows[::10].copy())
    assert found.intervals["drop"].high >= 0.8 * alone.intervals["drop"].high > 0


@pytest.mark.parametrize("name", ["mae", "rmse", "f1"])
@pytest.mark.parametrize("count", [12, 60])
def test_any_metric_is_less_certain_in_groups_that_are_alike(name: str, count: int) -> None:
    random = np.random.default_rng(2)
    once = np.stack([random.random(count) < 0.5, random.random(count) < 0.5], 1).astype(float)
    rows = np.repeat(once if name == "f1" else random.gamma(2, size=count), 8, axis=0)
    together = measure_quality(metric(name), rows, clusters=groups(count, 8), groups=True).intervals["value"]
    apart = measure_quality(metric(name), rows).intervals["value"]
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert ("Student" in together.method) == (count < FEW)


def test_few_groups_are_judged_by_students_t() -> None:
    random = np.random.default_rng(4)
    each = random.normal(size=(9, 7)) + random.normal(size=(9, 1))
    found = measure_quality(LOSS, 5 + each.ravel(), np.full(63, 5.0), clusters=groups(9, 7), groups=True)
    means = each.mean(1)
    away, interval = stats.t.ppf(0.95, 8) * means.std(ddof=1) / 3, found.intervals["drop"]
    assert away - 1e-9 <= interval.high - means.mean() < 1.6 * away
    assert away - 1e-9 <= means.mean() - interval.low < 1.6 * away
    assert found.standard_error == pytest.approx(means.std(ddof=1) / 3)


def test_groups_of_unequal_sizes_weigh_as_many_samples_as_they_have() -> None:
    sizes = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 91])
    labels = np.repeat(np.arange(10), sizes)
    residuals = np.random.default_rng(5).choice([-0.5, 0.5], 10)[labels]
    residuals -= residuals.mean()
    assert effective(residuals, units_of(labels, 100)) < 2


@pytest.mark.parametrize("name", ["accuracy", "mae", "f1"])
def test_one_group_proves_nothing(name: str) -> None:
    rows = np.stack([np.arange(50) % 2, np.arange(50) % 3 == 0], 1).astype(float)
    rows = rows if name == "f1" else rows[:, 0]
    first = rows[::-1].copy()
    found = measure_quality(metric(name), rows, first, clusters=np.zeros(50, int), groups=True)
    span = metric(name).range[1] - metric(name).range[0]
    assert found.intervals["drop"].high >= span
    assert found.intervals["value"].low == metric(name).range[0]


def test_two_groups_leave_nearly_everything_open() -> None:
    found = measure_quality(ACCURACY, np.ones(40), np.ones(40), clusters=groups(2, 20), groups=True)
    assert found.intervals["drop"].high == 1.0
    finding = heard("accuracy drop <= 50 pp", found)
    assert finding.status is Status.UNDECIDED
    assert "2 groups, too few" in finding.note


def test_groups_that_decide_are_named() -> None:
    losses = np.random.default_rng(6).normal(size=400) ** 2
    losses[80:84] = 400.0
    found = measure_quality(metric("rmse"), losses, np.ones(400), clusters=groups(40, 10), groups=True)
    assert "of 40 groups decide how far it may lie, those of items" in found.intervals["drop"].note
    assert found.intervals["drop"].high == math.inf


# -- what is told -----------------------------------------------------------------------------------


def test_a_verdict_says_how_many_groups_it_stands_on_and_how_many_would_decide() -> None:
    first, candidate = scores(100, 10, 5, alike=False)
    condition = "accuracy drop <= 1 pp"
    found = measure_quality(ACCURACY, candidate, first, clusters=groups(100, 10), groups=True)
    finding = heard(condition, found)
    assert finding.status is Status.UNDECIDED
    assert finding.needed is not None
    assert finding.needed > 100
    assert finding.sentence().endswith(f"(about {finding.needed:,} groups would decide)")
    verdict = judge(parse_target([condition], [ACCURACY]), {"accuracy": found}, 0.95)
    assert verdict.sentence().endswith(" Quality stands on 1,000 samples in 100 groups.")
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict
    alone = heard(condition, measure_quality(ACCURACY, candidate, first))
    assert "groups" not in alone.sentence()


def test_a_measurement_of_an_older_journal_has_no_groups() -> None:
    kept = measure_quality(ACCURACY, np.ones(60), np.ones(60)).to_json()
    del kept["groups"]
    assert Measurement.from_json(kept).groups is None


def test_a_search_that_stops_allows_for_groups() -> None:
    random = np.random.default_rng(7)
    labels = groups(400, 10)
    first, candidate = (np.ones(4000), (random.random(400) > 0.2).astype(float)[labels])
    order = random.permutation(4000)
    (condition,) = parse_target(["accuracy drop <= 1 pp"], [ACCURACY]).conditions
    whole, grouped = (
        EarlyStop([condition], {"accuracy": ACCURACY}, {"accuracy": first}, np.ones(4000), given)
        for given in (None, labels[order])
    )
    scored = {"accuracy": candidate[order][:2000]}
    widths = []
    for stop in (whole, grouped):
        interval = stop.measure("accuracy", scored).intervals["drop"]
        widths.append(interval.high - interval.low)
    assert widths[1] > 1.8 * widths[0]
    assert grouped.measure("accuracy", scored).groups is not None
    assert grouped.status(scored) is whole.status(scored) is Status.MISSED


@pytest.mark.parametrize("count", range(30, 45))
def test_all_right_and_all_changed_are_counts_still(count: int) -> None:
    """Divided counts may exceed what they are out of by rounding."""
    ones, labels = np.ones(count * 7), groups(count, 7)
    assert measure_quality(ACCURACY, ones, ones, clusters=labels, groups=True).intervals["value"].high == 1.0
    assert measure_quality(ACCURACY, 0 * ones, ones, clusters=labels, groups=True).intervals["drop"].high == 1.0
