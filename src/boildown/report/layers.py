"""The layers of a candidate beside those of the first model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boildown.journal.rows import Record

_MOST = 250


@dataclass(frozen=True)
class LayerLine:
    """One layer; channels are those it puts out.

    bits: of weights and inputs in words; `gone` for a layer that the candidate has no more. share: of the candidate's
    weights, 0..1. sensitivity: divergence of the outputs when it alone is quantized; None where it was not measured.
    """

    name: str
    kind: str
    before: str
    after: str
    shape: str
    bits: str
    share: float
    sensitivity: float | None


@dataclass(frozen=True)
class Layers:
    """The layers of one candidate; `measured` says in which attempt their sensitivity was."""

    lines: tuple[LayerLine, ...]
    measured: str
    left_out: int

    @property
    def most(self) -> float:
        """The largest sensitivity, 0 without any."""
        return max((line.sensitivity or 0.0 for line in self.lines), default=0.0)


def layers(records: Sequence[Record], number: int) -> Layers | None:
    """The layers of an attempt; None where they were not recorded."""
    recorded = {r.attempt: r.data["layers"] for r in records if r.kind == "layers"}
    if not recorded.get(number):
        return None
    own = {str(layer["name"]): layer for layer in recorded[number]}
    first = {str(layer["name"]): layer for layer in recorded.get(0, ())}
    place, sensitivity = _sensitivity(records, recorded, number)
    total = sum(math.prod(layer["shape"]) for layer in own.values()) or 1
    # A student of other layers has none of the first model's; of one that lost blocks it tells which are gone.
    names = list(first) if 2 * len(own.keys() & first.keys()) >= len(own) else []
    names = [*dict.fromkeys((*names, *own))]
    lines = [_line(name, own.get(name), first.get(name), total, sensitivity) for name in names]
    measured = "" if place is None or place == number else f"attempt {place}"
    return Layers(tuple(lines[:_MOST]), measured, max(0, len(lines) - _MOST))


def _line(
    name: str,
    own: Mapping[str, Any] | None,
    first: Mapping[str, Any] | None,
    total: int,
    sensitivity: Mapping[str, float],
) -> LayerLine:
    shown = own or first or {}
    return LayerLine(
        name=name,
        kind=str(shown["kind"]),
        before=f"{first['shape'][0]:,}" if first else "",
        after=f"{own['shape'][0]:,}" if own else "",
        shape=" × ".join(f"{size:,}" for size in shown["shape"]),
        bits=_bits(own) if own else "gone",
        share=math.prod(own["shape"]) / total if own else 0.0,
        sensitivity=sensitivity.get(str(own["node"])) if own else None,
    )


def _bits(layer: Mapping[str, Any]) -> str:
    if layer["bits"] is None:
        return "float"
    inputs = "" if layer["input bits"] is None else f", inputs {layer['input bits']:d}"
    return f"{layer['bits']:d}{inputs}"


def _sensitivity(
    records: Sequence[Record], recorded: Mapping[int | None, Any], number: int
) -> tuple[int | None, dict[str, float]]:
    """Where and what was measured: in this attempt, or in the latest of another of the same layers."""
    shapes = {of: [(layer["node"], layer["shape"]) for layer in found] for of, found in recorded.items()}
    for own in (True, False):
        for record in reversed(records):
            fits = record.attempt == number if own else shapes.get(record.attempt) == shapes[number]
            if record.kind == "sensitivity" and fits:
                values = {str(node): float(value) for node, value in record.data["layers"].items()}
                return record.attempt, {node: value for node, value in values.items() if math.isfinite(value)}
    return None, {}
