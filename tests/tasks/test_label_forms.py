"""Labels as texts or one-hot are told with the cure, before anything is exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from boildown.errors import DataError
from boildown.tasks.classification import Classification
from boildown.tasks.metrics import METRICS

X, Y = torch.randn(6, 3), torch.arange(6) % 3
NAMES = np.array(["cat", "dog", "eel"])
ONE_HOT = torch.nn.functional.one_hot(Y, 3)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([(x, str(NAMES[y])) for x, y in zip(X, Y, strict=True)], "labels are texts, such as 'cat'"),
        ([{"x": x, "label": str(NAMES[y])} for x, y in zip(X, Y, strict=True)], "labels are texts, such as 'cat'"),
        ((X, ONE_HOT), "labels are one-hot, of 3 values"),
        ((X, ONE_HOT.float()), "labels are one-hot, of 3 values"),
        (list(zip(X, ONE_HOT.bool(), strict=True)), "labels are one-hot, of 3 values"),
    ],
)
def test_labels_of_other_forms_are_told(data: Any, told: str) -> None:
    (mistake,) = Classification(validation=data).check()
    assert told in mistake.cause


def test_an_array_of_texts_is_refused() -> None:
    with pytest.raises(DataError, match="such as 'cat', not numbers"):
        Classification(validation=(X.numpy(), NAMES[Y.numpy()]))


def test_one_hot_labels_are_fine_for_metrics_that_take_them() -> None:
    class Own(METRICS["auc"]):
        name = "own"

    assert Classification(validation=(X, ONE_HOT.float()), metrics=[Own()]).check() == []
    assert Classification(validation=(X, torch.softmax(X, 1))).check() == [], "probabilities are no labels"
