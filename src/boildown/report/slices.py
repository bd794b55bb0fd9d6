"""Tables of slices: every slice of a key, held against the first model, and which of its samples changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from boildown.domain.grammar import format_value
from boildown.domain.measurement import Form, Interval, Measurement
from boildown.domain.names import Name, name_of
from boildown.journal.rows import Record

Change = tuple[int, int, Sequence[int]]
"""How many samples are worse, how many are better, and indices of the worse."""
Changes = Mapping[tuple[str, str], Change]
"""Of slices by key and value."""

NO_CHANGES: Changes = MappingProxyType({})
_SAME: Change = (0, 0, ())
_SHOWN = 100
_INDICES = 8


@dataclass(frozen=True)
class SliceLine:
    """One slice; figures in words. changed: how many of its samples; where: indices of some of the worse."""

    name: str
    samples: str
    first: str
    value: str
    drop: str
    interval: str
    changed: str
    where: str


@dataclass(frozen=True)
class SliceTable:
    """All slices of one key by one metric, the worst first.

    title: what they are by. told: what the intervals are of, and with what level. lines: those that are shown; more:
    how many are not.
    """

    title: str
    told: str
    lines: tuple[SliceLine, ...]
    more: int = 0


def tables(measured: Mapping[str, Measurement], changed: Changes = NO_CHANGES) -> tuple[SliceTable, ...]:
    """The tables of one attempt, in words."""
    found = []
    for measurement, name, slices in _worsts(measured):
        form = _form(measurement)
        what = "drop" if form == "drop" else name.base
        level = next((interval.level for each in slices if (interval := _interval(each, form)) is not None), None)
        told = "" if level is None else f"intervals of the {what} hold for all together (each end {100 * level:.6g} %)"
        searched = ", on the search samples" if measurement.data == "search" else ""
        lines = tuple(_line(each, form, changed.get(_slice(each), _SAME)) for each in slices[:_SHOWN])
        title = f"{name.base} by {name.key}{searched}"
        found.append(SliceTable(title, told, lines, len(slices) - len(lines)))
    return tuple(found)


def plain(measured: Mapping[str, Measurement], changed: Changes = NO_CHANGES) -> list[dict[str, Any]]:
    """The same as plain data, of all slices and in base units."""
    found = []
    for measurement, name, slices in _worsts(measured):
        rows, form = [], _form(measurement)
        for each in slices:
            interval, (worse, better, where) = _interval(each, form), changed.get(_slice(each), _SAME)
            rows.append(
                {
                    "slice": each.metric, "samples": each.samples,
                    "value": each.value, "first": each.first, "drop": each.drop, "ratio": each.ratio,
                    "interval": None if interval is None else {"of": form, **asdict(interval)},
                    "worse": worse, "better": better, "changed": list(where),
                }
            )  # fmt: skip
        found.append({"metric": name.base, "key": name.key, "data": measurement.data, "slices": rows})
    return found


def changes(records: Sequence[Record], number: int, digest: str) -> Changes:
    """What was recorded of the slices of an attempt's file, of those in which something changed."""
    told = [r.data for r in records if r.kind == "changed" and r.attempt == number and r.data["artifact"] == digest]
    rows = told[-1].get("slices", []) if told else []
    return {
        (str(key), str(value)): (int(worse), int(better), tuple(map(int, where)))
        for key, value, worse, better, where in rows
    }


def _worsts(measured: Mapping[str, Measurement]) -> Iterator[tuple[Measurement, Name, list[Measurement]]]:
    """(the worst of the slices of a key, its name, all of them with those first that lost most)."""
    for measurement in measured.values():
        name = name_of(measurement.metric)
        if name is not None and name.worst and measurement.slices:
            yield measurement, name, sorted(measurement.slices, key=_kept)


def _kept(each: Measurement) -> float:
    """Less for what lost more; slices without a first model beside them stay as they are."""
    if each.drop is None:
        return 0.0
    return -math.inf if math.isnan(each.drop) else -each.drop


def _slice(each: Measurement) -> tuple[str, str]:
    name = name_of(each.metric)
    return (name.key, str(name.value)) if name is not None else ("", each.metric)


def _line(each: Measurement, form: Form, change: Change) -> SliceLine:
    interval, (worse, better, where) = _interval(each, form), change
    ends = [] if interval is None else [format_value(end, each.unit, form) for end in (interval.low, interval.high)]
    more = f" and {worse - _INDICES:,} more" if worse > _INDICES else ""
    return SliceLine(
        name=_slice(each)[1],
        samples=f"{each.samples:,}",
        first="" if each.first is None else format_value(each.first, each.unit),
        value=format_value(each.value, each.unit),
        drop="" if each.drop is None else format_value(each.drop, each.unit, "drop"),
        interval=" to ".join(ends),
        changed=f"{worse:,} worse, {better:,} better" if worse or better else "",
        where=", ".join(map(str, where[:_INDICES])) + more,
    )


def _form(measurement: Measurement) -> Form:
    """What is told of slices: how much worse they are than the first model's, or their values without one."""
    return "value" if measurement.drop is None else "drop"


def _interval(each: Measurement, form: Form) -> Interval | None:
    """The interval that holds for all slices together; for one slice alone its own."""
    return each.simultaneous.get(form, each.intervals.get(form))
