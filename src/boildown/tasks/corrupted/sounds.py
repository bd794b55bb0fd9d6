"""Sounds as they come in the field: with noise, and louder or softer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Corruption:
    """What is done to a waveform, shape (1, ...), by a number of decibels; `levels` are those of five severities."""

    change: Callable[[Tensor, float, Generator], Tensor]
    levels: tuple[float, ...]

    def corrupted(self, batch: Tensor, decibel: float, generator: Generator) -> Tensor:
        """One sound, a batch of one, corrupted; what cannot be as loud is cut off, as a recorder does."""
        sound = batch.double()
        changed = self.change(sound, decibel, generator)
        if not batch.is_floating_point():
            info = torch.iinfo(batch.dtype)
            return changed.round().clamp(info.min, info.max).to(batch.dtype)
        if float(sound.abs().max()) <= 1.0:
            changed = changed.clamp(-1, 1)
        return changed.to(batch.dtype)


def _noise(sound: Tensor, decibel: float, generator: Generator) -> Tensor:
    """White noise so many decibels below the sound's own power."""
    power = sound.square().mean()
    return sound + torch.randn(sound.shape, generator=generator) * (power / 10 ** (decibel / 10)).sqrt()


def _gain(sound: Tensor, decibel: float, _generator: Generator) -> Tensor:
    return sound * 10 ** (decibel / 20)


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": Corruption(_noise, (25.0, 20.0, 15.0, 10.0, 5.0)),
    "gain": Corruption(_gain, (-6.0, -12.0, -18.0, -24.0, -30.0)),
}
