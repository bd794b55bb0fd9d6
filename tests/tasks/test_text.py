"""A table of texts as a task for a Hugging Face model, with a tokenizer made here."""

from __future__ import annotations

import json

import pytest
import torch

from boildown.errors import DataError, InputError, ModelError
from boildown.tasks.text import TextTable, encode, mean_of_tokens
from boildown.tasks.text import _pooling as pooling

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
    assert next(task.judged_on({"more": named}).others["more"].batches(40))[1].tolist() == [1, 0] * 20
    with pytest.raises(DataError, match="classes that the model does not have"):
        TextTable.find(reviews, "score", folder)


@pytest.mark.parametrize(("values", "places"), [("01234", [0, 1, 2, 3, 4]), ("12345", [0, 1, 2, 3, 4]), ("24", [1, 3])])
def test_names_that_are_numbers_are_not_taken_for_the_numbers_of_classes(model, tmp_path, values, places):
    folder = model(id2label={str(place): str(place + 1) for place in range(5)})
    stars = tmp_path / "stars.csv"
    lines = [f"the film was {WORDS[int(v)]}{' and long' * i},{v}\n" for v in values for i in range(20)]
    stars.write_text("text,stars\n" + "".join(lines))
    inputs, target = next(TextTable.find(stars, "stars", folder)[0].task(stars, folder).train.batches(99))
    said = inputs["input_ids"][:, 3] - 2
    assert set(zip(said.tolist(), target.tolist(), strict=True)) == set(zip(map(int, values), places, strict=True))
    stars.write_text(stars.read_text() + "the film was short,0\nthe film was long,5\n")
    with pytest.raises(DataError, match="does not have: 0"):
        TextTable.find(stars, "stars", folder)


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
    vectors = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(0))

    def pooled():
        return pooling(encoder)(lambda **_: {"last_hidden_state": vectors}, one)

    shown = one["attention_mask"].bool()
    mean = torch.stack([vectors[row][shown[row]].mean(0) for row in range(4)])
    torch.testing.assert_close(pooled(), mean)
    (encoder / "1_Pooling").mkdir()
    written = encoder / "1_Pooling" / "config.json"
    written.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    torch.testing.assert_close(pooled(), vectors[:, 0])
    written.write_text(json.dumps({"pooling_mode_max_tokens": True, "include_prompt": True}))
    with pytest.raises(ModelError, match="pools tokens by max_tokens"):
        pooled()
    written.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        pooled()
    head = model(id2label={"0": "LABEL_0"})
    table, _told = TextTable.find(pairs, "score", head)
    assert table.kind == "regression"
    inputs, _score = next(table.task(pairs, head, validation=0.5).train.batches(4))
    assert inputs["input_ids"].shape == (4, 16)


@pytest.mark.parametrize(
    ("config", "typed"), [({}, False), ({"type_vocab_size": 1}, False), ({"type_vocab_size": 2}, True)]
)
def test_the_texts_of_a_pair_are_told_apart_where_the_model_does(model, config, typed):
    inputs = encode(model(**config), ["the film"], ["was good"], length=4)
    assert ("token_type_ids" in inputs) == typed
    assert not typed or inputs["token_type_ids"].tolist() == [[0, 0, 1, 1]]
    assert "token_type_ids" not in encode(model(**config), ["the film"], length=4)


@pytest.mark.parametrize(("config", "length"), [({}, 40), ({"model_type": "roberta", "pad_token_id": 1}, 38)])
def test_no_text_is_longer_than_the_model_has_positions(model, tmp_path, config, length):
    long = tmp_path / "long.csv"
    long.write_text("text,label\n" + "".join(f"{'the film was ' * 20},{i % 2}\n" for i in range(40)))
    table, told = TextTable.find(long, "label", model(id2label={"0": "bad", "1": "good"}, **config))
    assert (table.length, told) == (length, [f"Texts are padded to {length} tokens; 100.0% are longer, and cut."])


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


def test_mistakes_in_the_data_and_the_folder_are_told_together(model, reviews):
    folder = model(id2label={"0": "bad", "1": "good"})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError) as caught:
        TextTable.find(reviews, "score", folder, ["number", "text", "body"])
    told = [mistake.cause for mistake in caught.value.mistakes]
    assert len(told) == 4
    for part, cause in zip(("no column body", "is not plain", "no tokenizer", "does not have"), told, strict=True):
        assert part in cause


def test_rows_that_are_all_alike_cannot_be_split(model, tmp_path):
    same = tmp_path / "same.csv"
    same.write_text("text,label\n" + "the film was good,1\n" * 40)
    folder = model(id2label={"0": "bad", "1": "good"})
    with pytest.raises(DataError, match="too few different rows to be split"):
        TextTable.find(same, "label", folder)[0].task(same, folder)
