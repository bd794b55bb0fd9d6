"""Plain data in words, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LONGEST = 600

Pairs = tuple[tuple[str, str], ...]


def short(text: str) -> str:
    """The text, cut where it is longer than anybody reads."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def told(value: Any) -> str:
    """Plain data in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {told(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(told, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return short(f"{value:g}" if isinstance(value, float) else str(value))


def pairs(values: Any) -> Pairs:
    """Names and values of a mapping, in words."""
    if not isinstance(values, Mapping):
        return (("", told(values)),) if values else ()
    return tuple((str(name), told(value)) for name, value in values.items())


def duration(seconds: float) -> str:
    """A time in the unit it reads well in."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def printable(text: str) -> str:
    """One line without control characters: what users name must not steer a terminal."""
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """Text of several lines without other control characters; see `printable`."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text.expandtabs())
