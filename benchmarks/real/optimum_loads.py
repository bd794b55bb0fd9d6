"""Whether optimum's ORTModel loads what `take --as transformers` writes, and gives the same logits as the file.

    python -m venv /tmp/optimum && /tmp/optimum/bin/pip install optimum-onnx onnxruntime transformers -c constraints.txt
    python -m benchmarks.real.optimum_loads /tmp/optimum/bin/python

optimum-onnx pins an older transformers, so it has an environment of its own. The model is a small BERT with random
weights, in float and as int8: what is compared are two ways to run one file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import boildown as bd
from boildown.surgery.hub import from_transformers
from boildown.tasks.text import encode

WORDS = ["the", "film", "was", "good", "bad", "long", "short", "and", "i", "liked", "it", "not"]
LENGTH = 16
LOADS = """
import sys
import numpy as np
import onnxruntime
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
folder, length = sys.argv[1], int(sys.argv[2])
texts = ["the film was good and long", "i liked it not", "bad"]
given = AutoTokenizer.from_pretrained(folder)(texts, padding="max_length", max_length=length, return_tensors="np")
theirs = ORTModelForSequenceClassification.from_pretrained(folder)(**given).logits
session = onnxruntime.InferenceSession(folder + "/model.onnx")
ours = session.run(["logits"], {port.name: given[port.name] for port in session.get_inputs()})[0]
assert np.array_equal(theirs, ours), (theirs, ours)
print(folder, "onnxruntime", onnxruntime.__version__, "the same logits for", len(texts), "texts")
"""


def main(python: str) -> None:
    """Make the folders here, and load them with another interpreter."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = _model(folder / "bert")
        network = from_transformers(str(model))
        texts = [" ".join(WORDS[(i * step) % len(WORDS)] for step in range(1, 3 + i % 9)) for i in range(400)]
        inputs = encode(model, texts, length=LENGTH)
        with torch.no_grad():
            logits = network(**inputs).logits
            network.classifier.bias[1] -= (logits[:, 1] - logits[:, 0]).median()  # both classes as often
            labels = network(**inputs).logits.argmax(1)
        network.save_pretrained(model)
        items = [({name: part[i] for name, part in inputs.items()}, int(labels[i])) for i in range(len(texts))]
        task = bd.Classification(
            validation=items, classes=["bad", "good"], forward=lambda model, inputs: model(**inputs)["logits"]
        )
        run = bd.compress(
            f"transformers:{model}",
            task,
            "size <= 0.9x",
            ladder=["quantize-dynamic"],
            runs=folder / "runs",
        )
        for number in (0, run.best_attempt.number):
            bd.take(run.path, number, folder / str(number), as_="transformers")
            subprocess.run([python, "-c", LOADS, str(folder / str(number)), str(LENGTH)], check=True)


def _model(folder: Path) -> Path:
    """A folder with a small BERT, as `save_pretrained` writes it, and its tokenizer."""
    import tokenizers
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=14, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=40, num_labels=2, initializer_range=0.5,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


if __name__ == "__main__":
    main(sys.argv[1])
