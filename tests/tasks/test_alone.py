"""What one column tells by itself is measured on rows it was not learned from, and held against all columns."""

from __future__ import annotations

import numpy as np
import pytest

from boildown.tasks.alone import _bounds, predict, rated

COUNT = 1000
TRAIN, HELD = np.arange(600), np.arange(600, COUNT)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def rate(values, answers):
    return rated("c", np.asarray(values, np.float64), answers, TRAIN, HELD)


def explained(alone):
    return 1 - alone.loss / alone.blind


@pytest.mark.parametrize("classes", [2, 7, 30])
def test_a_code_of_the_class_tells_it(random, classes):
    answers = random.integers(0, classes, COUNT)
    assert rate(3.0 * answers, answers).gives_away(0.0, regression=False)


def test_thresholds_are_found_where_they_lie(random):
    values = random.normal(size=COUNT)
    answers = np.digitize(values, [-1.1, 0.313, 0.4])
    assert rate(values, answers).loss < 0.02


@pytest.mark.parametrize("spread", [0.3, 1.5])
def test_the_answer_in_another_unit_tells_it(random, spread):
    answers = random.lognormal(4, spread, COUNT)
    assert rate(1.6 * answers + 3, answers).gives_away(0.0, regression=True)
    assert explained(rate(np.log(answers), answers)) > 0.9


def test_noise_tells_nothing(random):
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=COUNT)
        assert len(_bounds(np.sort(noise), random.integers(0, 2 + 10 * seed, COUNT))) == 2
        numbers = rate(noise, random.normal(size=COUNT))
        assert explained(numbers) < 0.05
        assert not numbers.gives_away(numbers.blind, regression=True)


def test_whether_it_is_filled_may_tell_all(random):
    answers = random.integers(0, 2, COUNT)
    numbers = random.normal(size=COUNT)
    filled = rate(np.where(answers == 1, numbers, np.nan), answers)
    assert (filled.loss, filled.filled) == (0.0, True)
    mixed = rate(np.where(random.random(COUNT) < 0.3, np.nan, numbers + 4 * answers), answers)
    assert mixed.loss < 0.25
    assert not mixed.filled
    shifted = rate(np.where(answers == 1, 25.0, np.nan), 100.0 * answers + numbers)
    assert shifted.filled
    assert explained(shifted) > 0.99


def test_a_frequent_class_is_not_what_a_column_gives_away(random):
    answers = (random.random(COUNT) < 0.05).astype(int)
    weak = rate(random.normal(size=COUNT) + 1.5 * answers, answers)
    whole = weak.blind - 0.03
    assert (1 - weak.loss) > 0.95 * (1 - whole)
    assert not weak.gives_away(whole, regression=False)
    assert rate(np.where(answers == 1, 1.0, np.nan), answers).gives_away(whole, regression=False)


def test_values_that_were_never_missing_or_always_are_answered(random):
    values, answers = random.normal(size=50), np.repeat([0, 1], [20, 30])
    assert predict(values, answers, np.array([np.nan])).tolist() == [1]
    assert predict(np.full(50, np.nan), answers, np.array([1.0, np.nan])).tolist() == [1, 1]
    assert predict(np.full(50, 2.0), answers.astype(float), np.array([5.0])) == pytest.approx([0.6])
