"""Rows of samples that differ in length."""

from __future__ import annotations

import numpy as np
import torch

from boildown.domain.rows import as_rows, of_each, stacked


def test_lists_of_what_belongs_to_each_sample_are_told_from_lists_of_outputs() -> None:
    boxes = [{"boxes": torch.zeros(3, 4)}, {"boxes": torch.zeros(0, 4)}]
    assert of_each(boxes, 2) is boxes
    ragged = [torch.zeros(3, 4), torch.zeros(1, 4)]
    assert of_each(ragged, 2) is ragged
    assert of_each([torch.zeros(2, 4), torch.zeros(2, 7)], 2) is None
    assert of_each(boxes, 3) is None
    assert of_each((torch.zeros(2, 4),), 1) is None


def test_shorter_rows_end_in_zeros_within_a_batch_and_between_batches() -> None:
    assert as_rows([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert as_rows([torch.tensor([1.0]), np.array([2.0])]).tolist() == [[1], [2]]
    assert as_rows([]).shape == (0,)
    both = stacked([np.ones((2, 1)), np.ones((1, 3))])
    assert both.tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 1]]
    assert stacked([np.zeros(2), np.ones(1)]).tolist() == [0, 0, 1]
