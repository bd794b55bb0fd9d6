"""What corruptions are called: `NAME:SEVERITY`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from boildown.tasks.corrupted import pictures, rows, sounds

Kind = Literal["picture", "sound", "row"]

SHIPPED: Mapping[Kind, tuple[str, ...]] = {
    "picture": tuple(pictures.CORRUPTIONS),
    "sound": tuple(sounds.CORRUPTIONS),
    "row": tuple(rows.CORRUPTIONS),
}
NAMES = tuple(dict.fromkeys(name for names in SHIPPED.values() for name in names))
SEVERITIES = (1, 2, 3, 4, 5)

_LABEL = re.compile(r"(?P<name>[^:\s]+):(?P<number>[+-]?\d+(?:\.\d+)?)(?P<unit>dB)?", re.IGNORECASE)


@dataclass(frozen=True)
class Label:
    """A corruption and how severe it is: decibels, or without a unit one of five levels, or what a function takes."""

    name: str
    number: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.number:g}{self.unit}"


def label(text: str) -> Label | None:
    """The corruption that a text names; None for anything else."""
    found = _LABEL.fullmatch(text)
    return Label(found["name"], float(found["number"]), "dB" if found["unit"] else "") if found else None


def labels(own: Iterable[str], asked: Iterable[str]) -> list[str]:
    """The corruptions there are at five severities, and those of some texts that name another one.

    own: names of the user's functions, which take any number; the noise and the gain of sounds take decibels.
    """
    own = tuple(own)
    every = [str(Label(name, level)) for name in dict.fromkeys((*own, *NAMES)) for level in SEVERITIES]
    read = [found for text in asked if (found := label(text)) is not None]
    return [*every, *(str(each) for each in read if each.name in (SHIPPED["sound"] if each.unit else own))]
