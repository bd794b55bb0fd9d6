"""Operators that pick values by indices, put others in their place, or keep them in lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from boildown.surgery.onnx_in.table import operator
from boildown.surgery.onnx_in.values import Known, Value, are_known, axes_of, ints, number, objects, tensor


@operator("Gather", settles=True, moves=True)
def gather(x: Value, indices: Value, *, axis: int = 0) -> Value:
    """Entries along an axis, in the shape of the indices."""
    (axis,) = axes_of([axis], x.ndim)
    if are_known(x, indices) and all(isinstance(item, int) for item in indices.items()):
        return Known(_objects(np.take(x.array, indices.array.astype(np.int64), axis)), x.dtype)
    if isinstance(indices, Known) and indices.array.size == 1 and isinstance(number(indices), int):
        at = number(indices)
        if indices.ndim == 0:
            return tensor(x).select(axis, at)
        part = tensor(x).narrow(axis, at if at >= 0 else at + x.shape[axis], 1)
        return part if indices.ndim == 1 else part.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    x, places = tensor(x), tensor(indices).to(torch.int64)
    places = torch.where(places < 0, places + x.shape[axis], places) if _may_be_negative(indices) else places
    if places.ndim == 1:
        return x.index_select(axis, places)
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def _may_be_negative(indices: Value) -> bool:
    return not isinstance(indices, Known) or any(not isinstance(item, int) or item < 0 for item in indices.items())


def _objects(taken: Any) -> Any:
    """What NumPy takes out of objects as an array of objects."""
    return taken if isinstance(taken, np.ndarray) else objects([taken], ())


@operator("GatherElements")
def gather_elements(x: Value, indices: Value, *, axis: int = 0) -> Value:
    """The entry along an axis that each index names."""
    x, places = tensor(x), tensor(indices).to(torch.int64)
    return x.gather(axis, torch.where(places < 0, places + x.shape[axis], places))


@operator("GatherND")
def gather_nd(x: Value, indices: Value, *, batch_dims: int = 0) -> Value:
    """The entries that rows of indices name."""
    x, places = tensor(x), tensor(indices).to(torch.int64)
    depth = places.shape[-1]
    index: list[Tensor] = []
    for axis in range(batch_dims):
        at = torch.arange(x.shape[axis], device=x.device)
        index.append(at.reshape([-1 if other == axis else 1 for other in range(places.ndim - 1)]))
    index += [places[..., position] for position in range(depth)]
    return x[tuple(index)]


def _rows(indices: Tensor) -> tuple[Tensor, ...]:
    return tuple(indices[..., position] for position in range(indices.shape[-1]))


@operator("ScatterND", only={"reduction": ("none", "add")})
def scatter_nd(x: Value, indices: Value, updates: Value, *, reduction: str = "none") -> Value:
    """With other entries where rows of indices say."""
    x, places, updates = tensor(x), tensor(indices).to(torch.int64), tensor(updates)
    return x.index_put(_rows(places), updates, accumulate=reduction == "add")


_REDUCTIONS = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}


@operator("Scatter", "ScatterElements", only={"reduction": ("none", "add", "mul", "min", "max")})
def scatter_elements(x: Value, indices: Value, updates: Value, *, axis: int = 0, reduction: str = "none") -> Value:
    """With other entries where indices along an axis say."""
    x, places, updates = tensor(x), tensor(indices).to(torch.int64), tensor(updates)
    places = torch.where(places < 0, places + x.shape[axis], places)
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])


@operator("Compress")
def compress(x: Value, condition: Value, *, axis: int | None = None) -> Value:
    """The entries where a condition holds."""
    x = tensor(x).reshape(-1) if axis is None else tensor(x)
    places = tensor(condition).nonzero().reshape(-1)
    return x.index_select(axis or 0, places)


@operator("NonZero", settles=True)
def non_zero(x: Value) -> Value:
    """Where it is not 0, one row for each axis."""
    if isinstance(x, Known) and all(isinstance(item, bool | int | float) for item in x.items()):
        found = np.array(np.nonzero(x.array.astype(np.float64))).reshape(max(x.ndim, 1), -1)
        return Known(objects(found.reshape(-1).tolist(), found.shape), torch.int64)
    return tensor(x).nonzero().t()


@operator("Unique", results=1, only={"sorted": (1,)})
def unique(x: Value, *, axis: int | None = None, sorted: int = 1) -> Value:
    """Every entry once, in order."""
    return torch.unique(tensor(x), sorted=bool(sorted), dim=axis)


@operator("ReverseSequence")
def reverse_sequence(x: Value, lengths: Value, *, batch_axis: int = 1, time_axis: int = 0) -> Value:
    """Each sample's first steps turned around."""
    x, lengths = tensor(x), tensor(lengths)
    swapped = x if (time_axis, batch_axis) == (0, 1) else x.transpose(0, 1)
    steps = torch.arange(swapped.shape[0], device=x.device).unsqueeze(1)
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)
    places = places.reshape(*places.shape, *[1] * (x.ndim - 2)).expand(swapped.shape)
    found = swapped.gather(0, places)
    return found if swapped is x else found.transpose(0, 1)


# ---- sequences -----------------------------------------------------------------------------------


@operator("SequenceConstruct", settles=True, folds=False)
def sequence(*values: Value) -> Value:
    """A list."""
    return list(values)


@operator("SequenceEmpty", settles=True, folds=False, ignores=("dtype",))
def empty_sequence() -> Value:
    """A list without anything."""
    return []


@operator("SequenceInsert", folds=False)
def inserted(values: Value, value: Value, position: Value = None) -> Value:
    """A list with one more."""
    found, at = list(values), len(values) if position is None else number(position)
    found.insert(at if at >= 0 else at + len(values), value)
    return found


@operator("SequenceErase", folds=False)
def erased(values: Value, position: Value = None) -> Value:
    """A list without one."""
    found = list(values)
    del found[-1 if position is None else number(position)]
    return found


@operator("SequenceAt", settles=True, folds=False)
def picked(values: Value, position: Value) -> Value:
    """One of a list."""
    return values[number(position)]


@operator("SequenceLength", settles=True, folds=False)
def length(values: Value) -> Value:
    """How many a list has."""
    return Known(objects([len(values)], ()), torch.int64)


@operator("SplitToSequence", folds=False)
def split_to_sequence(x: Value, sizes: Value = None, *, axis: int = 0, keepdims: int = 1) -> Value:
    """A list of parts along an axis."""
    if sizes is None:
        parts = torch.split(tensor(x), 1, axis)
        return [part if keepdims else part.squeeze(axis) for part in parts]
    return list(torch.split(tensor(x), number(sizes) if sizes.ndim == 0 else ints(sizes), axis))


@operator("ConcatFromSequence", folds=False)
def joined(values: Value, *, axis: int, new_axis: int = 0) -> Value:
    """The parts of a list behind each other, or along a new axis."""
    tensors = [tensor(value) for value in values]
    return torch.stack(tensors, axis) if new_axis else torch.cat(tensors, axis)
