"""Transforms and processors are read as data, and what is read is what they do; the rest is named."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transforms_stand_in as stand_in
from PIL import Image

from boildown.domain.preprocess import Crop, Decode, Gray, Layout, Normalize, Output, Preprocess, Raw, Resize, Scale
from boildown.engine.described import made_of, made_up
from boildown.errors import InputError
from boildown.tasks import Classification
from boildown.tasks.transforms import describe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read(given: Any, channels: int = 3) -> Any:
    return describe(given, (torch.zeros(2, channels, 8, 8),), {}, Output("tensor"))


def steps(given: Any, channels: int = 3) -> tuple[Any, ...]:
    found = read(given, channels)
    assert found.preprocess is not None, found.notes
    return found.preprocess.inputs[0].steps


def far(given: Any, transform: Any) -> float:
    """How far what was read is from what is done, on made-up pictures."""
    said = read(given).preprocess
    return max(
        float(np.abs(made_of(said, pixels) - np.asarray(transform(Image.fromarray(pixels)))).max())
        for pixels in made_up(said)
    )


def test_a_composition_is_read_in_order() -> None:
    part = stand_in
    composed = part.Compose([
        part.Resize(40, part.BICUBIC), part.Compose([part.CenterCrop(33), part.ToTensor()]), part.Normalize(MEAN, STD),
    ])  # fmt: skip
    assert steps(composed) == (
        Decode(upright=False), Resize(shorter=40, filter="bicubic", longer="floor"), Crop((33, 33), "round"),
        Scale(), Normalize(MEAN, STD), Layout(),
    )  # fmt: skip
    assert far(composed, composed) == 0


def test_a_transform_of_tensors_resizes_tensors() -> None:
    part = stand_in
    (resize,) = [step for step in steps(part.Compose([part.ToTensor(), part.Resize((9, 7), antialias=False)]))
                 if isinstance(step, Resize)]  # fmt: skip
    assert (resize.by, resize.antialias, resize.size) == ("tensor", False, (9, 7))


def test_one_channel() -> None:
    part = stand_in
    plain = part.Compose([part.Resize((9, 7)), part.ToTensor(), part.Normalize((0.1,), (0.3,))])
    assert steps(plain, 1)[0] == Decode("L", upright=False)
    gray = part.Compose([part.Resize((9, 7)), part.Grayscale(), part.ToTensor()])
    assert [type(step) for step in steps(gray, 1)] == [Decode, Resize, Gray, Scale, Layout]
    assert steps(plain, 3)[3] == Normalize((0.1,) * 3, (0.3,) * 3)


@pytest.mark.parametrize(
    ("transform", "named"),
    [
        (stand_in.Lambda(lambda picture: picture), "Lambda(<lambda>)"),
        (stand_in.Solarize(), "Solarize"),
        (stand_in.Resize(9, SimpleNamespace(value="mks2013")), "Resize"),
    ],
)
def test_what_cannot_be_read_is_named(transform: Any, named: str) -> None:
    found = read(stand_in.Compose([transform, stand_in.ToTensor()]))
    assert found.preprocess is None
    (note,) = found.notes
    assert named in note
    assert "predict.py takes tensors" in note


def test_a_class_of_the_users_is_never_taken_for_the_librarys() -> None:
    class Resize(stand_in.Resize):
        def __call__(self, picture: Image.Image) -> Image.Image:
            return super().__call__(picture).rotate(90)

    assert "Resize" in read(stand_in.Compose([Resize((8, 8)), stand_in.ToTensor()])).notes[0]


def test_timms_configuration() -> None:
    config = {
        "input_size": (3, 224, 224), "interpolation": "bicubic", "mean": MEAN, "std": STD,
        "crop_pct": 0.95, "crop_mode": "center",
    }  # fmt: skip
    part = stand_in
    does = part.Compose([
        part.Resize(235, part.BICUBIC), part.CenterCrop(224), part.ToTensor(), part.Normalize(MEAN, STD),
    ])  # fmt: skip
    assert far(config, does) == 0
    assert steps({**config, "crop_mode": "squash"})[1].size == (235, 235)
    assert "crop_mode='border'" in read({**config, "crop_mode": "border"}).notes[0]


class TorchvisionBackend:
    """A processor of transformers that resamples tensors of uint8."""

    do_resize = do_rescale = do_normalize = do_center_crop = do_convert_rgb = True
    rescale_factor, image_mean, image_std, resample = 1 / 255, MEAN, STD, 3

    def __init__(self, size: dict[str, int], crop: int, backend: str = "torchvision") -> None:
        self.size, self.crop_size, self.backend = size, {"height": crop, "width": crop}, backend

    def __call__(self, picture: Image.Image, return_tensors: str) -> Any:
        pixels = torch.from_numpy(np.array(picture)).movedim(2, 0)[None]
        height, width = picture.size[::-1]
        size = [self.size["shortest_edge"] * side // min(height, width) for side in (height, width)]
        small = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)[0]
        crop = self.crop_size["height"]
        top, left = (int((side - crop) / 2) for side in small.shape[1:])
        small = small[:, top : top + crop, left : left + crop].float()
        mean, std = (torch.tensor(each) * (1 / self.rescale_factor) for each in (MEAN, STD))
        return {"pixel_values": [(small - mean[:, None, None]) / std[:, None, None]]}


def test_a_processor_of_transformers() -> None:
    processor = TorchvisionBackend({"shortest_edge": 40}, 33)
    assert far(processor, lambda picture: processor(picture, "pt")["pixel_values"][0]) < 1e-5
    del TorchvisionBackend.rescale_factor
    try:
        assert isinstance(steps(processor)[4], Normalize)  # 1/255 is usual
    finally:
        TorchvisionBackend.rescale_factor = 1 / 255
    strange = TorchvisionBackend({"longest_edge": 40}, 33)
    assert "size={'longest_edge': 40} of TorchvisionBackend" in read(strange).notes[0]


def test_what_libraries_do() -> None:
    transforms = pytest.importorskip("torchvision.transforms", exc_type=Exception)
    for filter in ("bilinear", "bicubic", "lanczos", "nearest"):
        mode = transforms.InterpolationMode(filter)
        composed = transforms.Compose([
            transforms.Resize(40, mode), transforms.CenterCrop(33), transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])  # fmt: skip
        assert far(composed, composed) < 1e-3


def items(count: int = 8) -> list[tuple[torch.Tensor, int]]:
    random = torch.Generator().manual_seed(0)
    return [(torch.rand(3, 8, 8, generator=random), place % 2) for place in range(count)]


def test_a_task_takes_descriptions_of_every_form(tmp_path: Any) -> None:
    raw = Raw("picture", (Decode(), Resize((8, 8)), Scale(), Layout()))
    whole = Preprocess((raw,), Output("classes", ("a", "b"), "softmax"))
    (tmp_path / "preprocess.json").write_text(whole.dump())
    said = json.loads(whole.dump())
    (tmp_path / "raw.json").write_text(json.dumps(said["inputs"][0]))
    forms: list[Any] = [raw, whole, tmp_path / "preprocess.json", str(tmp_path / "preprocess.json")]
    forms += [said, said["inputs"][0], tmp_path / "raw.json", {"inputs": said["inputs"]}]
    for form in forms:
        assert Classification(validation=items(), classes=("a", "b"), preprocess=form).preprocess == whole
    assert Classification(validation=items()).preprocess is None


@pytest.mark.parametrize("given", [
    7, {}, {"mean": 0.5}, "no/such/file.json", {"inputs": [{"kind": "smell"}]},
    {"kind": "picture", "steps": [np.eye(2)]},
])  # fmt: skip
def test_what_is_no_description_is_a_mistake(given: Any) -> None:
    with pytest.raises(InputError, match="preprocess"):
        Classification(validation=items(), preprocess=given)


def test_all_mistakes_of_ones_own_words_are_told_with_where_the_steps_are_listed() -> None:
    steps = [{"do": "decode", "mode": "BGR", "more": 1}, {"do": "scal"}]
    with pytest.raises(InputError) as refused:
        Classification(validation=items(), preprocess={"kind": "picture", "steps": steps})
    told = refused.value.mistakes
    assert [part in mistake.cause for part, mistake in zip(("has more", "'BGR'", "'scal'"), told, strict=True)] == [
        True
    ] * 3
    assert {mistake.cure for mistake in told} == {"docs/preprocess.schema.json lists the steps and what each takes."}
