"""`boildown init` with the user's own data: what it writes runs as it is, what does not go together is told at once."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
import sys

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from boildown.cli import app
from boildown.cli.config import read_config
from boildown.errors import InputError
from boildown.surgery.checkpoints import load


@pytest.fixture
def call(monkeypatch):
    """The command, in a process whose import path is left as it was."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def called(*arguments):
        result = CliRunner().invoke(app, ["init", *map(str, arguments)], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return called


@pytest.fixture
def sold(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "sold.csv"
    with path.open("w", newline="") as file:
        rows = (
            [f"{x:.3f}", random.choice(["north", "south"]), "yes" if x > 0 else "no"] for x in random.normal(size=300)
        )
        csv.writer(file).writerows([["x", "side", "bought"], *rows])
    return path


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for place, name in enumerate(("dark", "light")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(120 * place, 120 * place + 120, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def built(folder, name):
    return runpy.run_path(str(folder / f"{name}.py"))["build"]()


def test_a_table_becomes_a_project_with_a_trained_network(call, sold, tmp_path):
    folder = tmp_path / "new"
    told = call(folder, "--csv", sold, "--predict", "bought", "--minutes", 0.01)
    assert "'bought' is one of 2 classes, predicted from 2 columns." in told
    assert "There is no model: training a small one" in told
    assert "boildown compress" in told
    read = read_config(folder / "boildown.toml")
    assert (read.model, read.task) == ("model:build", "task:build")
    assert read.target == ["accuracy drop <= 1 pp", "size <= 0.35x"]
    model, task = built(folder, "model").eval(), built(folder, "task")
    load(model, read.arguments["weights"])
    inputs, target = next(task.validation.batches(512))
    assert len(target) > 80
    assert (model(inputs).argmax(1) == target).float().mean() > 0.9
    assert task.classes == ("no", "yes")


@pytest.fixture
def ended(tmp_path):
    """Contracts with a fee that only those have that ended."""
    random = np.random.default_rng(0)
    path = tmp_path / "ended.csv"
    left = random.random(300) < 0.5
    rows = "".join(
        f"{place},{random.normal() + gone:.3f},{'25' if gone else ''},{'left' if gone else 'stayed'}\n"
        for place, gone in zip(np.sort(random.choice(900, 300, replace=False)), left, strict=True)
    )
    path.write_text(",x,exit fee,y\n" + rows)
    return path


def test_a_column_that_tells_all_is_told_with_its_score(call, ended, tmp_path):
    told = call(tmp_path / "new", "--csv", ended, "--predict", "y", "--minutes", 0.01)
    assert "Column '' is left out: it numbers the rows (rises" in told
    assert "does about as well as all together, in accuracy: 'exit fee' 100.00 % by whether it is filled" in told
    assert "--leave-out 'exit fee'" in told
    own = call(tmp_path / "own", "--csv", ended, "--predict", "y", "--model", "net:build")
    assert "does about as well as any model can, in accuracy: 'exit fee' 100.00 % by whether it is filled" in own


def test_columns_are_left_out_and_kept_as_asked(call, ended, tmp_path):
    given = ("--csv", ended, "--predict", "y", "--leave-out", "exit fee", "--keep", "", "--minutes", 0.01)
    told = call(tmp_path / "new", *given)
    assert "predicted from 2 columns" in told
    assert "exit fee' 100" not in told
    columns = json.loads((tmp_path / "new" / "columns.json").read_text())["columns"]
    assert [column["name"] for column in columns] == ["", "x"]


def test_numbers_ask_for_an_error_that_hardly_grows(call, sold, tmp_path):
    call(tmp_path / "new", "--csv", sold, "--predict", "x", "--minutes", 0.001)
    assert read_config(tmp_path / "new" / "boildown.toml").target == ["rmse <= 1.02x", "size <= 0.35x"]
    assert built(tmp_path / "new", "model").regression


def test_a_folder_of_images_becomes_a_project(call, pictures, tmp_path):
    folder = tmp_path
    told = call(folder, "--image-folder", pictures, "--minutes", 0.02)
    assert "80 images of 2 classes, read at 8 x 8 in grey." in told
    assert 'HERE / "pictures"' in (folder / "task.py").read_text(), "data inside the project moves with it"
    task, model = built(folder, "task"), built(folder, "model").eval()
    load(model, folder / "weights.safetensors")
    inputs, target = next(task.validation.batches(64))
    assert (model(inputs).argmax(1) == target).float().mean() > 0.9


def test_a_model_of_the_users_is_named_and_nothing_trained(call, pictures, tmp_path):
    folder = tmp_path / "new"
    (tmp_path / "mine.safetensors").write_bytes(b"")
    told = call(folder, "--image-folder", pictures, "--model", "net:build", "--weights", tmp_path / "mine.safetensors")
    assert "training" not in told
    assert sorted(path.name for path in folder.iterdir()) == ["boildown.toml", "task.py"]
    read = read_config(folder / "boildown.toml")
    assert (read.model, read.arguments["weights"]) == ("net:build", tmp_path / "mine.safetensors")
    assert built(folder, "task").train.read.source.look.size == 224


def test_a_hugging_face_folder_is_named_with_its_texts(call, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = tmp_path / "bert"
    model.mkdir()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "good": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(model / "tokenizer.json"))
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "no", "1": "yes"}}
    (model / "config.json").write_text(json.dumps(config))
    data = tmp_path / "said.csv"
    data.write_text("text,liked\n" + "".join(f"this was good {i},{i % 2}\n" for i in range(40)))
    told = call(tmp_path, "--csv", data, "--predict", "liked", "--transformers", model)
    assert "'liked' is one of 2 classes, read off text." in told
    assert read_config(tmp_path / "boildown.toml").model == "transformers:bert"
    assert len(built(tmp_path, "task").validation) > 5


def test_every_mistake_is_told_at_once_and_nothing_written(call, sold, pictures, tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(InputError) as caught:
        call(
            folder, "--csv", sold, "--image-folder", pictures, "--kind", "guess", "--model", "net", "--timm", "vit",
            "--weights", tmp_path / "absent.pt", "--size", 2, "--transformers", tmp_path, "--keep", "x",
        )  # fmt: skip
    told = str(caught.value)
    for part in (
        "--keep and --leave-out are of no use",
        "--csv and --image-folder are two kinds of data", "--model and --transformers and --timm are two kinds of",
        "--predict is not given", "Name one of: x, side, bought.", "--kind guess", "--model net cannot be read",
        "There is no weights file", "--size 2", "--timm networks read images",
    ):  # fmt: skip
        assert part in told
    assert all(mistake.cure for mistake in caught.value.mistakes)
    assert not folder.exists()


@pytest.mark.parametrize("where", ["project", "elsewhere"])
@pytest.mark.parametrize("kind", ["table", "images"])
def test_names_are_written_as_text_and_never_as_code(call, pictures, tmp_path, monkeypatch, where, kind):
    monkeypatch.chdir(tmp_path)
    odd = "a\"\\t'{0}\n\"\"\"\nopen('ran', 'w')\n\x7f\u2028é\\"
    data, folder = tmp_path / where / odd, tmp_path / "project"
    shutil.copytree(pictures, data / odd)
    weights, table = data / f"{odd}.safetensors", data / f"{odd}.csv"
    weights.write_bytes(b"")
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["x", odd], *([i % 7, i % 2] for i in range(200))])
    given = ["--csv", table, "--predict", odd] if kind == "table" else ["--image-folder", data / odd]
    call(folder, *given, "--model", f"net:{odd}", "--weights", weights)
    read = read_config(folder / "boildown.toml")
    assert (read.model, read.arguments["weights"].resolve()) == (f"net:{odd}", weights.resolve())
    assert len(built(folder, "task").train) > 20
    assert not list(tmp_path.rglob("ran"))


def test_a_file_is_no_folder_to_begin_in(call, sold):
    for folder in (sold, sold / "below"):
        with pytest.raises(InputError, match=r"sold\.csv is a file, and no folder.*\n.*another"):
            call(folder, "--csv", sold, "--predict", "bought", "--size", 2)


def test_what_is_there_is_not_written_over(call, sold, tmp_path):
    (tmp_path / "task.py").write_text("mine")
    with pytest.raises(InputError, match=r"task\.py exists already"):
        call(tmp_path, "--csv", sold, "--predict", "bought")
    assert (tmp_path / "task.py").read_text() == "mine"


def test_a_network_that_learns_nothing_is_not_begun_with(call, tmp_path):
    random = np.random.default_rng(0)
    noise = tmp_path / "noise.csv"
    rows = "".join(f"{x:.3f},{'a' if random.random() < 0.93 else 'b'}\n" for x in random.normal(size=200))
    noise.write_text("x,y\n" + rows)
    with pytest.raises(InputError, match="learns nothing here"):
        call(tmp_path / "new", "--csv", noise, "--predict", "y", "--minutes", 0.001)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("named", [False, True])
def test_rows_that_belong_together_are_marked_by_a_column(call, tmp_path, named):
    data, folder = tmp_path / "ill.csv", tmp_path / "new"
    random = np.random.default_rng(0)
    rows = (f"p{i % 50},{x:.3f},{'yes' if x > 0 else 'no'}\n" for i, x in enumerate(random.normal(size=500)))
    data.write_text("patient,pressure,ill\n" + "".join(rows))
    given = ("--csv", data, "--predict", "ill", "--model", "net:build")
    told = call(folder, *given, *(("--groups", "patient") if named else ()))
    task = built(folder, "task")
    if not named:
        assert "may say which rows belong together (500 rows, 50 values)" in told
        assert task.groups_of("validation") is None
        return
    assert "Column 'patient' says which rows belong together (50 groups): it predicts nothing." in told
    assert "predicted from 1 columns" in told
    assert f"These are in {len(set(task.groups_of('validation')))} groups." in told
    assert not set(task.groups_of("train")) & set(task.groups_of("validation"))


def test_images_that_belong_together_are_marked_by_their_folder(call, pictures, tmp_path):
    for path in list(pictures.rglob("*.png")):
        (path.parent / f"walk{int(path.stem) // 5}").mkdir(exist_ok=True)
        path.rename(path.parent / f"walk{int(path.stem) // 5}" / path.name)
    told = call(tmp_path / "asked", "--image-folder", pictures, "--model", "net:build")
    assert "8 folders below those of the classes" in told
    call(tmp_path / "new", "--image-folder", pictures, "--model", "net:build", "--groups", "folder")
    task = built(tmp_path / "new", "task")
    assert set(task.groups_of("train")) | set(task.groups_of("validation")) == {f"walk{i}" for i in range(8)}
    assert not set(task.groups_of("train")) & set(task.groups_of("validation"))


def test_groups_of_nothing_are_refused(call, sold, tmp_path):
    with pytest.raises(InputError, match="there are no data"):
        call(tmp_path / "new", "--groups", "patient")
    with pytest.raises(InputError, match="no column 'patient' of groups"):
        call(tmp_path / "new", "--csv", sold, "--predict", "bought", "--groups", "patient")


def brought(path, *shape):
    """An ONNX file with an input of this shape."""
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, axes)
        for name, axes in (("x", shape), ("y", shape))
    ]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def test_a_project_may_begin_with_an_onnx_file(call, pictures, sold, tmp_path):
    file = brought(tmp_path / "net.onnx", "n", 1, 16, 16)
    told = call(tmp_path / "seen", "--image-folder", pictures, "--onnx", file)
    assert "read at 16 x 16 in grey" in told
    assert "How pictures are normalized net.onnx does not say" in told
    assert read_config(tmp_path / "seen" / "boildown.toml").model == str(file)
    assert not (tmp_path / "seen" / "model.py").exists()
    inputs, _ = next(iter(built(tmp_path / "seen", "task").validation.batches(2)))
    assert inputs.shape == (2, 1, 16, 16)
    call(tmp_path / "sold", "--csv", sold, "--predict", "bought", "--onnx", file)
    assert read_config(tmp_path / "sold" / "boildown.toml").model == str(file)
    with pytest.raises(InputError, match="the axes of its first input are n, 16, 16, 3"):
        call(tmp_path / "turned", "--image-folder", pictures, "--onnx", brought(tmp_path / "last.onnx", "n", 16, 16, 3))
    with pytest.raises(InputError) as caught:
        call(tmp_path / "wrong", "--csv", sold, "--predict", "bought", "--onnx", sold, "--weights", sold)
    assert "is no ONNX file" in str(caught.value)
    assert "--onnx brings its weights along" in str(caught.value)
