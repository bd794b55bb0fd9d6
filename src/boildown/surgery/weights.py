"""Weights in and out: a model as it will be judged, and its state as safetensors, named by its hash."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from boildown import files
from boildown.errors import ModelError

_ALIASES, _FROZEN = "boildown.aliases", "boildown.frozen"


class _Detached(TorchFunctionMode):
    """Lets `copy.deepcopy` take tensors that hang on a computation: results that a module keeps of its last call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of any model: in training mode, some keep a weight that they computed, or their last output."""
    with _Detached():
        return copy.deepcopy(model)


def plain(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The model as it will be judged: unwrapped, float32, on the CPU, in eval mode; and what was changed.

    The given module is never touched: a copy is made where something has to change.
    """
    notices = []
    while isinstance(inner := _wrapped(model), nn.Module):
        notices.append(f"unwrapped {type(model).__name__}")
        model = inner
    tensors = [t for t in model.state_dict().values() if isinstance(t, Tensor)]
    half = bool(precisions(model))
    away = any(t.device.type != "cpu" for t in tensors)
    training = any(module.training for module in model.modules())
    if half or away or training:
        model = copied(model).to("cpu").eval()
        if half:
            model = model.float()
        notices += [
            text
            for changed, text in (
                (training, "the model was in train mode: judged in eval mode"),
                (half, "half or double precision weights were turned into float32"),
                (away, "weights were copied to the CPU"),
            )
            if changed
        ]
    return model, tuple(notices)


def precisions(model: nn.Module) -> frozenset[torch.dtype]:
    """The floating-point types of a model's state beside float32."""
    tensors = (tensor for tensor in model.state_dict().values() if isinstance(tensor, Tensor))
    return frozenset(t.dtype for t in tensors if t.is_floating_point()) - {torch.float32}


def refuse_non_finite(model: nn.Module) -> None:
    """Raise ModelError naming the weights that hold NaN or infinity."""
    bad = [
        name
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise ModelError.of(
            f"The model's weights hold NaN or infinity: {_some(bad)}.",
            "Take a checkpoint from before training diverged.",
        )


def save(model: nn.Module, path: Path) -> None:
    """Write the state of a model as safetensors, and which parameters are frozen; tied tensors are written once."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in model.state_dict().items():
        where = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and where in seen:
            aliases[name] = seen[where]
            continue
        seen[where] = name
        tensors[name] = tensor.detach().cpu().contiguous().clone()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    files.remove(path)  # a link would be written through
    save_file(tensors, path, metadata={_ALIASES: json.dumps(aliases), _FROZEN: json.dumps(frozen)})


def restore(model: nn.Module, path: Path) -> nn.Module:
    """Load what `save` wrote into a model of the same architecture, in place."""
    from safetensors import safe_open

    state = load_file(path)
    with safe_open(path, framework="pt") as file:
        told = file.metadata() or {}
    aliases = json.loads(told.get(_ALIASES, "{}"))
    state |= {alias: state[name] for alias, name in aliases.items()}
    model.load_state_dict(state)
    if _FROZEN in told:
        frozen = set(json.loads(told[_FROZEN]))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.is_floating_point() and name not in frozen)
    return model


def weights_hash(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of the model's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _wrapped(model: nn.Module) -> Any:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    return getattr(model, "_orig_mod", None)


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
