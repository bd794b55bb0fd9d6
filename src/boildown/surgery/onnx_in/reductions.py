"""Operators that make one number of many along axes, or order them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from boildown.surgery.onnx_in.table import Ints, operator
from boildown.surgery.onnx_in.values import Known, Value, axes_of, ints, number, objects, sym_max, sym_min, tensor

_Reduced = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(name: str, function: _Reduced, of_numbers: Callable[[Sequence[Any]], Any] | None = None) -> None:
    def reduce(
        x: Value, given: Value = None, *, axes: Ints | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Value:
        wanted = ints(given if given is not None else axes if axes is not None else [])
        if not wanted and noop_with_empty_axes:
            return x
        along = axes_of(wanted, x.ndim) if wanted else list(range(x.ndim))
        if isinstance(x, Known) and of_numbers is not None and len(along) == x.ndim:
            made = objects([of_numbers(x.items())], (1,) * x.ndim if keepdims else ())
            return Known(made, x.dtype)
        x = tensor(x)
        return function(x, along, bool(keepdims)) if along else function(x.unsqueeze(0), [0], False)

    operator(name, settles=of_numbers is not None)(reduce)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    return torch.div(_sum(x, axes, keep), prod(x.shape[axis] for axis in axes), rounding_mode="trunc")


def _smallest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.all(axes, keep) if x.dtype is torch.bool else x.amin(axes, keep)


def _largest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.any(axes, keep) if x.dtype is torch.bool else x.amax(axes, keep)


def _fold(function: Callable[[Any, Any], Any]) -> Callable[[Sequence[Any]], Any]:
    def folded(items: Sequence[Any]) -> Any:
        found = items[0]
        for item in items[1:]:
            found = function(found, item)
        return found

    return folded


_reduction("ReduceSum", _sum, lambda items: sum(items))
_reduction("ReduceMean", _mean)
_reduction("ReduceProd", _product, lambda items: prod(items))
_reduction("ReduceMax", _largest, _fold(sym_max))
_reduction("ReduceMin", _smallest, _fold(sym_min))
_reduction("ReduceL1", lambda x, axes, keep: _sum(x.abs(), axes, keep))
_reduction("ReduceL2", lambda x, axes, keep: torch.sqrt(_sum(x * x, axes, keep)).to(x.dtype))
_reduction("ReduceSumSquare", lambda x, axes, keep: _sum(x * x, axes, keep))
_reduction("ReduceLogSum", lambda x, axes, keep: torch.log(_sum(x, axes, keep)))
_reduction("ReduceLogSumExp", lambda x, axes, keep: torch.logsumexp(x, axes, keep))


def _place(name: str, largest: bool) -> None:
    def place(x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
        x = tensor(x)
        found = x.flip(axis) if select_last_index else x
        at = (found.argmax if largest else found.argmin)(axis, bool(keepdims))
        return x.shape[axis] - 1 - at if select_last_index else at

    operator(name)(place)


_place("ArgMax", True)
_place("ArgMin", False)


@operator("TopK")
def largest(x: Value, count: Value = None, *, axis: int = -1, largest: int = 1, sorted: int = 1, k: int | None = None
            ) -> Value:  # fmt: skip
    """The largest along an axis, and where they are."""
    wanted: Any = number(count) if count is not None else k
    values, places = torch.topk(tensor(x), wanted, axis, bool(largest), bool(sorted))
    return values, places


@operator("CumSum")
def running_sum(x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
    """The sum up to each place."""
    x, along = tensor(x), number(axis)
    (along,) = axes_of([along], x.ndim)
    found = x.flip(along) if reverse else x
    summed = found.cumsum(along, dtype=x.dtype)
    if exclusive:
        ends = [0, 0] * (x.ndim - 1 - along) + [1, 0]
        summed = F.pad(summed.narrow(along, 0, summed.shape[along] - 1), ends)
    return summed.flip(along) if reverse else summed


def _over(name: str, function: Callable[[Tensor, int], Tensor]) -> None:
    """Register a function along one axis; before opset 13 all axes from it on are one."""

    def apply(x: Value, *, axis: int | None = None, opset: int) -> Value:
        x = tensor(x)
        if opset >= 13 or x.ndim == 0:
            return function(x, -1 if axis is None else axis)
        (along,) = axes_of([1 if axis is None else axis], max(x.ndim, 2))
        if along >= x.ndim - 1:
            return function(x, along if along < x.ndim else -1)
        return function(x.flatten(along), along).reshape(x.shape)

    operator(name)(apply)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    places = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, places, 1.0)


_over("Softmax", lambda x, axis: F.softmax(x, axis))
_over("LogSoftmax", lambda x, axis: F.log_softmax(x, axis))
_over("Hardmax", _hardmax)


@operator("LpNormalization")
def normalized(x: Value, *, axis: int = -1, p: int = 2) -> Value:
    """Divided by its length along an axis."""
    length = torch.linalg.vector_norm(tensor(x), p, axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(tensor(x)), x / length)


@operator("MeanVarianceNormalization")
def standardized(x: Value, *, axes: Ints = (0, 2, 3)) -> Value:
    """Without its mean, divided by its spread."""
    x, along = tensor(x), list(axes)
    mean = x.mean(along, True)
    spread = torch.sqrt((x * x).mean(along, True) - mean * mean)
    return (x - mean) / (spread + 1e-9)
