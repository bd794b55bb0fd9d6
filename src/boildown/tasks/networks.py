"""Small networks to begin with, where there is data and no model yet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_STEM = 16
_MOST_STAGES = 6
_MOST_CHANNELS = 256
_STANDARD_DEVIATIONS = 10.0


class TableNetwork(nn.Module):
    """A perceptron for rows of a table, float32 (n, columns): numbers first, then categories by their number.

    It standardizes the numbers and spreads the categories itself, so that the file that is deployed takes rows as
    they are. categories: how many each categorical column has. regression: the outputs are numbers, in the
    unit they were learned in, and not logits.
    """

    center: Tensor
    scale: Tensor
    middle: Tensor
    spread: Tensor

    def __init__(
        self, numbers: int, categories: Sequence[int], outputs: int, *, regression: bool = False, width: int = 256
    ) -> None:
        super().__init__()
        self.categories, self.regression = tuple(categories), regression
        self.register_buffer("center", torch.zeros(numbers))
        self.register_buffer("scale", torch.ones(numbers))
        if regression:
            self.register_buffer("middle", torch.zeros(outputs))
            self.register_buffer("spread", torch.ones(outputs))
        self.body = nn.Sequential(
            nn.Linear(numbers + sum(count + 1 for count in categories), width), nn.ReLU(),
            nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, outputs),
        )  # fmt: skip

    @torch.no_grad()
    def standardize(self, rows: Tensor, answers: Tensor) -> None:
        """Take center and scale of the numbers, and in a regression those of the outputs, from what it will learn."""
        count = len(self.center)
        pairs = [(self.center, self.scale, rows[:, :count])] if count else []
        if self.regression:
            pairs.append((self.middle, self.spread, answers.reshape(len(answers), -1)))
        for center, scale, values in pairs:
            values = values.double()
            center.copy_(values.mean(0))
            deviation = values.std(0, correction=0)
            scale.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, columns) to (n, outputs)."""
        count = len(self.center)
        parts = [((rows[:, :count] - self.center) / self.scale).clamp(-_STANDARD_DEVIATIONS, _STANDARD_DEVIATIONS)]
        for place, categories in enumerate(self.categories, count):
            numbers = torch.arange(categories + 1, dtype=rows.dtype, device=rows.device)
            parts.append((rows[:, place : place + 1] == numbers).to(rows.dtype))
        answers: Tensor = self.body(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
        return answers * self.spread + self.middle if self.regression else answers


def image_network(channels: int, size: int, classes: int, width: int = _STEM) -> nn.Sequential:
    """A convolutional network for square images, float32 (n, channels, size, size), to logits (n, classes).

    One stage for every halving of the image down to about 4 pixels, its channels doubled each time.
    """

    def layer(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    stages = min(_MOST_STAGES, max(1, round(math.log2(size / 4))))
    layers = layer(channels, width)
    for _stage in range(stages):
        wider = min(2 * width, _MOST_CHANNELS)
        layers += [*layer(width, wider, stride=2), *layer(wider, wider)]
        width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
