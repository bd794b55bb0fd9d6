"""Runtimes by name. Importing this package loads neither torch nor ONNX Runtime."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from boildown.errors import InputError
from boildown.runtimes.base import Array, Port, Runtime, Session, Written

__all__ = ["Array", "Port", "Runtime", "Session", "Written", "get", "names"]

_GROUP = "boildown.runtimes"
_OWN = {
    "onnxruntime": ("boildown.runtimes.onnx.runtime", "OnnxRuntime"),
    "eager": ("boildown.runtimes.eager", "Eager"),
}


def names() -> tuple[str, ...]:
    """Every known runtime: the shipped ones, then plug-ins."""
    return *_OWN, *sorted({point.name for point in entry_points(group=_GROUP)} - set(_OWN))


def get(name: str) -> Runtime:
    """The runtime called `name`.

    Plug-ins register a class without constructor arguments in the entry-point group
    `boildown.runtimes`; they cannot replace a shipped runtime. Raises InputError for an unknown name.
    """
    if name in _OWN:
        module, attribute = _OWN[name]
        runtime: Runtime = getattr(import_module(module), attribute)()
        return runtime
    for point in entry_points(group=_GROUP, name=name):
        plugged: Runtime = point.load()()
        return plugged
    raise InputError.of(f"There is no runtime {name!r}.", f"Choose one of: {', '.join(names())}.")
