"""Metrics that are not what they say, and first models that know nothing by them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.grammar import parse_target
from boildown.engine.bench import Bench
from boildown.engine.job import Job
from boildown.engine.prepare import _compare_scores
from boildown.tasks.metrics import Accuracy
from boildown.tasks.splits import resolve

RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(600, 10, generator=RANDOM)
LABELS = X.argmax(1).where(torch.rand(600, generator=RANDOM) < 0.8, torch.randint(10, (600,), generator=RANDOM))


class Mine(Accuracy):
    """The share of right answers, or what a mistake makes of it."""

    def __init__(self, name, statistic=None, compute=None, **says):
        self.name, self.seen = name, []
        self.says = statistic or (lambda own, right, output: right)
        self.of = compute or (lambda own, rows: float(np.mean(rows)))
        vars(self).update(says)

    def statistic(self, output, target):
        right = super().statistic(output, target)
        self.seen.append(right)
        return np.asarray(self.says(self, right, output))

    def compute(self, statistics):
        return self.of(self, statistics)


def told(task, target, model=None):
    """What a run says of its metrics and its first model; the model itself stands for its file."""
    job = Job(task, resolve(task, 0), parse_target(target, task.metrics))
    bench = Bench(job, Path(), check=lambda: None, progress=lambda *_: None)
    run = (model or nn.Identity()).eval()
    with torch.no_grad():
        statistics = [bench.score(run, job.splits.verdict, "score")]
        return _compare_scores(job, statistics, lambda inputs: task.run(run, inputs))


def refused(metric, *parts, target=None):
    task = bd.Classification(validation=(X, LABELS), metrics=[metric])
    with pytest.raises(bd.InputError) as caught:
        told(task, target or [f"{metric.name} {'>=' if metric.higher_is_better else '<='} 0.05"])
    for part in parts:
        assert part in str(caught.value)


WRONG = {
    "percent": (Mine("percent", lambda own, right, output: 100 * right), "range says 0 to 1"),
    "negative": (Mine("negative", lambda own, right, output: -right, higher_is_better=False), "range says 0 to 1"),
    "remembers": (
        Mine("remembers", lambda own, right, output: right * 0 + np.mean(np.concatenate(own.seen))), "asked again",
    ),
    "remembers aside": (
        Mine("aside", lambda own, right, output: right * 0, lambda own, rows: float(np.mean(np.concatenate(own.seen))),
             decomposable=False), "asked again",
    ),
    "random": (Mine("random", lambda own, right, output: right * np.random.rand(len(right))), "asked again"),
    "ranked": (Mine("ranked", lambda own, right, output: right * np.arange(len(right)) / 600), "beside other samples"),
    "scaled by its batch": (
        Mine("scaled", lambda own, right, output: right / max(right.sum(), 1)), "beside other samples",
    ),
    "ordered": (
        Mine("ordered", compute=lambda own, rows: float(np.average(rows, weights=np.arange(len(rows)) ** 2)),
             decomposable=False), "in another order",
    ),
    "median": (
        Mine("median", lambda own, right, output: (right + output.max(1).values.numpy()).clip(0, 3),
             lambda own, rows: float(np.median(rows)), range=(0.0, 3.0)), "is decomposable",
    ),
    "constant": (Mine("constant", lambda own, right, output: right * 0 + 0.5), "no better than its outputs shuffled"),
    "upside down": (
        Mine("wrong", lambda own, right, output: 1 - right), "no better than its outputs", "its higher_is_better",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("metric", "parts"), [(m, parts) for m, *parts in WRONG.values()], ids=WRONG)
def test_a_metric_that_is_not_what_it_says_is_refused(metric, parts):
    refused(metric, metric.name, *parts)


def test_measure_refuses_them_too(plugged, tmp_path):
    (tmp_path / "model.mirror").write_text("{}")
    for metric, part, *_ in (WRONG["percent"], WRONG["ordered"]):
        task = bd.Classification(validation=(X, LABELS), metrics=[metric])
        with pytest.raises(bd.InputError, match=part):
            bd.measure(tmp_path / "model.mirror", task, f"{metric.name} >= 0.05", runtime="mirror")


def test_mistakes_of_several_metrics_are_told_at_once():
    task = bd.Classification(validation=(X, LABELS), metrics=[WRONG["percent"][0], WRONG["random"][0]])
    with pytest.raises(bd.InputError) as caught:
        told(task, ["percent drop <= 0.5 pp"])
    assert len(caught.value.mistakes) == 2


def test_sound_metrics_pass_without_a_word():
    right = Mine("of_shares", lambda own, right, output: np.stack([right, 1 - right], 1), decomposable=False,
                 compute=lambda own, rows: float(rows.sum(0)[0] / rows.sum()))  # fmt: skip
    entropy = Mine("nats", lambda own, right, output: -np.log(0.05 + 0.9 * right), higher_is_better=False,
                   range=(0.0, math.inf))  # fmt: skip
    task = bd.Classification(validation=(X, LABELS), metrics=["accuracy", "f1", "top5", right, entropy])
    assert told(task, ["accuracy drop <= 1 pp", "nats <= 2"]) == ()
    scores = X.sum(1, keepdim=True) + torch.randn(600, 1, generator=RANDOM)
    task = bd.Regression(validation=(X, scores), metrics=["rmse", "mae", "r2", "spearman"])
    assert told(task, ["rmse <= 1.1x"], Sum()) == ()
    few = bd.Classification(validation=(X[:4], LABELS[:4]))
    assert told(few, ["accuracy drop <= 50 pp"]) == ()


class Sum(nn.Module):
    """The sum of the inputs, times a factor and with an offset."""

    def __init__(self, factor=1.0, offset=0.0):
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, x):
        return self.factor * x.sum(1, keepdim=True) + self.offset


@pytest.mark.parametrize("metrics", ["rmse", "mae", "r2", "spearman"])
def test_a_regression_that_ignores_its_input_is_refused(metrics):
    task = bd.Regression(validation=(X, X.sum(1, keepdim=True)), metrics=metrics)
    bound = f"{metrics} {'<=' if metrics in ('rmse', 'mae') else '>='} 0.5"
    with pytest.raises(bd.InputError, match="no better than its outputs shuffled among the samples") as caught:
        told(task, [bound], Sum(0.0, 0.3))
    if metrics == "rmse":
        assert "the mean of the targets for every sample" in str(caught.value)
    with pytest.raises(bd.InputError, match="no better than"):
        told(task, [bound], Sum(-1.0))


def test_a_little_knowledge_is_no_ignorance():
    x = torch.randn(4000, 10, generator=torch.Generator().manual_seed(1))
    target = 0.1 * x.sum(1, keepdim=True) + 3 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(2))
    for first in (0, 250, 500):  # 1 % of the variance is explained
        task = bd.Regression(train=(x, target), validation=(x[first:], target[first:]))
        told(task, ["rmse <= 4"], Sum(0.1))


def test_what_may_be_right_is_told():
    task = bd.Regression(validation=(X, X.sum(1, keepdim=True)), metrics=["rmse", "spearman"])
    (scaled,) = told(task, ["rmse <= 99", "spearman >= 0.5"], Sum(1.0, 50.0))  # other units, or an offset
    assert "rmse is 50: no better than the mean of the targets for every sample" in scaled
    (aside,) = told(task, ["spearman >= 0.1"], Sum(1.0, 50.0))
    assert "rmse" in aside
    coverage = Mine("coverage", lambda own, right, output: (output.max(1).values > 1.5).double().numpy())
    task = bd.Classification(validation=(X, LABELS), metrics=["accuracy", coverage])
    (told_of,) = told(task, ["coverage drop <= 1 pp"])  # of outputs alone: targets say nothing about it
    assert "its outputs shuffled among the samples" in told_of


def test_a_detector_of_rare_cases_may_be_as_accurate_as_the_majority():
    x = torch.randn(600, 2, generator=RANDOM)
    rare = ((x[:, 1] > 1.9) & (torch.rand(600, generator=RANDOM) < 0.5)).long()
    logits = torch.stack([x[:, 0] * 0 + 9, x[:, 1]], 1)
    task = bd.Classification(validation=(logits, rare), metrics=["accuracy", "auc"])
    (notice,) = told(task, ["auc drop <= 0.01"])
    assert "no better than always answering the most frequent class" in notice
    for target in (["accuracy drop <= 1 pp"], ["size <= 0.5x"]):
        with pytest.raises(bd.InputError, match="most frequent class"):
            told(task, target)


def test_a_first_model_without_an_answer_is_told_or_refused():
    holed = X.clone()
    holed[77, 3] = math.nan
    model = nn.Identity()
    data = {"train": (X, LABELS), "validation": (holed, LABELS)}
    (notice,) = told(bd.Classification(**data), ["accuracy drop <= 1 pp"], model)
    assert "NaN or infinity on 1 of 600 samples, first on item 77" in notice
    with pytest.raises(bd.InputError, match="item 77"):
        told(bd.Classification(**data, metrics="f1"), ["f1 drop <= 1 pp"], model)
