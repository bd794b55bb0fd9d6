"""Several runs side by side: what was asked, what came out, what differs, and whether it can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from boildown.journal.journal import Journal, readable
from boildown.report.read import ReportFacts, facts
from boildown.report.text import table
from boildown.report.words import printable, told

_SETTINGS = ("goal", "confidence", "budget", "ladder", "deployment", "seed", "boildown")
_TIMED_BY = (("cpu", "processors"), ("cores", "numbers of cores"), ("os", "systems"))
_WIDEST = 48  # characters of a column in the terminal
Row = tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; every row of a table is a name and one text for every run.

    figures: of the best candidates. findings: of every condition that a run asked for. differing: settings and
    versions that are not the same in all runs. warnings: why figures may not be compared. legend: of marked figures.
    """

    runs: Row
    outcomes: tuple[Row, ...]
    figures: tuple[Row, ...]
    findings: tuple[Row, ...]
    differing: tuple[Row, ...]
    warnings: tuple[str, ...]
    legend: str = ""

    def __str__(self) -> str:
        """The tables for a terminal."""
        parts = [printable(f"warning: {text}") for text in self.warnings]
        titled = [[(title, *self.runs), *rows] for title, rows in self.tables()]
        cells = [tuple(_clipped(text) for text in row) for rows in titled for row in rows]
        lines = iter(table(cells, ("",) * (1 + len(self.runs))))
        for rows in titled:  # all aligned alike, a blank line before each
            parts += ["", *(next(lines) for _row in rows)]
        parts += ["", self.legend] if self.legend else []
        return "\n".join(parts).strip("\n")

    def tables(self) -> list[tuple[str, tuple[Row, ...]]]:
        """Title and rows of every table that has any."""
        named = [
            ("outcome", self.outcomes),
            ("best candidate", self.figures),
            ("conditions", self.findings),
            ("what differs", self.differing),
        ]
        return [(title, rows) for title, rows in named if rows]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class _Read:
    """One run: what its report shows, and its facts as they are."""

    shown: ReportFacts
    known: Mapping[str, Any]


def compare(folders: Sequence[Path]) -> Comparison:
    """Read runs and hold them side by side. Raises JournalError if one cannot be read."""
    read = [_read(folder) for folder in folders]
    shown = [run.shown for run in read]
    return Comparison(
        runs=tuple(run.run for run in shown),
        outcomes=(
            ("target", *(", ".join(run.target) for run in shown)),
            ("outcome", *(run.outcome for run in shown)),
            ("best", *(f"{run.best.number} {run.best.rung}" if run.best else "none" for run in shown)),
            ("attempts", *(str(len(run.attempts)) for run in shown)),
            ("took", *(run.took for run in shown)),
        ),
        figures=_figures(shown),
        findings=_findings(shown),
        differing=_differing(read),
        warnings=_warnings([run.known for run in read]),
        legend=next((run.legend for run in shown if run.legend), ""),
    )


def _read(folder: Path) -> _Read:
    with Journal.open(folder, readonly=True) as journal, readable(folder):
        return _Read(facts(journal), journal.facts)


def _figures(shown: Sequence[ReportFacts]) -> tuple[Row, ...]:
    """Value and ratio or drop of every metric of the best candidates."""
    names = dict.fromkeys(figure.metric for run in shown for figure in run.best_figures)
    rows = []
    for name in names:
        cells = []
        for run in shown:
            found = next((figure for figure in run.best_figures if figure.metric == name), None)
            beside = (found.drop and f"drop {found.drop}") or found.ratio if found else ""
            cells.append("" if found is None else found.value + (f" ({beside})" if beside else ""))
        rows.append((name, *cells))
    return tuple(rows)


def _findings(shown: Sequence[ReportFacts]) -> tuple[Row, ...]:
    asked = dict.fromkeys(finding.condition for run in shown for finding in run.findings)
    return tuple(
        (
            condition,
            *(
                next((f"{f.status} ({f.observed})" for f in run.findings if f.condition == condition), "not asked")
                for run in shown
            ),
        )
        for condition in asked
    )


def _differing(read: Sequence[_Read]) -> tuple[Row, ...]:
    rows = [(name, *(told(run.known.get(name)) for run in read)) for name in _SETTINGS]
    versions = [_mapping(_mapping(run.known.get("environment")).get("packages")) for run in read]
    for name in dict.fromkeys(name for found in versions for name in found):
        rows.append((str(name), *(told(found.get(name)) for found in versions)))
    return tuple(row for row in rows if len(set(row[1:])) > 1)


def _warnings(known: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Why figures of these runs may not be compared with each other."""
    found = []
    if _differs(facts.get("first") for facts in known):
        found.append("the runs began with different first models: ratios and drops are from different figures")
    if _differs(facts.get("verdict data") for facts in known):
        found.append("quality was judged on different samples")
    for name, many in _TIMED_BY:
        if _differs(_mapping(facts.get("environment")).get(name) for facts in known):
            found.append(f"latency was measured on different {many}")
    for name in ("runtime", "form", "hardware", "batch", "threads"):
        if _differs(_mapping(facts.get("deployment")).get(name) for facts in known):
            found.append(f"artifacts were made or timed for different settings of {name}")
    return tuple(found)


def _clipped(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _differs(values: Any) -> bool:
    return len({told(value) for value in values}) > 1


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
