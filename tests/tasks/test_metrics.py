"""Metrics agree with scikit-learn and SciPy, and mean what they declare."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn import metrics as reference

from boildown.domain.task import Metric
from boildown.errors import DataError, InputError
from boildown.tasks.metrics import METRICS, as_metric, metric

RANDOM = np.random.default_rng(0)
LOGITS = torch.from_numpy(RANDOM.normal(size=(500, 8)))
LABELS = torch.from_numpy(RANDOM.integers(0, 8, 500))
SCORES = torch.from_numpy(RANDOM.normal(size=500).round(1))  # ties
BINARY = torch.from_numpy((RANDOM.normal(size=500) + SCORES.numpy() > 0).astype(np.int64))
TRUTH = torch.from_numpy((SCORES.numpy() + RANDOM.normal(size=500)).round(1))


def score(name, output, target, batch=64):
    chosen = metric(name)
    pairs = zip(output.split(batch), target.split(batch), strict=True)
    statistics = np.concatenate([chosen.statistic(o, t) for o, t in pairs])
    assert len(statistics) == len(target)
    assert statistics.dtype == np.float64
    if chosen.decomposable:
        assert chosen.compute(statistics) == pytest.approx(statistics.mean())
    return chosen.compute(statistics)


def test_scores_agree_with_the_references():
    truth, scores = TRUTH.numpy(), SCORES.numpy()
    predicted = LOGITS.argmax(1)
    assert score("accuracy", LOGITS, LABELS) == pytest.approx(reference.accuracy_score(LABELS, predicted))
    assert score("f1", LOGITS, LABELS) == pytest.approx(reference.f1_score(LABELS, predicted, average="macro"))
    top5 = reference.top_k_accuracy_score(LABELS, LOGITS, k=5, labels=range(8))
    assert score("top5", LOGITS, LABELS) == pytest.approx(top5)
    assert score("auc", SCORES, BINARY) == pytest.approx(reference.roc_auc_score(BINARY, scores))
    two = torch.stack([-SCORES, SCORES], 1)
    assert score("auc", two, BINARY) == pytest.approx(reference.roc_auc_score(BINARY, scores))
    assert score("rmse", SCORES, TRUTH) == pytest.approx(reference.root_mean_squared_error(truth, scores))
    assert score("mae", SCORES, TRUTH) == pytest.approx(reference.mean_absolute_error(truth, scores))
    assert score("r2", SCORES, TRUTH) == pytest.approx(reference.r2_score(truth, scores))
    assert score("spearman", SCORES, TRUTH) == pytest.approx(spearmanr(truth, scores).statistic)


def test_f1_leaves_out_classes_that_do_not_occur():
    labels = torch.tensor([0, 0, 6, 6])
    output = torch.nn.functional.one_hot(torch.tensor([0, 3, 6, 6]), 8).double()
    assert score("f1", output, labels) == pytest.approx(
        reference.f1_score(labels, output.argmax(1), average="macro", zero_division=0)
    )


def test_column_outputs_do_not_broadcast_against_flat_targets():
    for name in ("rmse", "mae", "r2", "spearman"):
        assert score(name, SCORES[:, None], TRUTH) == score(name, SCORES, TRUTH)
    with pytest.raises(DataError, match="do not fit"):
        metric("rmse").statistic(LOGITS, TRUTH)
    with pytest.raises(DataError, match="one prediction"):
        metric("spearman").statistic(LOGITS, TRUTH)


def test_binary_logits_are_classified_by_their_sign():
    expected = reference.accuracy_score(BINARY, SCORES > 0)
    assert score("accuracy", SCORES, BINARY) == expected
    assert score("accuracy", SCORES[:, None], BINARY.float()[:, None]) == expected


def test_several_labels_per_sample_count_as_its_share_and_ignored_ones_not():
    output = torch.zeros(2, 3, 4)
    output[:, 1] = 1
    labels = torch.tensor([[1, 1, 0, -100], [1, 1, 1, 1]])
    assert metric("accuracy").statistic(output, labels) == pytest.approx([2 / 3, 1])


@pytest.mark.parametrize("name", ["accuracy", "top5", "f1", "auc", "token_accuracy", "perplexity"])
def test_ignored_labels_of_samples_with_one_are_left_out(name):
    output, labels = (SCORES, BINARY) if name == "auc" else (LOGITS, LABELS)
    kept = torch.from_numpy(RANDOM.random(500) < 0.4)
    chosen = metric(name)
    every = chosen.compute(chosen.statistic(output, labels.where(kept, -100)))
    assert every == pytest.approx(chosen.compute(chosen.statistic(output[kept], labels[kept])))
    assert math.isnan(chosen.compute(chosen.statistic(output, torch.full_like(labels, -100))))


@pytest.mark.parametrize("name", ["accuracy", "top5", "f1", "token_accuracy", "perplexity"])
def test_any_number_of_classes_for_a_sample_is_no_label(name):
    with pytest.raises(DataError, match=r"\(500, 8\) do not fit .* classes of shape \(500,\)"):
        metric(name).statistic(LOGITS, (LOGITS > 0).float())
    assert metric(name).statistic(LOGITS, LABELS[:, None]) == pytest.approx(metric(name).statistic(LOGITS, LABELS))


def test_one_logit_has_no_five_best_classes():
    with pytest.raises(DataError, match="several classes"):
        metric("top5").statistic(SCORES, BINARY)


def test_arrays_do_as_well_as_tensors():
    assert metric("accuracy").statistic(LOGITS.numpy(), LABELS.numpy()).mean() == score("accuracy", LOGITS, LABELS)


def test_degenerate_inputs_are_defined():
    rows = np.array([[1.0, 0], [1, 1], [1, 2]])
    assert metric("spearman").compute(rows) == 0
    assert math.isnan(metric("auc").compute(np.array([[0.1, 1], [0.2, 1]])))
    assert math.isnan(metric("r2").compute(np.array([[0.1, 1], [0.2, 1]])))


@pytest.mark.parametrize("name", METRICS)
def test_every_shipped_metric_declares_what_it_is(name):
    shipped = metric(name)
    assert isinstance(shipped, Metric)
    assert shipped.name == name
    low, high = shipped.range
    assert low < high
    assert as_metric(name).name == name


def test_unknown_and_unnameable_metrics_are_refused():
    with pytest.raises(InputError, match="'accuracy'"):
        metric("Acuracy")
    with pytest.raises(InputError, match="not a metric"):
        as_metric(len)
    for name in ("size", "drop", "top 5", "", "a<b", "\x1b[2J", 3, None):
        unnameable = metric("accuracy")
        unnameable.name = name
        with pytest.raises(InputError, match="cannot be called"):
            as_metric(unnameable)


def test_what_a_metric_says_of_itself_is_understood_or_all_of_it_refused():
    odd = metric("accuracy")
    odd.higher_is_better, odd.unit, odd.range = None, None, (1, 0)
    with pytest.raises(InputError) as caught:
        as_metric(odd)
    assert [each.cause.split(" says ")[1] for each in caught.value.mistakes] == [
        "higher_is_better = None.", "unit = None.", "range = (1, 0).",
    ]  # fmt: skip
    for right in ([0, 1], np.array([0.0, 1.0]), (-math.inf, math.inf), (0, np.float32(1))):
        plain = metric("accuracy")
        plain.range, plain.higher_is_better = right, np.bool_(True)
        assert as_metric(plain) is plain
    for wrong in ((0,), (0, 1, 2), "ab", (0, None), (math.nan, 1), 1.0, (0, 10**400)):
        plain = metric("accuracy")
        plain.range = wrong
        with pytest.raises(InputError, match=r"says range = .*\n.*lowest and the highest"):
            as_metric(plain)


def test_torchmetrics_objects_are_adapted():
    torchmetrics = pytest.importorskip("torchmetrics", reason="needs the torchmetrics extra")
    from torchmetrics import classification, regression

    assert "torchmetrics" in sys.modules
    for given, output, target, ours in (
        (classification.MulticlassAccuracy(8, average="micro"), LOGITS, LABELS, "accuracy"),
        (classification.BinaryAUROC(), SCORES.sigmoid(), BINARY, "auc"),
        (regression.SpearmanCorrCoef(), SCORES, TRUTH, "spearman"),
        (regression.MeanAbsoluteError(), SCORES, TRUTH, "mae"),
    ):
        adapted = as_metric(given)
        assert isinstance(adapted, Metric)
        pairs = zip(output.split(64), target.split(64), strict=True)
        rows = np.concatenate([adapted.statistic(o, t) for o, t in pairs])
        assert adapted.compute(rows) == pytest.approx(score(ours, output, target), abs=1e-5)
        assert adapted.higher_is_better == metric(ours).higher_is_better
    assert as_metric(classification.MulticlassAccuracy(8)).name == "accuracy"
    assert as_metric(classification.MulticlassF1Score(8)).name == "f1_score"
    with pytest.raises(InputError, match="higher is better"):
        as_metric(torchmetrics.SumMetric())
