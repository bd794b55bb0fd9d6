"""Pictures as they come in the field: noisy, out of focus, bright, flat, compressed.

D. Hendrycks and T. Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR
2019 (arXiv 1903.12261): five severities each, with the authors' parameters. Those of ImageNet-C are for pictures of
224 pixels, those of CIFAR-10-C for pictures of 32.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from boildown.domain.preprocess import Layout, Normalize, Raw, Scale
from boildown.errors import InputError, install

SMALL = 64
"""Pictures whose shorter side has no more pixels get the parameters of CIFAR-10-C."""

_CHANNELS = (1, 3, 4)
_BLACK = 1e-6

Change = Callable[[Tensor, Any, Generator], Tensor]
"""Pixels from 0 to 1, shape (C, H, W), a parameter, random numbers; gives pixels that may lie outside of 0 to 1."""


@dataclass(frozen=True)
class Corruption:
    """What is done to pixels, and its parameter for five severities."""

    change: Change
    small: tuple[Any, ...]
    large: tuple[Any, ...]


@dataclass(frozen=True)
class Pixels:
    """What the numbers of a tensor are as pixels: `(number - black) / (white - black)`, from 0 to 1.

    black, white: shape (C, 1, 1). axis: of the channels in a batch, 1 or 3; 0 where there is none. known: they are
    described, and not seen in the data.
    """

    black: Tensor
    white: Tensor
    axis: int
    known: bool = False

    def __str__(self) -> str:
        values = [", ".join(f"{value:.3g}" for value in side.flatten()[:4]) for side in (self.black, self.white)]
        return f"black {values[0]}, white {values[1]}"

    def corrupted(self, batch: Tensor, corruption: Corruption, level: int, generator: Generator) -> Tensor:
        """One picture, a batch of one, corrupted. level: from 0 to 4."""
        channels = {0: batch, 1: batch[0], 3: batch[0].movedim(-1, 0)}[self.axis].double()
        pixels = ((channels - self.black) / (self.white - self.black)).clamp(0, 1).float()
        parameters = corruption.small if min(pixels.shape[1:]) <= SMALL else corruption.large
        changed = corruption.change(pixels, parameters[level], generator).clamp(0, 1).double()
        numbers = changed * (self.white - self.black) + self.black
        if not batch.is_floating_point():
            numbers = numbers.round()
        numbers = {0: numbers, 1: numbers[None], 3: numbers.movedim(0, -1)[None]}[self.axis]
        return numbers.to(batch.dtype)


def described(raw: Raw, batch: Tensor) -> Pixels:
    """The pixels of pictures whose steps to the tensor are known."""
    axis = next((1 if step.axes == "CHW" else 3 for step in raw.steps if isinstance(step, Layout)), 3)
    numbers = torch.tensor([[0.0], [255.0]], dtype=torch.float64).expand(2, batch.shape[axis])
    for step in raw.steps:
        match step:
            case Scale():
                numbers = numbers / step.divide
            case Normalize():
                mean, std = (torch.tensor(values, dtype=torch.float64) for values in (step.mean, step.std))
                numbers = (numbers - mean) / std
    black, white = (side.reshape(-1, 1, 1) for side in numbers)
    return Pixels(black, white, axis, known=True)


def seen(batch: Tensor) -> Pixels:
    """The pixels of pictures whose steps are not known, by the range of some of them, shape (n, ...).

    Bytes run from 0 to 255, and so do larger numbers than 128; numbers within 0 to 1 or -1 to 1 fill that. Others are
    normalized: the least of each channel is black and the largest white.
    """
    axis = axis_of(batch)
    channels = {0: batch[:, None], 1: batch, 3: batch.movedim(-1, 1)}[axis].double()
    low, high = (channels.amin((0, 2, 3)), channels.amax((0, 2, 3)))
    least, most = float(low.min()), float(high.max())
    if not batch.is_floating_point() or (least >= 0 and 128 < most <= 255):
        low, high = torch.zeros_like(low), torch.full_like(high, 255.0)
    elif least >= -1 and most <= 1:
        low, high = torch.full_like(low, 0.0 if least >= 0 else -1.0), torch.ones_like(high)
    high = torch.where(high > low, high, low + 1)
    return Pixels(low.reshape(-1, 1, 1), high.reshape(-1, 1, 1), axis)


def axis_of(batch: Tensor) -> int:
    """The axis of the channels in a batch of pictures; 0 where there is none."""
    if batch.ndim == 3:
        return 0
    return 3 if batch.shape[3] in _CHANNELS and batch.shape[1] not in _CHANNELS else 1


# -- the corruptions -----------------------------------------------------------------------------------


def _noise(pixels: Tensor, deviation: float, generator: Generator) -> Tensor:
    return pixels + deviation * torch.randn(pixels.shape, generator=generator)


def _shot_noise(pixels: Tensor, photons: float, generator: Generator) -> Tensor:
    """As few photons leave it."""
    return torch.poisson(pixels * photons, generator=generator) / photons


def _impulse_noise(pixels: Tensor, share: float, generator: Generator) -> Tensor:
    """Salt and pepper."""
    struck, salt = (torch.rand(pixels.shape, generator=generator) for _ in range(2))
    return torch.where(struck <= share, (salt <= 0.5).float(), pixels)


def _blur(pixels: Tensor, sigma: float, _generator: Generator) -> Tensor:
    from scipy import ndimage  # half a second to load: when first used

    return torch.from_numpy(ndimage.gaussian_filter(pixels.numpy(), (0, sigma, sigma), mode="nearest"))


def _defocus(pixels: Tensor, lens: tuple[float, float], _generator: Generator) -> Tensor:
    """A point becomes a disk of a radius, whose edge is softened."""
    radius, soft = lens
    reach = max(8, int(radius))
    along = np.arange(-reach, reach + 1)
    disk = np.add.outer(along**2, along**2) <= radius**2
    edge = np.exp(-((np.arange(3 if radius <= 8 else 5) - (1 if radius <= 8 else 2)) ** 2) / (2 * soft**2))
    from scipy import ndimage

    kernel = disk / disk.sum()
    for axis in (0, 1):
        kernel = ndimage.convolve1d(kernel, edge / edge.sum(), axis=axis, mode="mirror")
    around = np.pad(pixels.numpy(), ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    weights = torch.from_numpy(kernel).float()[None, None]
    return functional.conv2d(torch.from_numpy(around)[:, None], weights)[:, 0]


def _brightness(pixels: Tensor, more: float, _generator: Generator) -> Tensor:
    """The value of hue, saturation and value is raised."""
    value = pixels.amax(0, keepdim=True)
    raised = (value + more).clamp(0, 1)
    return torch.where(value > _BLACK, pixels * (raised / value.clamp_min(_BLACK)), raised)


def _contrast(pixels: Tensor, share: float, _generator: Generator) -> Tensor:
    """What each channel differs from its mean is scaled down."""
    mean = pixels.mean((1, 2), keepdim=True)
    return (pixels - mean) * share + mean


def _jpeg(pixels: Tensor, quality: int, _generator: Generator) -> Tensor:
    try:
        from PIL import Image
    except ImportError:
        raise InputError.of("JPEG is written with Pillow, which is not installed.", install("images")) from None
    if len(pixels) not in (1, 3):
        raise InputError.of(f"JPEG takes 1 or 3 channels, and the pictures have {len(pixels)}.", "Leave it out.")
    whole = (pixels * 255).round().byte().movedim(0, -1).numpy()
    file = io.BytesIO()
    Image.fromarray(whole[..., 0] if len(pixels) == 1 else whole).save(file, "JPEG", quality=quality)
    read = np.array(Image.open(file), np.float32) / 255
    return torch.from_numpy(read.reshape(whole.shape)).movedim(-1, 0)


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": Corruption(_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot-noise": Corruption(_shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse-noise": Corruption(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "blur": Corruption(_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "defocus": Corruption(
        _defocus,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "brightness": Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "jpeg": Corruption(_jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
