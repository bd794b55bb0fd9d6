"""Classes with the names and attributes of torchvision's and timm's transforms, for where these are not installed."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

BILINEAR, BICUBIC = SimpleNamespace(value="bilinear"), SimpleNamespace(value="bicubic")


def _own(kind: type) -> type:
    kind.__module__ = "torchvision.transforms.transforms"
    return kind


@_own
class Compose:
    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, given: Any) -> Any:
        for transform in self.transforms:
            given = transform(given)
        return given


@_own
class Resize:
    """Of Pillow's pictures."""

    max_size = None

    def __init__(self, size: Any, interpolation: Any = BILINEAR, antialias: bool = True) -> None:
        self.size, self.interpolation, self.antialias = size, interpolation, antialias

    def __call__(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        if isinstance(self.size, int):
            least = min(picture.size)
            height, width = int(self.size * height / least), int(self.size * width / least)
        else:
            height, width = self.size
        return picture.resize((width, height), Image.Resampling[self.interpolation.value.upper()])


@_own
class CenterCrop:
    def __init__(self, size: Any) -> None:
        self.size = (size, size) if isinstance(size, int) else size

    def __call__(self, picture: Image.Image) -> Image.Image:
        left, top = (round((old - new) / 2.0) for old, new in zip(picture.size, self.size[::-1], strict=True))
        return picture.crop((left, top, left + self.size[1], top + self.size[0]))


@_own
class ToTensor:
    def __call__(self, picture: Image.Image) -> torch.Tensor:
        pixels = np.array(picture)
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(2, 0).float() / 255


@_own
class Normalize:
    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = mean, std

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.as_tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return (tensor - mean) / std


@_own
class Lambda:
    def __init__(self, lambd: Any) -> None:
        self.lambd = lambd

    def __call__(self, given: Any) -> Any:
        return self.lambd(given)


@_own
class Solarize:
    """One that no step says."""

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        return torch.where(given > 0.5, 1 - given, given)


@_own
class Grayscale:
    num_output_channels = 1

    def __call__(self, picture: Image.Image) -> Image.Image:
        return picture.convert("L")
