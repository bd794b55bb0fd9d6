"""Runtimes by name. Importing this package loads neither torch nor ONNX Runtime."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from boildown.domain.rules import Rules
from boildown.errors import InputError, Mistake, contained, in_words
from boildown.runtimes.base import Array, Executed, Port, Runtime, Session, Usual, Written

__all__ = [
    "AUTO",
    "Array",
    "Executed",
    "Port",
    "Runtime",
    "Session",
    "Usual",
    "Written",
    "at_hand",
    "formed",
    "get",
    "names",
    "plugged",
]

_GROUP = "boildown.runtimes"
_OWN = {
    "onnxruntime": ("boildown.runtimes.onnx.runtime", "OnnxRuntime"),
    "eager": ("boildown.runtimes.eager", "Eager"),
    "openvino": ("boildown.runtimes.openvino", "OpenVino"),
}


def names() -> tuple[str, ...]:
    """Every known runtime: the shipped ones, then plug-ins."""
    return *_OWN, *sorted({point.name for point in entry_points(group=_GROUP)} - set(_OWN))


AUTO = "auto"
"""What stands for every runtime that is `at_hand`."""

_SLOW = ("eager",)
"""Shipped runtimes that serve what no other can take."""


def at_hand() -> tuple[str, ...]:
    """The shipped runtimes that are installed and worth trying, ONNX Runtime first; plug-ins are to be named."""
    found = []
    for name in _OWN:
        with suppress(InputError):  # not installed
            if name not in _SLOW:
                found.append(get(name).name)
    return tuple(found)


def get(name: str) -> Runtime:
    """The runtime called `name`.

    Plug-ins register a class without constructor arguments in the entry-point group
    `boildown.runtimes`; they cannot replace a shipped runtime. Raises InputError for an unknown name, and for a
    plug-in that is not what a runtime is.
    """
    if name in _OWN:
        module, attribute = _OWN[name]
        runtime: Runtime = getattr(import_module(module), attribute)()
        return runtime
    for point in entry_points(group=_GROUP, name=name):
        return _built(point)
    raise InputError.of(f"There is no runtime {name!r}.", f"Choose one of: {', '.join(names())}.")


def plugged(name: str) -> str:
    """How a message names a runtime that is a plug-in, with its entry point; empty for a shipped one."""
    found = () if name in _OWN else tuple(entry_points(group=_GROUP, name=name))
    return _called(found[0]) if found else ""


def formed(runtime: Runtime, form: str) -> dict[str, str]:
    """The argument that asks a runtime for a form of its files; none for a runtime that has one form."""
    return {"form": form} if len(runtime.forms) > 1 else {}


_MEMBERS = {
    **dict.fromkeys(("name", "suffix", "exporter"), "text"),
    "rules": "boildown.domain.rules.Rules",
    **dict.fromkeys(("version", "export", "write", "open", "refuses", "stamp", "about", "files", "loader"), "a method"),
    **dict.fromkeys(("with_preprocessing", "executed", "inside"), "a method"),
}


def _built(point: EntryPoint) -> Runtime:
    """A plug-in's runtime, completed by what it may leave out. Raises InputError where it is none."""
    cure = "Mend or uninstall the package that it comes from, or choose another runtime."
    try:
        with contained():
            kind = point.load()
            if isinstance(kind, type) and not issubclass(kind, Usual):
                kind = type(kind.__name__, (kind, Usual), {"__module__": kind.__module__, "__doc__": kind.__doc__})
            runtime: Runtime = kind()
    except Exception as error:
        raise InputError.of(f"{_called(point)} cannot be loaded: {in_words(error)}.", cure) from error
    wrong = [
        Mistake(f"{_called(point)} has no {member} that is {what}.", cure)
        for member, what in _MEMBERS.items()
        if not _is(getattr(runtime, member, None), what)
    ]
    if wrong:
        raise InputError(*wrong)
    return runtime


def _is(member: Any, what: str) -> bool:
    return callable(member) if what == "a method" else isinstance(member, str if what == "text" else Rules)


def _called(point: EntryPoint) -> str:
    return f"The runtime plug-in {point.name!r} ({point.value})"
