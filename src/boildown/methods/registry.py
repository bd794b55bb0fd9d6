"""Finding methods: the shipped ones by walking this package, others by entry point."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, cast

import boildown.methods
from boildown.errors import InputError, Mistake
from boildown.methods.base import Card, Method

ENTRY_POINTS = "boildown.methods"


@cache
def installed() -> dict[str, type[Method]]:
    """Every installed method by its card's name, in the order of the `auto` ladder.

    A package adds one with an entry point in the group `boildown.methods` that names the class.
    Raises InputError if two methods carry the same name.
    """
    found: dict[str, type[Method]] = {}
    for method in [*_shipped(), *_foreign()]:
        other = found.setdefault(method.card.name, method)
        if other is not method:
            raise InputError.of(
                f"Two methods are called {method.card.name!r}: {_origin(other)} and {_origin(method)}.",
                "Uninstall one of the packages, or rename its card.",
            )
    return dict(sorted(found.items(), key=lambda item: (item[1].card.order, item[0])))


def cards() -> dict[str, Card]:
    """The cards of all installed methods."""
    return {name: method.card for name, method in installed().items()}


def build(name: str, settings: Mapping[str, Any]) -> Method:
    """A method with these settings; InputError names every unknown name, setting and value."""
    if name not in installed():
        raise InputError.of(f"There is no method called {name!r}.", suggestion(name, list(installed())))
    method = installed()[name]
    known = {f.name: f for f in fields(method)}  # type: ignore[arg-type]
    mistakes = []
    for key, value in settings.items():
        if key not in known:
            mistakes.append(
                Mistake(
                    f"{name} has no setting {key!r}.",
                    suggestion(key, list(known)) if known else "It has none.",
                )
            )
            continue
        choices = known[key].metadata.get("choices") or ()
        if choices and value not in choices:
            mistakes.append(Mistake(f"{name}: {key} = {value!r} is not possible.", f"One of: {_listed(choices)}."))
        elif not choices and not _fits(value, known[key].default):
            kind = type(known[key].default).__name__
            mistakes.append(Mistake(f"{name}: {key} = {value!r} is not of the right kind.", f"Give a {kind}."))
    if mistakes:
        raise InputError(*mistakes)
    return method(**settings)


def suggestion(word: str, known: list[str]) -> str:
    """'Did you mean ...?' where something is near, else the list of what there is."""
    near = difflib.get_close_matches(word, known, 1)
    return f"Did you mean {near[0]!r}?" if near else f"There are: {_listed(known)}."


def _shipped() -> Iterator[type[Method]]:
    for info in pkgutil.iter_modules(boildown.methods.__path__):
        module = importlib.import_module(f"boildown.methods.{info.name}")
        yield from _methods_in(module)


def _methods_in(module: ModuleType) -> Iterator[type[Method]]:
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__ and isinstance(vars(value).get("card"), Card):
            yield cast(type[Method], value)


def _foreign() -> Iterator[type[Method]]:
    for point in entry_points(group=ENTRY_POINTS):
        yield point.load()


def _fits(value: Any, default: Any) -> bool:
    if default is None or default is MISSING:
        return True
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(default)) and not (isinstance(value, bool) and not isinstance(default, bool))


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def _origin(method: type[Method]) -> str:
    return f"{method.__module__}.{method.__qualname__}"
