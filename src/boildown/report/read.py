"""Journal rows to the facts that a report shows; numbers are in words here, except those drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boildown import files
from boildown.domain.front import compared, front
from boildown.domain.grammar import COSTS, format_measurement, format_value, marked
from boildown.domain.measurement import LEGEND, MARK, NOISE, Interval, Measurement
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import Finding, Verdict, relaxations
from boildown.journal.journal import Journal
from boildown.journal.rows import FASTEST, AttemptRow, Look, Record
from boildown.report import course, proof
from boildown.report.attempts import AttemptLine, line
from boildown.report.axes import NOT_SHOWN, Axis, axes
from boildown.report.changed import Changed, changed
from boildown.report.floats import floats
from boildown.report.layers import Layers, layers
from boildown.report.slices import SliceTable, changes, tables
from boildown.report.words import Pairs, duration, pairs, short

_LOADER = 4000  # bytes of a loader that are shown
_WORTH_TELLING = 3.0  # seconds outside the attempts


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
    beside: str
    """The part of it that no attempt took; empty where there is little of it."""
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
    legend: str
    """What the mark beside a figure means; empty where none is marked."""
    axes: tuple[Axis, ...]
    compared: tuple[str, ...]
    """What the Pareto front compares attempts in."""
    quality: str
    """The metric of quality that is told first; empty where none was measured."""
    layers: Layers | None
    """Of the best candidate."""
    changed: Changed | None
    slices: tuple[SliceTable, ...]
    """Of the best candidate."""
    loader: str
    """Code that loads the artifact, as it lies beside it."""
    notices: tuple[str, ...]
    settings: Pairs
    data: Pairs
    looks: tuple[str, ...]
    timed_again: tuple[str, ...]
    """The attempts whose latency was timed more than once for a verdict, and why."""
    environment: Pairs
    timings: Pairs
    command: str


def facts(journal: Journal) -> ReportFacts:
    """Read a run, finished or not, from its journal."""
    rows, known, ending = journal.attempts(), journal.facts, journal.ending
    everything = {row.number: journal.measurements(row.number) for row in rows}
    measured = {row.number: _measured(everything[row.number], row) for row in rows}
    verdicts = {row.number: verdict for row in rows if (verdict := _verdict(row)) is not None}
    conditions = next((tuple(f.condition for f in v.findings) for v in verdicts.values()), ())
    first, records, looks = measured.get(0, {}), journal.records(), journal.looks()
    metrics = known.get("metrics", {})
    quality = next((a.metric for a in axes(conditions, metrics, measured) if not a.cost), "")
    judged = [measured[number] for number in verdicts]
    by = compared(conditions, quality, str(known.get("goal", "first")), judged)
    compare = axes(conditions, metrics, measured, by)
    chosen = next((row for row in rows if ending and row.number == ending.best_attempt), None)
    rankings, curves = course.rankings(records), course.curves(records)
    unbeaten = front(measured, by) if quality and len(rows) > 1 else ()
    lines = {
        row.number: line(
            row, measured[row.number], compare, quality, rankings=rankings.get(row.number, ()),
            curves=curves.get(row.number, ()), floats=floats(records, row.number), best=row is chosen,
            front=row.number in unbeaten, runtimes=_runtimes(known),
        )
        for row in rows
    }  # fmt: skip
    verdict = verdicts.get(chosen.number) if chosen else None
    units = {m.metric: m.unit for found in measured.values() for m in found.values()}
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
        sentence=short(ending.sentence if ending else "The run has not ended: it is at work, or was cut off."),
        target=tuple(map(str, known.get("target", ()))) or tuple(c.text for c in conditions),
        took=duration(ending.seconds if ending else sum(row.timings.get("total", 0.0) for row in rows)),
        beside=_beside(ending.seconds, rows) if ending else "",
        best=lines[chosen.number] if chosen else None,
        artifact=_delivered(journal, chosen),
        sha256=chosen.artifact.sha256 if chosen and chosen.artifact else "",
        hardware=verdict.hardware if verdict else "",
        confidence=f"{100 * verdict.confidence:g} %" if verdict and verdict.confidence is not None else "",
        findings=tuple(finding_line(f, verdict.measurements) for f in verdict.findings) if verdict else (),
        best_figures=_figures(measured[chosen.number]) if chosen else (),
        relaxations=tuple(map(str, eased)),
        baseline=short(str(known.get("baseline", ""))),
        gap=proof.gap(everything),
        first_figures=_figures(first),
        attempts=tuple(lines.values()),
        legend=LEGEND if any(each.noisy or MARK in each.forecast for each in lines.values()) else "",
        axes=compare,
        compared=tuple(axis.name for axis in compare if axis.metric in by),
        quality=quality,
        layers=layers(records, chosen.number) if chosen else None,
        changed=_changed(records, chosen, known, units),
        slices=_slices(records, chosen, measured),
        loader=_loader(journal.folder) if chosen else "",
        notices=tuple(short(str(notice)) for notice in known.get("notices", ())),
        settings=_settings(known),
        data=pairs(known.get("data", {})),
        looks=tuple(f"look {look.k} by attempt {look.attempt}" for look in looks if not look.timed),
        timed_again=tuple(filter(None, map(_timed_again, looks))),
        environment=pairs(known.get("environment", {})),
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
            samples=f"{_count(m)} {m.data}".strip() if m.samples > 1 else "",
            notes="; ".join(m.notes),
        )
        for m in measured.values()
        if m.metric not in NOT_SHOWN
    )


def _count(measurement: Measurement) -> str:
    """How many samples, and in how many groups."""
    groups = "" if measurement.groups is None else f" in {measurement.groups:,} groups"
    return f"{measurement.samples:,}{groups}"


def finding_line(finding: Finding, measured: Mapping[str, Measurement]) -> FindingLine:
    """One condition for people."""
    condition, measurement = finding.condition, measured.get(finding.condition.metric)
    if measurement is not None and finding.slice:
        measurement = next((each for each in measurement.slices if each.metric == finding.slice), measurement)
    unit = COSTS.get(condition.metric, measurement.unit if measurement else "")
    doubts = [finding.note, "could be luck" if finding.lucky else ""]
    doubts.append(finding.more)
    noisy = measurement is not None and measurement.noisy and finding.observed is not None
    doubts.append(NOISE if noisy else "")
    doubts.append(f"look {measurement.look}" if measurement is not None and measurement.look > 1 else "")
    return FindingLine(
        condition=condition.text,
        status=finding.status.value,
        observed=marked(finding.shown, noisy=noisy and not finding.noisy),  # older journals have no mark
        first=format_value(measurement.first, unit) if measurement and measurement.first is not None else "",
        interval=_interval(finding.interval, unit, condition),
        samples=_count(measurement) if measurement and measurement.data and measurement.samples else "",
        doubt="; ".join(filter(None, doubts)),
    )


def _timed_again(look: Look) -> str:
    """Why an artifact was timed once more; empty for its first look."""
    if look.data == FASTEST:
        return f"attempt {look.attempt}, chosen for being the fastest"
    return f"attempt {look.attempt}, whose first look left it open" if look.timed and look.k > 1 else ""


def _interval(interval: Interval | None, unit: str, condition: Condition) -> str:
    if interval is None:
        return ""
    low, high = (format_value(end, unit, condition.form) for end in (interval.low, interval.high))
    return f"{low} to {high} (each end {100 * interval.level:.4g} %, {interval.method})"


# -- words -------------------------------------------------------------------------------------------


def _settings(known: Mapping[str, Any]) -> Pairs:
    names = ("goal", "confidence", "budget", "ladder", "deployment", "seed", "model", "boildown")
    return pairs({name: known[name] for name in names if known.get(name) is not None})


def _runtimes(known: Mapping[str, Any]) -> tuple[str, ...]:
    """What the run's files are for, as it was deployed to."""
    deployment = known.get("deployment")
    named = deployment.get("runtime", ()) if isinstance(deployment, Mapping) else ()
    return tuple(map(str, named)) if isinstance(named, list) else (str(named),)


def _timings(known: Mapping[str, Any], rows: Sequence[AttemptRow]) -> Pairs:
    """Wall time by kind of work, over all attempts."""
    spent: Counter[str] = Counter()
    for row in rows:
        spent.update({kind: seconds for kind, seconds in row.timings.items() if kind != "total"})
    told = known.get("seconds")
    spent = Counter(told) if isinstance(told, Mapping) else spent
    everything = spent.pop("all", 0.0) or sum(spent.values()) or 1.0
    return tuple((kind, f"{duration(seconds)} ({seconds / everything:.0%})") for kind, seconds in spent.most_common())


def _delivered(journal: Journal, row: AttemptRow | None) -> str:
    """Where the best candidate's artifact lies: in best/ if it was handed over, else with its attempt."""
    if row is None or row.artifact is None:
        return ""
    best = journal.folder / "best" / row.artifact.name
    return str(best if best.exists() else row.artifact.path)


def _changed(
    records: Sequence[Record], row: AttemptRow | None, known: Mapping[str, Any], units: Mapping[str, str]
) -> Changed | None:
    """What the best candidate's artifact gets wrong that the first model got right."""
    if row is None or row.artifact is None:
        return None
    return changed(records, row.number, row.artifact.digest, known, units)


def _slices(
    records: Sequence[Record], row: AttemptRow | None, measured: Mapping[int, Mapping[str, Measurement]]
) -> tuple[SliceTable, ...]:
    """Every slice of the best candidate."""
    if row is None:
        return ()
    digest = "" if row.artifact is None else row.artifact.digest
    return tables(measured[row.number], changes(records, row.number, digest))


def _loader(folder: Path) -> str:
    """The script that was handed over with the artifact."""
    try:
        with files.opened(folder / "best" / "load.py", folder) as file:
            return file.read(_LOADER).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _beside(seconds: float, rows: Sequence[AttemptRow]) -> str:
    """The time of a run outside its attempts."""
    left = seconds - sum(row.timings.get("total", 0.0) for row in rows)
    return duration(left) if left >= _WORTH_TELLING else ""
