"""The numbers of an attempt, by names that other tools take."""

from __future__ import annotations

import re
from typing import Any

from boildown.domain.grammar import COSTS

_ODD = re.compile(r"[^\w.\-/ ]")


def figures(attempt: Any) -> dict[str, float]:
    """Every metric's value by its name, with `NAME/ratio` for costs and `NAME/drop` for quality where they are known.

    Values are in base units (bytes, seconds, fractions).
    """
    found: dict[str, float] = {}
    for name, measurement in attempt.measurements.items():
        beside = ("ratio", measurement.ratio) if name in COSTS else ("drop", measurement.drop)
        found[name] = measurement.value
        if beside[1] is not None:
            found[f"{name}/{beside[0]}"] = beside[1]
    return {named(name): float(value) for name, value in found.items()}


def named(text: str) -> str:
    """A name of letters, digits and `_-./` only, which both tools take."""
    return _ODD.sub("_", text)
