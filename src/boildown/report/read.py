"""Journal rows to the facts that a report shows; numbers are in words here, except those drawn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boildown.domain.front import compared, front
from boildown.domain.grammar import COSTS, format_measurement, format_value
from boildown.domain.measurement import Interval, Measurement
from boildown.domain.outcome import State
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import Finding, Verdict, relaxations
from boildown.journal.journal import Journal
from boildown.journal.rows import AttemptRow
from boildown.report import proof

_LONGEST = 600
_NOT_SHOWN = ("divergence",)


@dataclass(frozen=True)
class FindingLine:
    """One condition of the target, held against the best candidate."""

    condition: str
    status: str
    observed: str
    first: str
    interval: str
    samples: str
    doubt: str
    """Why the finding is not the last word: could be luck, how many samples would decide, a note."""


@dataclass(frozen=True)
class Figure:
    """One metric of one artifact."""

    metric: str
    value: str
    drop: str
    ratio: str
    samples: str
    notes: str


@dataclass(frozen=True)
class AttemptLine:
    """One attempt; `x` and `y` are its place in the chart, where it has one."""

    number: int
    rung: str
    state: str
    reason: str
    sentence: str
    size: str
    ratio: str
    drop: str
    latency: str
    minutes: str
    notes: tuple[str, ...]
    standings: tuple[str, ...]
    """Of every tournament among losses, how its contestants stood, a line for each of its rungs."""
    forecast: str
    """What was expected of it."""
    best: bool
    front: bool
    """Whether no other attempt beats it in every metric of the target."""
    x: float | None
    y: float | None


@dataclass(frozen=True)
class Axes:
    """What the chart shows: a cost as a ratio to the first model against the loss of quality.

    `x_bound` and `y_bound` are the target's, in the same terms; None where it has none.
    """

    cost: str
    quality: str
    unit: str
    x_bound: float | None
    y_bound: float | None


@dataclass(frozen=True)
class ReportFacts:
    """Everything a report shows of one run."""

    run: str
    started: str
    outcome: str
    """Name of the outcome in words, such as `target met`, or `not finished`."""
    met: bool
    sentence: str
    target: tuple[str, ...]
    took: str
    best: AttemptLine | None
    artifact: str
    sha256: str
    hardware: str
    confidence: str
    findings: tuple[FindingLine, ...]
    best_figures: tuple[Figure, ...]
    relaxations: tuple[str, ...]
    baseline: str
    """How a small network trained on the labels alone compares; empty where nothing was trained."""
    gap: tuple[str, ...]
    """How far the search's samples were from the verdict's, for each metric of quality."""
    first_figures: tuple[Figure, ...]
    attempts: tuple[AttemptLine, ...]
    axes: Axes | None
    notices: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]
    looks: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    timings: tuple[tuple[str, str], ...]
    command: str


def facts(journal: Journal) -> ReportFacts:
    """Read a run, finished or not, from its journal."""
    rows, known, ending = journal.attempts(), journal.facts, journal.ending
    everything = {row.number: journal.measurements(row.number) for row in rows}
    measured = {row.number: _measured(everything[row.number], row) for row in rows}
    verdicts = {row.number: verdict for row in rows if (verdict := _verdict(row)) is not None}
    conditions = next((tuple(f.condition for f in v.findings) for v in verdicts.values()), ())
    first = measured.get(0, {})
    axes = _axes(conditions, known.get("metrics", {}), measured)
    chosen = next((row for row in rows if ending and row.number == ending.best_attempt), None)
    standings = _standings(journal)
    unbeaten = front(measured, compared(conditions, axes.quality)) if axes and len(rows) > 1 else ()
    lines = {
        row.number: _line(
            row, measured[row.number], axes, standings.get(row.number, ()), best=row is chosen,
            front=row.number in unbeaten,
        )
        for row in rows
    }  # fmt: skip
    verdict = verdicts.get(chosen.number) if chosen else None
    met = ending is not None and ending.outcome.name == "TARGET_MET"
    # That the first model is as good as itself is no relaxation.
    made = [row for row in rows if row.number and row.number in verdicts]
    labelled = [(f"attempt {row.number} ({row.rung})", verdicts[row.number]) for row in made]
    eased = () if met or ending is None else relaxations(Target(conditions), labelled)
    return ReportFacts(
        run=str(known.get("run", journal.folder.name)),
        started=rows[0].started if rows else "",
        outcome=ending.outcome.name.replace("_", " ").lower() if ending else "not finished",
        met=met,
        sentence=_short(ending.sentence if ending else "The run has not ended: it is at work, or was cut off."),
        target=tuple(map(str, known.get("target", ()))) or tuple(c.text for c in conditions),
        took=_duration(ending.seconds if ending else sum(row.timings.get("total", 0.0) for row in rows)),
        best=lines[chosen.number] if chosen else None,
        artifact=_delivered(journal, chosen),
        sha256=(chosen.sha256 or "") if chosen else "",
        hardware=verdict.hardware if verdict else "",
        confidence=f"{100 * verdict.confidence:g} %" if verdict and verdict.confidence is not None else "",
        findings=tuple(_finding(f, verdict.measurements) for f in verdict.findings) if verdict else (),
        best_figures=_figures(measured[chosen.number]) if chosen else (),
        relaxations=tuple(map(str, eased)),
        baseline=_short(str(known.get("baseline", ""))),
        gap=proof.gap(everything),
        first_figures=_figures(first),
        attempts=tuple(lines.values()),
        axes=axes,
        notices=tuple(_short(str(notice)) for notice in known.get("notices", ())),
        settings=_settings(known),
        data=_pairs(known.get("data", {})),
        looks=tuple(f"look {look.k} by attempt {look.attempt}" for look in journal.looks()),
        environment=_pairs(known.get("environment", {})),
        timings=_timings(known, rows),
        command=str(known.get("command", "")),
    )


# -- measurements ------------------------------------------------------------------------------------


def _verdict(row: AttemptRow) -> Verdict | None:
    """The verdict of an attempt; None if it has none, or one that this version cannot read."""
    if row.verdict is None:
        return None
    try:
        return Verdict.from_json(row.verdict)
    except (KeyError, TypeError, ValueError):
        return None


def _measured(everything: Sequence[Measurement], row: AttemptRow) -> dict[str, Measurement]:
    """The measurements of an attempt by metric: those of its verdict first, then the latest."""
    verdict = _verdict(row)
    return {
        **{measurement.metric: measurement for measurement in everything},
        **(verdict.measurements if verdict else {}),
    }


def _figures(measured: Mapping[str, Measurement]) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            metric=m.metric,
            value=format_measurement(m),
            drop=format_measurement(m, "drop") if m.drop is not None and m.metric not in COSTS else "",
            ratio=format_measurement(m, "ratio") if m.ratio is not None else "",
            samples=f"{m.samples:,} {m.data}".strip() if m.samples > 1 else "",
            notes="; ".join(m.notes),
        )
        for m in measured.values()
        if m.metric not in _NOT_SHOWN
    )


def _finding(finding: Finding, measured: Mapping[str, Measurement]) -> FindingLine:
    condition, measurement = finding.condition, measured.get(finding.condition.metric)
    unit = COSTS.get(condition.metric, measurement.unit if measurement else "")
    doubts = [finding.note, "could be luck" if finding.lucky else ""]
    doubts.append(f"about {finding.needed:,} samples would decide" if finding.needed is not None else "")
    return FindingLine(
        condition=condition.text,
        status=finding.status.value,
        observed=finding.shown,
        first=format_value(measurement.first, unit) if measurement and measurement.first is not None else "",
        interval=_interval(finding.interval, unit, condition),
        samples=f"{measurement.samples:,}" if measurement and measurement.data else "",
        doubt="; ".join(filter(None, doubts)),
    )


def _interval(interval: Interval | None, unit: str, condition: Condition) -> str:
    if interval is None:
        return ""
    low, high = (format_value(end, unit, condition.form) for end in (interval.low, interval.high))
    return f"{low} to {high} (each end {100 * interval.level:.4g} %, {interval.method})"


# -- attempts and the chart --------------------------------------------------------------------------


def _standings(journal: Journal) -> dict[int | None, tuple[str, ...]]:
    """How the losses stood in the tournaments of every attempt; what was told again replaces what was told."""
    found: dict[int | None, dict[Any, str]] = {}
    for record in journal.records("survivors"):
        data = record.data
        ranked = sorted(
            data["scores"].items(), key=lambda item: -math.inf if item[1] is None else item[1], reverse=True
        )
        told = ", ".join(f"{loss} {'failed' if score is None else format(score, '.4g')}" for loss, score in ranked)
        found.setdefault(record.attempt, {})[data["step"]] = f"losses after {data['step']:,} steps: {told}"
    return {attempt: tuple(lines.values()) for attempt, lines in found.items()}


def _line(
    row: AttemptRow,
    measured: Mapping[str, Measurement],
    axes: Axes | None,
    standings: tuple[str, ...],
    *,
    best: bool,
    front: bool,
) -> AttemptLine:
    cost = measured.get(axes.cost) if axes else None
    quality = measured.get(axes.quality) if axes else None
    drop = quality.drop if quality else None
    if drop is None and row.number == 0 and quality:
        drop = 0.0
    size, latency = measured.get("size"), measured.get("latency")
    total = row.timings.get("total", math.fsum(row.timings.values()))
    return AttemptLine(
        number=row.number,
        rung=row.rung,
        state=row.state.value if row.state is not State.RUNNING else "cut off or running",
        reason=_short(row.reason),
        sentence=_short(row.sentence),
        size=format_measurement(size) if size else "",
        ratio=_ratio(size),
        drop=_drop(drop, quality) if quality and drop is not None else "",
        latency=_ratio(latency) if row.number or latency is None else format_measurement(latency),
        minutes=f"{total / 60:.1f}" if row.timings else "",
        notes=tuple(map(_short, row.notes)),
        standings=standings,
        forecast=proof.forecast(row.quote) if row.state is not State.SKIPPED else "",
        best=best,
        front=front,
        x=cost.ratio if cost else None,
        y=drop,
    )


def _drop(drop: float, quality: Measurement) -> str:
    """A drop in words; one that only the search samples know of says so."""
    return format_value(drop, quality.unit, "drop") + (" (search)" if quality.data == "search" else "")


def _ratio(measurement: Measurement | None) -> str:
    if measurement is None or measurement.ratio is None:
        return ""
    return format_value(measurement.ratio, measurement.unit, "ratio")


def _axes(
    conditions: Sequence[Condition],
    metrics: Mapping[str, Any],
    measured: Mapping[int, Mapping[str, Measurement]],
) -> Axes | None:
    """The costs and the quality that the target is about; None if no quality was measured."""
    asked = [condition.metric for condition in conditions]
    seen = {name: found[name] for found in measured.values() for name in found}
    qualities = [name for name in (*asked, *metrics, *seen) if name in seen and name not in (*COSTS, *_NOT_SHOWN)]
    if not qualities:
        return None
    cost = next((name for name in COSTS if name in asked), "size")
    quality = seen[qualities[0]]
    return Axes(
        cost=cost,
        quality=quality.metric,
        unit=quality.unit,
        x_bound=_tightest(_cost_bound(c, seen.get(cost)) for c in conditions if c.metric == cost),
        y_bound=_tightest(_drop_bound(c, quality) for c in conditions if c.metric == quality.metric),
    )


def _tightest(bounds: Any) -> float | None:
    return min((bound for bound in bounds if bound is not None and math.isfinite(bound)), default=None)


def _cost_bound(condition: Condition, cost: Measurement | None) -> float | None:
    """The bound on a cost as a ratio to the first model."""
    if condition.form == "ratio":
        return condition.bound
    return condition.bound / cost.first if cost and cost.first else None


def _drop_bound(condition: Condition, quality: Measurement) -> float | None:
    """The bound on quality as a drop from the first model."""
    if condition.form == "drop":
        return condition.bound
    if quality.first is None:
        return None
    bound = condition.bound * (quality.first if condition.form == "ratio" else 1.0)
    return quality.first - bound if condition.operator in (">=", ">") else bound - quality.first


# -- words -------------------------------------------------------------------------------------------


def _settings(known: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    names = ("goal", "confidence", "budget", "ladder", "runtime", "hardware", "latency", "seed", "model", "boildown")
    return _pairs({name: known[name] for name in names if known.get(name) is not None})


def _pairs(values: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(values, Mapping):
        return (("", _told(values)),) if values else ()
    return tuple((str(name), _told(value)) for name, value in values.items())


def _told(value: Any) -> str:
    """Plain data in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return _short(f"{value:g}" if isinstance(value, float) else str(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _timings(known: Mapping[str, Any], rows: Sequence[AttemptRow]) -> tuple[tuple[str, str], ...]:
    """Wall time by kind of work, over all attempts."""
    spent: Counter[str] = Counter()
    for row in rows:
        spent.update({kind: seconds for kind, seconds in row.timings.items() if kind != "total"})
    told = known.get("seconds")
    spent = Counter(told) if isinstance(told, Mapping) else spent
    everything = spent.pop("all", 0.0) or sum(spent.values()) or 1.0
    return tuple((kind, f"{_duration(seconds)} ({seconds / everything:.0%})") for kind, seconds in spent.most_common())


def _delivered(journal: Journal, row: AttemptRow | None) -> str:
    """Where the best candidate's artifact lies: in best/ if it was handed over, else with its attempt."""
    if row is None or row.artifact is None:
        return ""
    best = journal.folder / "best"
    found = sorted(best.glob("model.*")) if best.is_dir() else []
    return str(found[0] if found else journal.artifact(row))
