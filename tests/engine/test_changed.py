"""What a candidate gets wrong that the first model got right, and its layers, as the journal keeps them."""

from __future__ import annotations

import base64
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from boildown.domain.candidate import Candidate, Plan, Quantizer
from boildown.domain.target import Target
from boildown.engine import changed as module
from boildown.engine.changed import changed, pictures, png
from boildown.engine.job import Job
from boildown.engine.layers import layers
from boildown.engine.slices import Slicer
from boildown.surgery.graph import capture
from boildown.tasks.classification import Classification
from boildown.tasks.regression import Regression
from boildown.tasks.splits import judged_alone

COUNT = 60


class Bench:
    """A bench on which the first model is right everywhere and the candidate where it is told to be."""

    first = SimpleNamespace(digest="first")

    def __init__(self, task, base, own):
        self.job = Job(task, judged_alone(task.validation), Target(()))
        self.slicer = Slicer(self.job)
        self._scores = {("first", "verdict"): base, ("own", "verdict"): own}
        self.read = []

    def scored(self, artifact, which):
        return self._scores.get((artifact.digest, which))

    def fingerprint(self, which):
        return f"of the {which}"

    def model(self, candidate, artifact):
        self.read.append(artifact.digest)
        said = 2 if artifact is self.first else 1
        return lambda x: nn.functional.one_hot(torch.full((len(x),), said), 3).float()


def classes():
    labels = torch.arange(COUNT) % 3
    images = torch.rand(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Classification(validation=(images, labels))


def attempt(sha="own"):
    return SimpleNamespace(artifact=SimpleNamespace(digest=sha), candidate=None)


def test_samples_that_became_wrong_are_told_with_label_classes_and_picture():
    base = np.ones(COUNT)
    base[3] = 0
    own = base.copy()
    own[[2, 5, 8]] = 0
    own[3] = 1
    bench = Bench(classes(), {"accuracy": base}, {"accuracy": own})
    found = json.loads(json.dumps(changed(bench, attempt(), Candidate(None))))
    assert (found["of"], found["worse"], found["better"], found["data"]) == (COUNT, 3, 1, "of the verdict")
    assert [(s["index"], s["before"], s["after"]) for s in found["samples"]] == [(2, 1, 0), (5, 1, 0), (8, 1, 0)]
    assert all((s["label"], s["first"], s["now"]) == (2, 2, 1) for s in found["samples"])
    assert found["classes"] == [[2, 20, 1.0, 0.85]]
    assert sorted(bench.read) == ["first", "own"]
    assert Image.open(io.BytesIO(base64.b64decode(found["samples"][0]["picture"]))).size == (16, 16)


def test_samples_that_changed_are_told_slice_by_slice():
    base, own = np.ones(COUNT), np.ones(COUNT)
    base[4], own[[2, 5, 7]] = 0, 0
    labels = torch.arange(COUNT) % 3
    images = torch.rand(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    sites = ["A"] * 6 + ["B"] * (COUNT - 8) + [None] * 2
    task = Classification(validation=(images, labels), slices={"site": sites})
    found = json.loads(
        json.dumps(changed(Bench(task, {"accuracy": base}, {"accuracy": own}), attempt(), Candidate(None)))
    )
    assert found["slices"] == [["site", "A", 2, 1, [2, 5]], ["site", "B", 1, 0, [7]]]
    assert "slices" not in changed(Bench(classes(), {"accuracy": base}, {"accuracy": own}), attempt(), Candidate(None))


def test_of_many_that_lost_as_much_some_from_everywhere_are_shown():
    bench = Bench(classes(), {"accuracy": np.ones(COUNT)}, {"accuracy": np.zeros(COUNT)})
    indices = [sample["index"] for sample in changed(bench, attempt(), Candidate(None))["samples"]]
    assert len(indices) == module._SHOWN
    assert (indices[0], indices[-1]) == (0, COUNT - 1)
    assert max(np.diff(indices)) <= 5


def test_errors_are_told_by_their_size_where_less_is_better():
    task = Regression(validation=(torch.rand(COUNT, 4), torch.rand(COUNT)), metrics="mae")
    own = np.full(COUNT, 0.1)
    own[[7, 9]] = 0.5, 0.9
    found = changed(Bench(task, {"mae": np.full(COUNT, 0.1)}, {"mae": own}), attempt(), Candidate(None))
    assert [(s["index"], s["after"]) for s in found["samples"]] == [(9, 0.9), (7, 0.5)]
    assert set(found["samples"][0]) == {"index", "before", "after"}
    assert found["classes"] == []


def test_nothing_is_told_of_what_was_not_scored_here_or_is_no_number_per_sample():
    scores = {"accuracy": np.ones(COUNT)}
    assert changed(Bench(classes(), scores, scores), attempt("of an earlier run"), Candidate(None)) is None
    rows = {"f1": np.ones((COUNT, 2))}
    task = Classification(validation=(torch.rand(COUNT, 3), torch.arange(COUNT) % 3), metrics="f1")
    assert changed(Bench(task, rows, rows), attempt(), Candidate(None)) is None
    same = changed(Bench(classes(), scores, scores), attempt(), Candidate(None))
    assert (same["worse"], same["samples"]) == (0, [])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_what_others_read(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_normalised_pictures_get_their_colours_back_and_large_ones_are_made_small():
    original = torch.rand(32, 3, 20, 200, generator=torch.Generator().manual_seed(0))
    original[0, :, 0, 0], original[0, :, 0, 1] = 0.0, 1.0
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
    small = pictures((original[:, :, :, :60] - mean) / deviation)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(small[5]))), np.float64) / 255
    assert np.abs(read - original[5, :, :, :60].permute(1, 2, 0).numpy()).max() < 0.005
    assert Image.open(io.BytesIO(base64.b64decode(pictures(original)[0]))).size == (50, 5)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.rand(2, 3),
        torch.rand(2, 4, 16, 16),
        torch.rand(2, 3, 4, 16),
        (torch.rand(2, 3, 9, 9),) * 2,
        {},
        torch.full((2, 3, 9, 9), torch.nan),
    ],
)
def test_what_is_no_picture_has_none(inputs):
    assert pictures(inputs) == []


def test_layers_are_told_with_shapes_and_bits():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    graph = capture(model, (torch.rand(2, 3, 8, 8),))
    first, last = layers(graph, None)
    assert (first["shape"], first["bits"], first["input bits"]) == ([4, 3, 3, 3], None, None)
    assert (last["name"], last["kind"], last["shape"]) == ("4", "linear", [5, 144])
    nodes = {node.name: node for node in graph.module.graph.nodes}
    read = nodes[first["node"]].all_input_nodes[0].name
    weight, value = Quantizer("0.weight", 4, True, (0.1,), (0,)), Quantizer(read, 8, False, (0.1,), (0,))
    quantized, still = layers(graph, Plan({read: value}, {"0.weight": weight}))
    assert (quantized["name"], quantized["bits"], quantized["input bits"]) == ("0", 4, 8)
    assert still == last
