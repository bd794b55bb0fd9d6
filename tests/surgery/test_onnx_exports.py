"""Round trips: networks of PyTorch through its exporters and back, and what boildown does with what comes back."""

from __future__ import annotations

import io
import logging
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx_graphs import by_runtime, called
from torch import nn

from boildown.runtimes import get
from boildown.surgery.depth import find_blocks
from boildown.surgery.graph import capture
from boildown.surgery.onnx_in import read
from boildown.surgery.plan import place
from boildown.surgery.trainable import trainable


class Unit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x + self.norm(self.conv(x)))


class Pictures(nn.Module):
    """Blocks, a shape that is computed, group norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 3), nn.Sequential(Unit(8), Unit(8), Unit(8))
        self.norm, self.head = nn.GroupNorm(2, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = F.hardswish(self.norm(self.blocks(self.stem(x))))
        x = F.interpolate(x, scale_factor=2.0)
        return self.head(x.view(x.shape[0], x.shape[1], -1).mean(-1))


class Texts(nn.Module):
    """Attention, layer norm, GELU, positions by the length of the text, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(12, 16)
        self.layers = nn.ModuleList(nn.ModuleDict({"qkv": nn.Linear(16, 48), "out": nn.Linear(16, 16),
                                                   "norm": nn.LayerNorm(16), "up": nn.Linear(16, 32),
                                                   "down": nn.Linear(32, 16)}) for _ in range(2))  # fmt: skip
        self.head = nn.Linear(16, 3)

    def forward(self, ids, mask):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        hidden = (1 - mask[:, None, None].float()) * -1e4
        for layer in self.layers:
            q, k, v = (p.view(*p.shape[:2], 2, 8).transpose(1, 2) for p in layer["qkv"](x).chunk(3, -1))
            scores = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(8) + hidden, -1)
            x = layer["norm"](x + layer["out"]((scores @ v).transpose(1, 2).reshape(x.shape)))
            x = x + layer["down"](F.gelu(layer["up"](x)))
        return self.head(x[:, 0])


class Sounds(nn.Module):
    """Recurrent layers both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.lstm, self.gru = nn.LSTM(8, 6, batch_first=True, bidirectional=True), nn.GRU(12, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.conv(x).transpose(1, 2)
        return self.head(self.gru(self.lstm(x)[0])[0][:, -1])


GENERATOR = torch.Generator().manual_seed(0)
NETWORKS = {
    "pictures": (Pictures, lambda n: (torch.randn(n, 3, 8, 8, generator=GENERATOR),)),
    "texts": (Texts, lambda n: (torch.randint(0, 20, (n, 7), generator=GENERATOR), torch.ones(n, 7).long())),
    "sounds": (Sounds, lambda n: (torch.randn(n, 4, 9, generator=GENERATOR),)),
}


def network(name):
    torch.manual_seed(0)
    model = NETWORKS[name][0]().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.weight)
    return model


def exported(model, args, exporter, path):
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if exporter == "boildown's":
                get("onnxruntime").export(capture(model, args).serialize(), path)
            elif exporter == "today's":
                shapes = tuple({0: torch.export.Dim("batch")} for _ in args)
                torch.onnx.export(model, args, dynamo=True, dynamic_shapes=shapes, verbose=False).save(path)
            else:
                names = [f"in{number}" for number in range(len(args))]
                file = io.BytesIO()
                torch.onnx.export(model, args, file, dynamo=False, opset_version=int(exporter[-2:]), input_names=names,
                                  dynamic_axes={name: {0: "batch"} for name in names})  # fmt: skip
                path.write_bytes(file.getvalue())
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every network by every exporter, made when it is asked for."""
    folder, known = tmp_path_factory.mktemp("exports"), {}

    def file(name, exporter):
        if (name, exporter) not in known:
            known[name, exporter] = path = folder / f"{len(known)}.onnx"
            exported(network(name), NETWORKS[name][1](2), exporter, path)
        return known[name, exporter]

    return file


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("pictures", "today's"),
        ("pictures", "TorchScript 13"),
        ("texts", "TorchScript 13"),
        ("texts", "TorchScript 17"),
        ("sounds", "TorchScript 17"),
    ],
)
def test_a_network_comes_back_through_its_file(name, exporter, files):
    found = read(files(name, exporter))
    args = NETWORKS[name][1](3)
    inputs = dict(zip((port.name for port in found.inputs), (arg.numpy() for arg in args), strict=True))
    (wanted,), (given,) = by_runtime(files(name, exporter), inputs), called(found, inputs.values())
    noise = 10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - given).sum(), 1e-30))
    assert noise > 90, noise
    assert not found.quantized


@pytest.mark.parametrize("exporter", ["today's", "TorchScript 13"])
def test_layers_and_blocks_of_what_comes_back_are_those_of_the_network(exporter, files):
    module, example = read(files("pictures", exporter)).module, NETWORKS["pictures"][1](2)
    names = {name for name, _ in module.named_parameters()}
    assert {"stem.weight", "blocks.0.conv.weight", "head.weight", "head.bias"} <= names
    assert isinstance(module.get_submodule("blocks.1.conv"), nn.Conv2d)
    blocks = find_blocks(trainable(module, example, {})[0])
    assert [block.name for block in blocks] == ["blocks.0", "blocks.1", "blocks.2"]


def test_what_comes_back_is_captured_with_its_batch_open_and_quantized_as_the_network(files):
    name, exporter = "texts", "TorchScript 17"
    found, args = read(files(name, exporter)), NETWORKS[name][1](2)
    ours, theirs = capture(found.module, args), capture(network(name), args)
    assert not ours.static_batch
    assert ours.macs() == theirs.macs()
    assert len(place(ours).layers) == len(place(theirs).layers)
    more = NETWORKS[name][1](5)
    np.testing.assert_allclose(ours.module(*more), network(name)(*more).detach(), atol=1e-4)
