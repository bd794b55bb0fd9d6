"""Conditions and targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from boildown.domain.measurement import Form

Operator = Literal["<=", "<", ">=", ">"]


@dataclass(frozen=True)
class Condition:
    """One inequality on one metric; `bound` is in base units (bytes, seconds, counts, fractions)."""

    metric: str
    form: Form
    operator: Operator
    bound: float
    text: str


@dataclass(frozen=True)
class Target:
    """Conditions that must all hold."""

    conditions: tuple[Condition, ...]
