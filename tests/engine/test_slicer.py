"""Slices are measured on their own rows; of the worst every figure is that of the worst slice in it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from boildown.domain.grammar import parse_target
from boildown.domain.measurement import Measurement
from boildown.engine.job import Job
from boildown.engine.slices import Slicer, worst_of
from boildown.measuring.quality import measure_quality
from boildown.measuring.sequential import EarlyStop
from boildown.tasks.classification import Classification
from boildown.tasks.metrics import Accuracy
from boildown.tasks.slices import Values
from boildown.tasks.splits import judged_alone

COUNT = 400
SITES = np.array(["A", "B", "10", "9"])[np.arange(COUNT) % 4]
RANDOM = np.random.default_rng(0)
FIRST = (RANDOM.random(COUNT) < 0.9).astype(float)
OWN = np.where(SITES == "B", FIRST * (RANDOM.random(COUNT) < 0.7), FIRST)


def job(*conditions, **options):
    task = Classification(validation=(torch.rand(COUNT, 3), torch.arange(COUNT) % 2), **options)
    splits = judged_alone(task.validation)
    return Job(task, splits, parse_target(conditions, task.metrics, slices=Values(task)))


def measured(job, which="verdict", level=0.95):
    levels = []

    def one(metric, rows, at, far):
        levels.append(at)
        return measure_quality(metric, OWN[rows], FIRST[rows], level=at, far=far, environment={"cpu": "ours"})

    found = {each.metric: each for each in Slicer(job).measure(which, level, one)}
    return found, levels


def test_every_slice_is_measured_on_its_rows_alone_and_together():
    found, levels = measured(job("worst site accuracy drop <= 5 pp", slices={"site": SITES}))
    (worst,) = found.values()
    assert [each.metric for each in worst.slices] == [f"accuracy[site={name}]" for name in ("9", "10", "A", "B")]
    assert set(levels) == {0.95, 1 - 0.05 / 4}
    for each, name in zip(worst.slices, ("9", "10", "A", "B"), strict=True):
        rows = name == SITES
        alone = measure_quality(Accuracy(), OWN[rows], FIRST[rows], level=0.95)
        assert (each.value, each.first, each.drop, each.samples) == (alone.value, alone.first, alone.drop, 100)
        assert each.intervals == alone.intervals
        assert (
            each.simultaneous == measure_quality(Accuracy(), OWN[rows], FIRST[rows], level=0.9875, far=True).intervals
        )
        assert each.environment == {}
    assert worst.drop == worst.slices[3].drop > 0.1
    assert worst.first == min(each.first for each in worst.slices)
    assert worst.value == worst.slices[3].value
    assert worst.intervals["drop"] == worst.slices[3].intervals["drop"]
    assert worst.environment == {"cpu": "ours"}


def test_one_slice_comes_with_the_table_that_it_is_from():
    found, _ = measured(job("accuracy[site=B] drop <= 5 pp", "accuracy[class=1] >= 50 %", slices={"site": SITES}))
    assert list(found) == ["worst site accuracy", "worst class accuracy", "accuracy[site=B]", "accuracy[class=1]"]
    single = found["accuracy[site=B]"]
    assert single.intervals == found["worst site accuracy"].slices[3].intervals
    assert (single.simultaneous, single.slices) == ({}, ())


def test_what_was_given_is_measured_for_the_verdict_whether_or_not_a_condition_names_it():
    given = job("accuracy drop <= 5 pp", slices={"site": SITES})
    assert list(measured(given)[0]) == ["worst site accuracy"]
    assert measured(given, "search")[0] == {}
    assert measured(job("accuracy drop <= 5 pp"))[0] == {}
    assert Job(SimpleNamespace(metrics=[Accuracy()]), None, given.target).sliced() == ()


def test_slices_without_samples_are_left_out():
    part = job("worst site accuracy drop <= 5 pp", "accuracy[site=B] >= 50 %", slices={"site": SITES})
    some = part.splits.verdict.subset(np.flatnonzero(SITES != "B").tolist())
    few = Job(part.task, judged_alone(some), part.target)
    assert list(map(str, Slicer(few).names("verdict"))) == ["worst site accuracy"]
    assert list(Slicer(few).rows("site", "verdict")) == ["9", "10", "A"]
    none = job("accuracy drop <= 5 pp", slices={"site": [None] * COUNT})
    assert measured(none)[0] == {}


def test_what_slices_are_is_part_of_the_keys():
    asked = "worst site accuracy drop <= 5 pp"
    own, other = (Slicer(job(asked, slices={"site": sites})) for sites in (SITES, np.roll(SITES, 1)))
    assert own.key("worst site accuracy", "verdict") != other.key("worst site accuracy", "verdict")
    assert own.key("accuracy", "verdict") == {}
    assert own.identity() != other.identity()
    assert Slicer(job("accuracy drop <= 5 pp", slices={"site": SITES})).identity() == ""


def test_of_the_worst_every_figure_is_of_the_slice_that_is_the_worst_in_it():
    low = Measurement("rmse[site=A]", 3.0, first=3.0, drop=0.0, ratio=1.0, samples=5)
    lost = Measurement("rmse[site=B]", 2.0, first=1.0, drop=1.0, ratio=2.0, samples=7)
    worst = worst_of("worst site rmse", [low, lost], higher_is_better=False)
    assert (worst.value, worst.first, worst.drop, worst.ratio, worst.samples) == (3.0, 3.0, 1.0, 2.0, 7)
    none = Measurement("rmse[site=C]", math.nan, first=1.0, drop=math.nan, ratio=math.nan)
    assert math.isnan(worst_of("worst site rmse", [low, none, lost], higher_is_better=False).drop)
    alone = Measurement("accuracy[site=A]", 0.8), Measurement("accuracy[site=B]", 0.7)
    worst = worst_of("worst site accuracy", alone, higher_is_better=True)
    assert (worst.value, worst.first, worst.drop) == (0.7, None, None)


def test_search_does_not_stop_early_where_slices_are_asked_for():
    conditions = job("accuracy drop <= 5 pp", "worst site accuracy drop <= 5 pp", slices={"site": SITES}).target
    metrics, first = {"accuracy": Accuracy()}, {"accuracy": FIRST}
    assert not EarlyStop(conditions.conditions, metrics, first, np.ones(COUNT)).possible
    assert EarlyStop(conditions.conditions[:1], metrics, first, np.ones(COUNT)).possible


@pytest.mark.parametrize("condition", ["worst site accuracy drop <= 5 pp", "accuracy[site=B] drop <= 5 pp"])
def test_conditions_on_slices_are_conditions_on_quality(condition):
    asked = job(condition, "size <= 0.5x", slices={"site": SITES})
    name = asked.target.conditions[0].metric
    assert asked.quality == {"accuracy", name}
    assert asked.first_quality == name
    assert asked.costs == ("size",)
