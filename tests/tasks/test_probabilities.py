"""Calibration: held against scikit-learn, PyTorch and a plain reading of the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from boildown.domain.measurement import Measurement
from boildown.errors import DataError
from boildown.measuring.quality import measure_quality
from boildown.tasks.checks import IGNORED
from boildown.tasks.metrics import metric

RANDOM = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(700, 5, generator=RANDOM)
LABELS = torch.distributions.Categorical(logits=LOGITS).sample()
CHANCES = LOGITS.double().softmax(1).numpy()


def score(name: str, output: torch.Tensor, target: torch.Tensor) -> float:
    chosen = metric(name)
    parts = [chosen.statistic(o, t) for o, t in zip(output.split(64), target.split(64), strict=True)]
    return chosen.compute(np.concatenate(parts))


def error_by_definition(confidence: np.ndarray, right: np.ndarray) -> float:
    total = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    return total / len(confidence)


def test_they_agree_with_the_references() -> None:
    assert score("nll", LOGITS, LABELS) == pytest.approx(log_loss(LABELS, CHANCES, labels=range(5)))
    assert score("nll", LOGITS, LABELS) == pytest.approx(float(torch.nn.functional.cross_entropy(LOGITS, LABELS)), 1e-5)
    sure = np.eye(5)[LABELS]
    assert score("brier", LOGITS, LABELS) == pytest.approx(((CHANCES - sure) ** 2).sum(1).mean())
    right = CHANCES.argmax(1) == LABELS.numpy()
    assert score("ece", LOGITS, LABELS) == pytest.approx(error_by_definition(CHANCES.max(1), right))


def test_one_logit_says_two_classes() -> None:
    logit = LOGITS[:, 0]
    label = (torch.rand(700, generator=RANDOM) < logit.sigmoid()).long()
    chance = logit.double().sigmoid().numpy()
    assert score("brier", logit, label) == pytest.approx(2 * brier_score_loss(label, chance))
    assert score("nll", logit[:, None], label.float()[:, None]) == pytest.approx(log_loss(label, chance))
    confidence = np.maximum(chance, 1 - chance)
    assert score("ece", logit, label) == pytest.approx(error_by_definition(confidence, (chance > 0.5) == label.numpy()))


def test_overconfidence_shows_in_calibration_and_not_in_answers() -> None:
    assert score("accuracy", 4 * LOGITS, LABELS) == score("accuracy", LOGITS, LABELS)
    for name in ("ece", "nll", "brier"):
        assert score(name, 4 * LOGITS, LABELS) > score(name, LOGITS, LABELS) + 0.03
    assert score("ece", LOGITS, LABELS) < 0.05


def test_many_labels_of_a_sample_and_those_that_do_not_count() -> None:
    output = LOGITS.reshape(100, 7, 5).movedim(2, 1)
    labels = LABELS.reshape(100, 7).clone()
    assert score("ece", output, labels) == pytest.approx(score("ece", LOGITS, LABELS))
    assert score("nll", output, labels) == pytest.approx(score("nll", LOGITS, LABELS))
    labels[:, 3:] = IGNORED
    kept = LOGITS.reshape(100, 7, 5)[:, :3].reshape(-1, 5), LABELS.reshape(100, 7)[:, :3].reshape(-1)
    assert score("ece", output, labels) == pytest.approx(score("ece", *kept))
    labels[0] = IGNORED
    assert math.isnan(metric("nll").statistic(output, labels)[0])
    single = LABELS.clone()
    single[:350] = IGNORED
    for name in ("ece", "nll", "brier"):
        assert score(name, LOGITS, single) == pytest.approx(score(name, LOGITS[350:], LABELS[350:]))
        assert math.isnan(score(name, LOGITS, torch.full_like(single, IGNORED)))


def test_intervals_of_the_drop_hold_the_truth() -> None:
    def rows(name: str, scale: float) -> np.ndarray:
        return metric(name).statistic(scale * LOGITS, LABELS)

    for name in ("ece", "nll", "brier"):
        found: Measurement = measure_quality(metric(name), rows(name, 4.0), rows(name, 1.0), level=0.95)
        assert found.drop is not None
        assert found.drop > 0.03
        assert 0 < found.intervals["drop"].low < found.drop < found.intervals["drop"].high


def test_what_does_not_fit_is_refused_by_name() -> None:
    for name in ("ece", "nll", "brier"):
        with pytest.raises(DataError, match=f"{name} needs one class index"):
            metric(name).statistic(LOGITS, CHANCES)
        with pytest.raises(DataError, match="run from 0 to 9"):
            metric(name).statistic(LOGITS[:2], torch.tensor([0, 9]))
