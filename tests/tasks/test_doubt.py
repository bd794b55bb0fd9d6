"""On which samples a model is in doubt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from boildown.tasks.doubt import Doubt
from boildown.tasks.metrics import Accuracy, Top5

LOGITS = torch.randn(400, 10, generator=torch.Generator().manual_seed(0))
LABELS = LOGITS.argmax(1)


def margins():
    top = LOGITS.topk(2, dim=1).values
    return (top[:, 0] - top[:, 1]).numpy()


def test_samples_near_a_decision_are_in_doubt_and_others_are_not():
    doubt = Doubt([Accuracy()], 0).statistic(LOGITS, LABELS)
    margin = margins()
    assert doubt.shape == (400,)
    assert doubt.min() >= 0
    assert doubt[margin < np.quantile(margin, 0.2)].mean() > 10 * doubt[margin > np.quantile(margin, 0.6)].mean()


def test_the_same_seed_has_the_same_doubts_and_the_output_is_left_as_it_was():
    before = LOGITS.clone()
    once, again = (Doubt([Accuracy()], 3).statistic(LOGITS, LABELS) for _ in range(2))
    assert np.array_equal(once, again)
    assert torch.equal(LOGITS, before)


def test_every_metric_and_every_kind_of_output_counts():
    class Nested(Accuracy):
        def statistic(self, output, target):
            return super().statistic(output["logits"][0], target)

    nested = {"logits": (LOGITS,), "classes": LABELS, "name": "ten"}
    assert Doubt([Nested()], 0).statistic(nested, LABELS).max() > 0
    both = Doubt([Accuracy(), Top5()], 0).statistic(LOGITS, LABELS)
    assert both.shape == (400,)
    assert not np.array_equal(both, Doubt([Accuracy()], 0).statistic(LOGITS, LABELS))


@pytest.mark.parametrize("error", [ValueError, AssertionError])
def test_a_metric_that_refuses_disturbed_outputs_leaves_no_doubt(error):
    class Exact(Accuracy):
        def statistic(self, output, target):
            if not torch.equal(output, LOGITS):
                raise error("no model gives this")
            return super().statistic(output, target)

    assert not Doubt([Exact()], 0).statistic(LOGITS, LABELS).any()


def test_outputs_that_cannot_be_disturbed_leave_no_doubt():
    class Whole(Accuracy):
        def statistic(self, output, target):
            return (output == target).double().numpy()

    assert not Doubt([Whole()], 0).statistic(LABELS, LABELS).any()
    assert not Doubt([Accuracy()], 0).statistic(torch.ones(4, 10), torch.zeros(4, dtype=torch.long)).any()
