"""What is handed over predicts from raw things by itself: without torch, without boildown, as the run scored it."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import boildown as bd
from boildown.domain.artifact import Artifact
from boildown.domain.preprocess import Normalize
from boildown.engine import handover
from boildown.engine.artifact import flatten
from boildown.engine.deliver import deliver, save_sample
from boildown.runtimes import get
from boildown.surgery.graph import capture
from boildown.tasks.embedding import cosine
from boildown.tasks.images import image_folder
from boildown.tasks.table import Table
from boildown.tasks.text import TextTable

ALONE = """
import runpy, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "boildown", "transformers", "torchvision", "onnx"):
            raise ImportError(f"{name} is not here", name=name)
sys.meta_path.insert(0, Forbidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(folder, *arguments):
    """(exit code, output, errors) of predict.py where neither torch nor boildown can be imported."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, folder / "predict.py", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def predict(capsys):
    """The same in this process."""

    def called(folder, *arguments):
        code = runpy.run_path(str(folder / "predict.py"))["main"]([*map(str, arguments)])
        return code, *capsys.readouterr()

    return called


def written(task, network, folder):
    """The artifact of a network, and what its run keeps of the task."""
    runtime, first = get("onnxruntime"), folder / "first"
    first.mkdir(parents=True)
    torch.manual_seed(0)
    runtime.export(capture(network.eval(), *task.example()).serialize(), folder / "exported.onnx")
    runtime.write(folder / "exported.onnx", first / "model.onnx")
    inputs, _ = next(task.validation.batches(1))
    save_sample(flatten(*task.calls(inputs)[0], task.example()), first)
    return Artifact.read("onnxruntime", first / "model.onnx"), first


def handed(task, network, folder, **options):
    """The folder that is handed over, and what is told of it. network: or the folder of a run that began with it."""
    if isinstance(network, nn.Module):
        artifact, first = written(task, network, folder)
    else:
        first = shutil.copytree(network / "first", folder / "first")
        artifact = Artifact.read("onnxruntime", first / "model.onnx")
    handover.keep(task, first / handover.KEPT, **options)
    return folder / "best", deliver(artifact, first, folder / "best", getattr(task, "classes", None))


def scored(task, folder):
    """What a run's scoring has of the file: the task's outputs, sample by sample."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [port.name for port in session.get_inputs()]

    def model(*args, **kwargs):
        found = session.run(None, dict(zip(names, flatten(args, kwargs, task.example()), strict=True)))
        return torch.from_numpy(found[0])

    return torch.cat([task.run(model, inputs) for inputs, _ in task.validation.batches(1)])


class Lightness(nn.Module):
    """Whether a picture is light, and whether it is red."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        return self.layer(x).mean((2, 3)) + x.mean((2, 3))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of all kinds, and what was handed over."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(36):
        colour = random.integers(0, 256, (7, 5 + number % 4, 3)).astype(np.uint8)
        picture = Image.fromarray(colour).resize((40 + number, 30 + number % 7))
        path = folder / "data" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        match number % 6:
            case 0:
                picture.convert("CMYK").save(path.with_suffix(".jpg"), exif=exif)
            case 1:
                picture.convert("L").save(path)
            case 2:
                Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 16).save(path)
            case 3:
                picture.putalpha(int(random.integers(0, 256)))
                picture.save(path)
            case 4:
                picture.convert("P").save(path.with_suffix(".gif"), save_all=True, append_images=[picture])
            case _:
                picture.save(path.with_suffix(".jpg"), exif=exif)
    task = image_folder(
        folder / "data", size=16, crop=0.9, white=4095, validation=0.6, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)
    )
    return task, *handed(task, Lightness(), folder / "run")


def test_pictures_of_all_kinds_get_the_answers_of_the_run_without_torch(pictures):
    task, best, notes = pictures
    assert notes == ()
    paths = [task.raw(place) for place in range(len(task.validation))]
    code, out, errors = alone(best, *paths, "--json")
    assert code == 0, errors
    answers = [json.loads(line) for line in out.splitlines()]
    wanted = scored(task, best)
    assert [each["label"] for each in answers] == [task.classes[place] for place in wanted.argmax(1)]
    scores = np.array([list(each["scores"].values()) for each in answers])
    assert np.allclose(scores, wanted.softmax(1), atol=1e-5)
    assert len({each["label"] for each in answers}) > 1
    assert "transparent places" in errors
    assert "2 pictures: the first one is taken" in errors


def test_the_samples_beside_are_raw_and_hold_preprocessing_and_file(pictures, tmp_path):
    _, best, _ = pictures
    told = json.loads((best / "samples" / "answers.json").read_text())
    assert len(told) == 5
    assert all((best / "samples" / each["file"]).is_file() for each in told)
    assert alone(best, "--check")[:2] == (0, "5 samples give the answers of the run\n")
    moved = shutil.copytree(best, tmp_path / "moved")
    said = json.loads((moved / "preprocess.json").read_text())
    normalize = next(step for step in said["inputs"][0]["steps"] if step["do"] == "normalize")
    normalize["mean"].reverse()  # blue for red
    (moved / "preprocess.json").write_text(json.dumps(said))
    code, _, errors = alone(moved, "--check")
    assert code == 2
    assert "is not the recorded one" in errors


def test_a_description_that_is_not_what_the_data_does_is_told(pictures, tmp_path):
    task, best, _ = pictures
    (raw,) = task.preprocess.inputs
    steps = tuple(Normalize((0.5,), (0.5,)) if isinstance(step, Normalize) else step for step in raw.steps)
    other = bd.Classification(validation=task.validation, classes=task.classes)
    other.raw, other.preprocess = task.raw, replace(task.preprocess, inputs=(replace(raw, steps=steps),))
    _, notes = handed(other, best.parent, tmp_path / "own")
    assert ["not what the data set made" in note for note in notes] == [True]


def test_what_is_no_picture_ends_with_a_line_and_2(pictures, predict, tmp_path):
    _, best, _ = pictures
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nx")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (30, 30)).save(tmp_path / "good.png")
    code, out, errors = predict(best, tmp_path)
    assert code == 2
    assert [line.partition("\t")[0] for line in out.splitlines()] == [str(tmp_path / "good.png")]
    assert errors.count("cannot be read as a picture") == len(errors.splitlines()) == 2
    (tmp_path / "none").mkdir()
    for given, told in ((tmp_path / "none", "holds no pictures"), (tmp_path / "no.png", "there is no file")):
        code, out, errors = predict(best, given)
        assert (code, out) == (2, "")
        assert told in errors


@pytest.mark.parametrize(("values", "white"), [("float32", 4095), ("uint16", None)])
def test_numbers_that_are_cut_off_are_told(pictures, predict, tmp_path, values, white):
    _, best, _ = pictures
    moved = shutil.copytree(best, tmp_path / "moved")
    said = json.loads((moved / "preprocess.json").read_text())
    said["inputs"][0]["steps"][0]["white"] = white
    (moved / "preprocess.json").write_text(json.dumps(said))
    Image.fromarray(np.linspace(0, 2000, 900).reshape(30, 30).astype(values)).save(tmp_path / "deep.tif")
    code, _, errors = predict(moved, tmp_path / "deep.tif")
    assert code == 0
    assert "more than 8 bits: cut off at 0 and 255, as in training" in errors


def test_top_json_and_help(pictures, predict, tmp_path, capsys):
    _, best, _ = pictures
    Image.new("RGB", (30, 30)).save(tmp_path / "one.png")
    assert predict(best, tmp_path / "one.png", "--top", 1)[1].count("  ") == 0
    assert predict(best, tmp_path / "one.png", "--top", 3)[1].count("  ") == 2
    with pytest.raises(SystemExit) as ended:
        predict(best, "--help")
    assert ended.value.code == 0
    for wrong in ([], ["x.png", "--top", "0"]):
        with pytest.raises(SystemExit) as ended:
            predict(best, *wrong)
        assert ended.value.code == 2


@pytest.mark.parametrize("name", ["preprocess.json", "ports.json", "load.py", "model.onnx"])
def test_a_folder_that_lacks_something_says_so(pictures, tmp_path, predict, name):
    _, best, _ = pictures
    moved = shutil.copytree(best, tmp_path / "moved")
    (moved / name).unlink()
    Image.new("RGB", (30, 30)).save(tmp_path / "one.png")
    code, out, errors = predict(moved, tmp_path / "one.png")
    assert (code, out) == (2, "")
    assert name in errors
    assert len(errors.splitlines()) == 1


def test_a_runtime_that_is_not_there_is_named_with_its_package(pictures, tmp_path):
    _, best, _ = pictures
    hidden = ALONE.replace('"torch"', '"onnxruntime"')
    done = subprocess.run(
        [sys.executable, "-I", "-c", hidden, best / "predict.py", "x.png"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install onnxruntime" in done.stderr


def rows(path, count=120):
    """A table with decimal commas, missing values and rare categories."""
    random = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["name", "price", "side", "size", "worth"])
        for place in range(count):
            price, size = random.normal(1500, 400), random.normal(size=1)[0]
            shown = "n/a" if place % 11 == 0 else f"{price:,.2f}".translate(str.maketrans(",.", ".,"))
            side = ["north", "south", "west, or so", ""][place % 4]
            writer.writerow(
                [f"n{place}", shown, side, f"{size:.3f}".replace(".", ","), f"{price / 100:.2f}".replace(".", ",")]
            )
    return path


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    """A regression on such a table, and what was handed over."""
    folder = tmp_path_factory.mktemp("prices")
    path = rows(folder / "rows.csv")
    table, _ = Table.find(path, "worth")
    task = table.task(path, validation=0.5)
    network = nn.Sequential(nn.Linear(len(table.columns), 4), nn.Tanh(), nn.Linear(4, 1))
    return task, path, *handed(task, network, folder / "run")


def test_rows_get_the_numbers_of_the_run_without_torch(prices, tmp_path):
    task, _, best, notes = prices
    assert notes == ()
    raws = [task.raw(place) for place in range(len(task.validation))]
    with (tmp_path / "unseen.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(raws[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(raws)
    code, out, errors = alone(best, tmp_path / "unseen.csv", "--json")
    assert code == 0, errors
    values = [json.loads(line)["value"] for line in out.splitlines()]
    assert np.allclose(values, scored(task, best).ravel(), atol=1e-5)
    assert np.std(values) > 0
    assert errors == f"note: {tmp_path / 'unseen.csv'}: columns that are not used: name\n"
    assert alone(best, "--check")[:2] == (0, "5 samples give the answers of the run\n")
    sample = (best / "samples" / "rows.csv").read_text()
    assert "n1" not in sample, "columns that nothing is predicted from stay at home"


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("price;side;size\n1.500,5;north;1,5\n", 0, ""),
        ("side;extra;size;price\nnorth;x;1,5;2\n", 0, "not used: extra"),
        ("price;side;size\n1,5;east;2\n", 0, "did not know, or were rare there: east"),
        ("price;side;size\nmuch;north;2,0\n", 0, "values that are no numbers, taken as 1"),
        ("price;side;size\ninf;north;2,0\n", 0, "values that are no numbers"),
        ("price;side;size\n1,5;north;\n", 0, "in training none was missing"),
        ("price;side;size\n1.500;north;2\n", 0, "points are taken to be between thousands"),
        ("price;side;size\n1500.5;north;2,5\n", 2, "has a decimal point (1500.5)"),
        ('price,side,size\n"1500,5",north,2.5\n', 2, "has a decimal comma (1500,5)"),
        ("price;size\n1,5;2,0\n", 2, "lacks the columns side"),
        ("price;side;size\n1,5;north\n", 2, "another number of values in the rows 2"),
        ("price;side;size;side\n1;a;2;b\n", 2, "columns of the same name: side"),
        ("price;side;size\n", 2, "has no rows"),
        ("", 2, "is empty"),
        ('price;side;size\n1,5;"north;2\n', 2, "another number of values"),
        ("price;side;size\n1,5;\udcfc;2\n", 2, "is not in utf-8-sig"),
    ],
)
def test_rows_are_taken_as_in_training_or_refused(prices, predict, tmp_path, text, code, told):
    _, _, best, _ = prices
    (tmp_path / "rows.csv").write_bytes(text.encode(errors="surrogateescape"))
    found, out, errors = predict(best, tmp_path / "rows.csv")
    assert (found, len(out.splitlines())) == (code, 1 - code // 2), errors
    assert told in errors
    assert len(errors.splitlines()) == (told != "")


class Words(nn.Module):
    """Vectors of tokens, or what their sum says."""

    def __init__(self, outputs):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 6), None if outputs is None else nn.Linear(6, outputs)

    def forward(self, input_ids, attention_mask):
        tokens = self.table(input_ids) * attention_mask.unsqueeze(-1)
        return tokens if self.head is None else self.head(tokens.sum(1))


WORDS = ["the", "film", "was", "good", "bad", "long", "short", "and", "i", "liked", "it", "not"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of a model, without weights, and a table of texts."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("texts")
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    random = np.random.default_rng(0)
    with (folder / "texts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["first", "second", "label", "score"])
        for place in range(60):
            sides = [" ".join(random.choice(WORDS, random.integers(4, 9))) for _ in range(2)]
            writer.writerow([*sides, place % 3, place / 60])
    return folder


def text_task(texts, kind, target, columns, **config):
    given = {"architectures": [kind], "model_type": "bert", "max_position_embeddings": 40, **config}
    (texts / "config.json").write_text(json.dumps(given))
    table, _ = TextTable.find(texts / "texts.csv", target, texts, columns)
    return table.task(texts / "texts.csv", texts, validation=0.5)


def test_a_text_gets_the_label_of_the_run_without_torch(texts, tmp_path, predict):
    names = {str(place): name for place, name in enumerate(("bad", "fair", "good"))}
    task = text_task(texts, "BertForSequenceClassification", "label", ["first"], id2label=names)
    best, notes = handed(task, Words(3), tmp_path)
    assert notes == ()
    raws = [task.raw(place)["first"] for place in range(len(task.validation))]
    code, out, errors = alone(best, *raws, "--json")
    assert code == 0, errors
    labels = [json.loads(line)["label"] for line in out.splitlines()]
    assert labels == [task.classes[place] for place in scored(task, best).argmax(1)]
    assert len(set(labels)) > 1
    assert alone(best, "--check")[0] == 0
    code, out, errors = predict(best, "good film " * 30)
    assert code == 0
    assert "longer than 16 tokens, and cut" in errors
    code, out, errors = predict(best, "caf\udce9")
    assert (code, out) == (2, "")
    (best / "tokenizer.json").write_text("{}")
    code, out, errors = predict(best, "good")
    assert code == 2
    assert "no tokenizer that can be read" in errors


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_two_texts_get_the_cosine_of_the_run_without_torch(texts, tmp_path, predict, pooling):
    (texts / "1_Pooling").mkdir(exist_ok=True)
    (texts / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    task = text_task(texts, "BertModel", "score", ["first", "second"])
    best, notes = handed(task, Words(None), tmp_path)
    assert notes == ()
    (tmp_path / "some").mkdir()
    with (tmp_path / "some" / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["second", "first"])
        writer.writeheader()
        writer.writerows(task.raw(place) for place in range(len(task.validation)))
    code, out, errors = alone(best, tmp_path / "some" / "pairs.csv", "--json")
    assert code == 0, errors
    values = [json.loads(line)["value"] for line in out.splitlines()]
    assert np.allclose(values, cosine(scored(task, best)), atol=1e-5)
    assert predict(best, "--check")[0] == 0
    assert predict(best, "good film", "good film")[1].strip().endswith("\t1")
    code, out, errors = predict(best, "only one")
    assert (code, out) == (2, "")
    assert "give two texts (first, second)" in errors


def test_of_a_task_that_says_nothing_tensors_are_taken(run, predict, tmp_path):
    best = run.path / "best"
    code, out, errors = alone(best, *sorted((best / "samples").glob("[0-9].npz")), "--json")
    assert code == 0, errors
    task = run.job.task
    places = np.unique(np.linspace(0, len(task.validation) - 1, 5).round()).astype(int)
    inputs, _ = next(task.validation.subset(places.tolist()).batches(5))
    session = onnxruntime.InferenceSession(best / "model.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    assert [json.loads(line)["label"] for line in out.splitlines()] == [str(place) for place in logits.argmax(1)]
    assert alone(best, "--check")[0] == 0
    np.save(tmp_path / "batch.npy", inputs.numpy())
    assert len(predict(best, tmp_path / "batch.npy")[1].splitlines()) == 5
    np.save(tmp_path / "one.npy", inputs[0].numpy())
    assert predict(best, tmp_path / "one.npy")[0] == 0
    np.save(tmp_path / "other.npy", inputs[:, :, :4].numpy())
    np.save(tmp_path / "code.npy", np.array([print]), allow_pickle=True)
    (tmp_path / "x.jpg").write_bytes(b"")
    for name, told in (("other", "has the shape"), ("code", "cannot be read"), ("x.jpg", "no .npy or .npz file")):
        code, out, errors = predict(best, tmp_path / (name if "." in name else f"{name}.npy"))
        assert (code, out) == (2, "")
        assert told in errors


def test_without_samples_no_data_of_the_users_lies_there(pictures, run, tmp_path):
    task, best, _ = pictures
    best, notes = handed(task, best.parent, tmp_path / "own", samples=False)
    assert notes == ()
    assert not (best / "samples").exists()
    assert json.loads((best / "preprocess.json").read_text())["samples"] is False
    inputs, _ = next(task.validation.batches(1))
    assert not np.allclose(np.load(best / "sample.npz")[np.load(best / "sample.npz").files[0]], inputs)
    runpy.run_path(str(best / "load.py"), run_name="__main__")
    path = task.raw(0)
    assert alone(best, path)[0] == 0
    code, _, errors = alone(best, "--check")
    assert code == 2
    assert "they were left out" in errors
    taken = bd.take(run.path, 2, tmp_path / "taken", samples=False)
    assert not (taken.parent / "samples").exists()


def test_a_run_folder_that_names_files_elsewhere_is_refused(pictures, tmp_path):
    _, best, _ = pictures
    first = shutil.copytree(best.parent / "first", tmp_path / "first")
    artifact = Artifact.read("onnxruntime", first / "model.onnx")
    listed = first / handover.KEPT / "samples.json"
    (tmp_path / "mine.txt").write_text("mine")
    names = json.loads(listed.read_text())
    listed.write_text(json.dumps(["../../../mine.txt", *names[1:]]))
    with pytest.raises(bd.InputError, match="no file of a sample"):
        deliver(artifact, first, tmp_path / "best")
    assert not (tmp_path / "best").exists()
    listed.write_text(json.dumps(names[1:]))
    with pytest.raises(bd.InputError, match="cannot be read"):
        deliver(artifact, first, tmp_path / "best")
    listed.write_text(json.dumps(names))
    sample = first / handover.KEPT / "samples" / names[0]
    sample.unlink()
    sample.symlink_to(tmp_path / "mine.txt")
    deliver(artifact, first, tmp_path / "best")
    assert not (tmp_path / "best" / "samples" / names[0]).exists(), "a link is not followed"


def test_take_hands_over_the_same_for_any_attempt(run, tmp_path):
    for number in (0, 2):
        taken = bd.take(run.path, number, tmp_path / str(number)).parent
        assert (taken / "preprocess.json").read_bytes() == (run.path / "best" / "preprocess.json").read_bytes()
        assert alone(taken, "--check")[0] == 0
