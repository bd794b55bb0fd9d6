"""What a run would do and take, before any of it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from boildown.domain.grammar import format_measurement
from boildown.domain.measurement import LEGEND
from boildown.engine.attempt import Attempt, Climber
from boildown.engine.climb import enough
from boildown.engine.forecast import COSTS, Forecast, long_enough, unknown
from boildown.engine.ladder import Ladder
from boildown.engine.rung import Rung

MORE = "a larger budget leaves time for more"
_SHARE = 0.5
"""Of the time that is left one forecast takes at most so much."""


@dataclass(frozen=True)
class Line:
    """One rung of a quote. refusal: why it would not be climbed; empty where it would. late: the time was up before."""

    rung: str
    minutes: float
    forecast: Forecast
    refusal: str = ""
    late: bool = False

    @property
    def told(self) -> str:
        """What is known of it, in one line."""
        costs = [f"{name} {_ratio(self, name)}" for name in COSTS if _ratio(self, name)]
        known = [*costs, f"{self.minutes:.1f} min{' by its card' if self.late else ''}"]
        return f"{self.rung}: {f'not climbed: {self.refusal}' if self.refusal and not costs else ', '.join(known)}"


@dataclass(frozen=True)
class Quote:
    """The rungs of a ladder in order, with what their sketches cost and the minutes they would take.

    A ladder that is `auto` goes on as verdicts tell: these are the rungs it may choose from. notes: what else is
    known before work begins, in sentences.
    """

    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def minutes(self) -> float:
        """What all rungs take that would be climbed."""
        return sum(line.minutes for line in self.lines if not line.refusal)

    def to_json(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it."""
        rungs = [
            {**line.forecast.quote(), "asked": line.rung, "refusal": line.refusal, "late": line.late}
            for line in self.lines
        ]
        return {"rungs": rungs, "minutes": self.minutes, "notes": list(self.notes)}

    def __str__(self) -> str:
        shown = [name for name in COSTS if any(name in line.forecast.costs for line in self.lines)]
        rows = [("rung", *shown, "min")]
        rows += [
            (str(line.forecast.rung), *(_ratio(line, name) for name in shown), _minutes(line)) for line in self.lines
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        told = []
        for row, line in zip(rows, [None, *self.lines], strict=True):
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            told.append("  ".join(cells).rstrip())
            if line is not None and line.refusal:
                told.append(f"    not climbed: {line.refusal}")
        noisy = any(found.noisy for line in self.lines for found in line.forecast.costs.values())
        told += [LEGEND] if noisy else []
        return "\n".join([*told, f"about {self.minutes:.3g} min in all, if every rung is climbed", *self.notes])


def quote(climber: Climber, ladder: Ladder, first: Attempt | None) -> Quote:
    """Sketch every rung of a ladder that can be sketched, as far as the time goes, and tell each line as it is known.

    `first` is attempt 0, measured; None where there was no time for it.
    """
    climber.forecast.share = _SHARE
    notes = [
        "attempts run in a child process, which ends with its time"
        if climber.job.factories.complete
        else "attempts run in this process: model and task are objects, and only factories can be made anew in a child"
    ]
    if first is not None and enough([first], climber.job):
        notes.append("the first model meets the target already: nothing would be climbed")
    lines = []
    for rung in ladder.rungs:
        lines.append(_line(climber, ladder, rung))
        climber.emit("forecast", {"text": lines[-1].told})
    late = [line.rung for line in lines if line.late]
    notes += _hopeless(lines, ladder)
    if late:
        notes.append(f"not forecast for want of time, minutes by their cards: {', '.join(late)}; {MORE}")
    return Quote(tuple(lines), tuple(notes))


def by_cards(ladder: Ladder) -> Quote:
    """The rungs with the minutes of their cards, where there was no time for anything else."""
    note = f"nothing was forecast for want of time, the minutes are those of the cards; {MORE}"
    return Quote(tuple(Line(str(rung), rung.minutes, unknown(rung), late=True) for rung in ladder.rungs), (note,))


def _hopeless(lines: Sequence[Line], ladder: Ladder) -> list[str]:
    """That nothing can meet the target, where every rung has been sketched and misses a cost."""
    open_ = [line for line in lines if line.forecast.misses or not line.refusal]
    if not open_ or not all(line.forecast.misses for line in open_):
        return []
    chains = "; chains of them that auto composes may" if ladder.skips else ""
    told = "nothing here can meet the target by forecast: every rung misses a cost by more than a sketch may be off"
    return [told + chains]


def _line(climber: Climber, ladder: Ladder, rung: Rung) -> Line:
    refusal = climber.maker.refusal(rung)
    if refusal is not None:
        return Line(str(rung), 0.0, Forecast(rung, 0.0), refusal)
    forecast = climber.forecast(rung, worth=0.0)
    refusal = forecast.sentence() if ladder.skips and long_enough(rung) else ""
    return Line(str(rung), forecast.minutes, forecast, refusal, late=not climber.forecast.knows(rung))


def _ratio(line: Line, metric: str) -> str:
    found = line.forecast.costs.get(metric)
    return "" if found is None or found.ratio is None else format_measurement(found, "ratio")


def _minutes(line: Line) -> str:
    return "" if line.refusal and not line.minutes else f"{line.minutes:.1f}"
