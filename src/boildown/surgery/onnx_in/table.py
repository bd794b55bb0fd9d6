"""The table of operators that are read: what each computes, by domain and name.

A function takes the node's inputs by position, `None` for one that is left out, and its attributes by name: what has no
default must be there, and an attribute that it does not take is refused. `opset` and `outputs` are no attributes: the
version of the operator set, and how many outputs are asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Ints = Sequence[int]
Floats = Sequence[float]
Strings = Sequence[str]

CONTRIB = "com.microsoft"
KINDS = {"int": "INT", "float": "FLOAT", "str": "STRING", "Ints": "INTS", "Floats": "FLOATS", "Strings": "STRINGS",
         "Tensor": "TENSOR"}  # fmt: skip
"""What an attribute is annotated with -> the name of its type in a file."""


@dataclass(frozen=True)
class Operator:
    """How one operator is computed.

    function: with tensors and known numbers. attributes: name -> (type in the file, whether it must be there); the
        function calls one whose name an input has by it with `_` behind.
    folds: what follows from constants alone is computed when the file is read. settles: it gives numbers that are
    known where all that it reads is. moves: it only moves what it reads. least, most: how many inputs it takes.
    ignores: attributes that change nothing for inference. plain: inputs whose numbers are settings, not data.
    """

    function: Callable[..., Any]
    attributes: Mapping[str, tuple[str, bool]]
    least: int
    most: float
    folds: bool = True
    settles: bool = False
    moves: bool = False
    ignores: tuple[str, ...] = ()
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Attributes of which only some values are read."""
    unread: Callable[[Mapping[str, Any]], str] = lambda _: ""
    """What of these attributes together is not read, in words; empty for nothing."""
    results: int | None = None
    """How many outputs are read at most; any without one."""
    plain: tuple[int, ...] = ()
    given: tuple[str, ...] = ()
    """Which of `opset` and `outputs` the function takes."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What the function calls each attribute."""


OPERATORS: dict[tuple[str, str], Operator] = {}


def operator(*names: str, domain: str = "", **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function under the names of operators."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        found = described(function, **more)
        OPERATORS.update({(domain, name): found for name in names})
        return function

    return add


def described(function: Callable[..., Any], **more: Any) -> Operator:
    """An operator of a function's signature."""
    attributes, parameters, given, least, most = {}, {}, [], 0, 0.0
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            kind = str(parameter.annotation).partition(" |")[0]
            if name in ("opset", "outputs"):
                given.append(name)
            else:
                attributes[name.removesuffix("_")] = (KINDS[kind], parameter.default is parameter.empty)
                parameters[name.removesuffix("_")] = name
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = float("inf")
        else:
            least, most = least + (parameter.default is parameter.empty), most + 1
    return Operator(function, attributes, least, most, given=tuple(given), parameters=parameters, **more)


__all__ = ["CONTRIB", "KINDS", "OPERATORS", "Floats", "Ints", "Operator", "Strings", "Tensor", "described", "operator"]
