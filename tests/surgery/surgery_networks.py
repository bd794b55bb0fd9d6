"""Small networks with every structure that capture and placement have a rule for."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map

from boildown.surgery.graph import Graph, capture


class Residual(nn.Module):
    """Two stages; the shortcut strides by slicing and widens by padding zeros."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.a, self.a_norm = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.b, self.b_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = self.b_norm(self.b(F.relu(self.a_norm(self.a(x)))))
        x = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.mid = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.up, self.up_norm = nn.ConvTranspose2d(16, 8, 2, 2, groups=2), nn.BatchNorm2d(8)
        self.out = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 2, 1))

    def forward(self, x):
        x = self.down(x)
        return self.out(torch.cat([x, self.up_norm(self.up(self.mid(x)))], 1))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(8, 5)

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x)), inplace=True)
        x = x * torch.sigmoid(self.expand(F.relu6(self.reduce(F.adaptive_avg_pool2d(x, 1)))))
        x = F.hardtanh(self.depthwise(x), 0.0, 6.0)
        return self.head(self.drop(F.adaptive_avg_pool2d(x, 1).flatten(1)))


class Signal(nn.Sequential):
    """1-D convolutions, and batch norm behind a linear layer without a bias."""

    def __init__(self):
        super().__init__(
            nn.Conv1d(2, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(8, 8, 3, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
            nn.Flatten(), nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3, bias=False),
        )  # fmt: skip


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, ids):
        return self.head(self.layer(self.embed(ids)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class TwoInputs(nn.Module):
    """Called by keywords only; returns a dict that also passes an input through."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, *, left, right):
        return {"logits": self.head(F.relu(self.a(left) + self.b(right))), "left": left}


class Reused(nn.Module):
    """One convolution called twice, each time with another batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = F.relu(self.second(self.conv(F.relu(self.first(self.conv(x))))))
        return self.head(x.mean((2, 3)))


class LateRelu(nn.Module):
    """The rectifier comes behind the pooling."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 13 * 13, 3)

    def forward(self, x):
        return self.head(F.relu(F.max_pool2d(self.conv(x), 2)).flatten(1))


_INPUTS: dict[type[nn.Module], tuple[tuple[Any, ...], dict[str, Any]]] = {
    Residual: ((torch.zeros(2, 3, 16, 16),), {}),
    UNet: ((torch.zeros(2, 3, 16, 16),), {}),
    SqueezeExcite: ((torch.zeros(2, 3, 16, 16),), {}),
    Signal: ((torch.zeros(2, 2, 32),), {}),
    Encoder: ((torch.zeros(2, 7, dtype=torch.long),), {}),
    Recurrent: ((torch.zeros(2, 6, 8),), {}),
    TwoInputs: ((), {"left": torch.zeros(2, 4), "right": torch.zeros(2, 6)}),
    Reused: ((torch.zeros(2, 3, 8, 8),), {}),
    LateRelu: ((torch.zeros(2, 1, 28, 28),), {}),
}
ALL = tuple(_INPUTS)


@dataclass(frozen=True)
class Captured:
    model: nn.Module
    graph: Graph

    def call(self, batch: int, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Random arguments for one call of the model."""
        return random_call(type(self.model), batch, seed)


def random_call(kind: type[nn.Module], batch: int, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)

    def fill(example):
        shape = (batch, *example.shape[1:])
        if example.is_floating_point():
            return torch.randn(shape, generator=generator)
        return torch.randint(0, 50, shape, generator=generator)

    return tree_map(fill, _INPUTS[kind])


def build(kind: type[nn.Module]) -> nn.Module:
    """The network in eval mode with weights and batch norm statistics that are not the defaults."""
    torch.manual_seed(0)
    model = kind().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


@cache
def captured(kind: type[nn.Module]) -> Captured:
    model = build(kind)
    args, kwargs = random_call(kind, 2)
    return Captured(model, capture(model, args, kwargs))


@cache
def real_models() -> Any:
    """The module that loads the real models and their data, or a skip."""
    folder = os.environ.get("BOILDOWN_DATA")
    if not folder:
        pytest.skip("BOILDOWN_DATA is not set: no real models")
    spec = importlib.util.spec_from_file_location("real_models", Path(folder) / "real_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
