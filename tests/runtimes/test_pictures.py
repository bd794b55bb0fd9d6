"""Preprocessing in the file is what Pillow and torch do, bit for bit where they compute in whole numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from boildown.domain.preprocess import (
    Columns,
    Crop,
    Decode,
    Filter,
    Gray,
    Layout,
    Normalize,
    Output,
    Pad,
    Preprocess,
    Raw,
    Resize,
    Scale,
    Step,
)
from boildown.engine.described import made_of
from boildown.errors import InputError
from boildown.runtimes import get

SIZES = [((90, 60), (40, 31)), ((20, 15), (33, 47)), ((6, 200), (8, 8))]


def plain(folder: Path, channels: int = 3, side: int | str = "side", opset: int = 21) -> Path:
    """A file that gives what it takes, one axis after the other."""
    shape = ["batch", channels, side, f"{side}2" if isinstance(side, str) else side]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def described(*steps: Step) -> Preprocess:
    return Preprocess((Raw("picture", steps),), Output("tensor"))


def inside(folder: Path, said: Preprocess, **file: Any) -> onnxruntime.InferenceSession:
    target = folder / "inside.onnx"
    get("onnxruntime").with_preprocessing(plain(folder, **file), target, said, ("cat", "dog"), {"note": "yes"})
    onnx.checker.check_model(onnx.load(target), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])


def noise(height: int, width: int, channels: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def run(session: onnxruntime.InferenceSession, pixels: Any) -> Any:
    (found,) = session.run(None, {"picture": pixels[None]})
    return found[0]


@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "nearest"])
def test_resampling_is_pillows(tmp_path: Path, filter: Filter) -> None:
    for old, new in SIZES:
        pixels = noise(*old)
        session = inside(tmp_path, described(Decode(), Resize(new, filter=filter), Layout()))
        wanted = Image.fromarray(pixels).resize(new[::-1], Image.Resampling[filter.upper()])
        np.testing.assert_array_equal(run(session, pixels), np.asarray(wanted).transpose(2, 0, 1))


@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("antialias", "whole"), [(True, True), (False, True), (True, False), (False, False)])
def test_resampling_is_torchs(tmp_path: Path, filter: Filter, antialias: bool, whole: bool) -> None:
    for old, new in SIZES:
        resize = Resize(new, filter=filter, by="tensor", antialias=antialias)
        said = described(Decode(), *((resize, Scale()) if whole else (Scale(), resize)), Layout())
        pixels = noise(*old)
        tensor = torch.from_numpy(pixels).movedim(2, 0)[None]
        kind: dict[str, Any] = {} if filter == "nearest" else {"antialias": antialias, "align_corners": False}
        wanted = torch.nn.functional.interpolate(tensor if whole else tensor / 255, new, mode=filter, **kind)[0]
        wanted = wanted / 255 if whole else wanted
        limit = 1e-6 if whole else 2e-5
        np.testing.assert_allclose(made_of(said, pixels), wanted, atol=limit)
        if not (filter == "bicubic" and whole and not antialias):
            np.testing.assert_allclose(run(inside(tmp_path, said), pixels), wanted, atol=limit)


@pytest.mark.parametrize(
    "steps",
    [
        (Decode(), Resize(shorter=20), Crop((16, 16)), Scale(), Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), Layout()),
        (Decode(), Resize(shorter=21, longer="floor"), Crop((16, 18), "round"), Scale(), Layout()),
        (Decode(), Crop((70, 40), "round"), Pad((1, 2, 3, 4), 7.0), Scale()),
        (Decode(), Crop((71, 41)), Gray(3), Layout()),
        (Decode(), Resize((9, 14)), Gray(1, "tensor"), Scale(), Layout()),
        (Decode("L"), Resize((9, 14)), Scale(), Normalize((0.1,), (0.3,)), Layout()),
    ],
)
def test_every_step_is_that_of_predict(tmp_path: Path, steps: tuple[Step, ...]) -> None:
    said = described(*steps)
    channels = 1 if steps[0] == Decode("L") else 3
    taken = "side" if said.inputs[0].steps[-1] == Layout() else 41 + 2 + 4
    for height, width in ((50, 37), (33, 60), (90, 31)):
        pixels = noise(height, width, channels)
        wanted = made_of(said, pixels)
        file = {"channels": wanted.shape[0], "side": "side"} if taken == "side" else {"channels": "rows"}
        np.testing.assert_array_equal(run(inside(tmp_path, said, **file), pixels), wanted)


def test_batches_metadata_and_old_operator_sets(tmp_path: Path) -> None:
    session = inside(tmp_path, described(Decode(), Resize((8, 8)), Layout()), opset=13)
    pixels = np.stack([noise(20, 30), noise(20, 30)[::-1]])
    (found,) = session.run(None, {"picture": pixels})
    np.testing.assert_array_equal(found[1], run(session, pixels[1]))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["cat", "dog"]
    assert metadata["note"] == "yes"
    assert [(port.name, port.type) for port in session.get_inputs()] == [("picture", "tensor(uint8)")]
    domains = {opset.domain for opset in onnx.load(tmp_path / "inside.onnx").opset_import}
    assert domains == {""}


@pytest.mark.parametrize("filter", ["lanczos", "box", "hamming"])
def test_resampling_that_onnx_lacks_is_refused_by_name(tmp_path: Path, filter: Filter) -> None:
    with pytest.raises(InputError, match=f"Resampling by {filter}"):
        inside(tmp_path, described(Decode(), Resize((8, 8), filter=filter), Layout()))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as told:
        inside(tmp_path, described(Decode(), Resize((8, 8), filter="box"), Layout()), side=9, opset=12)
    assert [mistake.cause for mistake in told.value.mistakes] == [
        "Resampling by box is nothing that ONNX's operators do.",
        "The file is of opset 12.",
        "The description makes 3 x 8 x 8 of a picture, and the file takes 3 x 9 x 9.",
    ]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (Preprocess((Raw("row", (Columns(()),)),), Output("number")), "Rows of a table"),
        (Preprocess((Raw("text"),), Output("number")), "A tokenizer is no standard operator"),
        (Preprocess((Raw("tensor"),), Output("number")), "is not known"),
    ],
)
def test_other_raw_things_stay_outside(tmp_path: Path, said: Preprocess, named: str) -> None:
    with pytest.raises(InputError, match=named):
        inside(tmp_path, said)
