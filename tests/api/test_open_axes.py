"""Inputs whose axes differ from batch to batch go from data to judged file: padded texts, images of any size."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import boildown as bd
from boildown.domain.axes import open_axes
from boildown.surgery.calls import example_call, written_call
from boildown.surgery.graph import capture

pytestmark = pytest.mark.usefixtures("still")


class Tagger(nn.Module):
    """One layer of masked attention over tokens; a class for each. Items are dicts, outputs dicts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.places = nn.Embedding(300, 32), nn.Embedding(64, 32)
        self.mix, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 4)

    def forward(self, input_ids, attention_mask):
        x = self.table(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        parts = self.mix(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), attn_mask=attention_mask[:, None, None].bool())
        x = self.norm(x + self.out(mixed.transpose(1, 2).flatten(2)))
        return {"logits": self.head(x), "hidden": x}


def texts(count):
    """Dicts of lists, as tokenizers give them, labelled by the model."""
    random = np.random.default_rng(1)
    items = [{"input_ids": random.integers(1, 300, random.integers(5, 24)).tolist()} for _ in range(count)]
    model = Tagger().eval()
    with torch.no_grad():
        for item in items:
            ids = torch.tensor([item["input_ids"]])
            item["labels"] = model(ids, torch.ones_like(ids))["logits"][0].argmax(-1).tolist()
    return items


def padded(items):
    """A collator as those of transformers: to the longest of the batch."""
    longest = max(len(item["input_ids"]) for item in items)

    def pad(key, value):
        return torch.tensor([item[key] + [value] * (longest - len(item[key])) for item in items])

    ids = pad("input_ids", 0)
    return {"input_ids": ids, "attention_mask": ids.ne(0).long(), "labels": pad("labels", -100)}


def test_padded_texts(tmp_path):
    task = bd.TokenClassification(validation=texts(120), collate=padded)
    run = bd.compress(
        Tagger().eval(), task, ["token_accuracy drop <= 8 pp", "size <= 0.9x"],
        ladder=["quantize-dynamic", "quantize-static"], goal="smallest", runs=tmp_path,
    )  # fmt: skip
    states = {result.rung: (result.state.value, result.sentence) for result in run.candidates}
    assert [state for state, _ in states.values()] == ["missed", "met", "met"], states
    assert run.candidates[0].measurements["token_accuracy"].value == 1.0
    session = onnxruntime.InferenceSession(run.best.artifact)
    for length in (3, 11, 40):
        ids = np.random.default_rng(length).integers(1, 300, (2, length))
        logits = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        assert logits.shape == (2, length, 4)


def test_images_of_any_size_and_edits_remember_open_axes():
    items = [(torch.rand(3, 8 * h, 8 * w), torch.zeros(8 * h, 8 * w).long()) for h, w in ((2, 3), (3, 2), (4, 3))]

    def alone(batch):
        (image, labels), *_ = batch
        return image[None].repeat(len(batch), 1, 1, 1), labels[None].repeat(len(batch), 1, 1)

    task = bd.Segmentation(validation=items, collate=alone)
    (image,), kwargs = task.example()
    assert open_axes(image) == (2, 3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    graph = capture(model, (image,), kwargs)
    assert graph.module(torch.rand(5, 3, 40, 24)).shape == (5, 2, 40, 24)
    pixels = image.shape[2] * image.shape[3]
    assert graph.macs() == pixels * (3 * 8 * 9 + 8 * 2)
    (again,), _ = example_call(written_call((image,), kwargs))
    assert (again.shape, open_axes(again)) == (image.shape, (2, 3))


def test_only_a_collator_opens_axes():
    task = bd.Classification(validation=(torch.rand(8, 5), torch.arange(8) % 2))
    assert open_axes(task.example()[0][0]) == ()
    same = bd.Classification(
        validation=[(torch.rand(5), i % 2) for i in range(8)], collate=torch.utils.data.default_collate
    )
    assert open_axes(same.example()[0][0]) == ()
