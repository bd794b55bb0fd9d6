"""A task whose calls are a file's: inputs in its order and types, with the axes open that it leaves open."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import torch

from boildown.domain.axes import open_axes, opened
from boildown.domain.task import Runnable
from boildown.errors import DataError, Mistake

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
Size = int | str | None


class Input(Protocol):
    """An input of a file; an axis without a fixed size has a name or None in its place."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[Size, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class _Fit:
    """What turns a call as the data makes it into the file's; `task` is the user's own."""

    inputs: tuple[Input, ...]
    open: tuple[tuple[int, ...], ...]
    task: Any

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """The call by position alone. Raises DataError for numbers that the file's type does not hold."""
        by_name = (kwargs[port.name] for port in self.inputs[len(args) :])
        return tuple(_cast(value, port) for value, port in zip((*args, *by_name), self.inputs, strict=True)), {}

    def example(self, call: Call) -> Call:
        """The call, with the axes marked that the file leaves open."""
        args, kwargs = self.call(*call)
        for value, axes in zip(args, self.open, strict=True):
            opened(value, {*open_axes(value), *axes})
        return args, kwargs


class _Placing:
    """A model that is called as the data says, and takes what the file takes."""

    def __init__(self, model: Any, fit: _Fit) -> None:
        self._model, self._fit = model, fit

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._fit.call(args, kwargs)  # type: ignore[assignment]
        return self._model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def fitted(task: Any, inputs: Sequence[Input], *, leave_open: bool = True) -> tuple[Any, list[str]]:
    """The task for a model with these inputs, and what to tell; the task itself where its calls are theirs already.

    leave_open: whether axes beside the first stay open that the file leaves open, whatever the data has. Raises
    DataError with everything in which a call of the task does not fit the file.
    """
    args, kwargs = task.example()
    if mistakes := _misfits(args, kwargs, inputs):
        raise DataError(*mistakes)
    axes = tuple(
        tuple(axis for axis, size in enumerate(port.shape) if axis and leave_open and not isinstance(size, int))
        for port in inputs
    )
    fit = _Fit(tuple(inputs), axes, task)
    given = (*args, *(kwargs[port.name] for port in inputs[len(args) :]))
    told = [
        f"the data's {_name(value.dtype)} is given to the file's input {port.name!r} as {_name(port.dtype)}"
        for value, port in zip(given, inputs, strict=True)
        if value.dtype != port.dtype
    ]
    if not (kwargs or told or any(axes)):
        return task, told
    made = copy.copy(task)
    kind: Any = type(task)
    changed: dict[str, Any] = {"__class__": _by_position(kind), "fit_to_file": fit}
    if (step := getattr(task, "training_step", None)) is not None:
        changed["training_step"] = partial(_step, step, fit)
    for name, value in changed.items():
        object.__setattr__(made, name, value)  # a task of the user's may be frozen
    return made, told


def _step(step: Any, fit: _Fit, model: Any, inputs: Any, target: Any) -> Any:
    return step(_Placing(model, fit), inputs, target)


@cache
def _by_position(kind: Any) -> Any:
    """The kind of task, whose calls are a file's; whatever else is asked of it, it is the user's own."""

    class ByPosition(kind):  # type: ignore[misc]
        fit_to_file: _Fit

        def run(self, model: Runnable, inputs: Any) -> Any:
            return super().run(_Placing(model, self.fit_to_file), inputs)

        def calls(self, inputs: Any) -> Sequence[Call]:
            return [self.fit_to_file.call(*call) for call in super().calls(inputs)]

        def example(self) -> Call:
            return self.fit_to_file.example(super().example())

        @property
        def recipe(self) -> Any:
            return getattr(self.fit_to_file.task, "recipe", None)

        @property
        def takes_output_as_it_is(self) -> bool:
            return bool(getattr(self.fit_to_file.task, "takes_output_as_it_is", False))

    ByPosition.__name__, ByPosition.__qualname__, ByPosition.__module__ = (
        kind.__name__, kind.__qualname__, kind.__module__,
    )  # fmt: skip
    return ByPosition


def _misfits(args: Sequence[Any], kwargs: Mapping[str, Any], inputs: Sequence[Input]) -> list[Mistake]:
    names = [port.name for port in inputs]
    by_name = names[len(args) :]
    if len(args) > len(inputs) or kwargs.keys() != {*by_name}:
        given = [*([f"{len(args)} by position"] if args else []), *map(repr, kwargs)]
        return [
            Mistake(
                f"The file takes {', '.join(map(repr, names)) or 'nothing'}, and the data gives {', '.join(given)}.",
                "Let the data set yield a tuple in that order, or a dict with these names; or give the task "
                "forward=(a function of model and inputs).",
            )
        ]
    values = zip(inputs, (*args, *(kwargs[name] for name in by_name)), strict=True)
    return [mistake for port, value in values for mistake in _misfit(port, value)]


def _misfit(port: Input, value: Any) -> list[Mistake]:
    """What keeps a value of a call from being an input."""
    takes = f"The file's input {port.name!r} takes {_shown(port.dtype, port.shape)}"
    if not isinstance(value, torch.Tensor):
        return [
            Mistake(f"{takes}, and is given {type(value).__name__}.", "Let the data set yield a tensor in its place.")
        ]
    given = f"{takes}, and is given {_shown(value.dtype, ('n', *value.shape[1:]) if value.ndim else ())}"
    sizes = list(zip(port.shape, value.shape, strict=False))[1:]
    if len(port.shape) != value.ndim or any(isinstance(own, int) and own != size for own, size in sizes):
        return [
            Mistake(
                f"{given}.",
                "Let the data set yield that shape (its first axis is the batch); or export the file with that axis "
                "open, dynamic_shapes= of torch.onnx.export.",
            )
        ]
    if _kind(port.dtype) != _kind(value.dtype):
        return [Mistake(f"{given}.", f"Turn it into {_name(port.dtype)} in the data set, as the file's users do.")]
    return []


def _kind(dtype: torch.dtype) -> str:
    """What numbers are, as far as they may become each other without saying."""
    return "float" if dtype.is_floating_point else "complex" if dtype.is_complex else "whole"


def _cast(value: Any, port: Input) -> Any:
    if not isinstance(value, torch.Tensor) or value.dtype == port.dtype:
        return value
    if port.dtype in _LIMITED and value.dtype != torch.bool and value.numel():
        limits = torch.iinfo(port.dtype)
        if int(value.min()) < limits.min or int(value.max()) > limits.max:
            raise DataError.of(
                f"The file's input {port.name!r} takes {_name(port.dtype)}, which does not hold {int(value.max())}.",
                "Give numbers within its range.",
            )
    return value.to(port.dtype)


_LIMITED = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32})


def _shown(dtype: torch.dtype, shape: Sequence[Any]) -> str:
    return f"{_name(dtype)} ({', '.join('?' if size is None else str(size) for size in shape)})"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
