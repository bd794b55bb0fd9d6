"""The data of the benchmarks, read from the folder that the environment variable BOILDOWN_DATA names.

cifar10/    resnet20.pt, resnet56.pt; train_0.npz, train_1.npz, test_a.npz: sheets of 32 by 32
            tiles of 32x32 pixels in lossless WebP (`blob`, cut at `off`), `n` of them used, labels `y`
mobilenet/  mobilenet_v1_025.pt; imagenet_a.npz: JPEG files of 224x224 pixels (`blob`, `off`), labels `y`
kws/        dscnn.pt; clips_a.npz: one-second clips as int8 MFCCs `x` (n, 49, 10), labels `y`
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Samples = tuple[Tensor, Tensor]
"""Inputs as the network takes them, shape (n, ...), and labels, shape (n,)."""

_TILES, _PIXELS = 32, 32
_IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_IMAGENET_SPREAD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
_MFCC_ZERO, _MFCC_STEP = 83, 0.5847029


class NoData(Exception):
    """The data is not there."""


def folder() -> Path:
    """The data folder. Raises NoData where BOILDOWN_DATA does not name one."""
    named = os.environ.get("BOILDOWN_DATA")
    if not named:
        raise NoData(
            "The environment variable BOILDOWN_DATA is not set.\n"
            "  Let it name the folder with the real models and their data (see benchmarks/real/data.py)."
        )
    if not Path(named).is_dir():
        raise NoData(f"BOILDOWN_DATA names {named}, which is no folder.\n  Name the folder with the real models.")
    return Path(named)


def cifar10_train(parts: int = 2) -> Samples:
    """CIFAR-10's training images, 25,000 for each of at most two parts; (n, 3, 32, 32), normalised."""
    found = [_tiles(f"train_{part}") for part in range(parts)]
    inputs, labels = zip(*found, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def cifar10_test() -> Samples:
    """5,000 of CIFAR-10's 10,000 test images; (n, 3, 32, 32), normalised."""
    return _tiles("test_a")


def imagenet() -> Samples:
    """400 ImageNet images; (n, 3, 224, 224) in [-1, 1].

    They were used to train the network: only how much worse a candidate is means anything.
    """
    pack = _pack("mobilenet/imagenet_a.npz")
    return _channels_first(np.stack(list(_pictures(pack)))) / 127.5 - 1, _labels(pack)


def keywords() -> Samples:
    """500 spoken words; (n, 1, 49, 10)."""
    pack = _pack("kws/clips_a.npz")
    return ((torch.from_numpy(pack["x"]).float() - _MFCC_ZERO) * _MFCC_STEP)[:, None], _labels(pack)


def _tiles(name: str) -> Samples:
    pack = _pack(f"cifar10/{name}.npz")
    shape = (_TILES, _PIXELS, _TILES, _PIXELS, 3)
    sheets = [sheet.reshape(shape).swapaxes(1, 2).reshape(_TILES**2, _PIXELS, _PIXELS, 3) for sheet in _pictures(pack)]
    images = _channels_first(np.concatenate(sheets)[: int(pack["n"])]) / 255
    return (images - _IMAGENET_MEAN) / _IMAGENET_SPREAD, _labels(pack)


def _pack(name: str) -> Mapping[str, NDArray[np.generic]]:
    path = folder() / name
    if not path.is_file():
        raise NoData(f"There is no {path}.\n  See benchmarks/real/data.py for what the folder holds.")
    with np.load(path) as pack:
        return dict(pack)


def _pictures(pack: Mapping[str, NDArray[np.generic]]) -> Iterator[NDArray[np.uint8]]:
    from PIL import Image

    for start, stop in zip(pack["off"][:-1], pack["off"][1:], strict=True):
        with Image.open(io.BytesIO(pack["blob"][start:stop].tobytes())) as picture:
            yield np.asarray(picture.convert("RGB"))


def _channels_first(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()


def _labels(pack: Mapping[str, NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(pack["y"]).long()
