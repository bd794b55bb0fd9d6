"""Agreement with the first model and divergence from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import boildown as bd
from boildown.tasks.likeness import Agreement

FIRST = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0], [5.0, 1.0, 0.0]])


def test_decisions_are_compared_and_not_scores() -> None:
    other = FIRST * 0.1
    other[3] = torch.tensor([0.0, 1.0, 0.0])
    assert Agreement().statistic(other, FIRST).tolist() == [1, 1, 1, 0]
    assert Agreement().statistic(torch.tensor([-1.0, 2.0]), torch.tensor([-0.1, -0.2])).tolist() == [1, 0]


def test_places_that_only_pad_do_not_count() -> None:
    first, other = torch.randn(2, 3, 4), torch.zeros(2, 3, 4)
    other[:] = first
    other[0, :, 1] = -first[0, :, 1]
    first[:, :, 2:] = 0.0  # classes second: two tokens of each only pad
    other[:, :, 2:] = torch.randn(2, 3, 2)
    assert Agreement().statistic(other, first).tolist() == [0.5, 1.0]


def test_of_several_labels_all_must_be_the_same() -> None:
    first = torch.tensor([[1.0, -1.0, 2.0], [1.0, -1.0, 2.0]])
    other = torch.tensor([[3.0, -0.1, 0.2], [3.0, 0.1, 0.2]])
    assert Agreement(labels=True).statistic(other, first).tolist() == [1, 0]


def test_every_task_offers_what_its_outputs_can_say() -> None:
    images, labels = torch.rand(8, 3), torch.arange(8) % 2

    def offered(task: bd.Task) -> list[str]:
        return [metric.name for metric in task.likeness]

    assert offered(bd.Classification(validation=(images, labels))) == ["agreement", "divergence"]
    assert offered(bd.Segmentation(validation=(torch.rand(4, 1, 2, 2), torch.zeros(4, 2, 2).long())))[0] == "agreement"
    assert offered(bd.Regression(validation=(images, images[:, 0]))) == ["divergence"]
    assert offered(bd.Task("cross_entropy", "accuracy", validation=(images, labels))) == ["agreement", "divergence"]
    assert offered(bd.Task("l1", "mae", validation=(images, images))) == ["divergence"]


def test_divergence_is_the_tasks_own_mean() -> None:
    task = bd.Classification(validation=(torch.rand(8, 3), torch.arange(8) % 3))
    divergence = task.likeness[1]
    rows = divergence.statistic(FIRST * 0.5, FIRST)
    assert rows == pytest.approx(np.asarray(task.divergence(FIRST * 0.5, FIRST)))
    assert divergence.compute(rows) == pytest.approx(rows.mean())
    assert divergence.statistic(FIRST, FIRST) == pytest.approx(np.zeros(4), abs=1e-6)


def test_data_without_targets_is_known_and_what_needs_them_is_left_out() -> None:
    plain = bd.Classification(validation=torch.rand(20, 3))
    assert not plain.labelled
    assert plain.check() == []
    assert plain.without_labels().metrics == ()
    assert bd.Classification(validation=(torch.rand(20, 3), torch.arange(20) % 3)).labelled
    (mistake,) = bd.Task("l1", validation=(torch.rand(8, 3), torch.rand(8, 3))).check()
    assert "no metric" in mistake.cause


def test_lists_of_detections_diverge_by_what_is_in_them() -> None:
    one = {"boxes": torch.tensor([[0.0, 0.0, 2.0, 2.0]]), "scores": torch.tensor([0.9])}
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}
    task = bd.Task("l1", "mae", validation=(torch.rand(8, 3), torch.rand(8, 3)))
    found = task.divergence([one, none, one], [one, none, none])
    assert found.tolist() == [0.0, 0.0, 1.0]
