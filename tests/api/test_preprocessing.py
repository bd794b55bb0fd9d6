"""What a task says of its preprocessing is held against its data, handed over, and laid into the file on request."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, Subset

import boildown as bd
from boildown.domain.preprocess import Decode, Layout, Raw, Resize, Scale
from boildown.engine.described import held_against_data
from boildown.errors import InputError


class Folder(Dataset[Any]):
    """Pictures below a folder, with the attributes that those of torchvision have."""

    target_transform = None

    def __init__(self, root: Path, transform: Any) -> None:
        self.samples = [(str(path), int(path.stem) % 2) for path in sorted(root.glob("*.png"))]
        self.targets = [label for _path, label in self.samples]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        path, label = self.samples[place]
        with Image.open(path) as picture:
            return self.transform(picture.convert("RGB")), label


def reads(picture: Image.Image) -> torch.Tensor:
    """A transform that no library has."""
    small = np.array(picture.resize((8, 8), Image.Resampling.BILINEAR))
    return torch.from_numpy(small).movedim(2, 0).float() / 255


WORDS = Raw("picture", (Decode(upright=False), Resize((8, 8)), Scale(), Layout()))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    root = tmp_path / "pictures"
    root.mkdir()
    for place in range(40):
        pixels = random.integers(0, 140, (10 + place % 5, 12, 3))
        pixels[..., place % 2] += 90
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{place:02}.png")
    return root


def test_words_that_fit_the_data(pictures: Path) -> None:
    task = bd.Classification(validation=Subset(Folder(pictures, reads), range(3, 30)), preprocess=WORDS)
    assert held_against_data(task) == []
    assert task.raw is not None
    assert Path(task.raw(2)).name == "05.png"


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((Decode(), Resize((8, 8)), Scale(127.5), Layout()), "sample 0 differs by up to"),
        ((Decode(), Resize((9, 8)), Scale(), Layout()), "3 x 9 x 8, and the data set's are 3 x 8 x 8"),
        ((Decode(), Resize((8, 8), filter="bicubic"), Scale(), Layout()), "sample 0 differs by up to"),
    ],
)
def test_words_that_contradict_the_data_are_a_mistake(pictures: Path, steps: Any, told: str) -> None:
    task = bd.Classification(validation=Folder(pictures, reads), preprocess=Raw("picture", steps))
    with pytest.raises(InputError, match=told):
        held_against_data(task)


def test_words_are_held_against_a_transform_where_there_are_no_raw_samples(pictures: Path) -> None:
    data = Folder(pictures, reads)
    pairs = list(data)
    data.samples = []

    class Kept(Folder):
        def __init__(self) -> None:
            self.transform = reads

        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, place: int) -> Any:
            return pairs[place]

    assert held_against_data(bd.Classification(validation=Kept(), preprocess=WORDS)) == []
    wrong = Raw("picture", (*WORDS.steps[:2], Scale(254), Layout()))
    with pytest.raises(InputError, match="a made-up picture differs"):
        held_against_data(bd.Classification(validation=Kept(), preprocess=wrong))


def test_a_task_that_says_nothing_is_told_nothing(pictures: Path) -> None:
    task = bd.Classification(validation=Folder(pictures, reads))
    assert held_against_data(task) == []
    assert task.preprocess is None


@pytest.mark.usefixtures("still")
def test_take_with_preprocessing(pictures: Path, tmp_path: Path, command: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    data = Folder(pictures, reads)
    task = bd.Classification(train=data, validation=data, classes=("even", "odd"), preprocess=WORDS)
    trained = torch.optim.Adam(model.parameters(), 0.05)
    inputs, labels = next(task.train.batches(40))  # type: ignore[union-attr]
    for _ in range(60):
        trained.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        trained.step()
    run = bd.compress(model.eval(), task, "size <= 0.9x", ladder=["quantize-static"], runs=tmp_path)
    told = command("take", run.path, "--with-preprocessing", "--to", tmp_path / "taken")
    path = Path(told.out.strip())
    assert re.search(r"^note: .* takes uint8 pictures of any size.* within 0 of those of", told.err, re.M)
    assert "UserWarning" not in told.err
    import onnxruntime

    inside = path.with_name("model.with-preprocessing.onnx")
    session = onnxruntime.InferenceSession(str(inside), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["even", "odd"]
    run_by_script = runpy.run_path(str(path.parent / "load.py"))["load"]()
    for place in range(0, 40, 7):
        with Image.open(data.samples[place][0]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        (own,) = session.run(None, {"picture": pixels[None]})
        name = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()[0].name
        (wanted,) = run_by_script({name: reads(Image.fromarray(pixels))[None].numpy()}).values()
        np.testing.assert_allclose(own, wanted, atol=1e-3)
    said = subprocess.run(
        [sys.executable, str(path.parent / "predict.py"), data.samples[1][0]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split("\t")[1].split()[0] in ("even", "odd")
