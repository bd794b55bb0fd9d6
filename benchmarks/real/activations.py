"""Activation functions between int8 layers: in floats as they were, and in integers, beside the float file.

    python -m benchmarks.real.activations [NAME ...] [--seconds 6] [--json FILE]
    BOILDOWN_DATA=FOLDER python -m benchmarks.real.activations "MobileNetV3 small, 32" --epochs 4

Blocks of three convolutions with each function between them, squeeze and excitation, and networks of the kind of
MobileNetV3 small. Weights are random, with the statistics of batch norm of random inputs: what is told is size, time,
and how well the file agrees with the float network and with its simulation. With `--epochs` the network for 32 x 32
pixels is trained on CIFAR-10's training images, and the accuracy of its files on 5,000 test images is told.

`floats` is int8 with a DequantizeLinear, the float function and a QuantizeLinear for each; `integers` what is written.
Batch 1, one thread, all files in turns in one process, blocks of 10 ms; the ratio is the median over the rounds, in
processor time, so that other programs disturb it little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from boildown.domain.candidate import Plan
from boildown.domain.rules import Rules
from boildown.engine.bench import signal_to_noise
from boildown.runtimes import get
from boildown.runtimes.base import Session
from boildown.runtimes.onnx import lean, qdq, qoperator, tune
from boildown.surgery.calibrate import Call, calibrate, correct_biases
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate

BLOCK_SECONDS = 0.01

FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid, "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "prelu": lambda: nn.PReLU(64), "gelu": nn.GELU, "elu": nn.ELU,
}  # fmt: skip


def block(function: Callable[[], nn.Module], width: int = 64) -> nn.Sequential:
    """A pointwise, a depthwise and a pointwise convolution, as an inverted residual has them."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, groups in ((16, width, 1, 1), (width, width, 3, width), (width, width, 1, 1)):
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), function()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """An inverted residual of MobileNetV3."""

    def __init__(
        self,
        inputs: int,
        wide: int,
        outputs: int,
        kernel: int,
        stride: int,
        excited: bool,
        function: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if wide != inputs:
            layers += [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), function()]
        depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        layers += [depthwise, nn.BatchNorm2d(wide), function()]
        layers += [Excite(wide, max(8, wide // 4))] if excited else []
        self.layers = nn.Sequential(*layers, nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.skips else self.layers(x)


def _eighths(channels: float) -> int:
    return max(8, 8 * round(channels / 8))


class MobileNetV3Small(nn.Module):
    """Howard et al., Searching for MobileNetV3 (2019), table 2; for 32 x 32 pixels without the first two strides."""

    UNITS = (
        (16, 16, 3, 2, True, nn.ReLU), (72, 24, 3, 2, False, nn.ReLU), (88, 24, 3, 1, False, nn.ReLU),
        (96, 40, 5, 2, True, nn.Hardswish), (240, 40, 5, 1, True, nn.Hardswish), (240, 40, 5, 1, True, nn.Hardswish),
        (120, 48, 5, 1, True, nn.Hardswish), (144, 48, 5, 1, True, nn.Hardswish), (288, 96, 5, 2, True, nn.Hardswish),
        (576, 96, 5, 1, True, nn.Hardswish), (576, 96, 5, 1, True, nn.Hardswish),
    )  # fmt: skip

    def __init__(self, size: int, classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        small, channels, last = size < 48, _eighths(16 * width), _eighths(576 * width)
        units: list[nn.Module] = [self._unit(3, channels, 3, 1 if small else 2)]
        for number, (wide, outputs, kernel, stride, excited, function) in enumerate(self.UNITS):
            stride = 1 if small and number == 0 else stride
            sizes = channels, _eighths(wide * width), _eighths(outputs * width)
            units.append(Inverted(*sizes, kernel, stride, excited, function))
            channels = sizes[-1]
        self.features = nn.Sequential(*units, self._unit(channels, last, 1, 1))
        self.hidden, self.head = nn.Linear(last, 1024), nn.Linear(1024, classes)

    @staticmethod
    def _unit(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.Hardswish())

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        return self.head(F.hardswish(self.hidden(x)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (partial(block, function), (16, 28, 28)) for name, function in FUNCTIONS.items()},
    "squeeze and excitation": (lambda: nn.Sequential(
        nn.Conv2d(16, 64, 1), nn.Hardswish(), Excite(64, 16), nn.Conv2d(64, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10)), (16, 28, 28)),
    "MobileNetV3 small, 32": (lambda: MobileNetV3Small(32), (3, 32, 32)),
    "MobileNetV3 small, 224": (lambda: MobileNetV3Small(224), (3, 224, 224)),
    "MobileNetV3 small 0.35, 48 x 192": (lambda: MobileNetV3Small(48, 2, 0.35), (3, 48, 192)),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A network's files by name, the plan, and inputs that calibration has not seen."""

    graph: Graph
    plan: Plan
    files: dict[str, Path]
    unseen: Tensor


def make(folder: Path, network: nn.Module, calibration: Tensor, unseen: Tensor) -> Made:
    """Write the float file and both int8 files."""
    runtime = get("onnxruntime")
    graph = capture(network.eval(), (calibration[:2],))
    calls: list[Call] = [((part,), {}) for part in calibration.split(32)]
    exported, files = (
        folder / "exported.onnx",
        {name: folder / f"{name}.onnx" for name in ("float", "floats", "integers")},
    )
    runtime.export(graph.serialize(), exported)
    runtime.write(exported, files["float"])
    runtime.write(exported, files["integers"], plan := quantized(graph, calls, runtime.rules))
    _write_with_floats(exported, files["floats"], quantized(graph, calls, Rules()))
    return Made(graph, plan, files, unseen)


def quantized(graph: Graph, calls: Sequence[Call], rules: Rules) -> Plan:
    """The plan that `quantize-static` makes by these rules."""
    placement = place(graph, rules)
    return correct_biases(graph, placement, calibrate(graph, placement, calls, rules=rules), calls)


def _write_with_floats(exported: Path, path: Path, plan: Plan) -> None:
    model = ir.load(exported)
    lean.clean(model)
    qdq.insert(model, plan)
    tune.tune(model)
    qoperator.convert(model)
    proto = ir.to_proto(model)
    lean.strip(proto)
    path.write_bytes(proto.SerializeToString())


def times(sessions: dict[str, Session], x: Tensor, seconds: float) -> dict[str, float]:
    """Processor time of a call beside that of the first session, the median over rounds."""
    arrays = [x[:1].numpy()]
    calls = {}
    for name, session in sessions.items():
        for _ in range(3):
            session.run(arrays)
        start = time.process_time()
        session.run(arrays)
        calls[name] = max(1, round(BLOCK_SECONDS / max(time.process_time() - start, 1e-6)))
    ratios: dict[str, list[float]] = {name: [] for name in sessions}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        spent = {}
        for name, session in sessions.items():
            start = time.process_time()
            for _ in range(calls[name]):
                session.run(arrays)
            spent[name] = (time.process_time() - start) / calls[name]
        first = next(iter(spent.values()))
        for name, each in spent.items():
            ratios[name].append(each / first)
    return {name: statistics.median(found) for name, found in ratios.items()}


def row(name: str, made: Made, seconds: float) -> dict[str, Any]:
    """What is told of a network."""
    runtime = get("onnxruntime")
    sessions = {file: runtime.open(path) for file, path in made.files.items()}
    outputs = {
        file: np.concatenate([session.run([part.numpy()])[0] for part in made.unseen.split(32)])
        for file, session in sessions.items()
    }
    with torch.no_grad():
        simulated = torch.cat([simulate(made.graph, made.plan)(part) for part in made.unseen.split(32)]).numpy()
    sizes = {file: path.stat().st_size for file, path in made.files.items()}
    ratios = times(sessions, made.unseen, seconds)
    return {
        "network": name,
        "bytes": sizes["float"],
        "size": sizes["integers"] / sizes["float"],
        "time, floats": ratios["floats"],
        "time, integers": ratios["integers"],
        "dB, floats": signal_to_noise(outputs["float"], outputs["floats"]),
        "dB, integers": signal_to_noise(outputs["float"], outputs["integers"]),
        "dB to the simulation": signal_to_noise(simulated, outputs["integers"]),
    }


def settled(network: nn.Module, x: Tensor) -> nn.Module:
    """The network with the statistics of batch norm of some inputs."""
    network.train()
    with torch.no_grad():
        network(x)
    return network.eval()


def train(network: nn.Module, epochs: int) -> None:
    """SGD on CIFAR-10's training images, shifted and mirrored."""
    from benchmarks.real.data import cifar10_train

    x, y = cifar10_train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(x) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    network.train()
    for step in range(steps):
        if step % (len(x) // 128) == 0:
            order = torch.randperm(len(x))
        chosen = order[step % (len(x) // 128) * 128 :][:128]
        images = F.pad(x[chosen], (4, 4, 4, 4))
        top, left = (int(torch.randint(0, 9, ())) for _ in range(2))
        images = images[:, :, top : top + 32, left : left + 32]
        images = images.flip(3) if step % 2 else images
        optimizer.zero_grad()
        F.cross_entropy(network(images), y[chosen], label_smoothing=0.1).backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each network")
    parser.add_argument("--epochs", type=int, default=0, help="of training on CIFAR-10, for networks of 32 x 32 pixels")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if unknown := sorted({*given.names} - {*NETWORKS}):
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join(NETWORKS)}")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in given.names:
        torch.manual_seed(0)
        build, shape = NETWORKS[name]
        calibration, unseen = torch.randn(64, *shape), torch.randn(64, *shape)
        network = settled(build(), calibration)
        labels = None
        if given.epochs and shape == (3, 32, 32):
            from benchmarks.real.data import cifar10_test, cifar10_train

            train(network, given.epochs)
            calibration, (unseen, labels) = cifar10_train(1)[0][:256], cifar10_test()
        with tempfile.TemporaryDirectory() as folder:
            made = make(Path(folder), network, calibration, unseen)
            found = row(name, made, given.seconds)
            if labels is not None:
                found |= scores(made, labels)
        if not rows:
            print(" | ".join(found))
        rows.append(found)
        print(
            " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in found.values()), flush=True
        )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def scores(made: Made, labels: Tensor) -> dict[str, float]:
    """Accuracy of each file, in per cent."""
    found = {}
    for name, path in made.files.items():
        session = get("onnxruntime").open(path)
        outputs = torch.cat([torch.from_numpy(session.run([part.numpy()])[0]) for part in made.unseen.split(100)])
        found[f"accuracy, {name}"] = 100 * float((outputs.argmax(1) == labels).double().mean())
    return found


if __name__ == "__main__":
    main()
