"""Small networks with what exporters rename, fold and drop, and how the tests capture and plan them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boildown.domain.candidate import Plan
from boildown.runtimes import get
from boildown.surgery.calibrate import calibrate, correct_biases
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import place


class Residual(nn.Module):
    """Batch norm, ReLU6, a strided slice and a channel pad as shortcut, asymmetric padding, mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU6())
        self.a = nn.Conv2d(16, 32, 3, 2, 1, bias=False)
        self.b = nn.Conv2d(32, 32, 3, padding="same", groups=4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.drop(self.b(F.relu(self.a(x))))
        x = F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)) + y)
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """Embedding, 3-D linear layers with and without bias, attention, layer norm, GELU."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.q, self.k, self.o = (nn.Linear(width, width) for _ in range(3))
        self.v = nn.Linear(width, width, bias=False)
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        batch, length, width = x.shape
        q, k, v = (f(x).view(batch, length, 4, width // 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = self.norm(x + self.o(mixed))
        return self.head(self.last(x + self.down(F.gelu(self.up(x)))).mean(1))


class Joined(nn.Module):
    """A small U-Net: a skip joined by concatenation, pooling, transposed convolution, an image as output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.c, self.out = nn.Conv2d(48, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(F.max_pool2d(a, 2)))
        near = F.interpolate(b, scale_factor=2.0)
        return self.out(F.relu(self.c(torch.cat([a, near, F.relu(self.up(b))], 1))))


class Waves(nn.Module):
    """1-D convolutions with pooling between a convolution and its rectifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv1d(4, 16, 5, padding=2), nn.Conv1d(16, 24, 3, stride=2), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(F.max_pool1d(self.a(x), 2)))).mean(2))


class Film(nn.Module):
    """3-D convolutions and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv3d(3, 16, 3, padding=1, bias=False), nn.BatchNorm3d(16)
        self.b, self.head = nn.Conv3d(16, 16, 3, padding=1), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.norm(self.a(x))), 2)
        return self.head(F.relu(self.b(x)).mean((2, 3, 4)))


class Recurrent(nn.Module):
    """An LSTM whose gates the exporter has to reorder, and a head on its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 128, batch_first=True), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Sensor(nn.Module):
    """1-D convolutions over a signal, a GRU over what they make, and a head on its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(8, 16, 5, padding=2), nn.Conv1d(16, 24, 3, stride=2)
        self.gru, self.head = nn.GRU(24, 32, batch_first=True), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.head(self.gru(x.transpose(1, 2))[0].mean(1))


_NETWORKS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (3, 32, 32)),
    "encoder": (Encoder, (12,)),
    "joined": (Joined, (3, 16, 16)),
    "waves": (Waves, (4, 64)),
    "film": (Film, (3, 4, 12, 12)),
    "recurrent": (Recurrent, (20, 16)),
    "sensor": (Sensor, (8, 40)),
}


def batch(name: str, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, *_NETWORKS[name][1])
    return (
        torch.randint(0, 50, shape, generator=generator)
        if name == "encoder"
        else torch.randn(shape, generator=generator)
    )


@dataclass(frozen=True)
class Exported:
    """A captured network and its float ONNX file."""

    graph: Graph
    path: Path


@cache
def exported(name: str) -> Exported:
    torch.manual_seed(0)
    model = _NETWORKS[name][0]()
    model.train()
    with torch.no_grad():
        model(batch(name, 64, seed=3))  # batch norm gets statistics
    graph = capture(model.eval(), (batch(name, 2),))
    path = Path(mkdtemp()) / f"{name}.onnx"
    get("onnxruntime").export(graph.serialize(), path)
    return Exported(graph, path)


@cache
def plan_of(name: str, bits: int = 8) -> Plan:
    """A plan as the methods make it: calibrated, biases corrected."""
    graph, batches = exported(name).graph, [((batch(name, 64, seed=1),), {})]
    placement = place(graph)
    return correct_biases(graph, placement, calibrate(graph, placement, batches, weight_bits=bits), batches)


def values_of(graph: Graph, x: Tensor) -> dict[str, Any]:
    """Every value of the captured graph by name, computed by torch."""
    values: dict[str, Any] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            values[n.name] = super().run_node(n)
            return values[n.name]

    with torch.no_grad():
        Recorder(graph.module).run(x)
    return values


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to quantization noise in decibels."""
    noise = float(np.square(reference - other).sum())
    return 10 * float(np.log10(np.square(reference).sum() / max(noise, 1e-30)))


def run(path: Path, x: Tensor) -> np.ndarray:
    return get("onnxruntime").open(path).run([x.numpy()])[0]
