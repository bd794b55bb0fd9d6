"""Finding methods: the shipped ones by walking this package, others by entry point."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import boildown.methods
from boildown.errors import InputError, Mistake, contained, in_words
from boildown.methods.base import Card, Method

ENTRY_POINTS = "boildown.methods"
_NAME = re.compile(r"^    card: ClassVar\[Card\] = Card\(\s+name=\"([\w-]+)\"", re.M)


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


def listed() -> list[str]:
    """The names of all methods, sorted, without importing one: for completion, which must not wait for torch.

    A foreign method goes by the name of its entry point.
    """
    files = (path for folder in boildown.methods.__path__ for path in Path(folder).glob("*.py"))
    shipped = {name for file in files for name in _NAME.findall(file.read_text(encoding="utf-8"))}
    return sorted(shipped | {point.name for point in entry_points(group=ENTRY_POINTS)})


def cards() -> dict[str, Card]:
    """The cards of all installed methods."""
    return {name: method.card for name, method in installed().items()}


def build(name: str, settings: Mapping[str, Any]) -> Method:
    """A method with these settings; InputError names every unknown name, setting and value."""
    if name not in installed():
        raise InputError.of(f"There is no method called {name!r}.", suggestion(name, list(installed())))
    method = installed()[name]
    known = {f.name: f for f in fields(method)}  # type: ignore[arg-type]
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    mistakes = [
        mistake
        for key, value in settings.items()
        if (mistake := _refusal(name, known[key], value) if key in known else _unknown(name, key, list(known)))
    ]
    if mistakes:
        raise InputError(*mistakes)
    return method(**settings)


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "a list"}
"""What a setting takes, in words, by the type of its default."""


def _unknown(name: str, key: str, known: list[str]) -> Mistake:
    return Mistake(f"{name} has no setting {key!r}.", suggestion(key, known) if known else "It has none.")


def _refusal(name: str, known: Field[Any], value: Any) -> Mistake | None:
    """What is wrong with a setting's value, if anything."""
    choices, least, most = (known.metadata.get(word) for word in ("choices", "least", "most"))
    told = f"{name}: {known.name} = {value!r}"
    if choices:
        return None if value in choices else Mistake(f"{told} is not possible.", f"One of: {_listed(choices)}.")
    listed = str(known.type).startswith("tuple")
    if not _fits(value, known.default) or (listed and not isinstance(value, tuple | None)):
        kind = _KINDS.get(tuple if listed else type(known.default), "a number or text, without both kinds of quotes")
        return Mistake(f"{told} is not of the right kind.", f"Give {kind}.")
    if least is not None and not value >= least:
        return Mistake(f"{told} is too low.", f"Give {least} or more.")
    if most is not None and not value <= most:
        return Mistake(f"{told} is too high.", f"Give {most} or less.")
    return None


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
        try:
            with contained():
                method = point.load()
        except Exception as error:
            raise InputError.of(
                f"The method plug-in {point.name!r} ({point.value}) cannot be loaded: {in_words(error)}.",
                "Mend or uninstall the package that it comes from.",
            ) from error
        if not isinstance(getattr(method, "card", None), Card):
            raise InputError.of(
                f"The method plug-in {point.name!r} ({point.value}) has no card.",
                "It must name a class with `card: ClassVar[boildown.Card]`.",
            )
        yield method


def _fits(value: Any, default: Any) -> bool:
    if isinstance(value, tuple):
        return (default is None or isinstance(default, tuple)) and all(map(_is_plain, value))
    if default is None or default is MISSING:
        return value is None or _is_plain(value)
    if isinstance(value, str) and not _is_plain(value):
        return False
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(default)) and not (isinstance(value, bool) and not isinstance(default, bool))


def _is_plain(value: Any) -> bool:
    """Whether it is text or a number that can be written and read again."""
    if isinstance(value, str):
        return not {"'", '"'} <= set(value)
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def _origin(method: type[Method]) -> str:
    return f"{method.__module__}.{method.__qualname__}"
