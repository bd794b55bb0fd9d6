"""A table of texts as a task for a Hugging Face model, with a tokenizer made here."""

from __future__ import annotations

import json

import pytest
import torch

from boildown.errors import DataError, ModelError
from boildown.tasks.text import TextTable, mean_of_tokens

WORDS = ["the", "film", "was", "good", "bad", "long", "short", "and", "i", "liked", "it", "not"]


@pytest.fixture
def model(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()

    def made(kind="BertForSequenceClassification", **config):
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"))
        given = {"architectures": [kind], "model_type": "bert", "max_position_embeddings": 40, **config}
        (folder / "config.json").write_text(json.dumps(given))
        return folder

    return made


@pytest.fixture
def reviews(tmp_path):
    lines = [
        f"{i},the film was {'good' if i % 2 else 'bad'} {'and long ' * (i % 5)},{i % 2},,{i / 50}" for i in range(50)
    ]
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["number,text,label,gap,score", *lines]) + "\n")
    return path


def test_classes_come_from_the_model_and_the_length_from_the_texts(model, reviews, tmp_path):
    folder = model(id2label={"0": "bad", "1": "good"})
    table, told = TextTable.find(reviews, "label", folder)
    assert (table.texts, table.kind, table.classes, table.length) == (("text",), "classification", ("bad", "good"), 16)
    assert told == ["Texts are padded to 16 tokens."]
    (tmp_path / "texts.json").write_text(table.dump())
    assert TextTable.load(tmp_path / "texts.json") == table
    task = table.task(reviews, folder, validation=0.4)
    assert len(task.train) + len(task.validation) == 50
    inputs, target = next(task.validation.batches(4))
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "input_ids": (4, 16), "attention_mask": (4, 16),
    }  # fmt: skip
    good = 2 + WORDS.index("good")
    assert ((inputs["input_ids"] == good).any(1).long() == target).all()


def test_labels_may_be_names_or_numbers_of_the_model_and_nothing_else(model, reviews, tmp_path):
    folder = model(id2label={"0": "bad", "1": "good"})
    named = tmp_path / "named.csv"
    lines = [f"the film was {word}{' and long' * i},{word}" for i in range(20) for word in ("good", "bad")]
    named.write_text("\n".join(["text,label", *lines]) + "\n")
    task = TextTable.find(named, "label", folder)[0].task(named, folder)
    inputs, target = next(task.train.batches(99))
    assert ((inputs["input_ids"] == 2 + WORDS.index("good")).any(1).long() == target).all()
    with pytest.raises(DataError, match="classes that the model does not have"):
        TextTable.find(reviews, "score", folder)


def test_two_texts_are_a_pair_for_a_head_and_two_sides_for_an_encoder(model, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "one,two,score\n" + "".join(f"the film was good,i liked it {'not ' * (i % 3)},{i % 6}\n" for i in range(40))
    )
    encoder = model("BertModel")
    table, _told = TextTable.find(pairs, "score", encoder)
    assert (table.kind, table.texts) == ("embedding", ("one", "two"))
    (one, two), score = next(table.task(pairs, encoder, validation=0.5).train.batches(4))
    assert one["input_ids"].shape == two["input_ids"].shape == (4, 16)
    assert score.dtype == torch.float32
    head = model(id2label={"0": "LABEL_0"})
    table, _told = TextTable.find(pairs, "score", head)
    assert table.kind == "regression"
    inputs, _score = next(table.task(pairs, head, validation=0.5).train.batches(4))
    assert inputs["input_ids"].shape == (4, 16)


def test_vectors_of_tokens_are_averaged_where_there_is_text():
    side = {"input_ids": torch.zeros(1, 3), "attention_mask": torch.tensor([[1, 1, 0]])}
    tokens = torch.tensor([[[1.0], [3.0], [99.0]]])
    assert mean_of_tokens(lambda **_: {"last_hidden_state": tokens, "pooled": None}, side).tolist() == [[2.0]]
    assert mean_of_tokens(lambda **_: (torch.ones(1, 5),), side).shape == (1, 5)


def test_what_is_not_plain_is_asked_for(model, reviews, tmp_path):
    folder = model(id2label={"0": "bad", "1": "good"})
    with pytest.raises(DataError, match="--text NAME"):
        TextTable.find(reviews, "text", folder)
    with pytest.raises(DataError, match="no column body"):
        TextTable.find(reviews, "label", folder, ["body"])
    with pytest.raises(ModelError, match="BertForMaskedLM: what it predicts"):
        TextTable.find(reviews, "label", model("BertForMaskedLM"))
    with pytest.raises(ModelError, match="no folder of a Hugging Face model"):
        TextTable.find(reviews, "label", tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        TextTable.find(reviews, "label", folder)
