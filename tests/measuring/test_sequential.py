from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from means import Mean
from numpy.typing import NDArray

from boildown.domain.grammar import parse_target
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import Status, judge
from boildown.measuring.quality import compared
from boildown.measuring.sequential import ERROR, LEAST, EarlyStop, Question, ask, log_wealth, reading_order

Floats = NDArray[np.float64]


ACCURACY = Mean(unit="fraction")
SCORE = Mean("score", range=(-2.0, 3.0))
METRICS = {metric.name: metric for metric in (ACCURACY, SCORE, Mean("error", unit="fraction", higher_is_better=False))}


def conditions(*texts: str) -> tuple[Condition, ...]:
    return tuple(parse_target([text], list(METRICS.values())).conditions[0] for text in texts)


def pair(size: int, lost: int, won: int, right: float = 0.9, seed: int = 0) -> tuple[Floats, Floats]:
    """0/1 statistics of (first model, candidate) in random order; the candidate loses and wins so many."""
    first = (np.arange(size) < right * size).astype(float)
    candidate = first.copy()
    candidate[:lost] = 0.0
    candidate[size - won :] = 1.0
    order = np.random.default_rng(seed).permutation(size)
    return first[order], candidate[order]


def point(condition: Condition, own: Floats, first: Floats) -> Status:
    """What all samples decide."""
    metric = METRICS[condition.metric]
    found = compared(metric, metric.compute(own), metric.compute(first))
    return judge(Target((condition,)), {metric.name: found}).status


def stop(first: Floats, *texts: str, weights: Floats | None = None) -> EarlyStop:
    return EarlyStop(
        conditions(*texts), METRICS, {"accuracy": first}, np.ones(len(first)) if weights is None else weights
    )


# -- the bets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("lost", "won"), [(4, 0), (24, 20), (64, 60)])
def test_a_population_at_the_bound_is_seldom_taken_for_one_below(lost: int, won: int, weighted: bool) -> None:
    # The hardest case, 4,000 times: the rate may exceed one per cent by chance alone.
    size, replays = 300, 4000
    values = np.r_[np.ones(lost), -np.ones(won), np.zeros(size - lost - won)]
    doubt = np.abs(values) + np.random.default_rng(1).random(size)
    random = np.random.default_rng(2)
    weights = np.where(doubt > np.quantile(doubt, 0.8), 4.0, 1.0) if weighted else np.ones(size)
    order = np.argsort(random.exponential(size=(replays, size)) / weights, axis=-1)
    wealth = log_wealth(values[order], weights[order], lost - won, -1.0, 1.0)[:, : size - 10]
    rate = float((wealth[:, -1] >= -math.log(ERROR)).mean())
    assert rate <= ERROR + 3 * math.sqrt(ERROR / replays)


def test_on_average_the_gambler_wins_nothing() -> None:
    size, values = 60, np.r_[np.full(10, 0.7), np.full(20, -0.3), np.full(30, 0.1)]
    random = np.random.default_rng(0)
    weights = np.where(np.arange(size) % 3 == 0, 4.0, 1.0)
    order = np.argsort(random.exponential(size=(100_000, size)) / weights, axis=-1)
    drawn = values[order[:, :1]]
    mean = np.exp(log_wealth(drawn, weights[order], float(values.sum()), -1.0, 1.0)[:, 0]).mean()
    assert mean == pytest.approx(1.0, abs=0.005)


def test_wealth_is_only_ever_made_by_values_below_what_was_expected() -> None:
    flat = np.ones(50)
    assert np.all(log_wealth(np.full(20, 0.5), flat, 25.0, 0.0, 1.0) == pytest.approx(0.0))
    assert np.all(np.diff(log_wealth(np.zeros(20), flat, 25.0, 0.0, 1.0)) > 0)
    assert log_wealth(np.ones(20), flat, 25.0, 0.0, 1.0)[-1] < 0


# -- what a condition asks ------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    [
        *(f"accuracy drop {op} {bound} pp" for op in ("<=", "<") for bound in (0, 1, 2.5, 10)),
        *(f"accuracy {op} {bound} %" for op in (">=", ">") for bound in (20, 50, 81.5)),
        *(f"accuracy {op} {bound}x" for op in (">=", ">") for bound in (0.5, 0.99, 1)),
        *(f"error drop <= {bound} pp" for bound in (1, 5)),
        *(f"error {op} {bound} %" for op in ("<=", "<") for bound in (10, 60)),
        *("score drop <= 0.25", "score >= 0.5", "score drop < 0.1"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(2, 60), st.integers(0, 2**31), st.booleans())
def test_all_samples_are_answered_as_they_are_judged_and_certainty_never_errs(
    text: str, size: int, seed: int, whole: bool
) -> None:
    (condition,) = conditions(text)
    metric, random = METRICS[condition.metric], np.random.default_rng(seed)
    low, high = metric.range
    rows = random.random((2, size))
    first, own = np.where(random.random((2, 1)) > rows, low, high) if whole else low + (high - low) * rows
    if random.random() < 0.5:  # nearly the same, so that the bound is near
        own = np.where(random.random(size) < 0.1, own, first)
    _, weights = reading_order(random.random(size), 0)
    asked = ask(condition, metric, first, weights)
    if asked is None:
        assert condition.form == "ratio"
        assert first.mean() == 0
        return
    truth = point(condition, own, first)
    worse = asked.sign * (own - asked.first)
    certain = asked.question.answers(worse, met=1e-300, missed=1e-300)
    said = {1: Status.MET, -1: Status.MISSED}
    assert {said[int(answer)] for answer in certain if answer} <= {truth}
    assert certain[-1] or not asked.whole, "only a total at the bound itself, to a billionth, is left open"


def test_a_bound_between_two_counts_leaves_no_total_open() -> None:
    first, _ = pair(500, 0, 0)
    for text, met in (("accuracy drop <= 1.1 pp", 5), ("accuracy drop < 1 pp", 4), ("accuracy drop <= 0 pp", 0)):
        (condition,) = conditions(text)
        asked = ask(condition, ACCURACY, first, np.ones(500))
        assert asked is not None
        assert (asked.question.met, asked.question.missed, asked.sign) == (met, met + 1, -1)


def test_only_means_of_bounded_statistics_are_foretold() -> None:
    first, _ = pair(400, 0, 0)
    (condition,) = conditions("accuracy drop <= 1 pp")
    for metric in (
        Mean(range=(0.0, math.inf)),
        Mean(range=(-math.inf, 1.0)),
        Mean(decomposable=False),
        Mean(range=(0.0, 0.5)),  # it does not keep to its own range
    ):
        assert ask(condition, metric, first, np.ones(400)) is None
    assert stop(first).possible is False
    (ratio,) = conditions("accuracy >= 0.9x")
    assert ask(ratio, ACCURACY, np.zeros(400), np.ones(400)) is None


def test_an_answer_that_is_given_early_is_that_of_the_whole() -> None:
    size, replays = 2500, 200
    (condition,) = conditions("accuracy drop <= 1 pp")
    for lost, won, answer in ((30, 25, 1), (90, 20, -1)):
        first, own = pair(size, lost, won)
        asked = ask(condition, ACCURACY, first, np.ones(size))
        assert asked is not None
        worse, found, needed = first - own, [], []
        doubt = 3 * np.abs(worse) + np.random.default_rng(0).exponential(size=size)
        for seed in range(replays):
            order, weights = reading_order(doubt, seed)
            floor, ceiling = asked.question.floor[order], asked.question.ceiling[order]
            answers = Question(asked.question.met, asked.question.missed, floor, ceiling, weights).answers(worse[order])
            needed.append(int(np.argmax(answers != 0)) + 1)
            found.append(int(answers[needed[-1] - 1]))
        assert np.mean(np.array(found) == answer) >= 1 - 2 * ERROR
        assert np.mean(needed) < 0.4 * size


# -- when to stop ---------------------------------------------------------------------------------------


def test_what_is_clear_stops_early_and_what_is_not_does_not() -> None:
    first, same = pair(2500, 5, 5)
    worse, near = pair(2500, 300, 5)[1], pair(2500, 39, 15)[1]
    early = stop(first, "accuracy drop <= 2 pp")
    assert early.possible
    assert early.status({"accuracy": same[: LEAST - 1]}) is Status.UNDECIDED
    assert early.status({"accuracy": worse[:300]}) is Status.MISSED
    assert early.status({"accuracy": same[:1000]}) is Status.MET
    assert early.status({"accuracy": same[:200]}) is Status.UNDECIDED
    assert stop(first, "accuracy drop <= 1 pp").status({"accuracy": near[:1500]}) is Status.UNDECIDED
    assert stop(first, "accuracy drop <= 1 pp").status({"accuracy": near}) is Status.MET


def test_one_missed_condition_is_enough_and_all_must_be_met() -> None:
    first, own = pair(2500, 60, 20)
    clear, open_, lost = "accuracy drop <= 10 pp", "accuracy drop <= 1.5 pp", "accuracy >= 99 %"
    part = {"accuracy": own[:800]}
    assert stop(first, clear).status(part) is Status.MET
    assert stop(first, open_).status(part) is Status.UNDECIDED
    assert stop(first, clear, open_).status(part) is Status.UNDECIDED
    assert stop(first, clear, open_, lost).status(part) is Status.MISSED


def test_a_condition_that_cannot_be_foretold_forbids_to_stop() -> None:
    first, own = pair(1000, 400, 0)
    both = EarlyStop(
        conditions("accuracy drop <= 1 pp", "error drop <= 1 pp"),
        {**METRICS, "error": Mean("error", higher_is_better=False, decomposable=False)},
        {"accuracy": first, "error": 1 - first},
        np.ones(1000),
    )
    assert not both.possible
    assert both.status({"accuracy": own[:900], "error": 1 - own[:900]}) is Status.UNDECIDED


@pytest.mark.parametrize("odd", [math.nan, 1.5, 0.5])
def test_a_statistic_that_is_not_what_it_is_taken_to_be_tells_nothing(odd: float) -> None:
    first, own = pair(1000, 400, 0)
    early = stop(first, "accuracy drop <= 1 pp")
    assert early.status({"accuracy": own[:900]}) is Status.MISSED
    own[100] = odd
    assert early.status({"accuracy": own[:900]}) is Status.UNDECIDED


def test_what_is_told_is_what_the_measurement_shows() -> None:
    told = set()
    for seed in range(60):
        random = np.random.default_rng(seed)
        first, own = pair(1000, int(random.integers(0, 90)), int(random.integers(0, 40)), seed=seed)
        order, weights = reading_order((first != own) + random.random(1000), seed)
        first, own = first[order], own[order]
        early = stop(first, "accuracy drop <= 2 pp", "accuracy >= 87 %", weights=weights)
        for n in range(LEAST, 1000, 64):
            status = early.status({"accuracy": own[:n]})
            if status is not Status.UNDECIDED:
                told.add(status)
                measured = early.measure("accuracy", {"accuracy": own[:n]})
                assert judge(early.target, {"accuracy": measured}).status is status
    assert told == {Status.MET, Status.MISSED}


# -- what is measured then ------------------------------------------------------------------------------


def test_some_samples_estimate_all_of_them_without_bias() -> None:
    first, own = pair(2000, 120, 40)
    doubt = (first != own) + np.random.default_rng(0).random(2000)
    drops, covered = [], 0
    for seed in range(400):
        order, weights = reading_order(doubt, seed)
        early = stop(first[order], "accuracy drop <= 1 pp", weights=weights)
        measured = early.measure("accuracy", {"accuracy": own[order][:400]})
        drops.append(measured.drop)
        covered += measured.intervals["drop"].high >= 0.04
    assert np.mean(drops) == pytest.approx(0.04, abs=0.001)
    assert np.std(drops) < 0.7 * math.sqrt(0.08 / 400), "samples in doubt tell more"
    assert covered / 400 >= 0.93


def test_the_measurement_says_how_much_it_has_seen() -> None:
    first, own = pair(2500, 300, 5)
    measured = stop(first, "accuracy drop <= 2 pp").measure("accuracy", {"accuracy": own[:384]}, 0.9, {"cpu": "x"})
    assert (measured.samples, measured.data, measured.environment) == (384, "search", {"cpu": "x"})
    assert measured.notes == ("stopped after 384 of 2,500 search samples: the rest could not change it (1 % error)",)
    assert measured.first == 0.9
    assert measured.drop == pytest.approx(measured.first - measured.value)
    assert measured.ratio == pytest.approx(measured.value / measured.first)
    for form in ("value", "drop", "ratio"):
        assert measured.observed(form) in measured.intervals[form]
        assert measured.intervals[form].level == 0.9
    none_seen = stop(first, "accuracy drop <= 2 pp").measure("accuracy", {"accuracy": first[:384]})
    assert none_seen.intervals["drop"].high > 0


def test_samples_in_doubt_come_earlier_but_in_random_order() -> None:
    doubt = np.arange(1000) / 1000
    order, weights = reading_order(doubt, 3)
    assert sorted(order.tolist()) == list(range(1000))
    assert np.array_equal(weights == 4.0, order >= 800)
    assert 0.4 < np.mean(order[:128] >= 800) < 0.6
    assert np.array_equal(order, reading_order(doubt, 3)[0])
    assert not np.array_equal(order, reading_order(doubt, 4)[0])


@pytest.mark.parametrize("doubt", [np.zeros(1000), np.r_[np.zeros(980), np.ones(20)], np.ones(1000)])
def test_doubt_that_tells_little_is_ignored(doubt: Floats) -> None:
    assert set(reading_order(doubt, 0)[1]) == {1.0}
