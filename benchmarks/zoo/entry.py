"""An architecture of the zoo: how it is made, what it is called with, and which methods are right to leave it alone."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from boildown.tasks.general import as_call

Inputs = Callable[[int, torch.Generator], Any]
"""Random inputs for so many samples: a tensor, a tuple of positional or a dict of keyword arguments."""

ZOO: dict[str, Entry] = {}
"""Every registered architecture by name; `load` fills it."""


@dataclass(frozen=True)
class Entry:
    """One architecture.

    left: cells (see `cells.CELLS`) whose method is right not to apply, and why; a method that refuses any other
    has failed.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    module: str
    left: Mapping[str, str] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network in eval mode, the same at every call; its batch norms have statistics near the data's."""
        torch.manual_seed(0)
        model = self.make()
        norms = [norm for norm in model.modules() if isinstance(norm, _NormBase)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
            if norm.weight is not None:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.3)
        if norms:
            args, kwargs = as_call(self.samples(32, seed=50))
            with torch.no_grad():
                model.train()(*args, **kwargs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.running_mean is not None:
                norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
                norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.5)
        return model.eval()

    def samples(self, count: int, seed: int) -> Any:
        """Random inputs for `count` samples."""
        return self.inputs(count, torch.Generator().manual_seed(seed))


def zoo(inputs: Inputs, **left: str) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a class or function that makes a network; the architecture's name is its, in lower case with `-`.

    left: cell (`prune_int8` for `prune+int8`) -> why its method is right to leave the network alone.
    """

    def add(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", make.__name__).replace("_", "-").lower()
        reasons = {cell.replace("prune_", "prune+").replace("_", "-"): why for cell, why in left.items()}
        assert name not in ZOO, name
        ZOO[name] = Entry(name, make, inputs, make.__module__, reasons)
        return make

    return add


def load() -> Mapping[str, Entry]:
    """All architectures; those of packages that are not installed are missing."""
    for path in sorted((Path(__file__).parent / "models").glob("[!_]*.py")):
        importlib.import_module(f"benchmarks.zoo.models.{path.stem}")
    return ZOO


# ---- what they are called with -------------------------------------------------------------------


def real(*shape: int) -> Inputs:
    """Normal numbers of this shape per sample."""
    return lambda count, generator: torch.randn((count, *shape), generator=generator)


def whole(top: int, *shape: int) -> Inputs:
    """Whole numbers below `top`."""
    return lambda count, generator: torch.randint(0, top, (count, *shape), generator=generator)


def mask(length: int) -> Inputs:
    """1 for the words of sentences of unequal lengths, 0 for what fills them up."""

    def make(count: int, generator: torch.Generator) -> torch.Tensor:
        lengths = torch.randint(length // 2, length + 1, (count, 1), generator=generator)
        return (torch.arange(length) < lengths).long()

    return make


def several(*parts: Inputs) -> Inputs:
    """Positional arguments."""
    return lambda count, generator: tuple(part(count, generator) for part in parts)


def named(**parts: Inputs) -> Inputs:
    """Keyword arguments."""
    return lambda count, generator: {name: part(count, generator) for name, part in parts.items()}


# ---- how they are written ------------------------------------------------------------------------


class Net(nn.Module):
    """A network written as one function of its parts: `forward(net, *inputs)`."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.compute = forward
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, nn.ModuleList(part) if isinstance(part, Sequence) else part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function computes."""
        return self.compute(self, *args, **kwargs)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, **more: Any) -> nn.Sequential:
    """Convolution without a bias, and batch norm."""
    dilation = more.get("dilation", 1)
    padding = size // 2 * dilation
    layer = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False, **more)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def unit(inputs: int, outputs: int, size: int = 3, stride: int = 1, act: Any = nn.ReLU, **more: Any) -> nn.Sequential:
    """Convolution, batch norm and a nonlinearity."""
    return nn.Sequential(*conv(inputs, outputs, size, stride, **more), act())


class Head(nn.Sequential):
    """The mean of a picture's channels, and a linear layer."""

    def __init__(self, inputs: int, outputs: int = 5) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs))
