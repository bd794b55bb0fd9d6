"""Checkpoints: one safetensors file, facts as JSON in its header, replaced in one stroke; never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from boildown import files

CHECKPOINT = "checkpoint.safetensors"
"""The file of a training in its folder."""

_FACTS = "boildown"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, on the CPU, and plain facts (JSON)."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace the file at `path`: after a crash it is the old one or the new one. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = files.make_room(path)
        whole = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        save_file(whole, fresh, {_FACTS: json.dumps(self.facts)})
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(path)

    @classmethod
    def read(cls, path: Path, told: Callable[[str], None] = lambda _sentence: None) -> Checkpoint | None:
        """The checkpoint at `path`; None where there is none, and for a damaged file, which `told` hears of."""
        if not path.exists():
            return None
        try:
            files.check(path, path.parent)
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
                return cls({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118 - not a mapping
        except Exception as error:  # noqa: BLE001 - a damaged file fails anywhere, and what it kept can be computed anew
            told(f"The checkpoint {path.name} is damaged ({error}): started anew.")
            return None


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, text)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, non-persistent ones too; tied ones once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def copied(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, named `prefix/name`."""
    return {f"{prefix}/{name}": tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named `prefix/...`, without the prefix."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


@torch.no_grad()
def restore(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Set a module's parameters and buffers in place; their memory layout stays."""
    for name, tensor in state_of(module).items():
        tensor.copy_(saved[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as tensors named `index of the parameter/what`."""
    return {
        f"{index}/{what}": torch.as_tensor(value)
        for index, parameter in enumerate(_parameters(optimizer))
        for what, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """The inverse; state of a parameter's shape gets its memory layout, which fused optimizers rely on."""
    optimizer.state.clear()
    parameters = _parameters(optimizer)
    fused = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for name, value in saved.items():
        index, what = name.split("/", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape and what != "step":
            state = torch.empty_like(parameter, requires_grad=False).copy_(value)
        else:
            state = value.clone().to(parameter.device) if fused else value.clone()
        optimizer.state[parameter][what] = state


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
