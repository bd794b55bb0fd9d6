"""What flows through a file's graph while it is run: tensors, and numbers that are known beforehand.

Shapes, and what is computed from them, are numbers, so that an axis that is open stays open while the graph is traced:
`torch.Size` gives a symbol there, and arithmetic on it gives another. They become a tensor where one is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_NUMBERS = 4096
"""The most numbers that are kept apart; more are a tensor."""

sym_int: Callable[[Any], Any] = torch.sym_int
sym_float: Callable[[Any], Any] = torch.sym_float
sym_max: Callable[[Any, Any], Any] = torch.sym_max
sym_min: Callable[[Any, Any], Any] = torch.sym_min

Objects = NDArray[np.object_]


class Known:
    """An array of numbers, sizes with a symbol among them, and the type of the tensor that they stand for.

    held: that tensor, where there is one.
    """

    __slots__ = ("array", "dtype", "held")

    def __init__(self, array: Objects, dtype: torch.dtype, held: Tensor | None = None) -> None:
        self.array, self.dtype, self.held = array, dtype, held

    @classmethod
    def of(cls, numbers: Sequence[Any], dtype: torch.dtype = torch.int64) -> Known:
        """A vector."""
        return cls(objects(numbers, (len(numbers),)), dtype)

    @classmethod
    def kept(cls, tensor: Tensor) -> Known:
        """The numbers of a tensor that has its values."""
        items = tensor.detach().reshape(-1).tolist()
        return cls(objects(items, tuple(tensor.shape)), tensor.dtype, tensor)

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return self.array.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes, which are never open."""
        return self.array.shape

    def items(self) -> list[Any]:
        """The numbers in order."""
        return list(self.array.flat)

    def tensor(self) -> Tensor:
        """The numbers as a tensor."""
        if self.held is not None:
            return self.held
        items = self.items()
        if all(isinstance(item, bool | int | float) for item in items):
            return torch.tensor(items, dtype=self.dtype).reshape(self.shape)
        each = [torch.scalar_tensor(item, dtype=self.dtype) for item in items]
        return each[0].reshape(self.shape) if len(each) == 1 else torch.stack(each).reshape(self.shape)


Value = Any
"""A Tensor, Known, a list of them (a sequence), or None for an input that is left out."""


def objects(items: Sequence[Any], shape: tuple[int, ...]) -> Objects:
    """An array of any Python objects."""
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array.reshape(shape)


def are_known(*values: Value) -> bool:
    """Whether all that is given is known."""
    return all(isinstance(value, Known) for value in values if value is not None)


def tensor(value: Value) -> Tensor:
    """A value as a tensor."""
    found = value.tensor() if isinstance(value, Known) else value
    if not isinstance(found, Tensor):
        raise TypeError(f"a tensor is needed, not {'nothing' if value is None else type(value).__name__}")
    return found


def operand(value: Value, other: Value) -> Any:
    """A value as what arithmetic with another one takes: a plain number where that means the same."""
    single = isinstance(value, Known) and value.array.size == 1 and value.dtype is not torch.bool
    if single and isinstance(other, Tensor) and other.ndim >= value.ndim:
        return value.array.item()
    return tensor(value)


def ints(value: Value) -> list[Any]:
    """The whole numbers of a value: sizes, axes, positions."""
    if isinstance(value, Known):
        return value.items()
    if isinstance(value, Tensor):
        numbers = value.reshape(-1).tolist()  # what depends on data can be run, and mostly not captured
        return [int(number) if isinstance(number, float) else number for number in numbers]
    return list(value)


def number(value: Value) -> Any:
    """The one number of a value."""
    found = value.items() if isinstance(value, Known) else tensor(value).reshape(-1).tolist()
    if len(found) != 1:
        raise ValueError(f"one number is needed, not {len(found)}")
    return found[0]


def each(function: Callable[..., Any], *arrays: Objects) -> Objects:
    """A function of every element, with broadcasting."""
    spread = np.broadcast_arrays(*arrays)
    made = objects([function(*parts) for parts in zip(*(array.flat for array in spread), strict=True)], (-1,))
    return made.reshape(spread[0].shape)


def axes_of(given: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front. Raises ValueError for one that there is not."""
    for axis in given:
        if not -rank <= axis < rank:
            raise ValueError(f"there is no axis {axis} of {rank}")
    return [axis % rank for axis in given]


def small(sizes: Sequence[Any]) -> bool:
    """Whether a shape is fixed and of few enough numbers to be kept apart."""
    return all(isinstance(size, int) for size in sizes) and prod(sizes) <= MOST_NUMBERS


MOST_MADE = 1 << 28
"""The most numbers that are made from a shape alone."""


def bounded(sizes: Sequence[Any]) -> Sequence[Any]:
    """The sizes. Raises ValueError where what is made of them would be huge."""
    if (count := prod(abs(size) for size in sizes if isinstance(size, int))) > MOST_MADE:
        raise ValueError(f"it makes {count:,} numbers, {4e-9 * count:,.1f} GB")
    return sizes


def truncated(a: Any, b: Any) -> Any:
    """A quotient of whole numbers as ONNX has it: towards 0."""
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a // b  # sizes are not negative


def as_type(item: Any, dtype: torch.dtype) -> Any:
    """A number of another type."""
    symbolic = isinstance(item, torch.SymInt | torch.SymFloat | torch.SymBool)
    if dtype is torch.bool:
        return bool(item) if not symbolic else item != 0
    if dtype.is_floating_point:
        return sym_float(item) if symbolic else float(item)
    if symbolic:
        return sym_int(item)
    return int(item) if not isinstance(item, float) or math.isfinite(item) else 0
