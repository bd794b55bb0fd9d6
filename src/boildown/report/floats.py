"""What a quantized candidate computes in float, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from boildown.journal.rows import Record
from boildown.report.words import short

_SOME = 5
"""Layers that are told where there is no room for all."""
_LITTLE = 0.05
"""The share of the time below which what has no weights is not told there."""
_WEIGHTS, _TIME = 0.01, 0.1
"""The shares from which on it is told of attempts that are not handed over."""


@dataclass(frozen=True)
class FloatLine:
    """A layer that runs in float, or operators of one kind without weights.

    name: as in the model's state dict. kind: the runtime's operator. weights, time: shares, 0..1; time is None where
    the runtime told no times.
    """

    name: str
    kind: str
    weights: float
    time: float | None
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {_shares(self.weights, self.time)}; {self.reason}"

    @property
    def share_of_weights(self) -> str:
        """In words; empty without weights."""
        return percent(self.weights) if self.weights else ""

    @property
    def share_of_time(self) -> str:
        """In words; empty where it is not known."""
        return "" if self.time is None else percent(self.time)


@dataclass(frozen=True)
class Floats:
    """What stayed float of one attempt, what counts most first.

    of: how many layers hold weights. weights, time: the shares of all that runs in float. lost: layers that could not
    be told in what the runtime runs. unknown: why nothing is known.
    """

    layers: tuple[FloatLine, ...] = ()
    of: int = 0
    weights: float = 0.0
    time: float | None = None
    lost: tuple[str, ...] = ()
    unknown: str = ""

    @property
    def sentence(self) -> str:
        """How much it is."""
        if self.unknown:
            return f"not known: {self.unknown}"
        count = sum(line.weights > 0 for line in self.layers)
        told = f"{count} of {self.of} layers with weights: {_shares(self.weights, self.time)}"
        if not count:
            told = "no layer with weights" + (f"; {percent(self.time)} of the time" if self.time else "")
        return told + (f" ({len(self.lost)} not found in what the runtime runs)" if self.lost else "")

    @property
    def some(self) -> tuple[FloatLine, ...]:
        """Those that are told where there is no room for all."""
        return tuple(line for line in self.layers if line.weights or (line.time or 0.0) >= _LITTLE)[:_SOME]

    @property
    def more(self) -> int:
        """How many are left out there."""
        return len(self.layers) - len(self.some)

    @property
    def worth_telling(self) -> bool:
        """Whether it counts even in an attempt that is not handed over."""
        return not self.unknown and (self.weights >= _WEIGHTS or (self.time or 0.0) >= _TIME)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the sentence."""
        return {"sentence": self.sentence, **asdict(self)}


def floats(records: Sequence[Record], number: int) -> Floats | None:
    """What stayed float of an attempt; None for one that is not quantized, or that nobody looked into."""
    own = [record for record in records if record.attempt == number]
    for record in reversed(own):
        if record.kind == "floats":
            return _read(record.data)
        if record.kind == "floats not known":
            return Floats(unknown=short(str(record.data["why"]).partition(": ")[2]))
    return None


def _read(data: Mapping[str, Any]) -> Floats:
    lines = [FloatLine(**layer) for layer in data["layers"]]
    lines.sort(key=lambda line: -max(line.weights, line.time or 0.0))
    return Floats(tuple(lines), data["of"], data["weights"], data["time"], tuple(data["lost"]))


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.3g} %" if share >= 0.001 or not share else "below 0.1 %"


def _shares(weights: float, time: float | None) -> str:
    parts = [f"{percent(weights)} of the weights"] if weights else []
    return ", ".join((*parts, *([] if time is None else [f"{percent(time)} of the time"])))
