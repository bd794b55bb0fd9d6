"""Small networks with what quantizes badly, trained here in about a minute each on CIFAR-10.

`lstm`: convolutions, and an LSTM over the columns of what they make. `gru`: 1-D convolutions over the rows of an image
as if it were a sensor's signal, and a GRU. `hardswish`: inverted residuals with squeeze and excitation and hard-swish,
as in MobileNetV3 (Howard et al., Searching for MobileNetV3, 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import boildown as bd
from benchmarks.real import data

_PARTS = 1
"""Of the training images: 25,000."""


class Columns(nn.Module):
    """Input (batch, 3, 32, 32), 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*_normed(3, 32), *_normed(32, 48), *_normed(48, 64, stride=1))
        self.lstm = nn.LSTM(64 * 8, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.features(x).permute(0, 3, 1, 2).flatten(2)
        return self.head(self.lstm(columns)[0][:, -1])


class Signal(nn.Module):
    """Input (batch, 96, 32), a row of pixels at each of 32 times; 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(96, 128, 5, padding=2), nn.BatchNorm1d(128), nn.ReLU(),
            nn.Conv1d(128, 128, 5, stride=2, padding=2), nn.BatchNorm1d(128), nn.ReLU(),
        )  # fmt: skip
        self.gru = nn.GRU(128, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.features(x).transpose(1, 2))[0].mean(1))


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """A block of MobileNetV3, four times as wide inside."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, squeeze: bool, act: type[nn.Module]) -> None:
        super().__init__()
        wide = 4 * inputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), act(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), act(),
            Squeeze(wide) if squeeze else nn.Identity(),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


class HardSwish(nn.Module):
    """Input (batch, 3, 32, 32), 10 classes."""

    BLOCKS = ((16, 1, False), (24, 2, False), (24, 1, False), (40, 1, True), (40, 1, True), (64, 2, True))
    """Channels, stride, and whether there is squeeze and excitation; those with it have hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()]
        channels = 16
        for wider, stride, squeeze in self.BLOCKS:
            layers.append(Inverted(channels, wider, stride, squeeze=squeeze, act=nn.Hardswish if squeeze else nn.ReLU))
            channels = wider
        layers += [nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256), nn.Hardswish()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(256, 256), nn.Hardswish(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "lstm": (Columns, 3), "gru": (Signal, 6), "hardswish": (HardSwish, 2)
}  # fmt: skip
"""By name, and for how many epochs each is trained."""


def task(name: str) -> bd.Classification:
    """CIFAR-10 as the network takes it: half of the training images, judged on 5,000 test images."""
    train, test = (_as_taken(name, samples) for samples in (data.cifar10_train(_PARTS), data.cifar10_test()))
    return bd.Classification(train=train, validation=test)


def trained(name: str, folder: Path) -> nn.Module:
    """The network in eval mode, as `folder` keeps it; trained if it is not there yet."""
    build, epochs = NETWORKS[name]
    path = folder / f"{name}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        if not path.is_file():
            _train(model, *_as_taken(name, data.cifar10_train(_PARTS)), epochs)
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def _train(model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int, batch: int = 128) -> None:
    """AdamW on a one-cycle schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps = epochs * (len(inputs) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs))[: len(inputs) // batch * batch].split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()


def _as_taken(name: str, samples: data.Samples) -> data.Samples:
    inputs, labels = samples
    return (inputs.transpose(1, 2).flatten(2).transpose(1, 2).contiguous() if name == "gru" else inputs), labels


def _normed(inputs: int, outputs: int, stride: int = 2) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
