"""The steps of predict.py, against what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from boildown.engine import predict


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(5, 7), (40, 31), (16, 64), (24, 30)])
def test_tensors_are_resized_as_torch_does(filter, antialias, size):
    pixels = np.random.default_rng(0).uniform(0, 255, (24, 30, 3)).astype(np.float32)
    step = {"size": size, "shorter": None, "by": "tensor", "filter": filter, "antialias": antialias}
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    wanted = functional.interpolate(batch, size, mode=filter, antialias=antialias)[0].permute(1, 2, 0).numpy()
    assert np.abs(predict.resize(pixels, step) - wanted).max() < 1e-2


@pytest.mark.parametrize(
    ("apply", "value", "label", "scores"),
    [
        ("softmax", [0.0, np.log(3)], "b", [0.25, 0.75]),
        ("sigmoid", [np.log(3)], "b", [0.25, 0.75]),
        ("sigmoid", [-np.log(3)], "a", [0.75, 0.25]),
        ("none", [2.0, -1.0], "a", [2.0, -1.0]),
        ("none", [-2.0], "a", [2.0, -2.0]),
    ],
)
def test_scores_have_the_names_of_the_classes(apply, value, label, scores):
    meant = {"kind": "classes", "classes": ["a", "b"], "apply": apply, "threshold": 0.5}
    found = predict.named(meant, np.array(value))
    assert found["label"] == label
    assert list(found["scores"].values()) == pytest.approx(scores)


def test_several_labels_are_those_beyond_the_threshold():
    meant = {"kind": "labels", "classes": ["a", "b", "c"], "apply": "sigmoid", "threshold": 0.7}
    assert predict.named(meant, np.array([5.0, 0.5, 3.0]))["labels"] == ["a", "c"]


def test_numbers_are_in_the_unit_that_was_learned():
    said = {"output": {"kind": "number", "port": None, "times": 10.0, "plus": 5.0}}
    assert predict.answer(said, [{"y": np.float32([[0.5]])}], [{}]) == {"value": 10.0}
    with pytest.raises(predict.Refused, match="NaN or infinity"):
        predict.answer(said, [{"y": np.float32([[np.nan]])}], [{}])
