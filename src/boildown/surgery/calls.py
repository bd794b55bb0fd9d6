"""One example call of a model as plain data: shapes and types, for edits that capture the model again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from boildown.domain.axes import open_axes, opened


def written_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one call as plain data. Raises TypeError for one that is neither tensor nor plain data."""
    return {"args": [_written(value) for value in args], "kwargs": {k: _written(v) for k, v in kwargs.items()}}


def example_call(data: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inverse of `written_call`, with zeros in the tensors."""
    return tuple(_read(value) for value in data["args"]), {k: _read(v) for k, v in data["kwargs"].items()}


def _written(value: Any) -> Any:
    """Plain data for an argument: tensors by shape and type, containers by their parts."""
    if isinstance(value, Tensor):
        written = {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        return {**written, "open": list(axes)} if (axes := open_axes(value)) else written
    if isinstance(value, tuple):
        return {"tuple": [_written(part) for part in value]}
    if isinstance(value, list):
        return {"list": [_written(part) for part in value]}
    if isinstance(value, dict):
        return {"dict": {str(key): _written(part) for key, part in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"an argument of type {type(value).__name__} cannot be written down; call the model with tensors")


def _read(data: Mapping[str, Any]) -> Any:
    """The inverse of `_written`, with zeros in the tensors."""
    if "tensor" in data:
        zeros = torch.zeros(data["tensor"], dtype=getattr(torch, data["dtype"]))
        return opened(zeros, data.get("open", ()))
    if "tuple" in data:
        return tuple(_read(part) for part in data["tuple"])
    if "list" in data:
        return [_read(part) for part in data["list"]]
    if "dict" in data:
        return {key: _read(part) for key, part in data["dict"].items()}
    return data["value"]
