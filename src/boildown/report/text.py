"""Facts to plain text with aligned columns, for terminals and logs."""

from __future__ import annotations

from collections.abc import Sequence

from boildown.report.attempts import AttemptLine
from boildown.report.read import Figure, ReportFacts
from boildown.report.slices import SliceTable
from boildown.report.words import printable

_TOLD = ("skipped", "failed")
_RIGHT = ("#", "size", "ratio", "drop", "latency", "min")
_SLICED = ("", "size", "size", "size", "drop", "", "")
"""The columns of a table of slices: figures to the right."""
_SLICES = 10


def summary(shown: ReportFacts) -> str:
    """The table a person wants: how the run ended, every attempt, the best one condition by condition."""
    parts = [
        f"{shown.outcome.upper()}: {printable(shown.sentence)}",
        f"run {printable(shown.run)}, target {printable(', '.join(shown.target))}, took {shown.took}"
        + (f", {shown.beside} of it beside the attempts" if shown.beside else ""),
        *(f"note: {printable(notice)}" for notice in shown.notices),
    ]
    if shown.first_figures:
        parts.append(f"first model: {printable(', '.join(_figure(figure) for figure in shown.first_figures))}")
    if shown.attempts:
        parts += ["", *_attempts(shown)]
    if shown.best is not None:
        parts += ["", *_best(shown, shown.best)]
    if shown.relaxations:
        parts += ["", "What would have to give:", *(f"  {printable(text)}" for text in shown.relaxations)]
    unbeaten = [str(attempt.number) for attempt in shown.attempts if attempt.front]
    by = ", ".join(shown.compared)
    proof = [f"Pareto front ({by}): attempts {', '.join(unbeaten)}"] if len(unbeaten) > 1 else []
    proof += [printable(text) for text in (shown.baseline, *shown.gap) if text]
    parts += ["", *proof] if proof else []
    return "\n".join(parts)


def _figure(figure: Figure) -> str:
    return f"{figure.metric} {figure.value}" + (
        f" (n = {figure.samples.split()[0]})" if figure.drop and figure.samples else ""
    )


def _attempts(shown: ReportFacts) -> list[str]:
    quality = shown.quality or "quality"
    head = (
        "#",
        "",
        "rung",
        "runtime" if any(a.runtime for a in shown.attempts) else "",
        "state",
        "size",
        "ratio",
        "drop",
        "latency",
        "min",
    )
    rows = [
        (
            *(str(a.number), "*" if a.best else "", a.chain, a.runtime, a.state),
            *(a.size, a.ratio, a.drop, a.latency, a.minutes),
        )
        for a in shown.attempts
    ]
    top, *lines = table([tuple(f"{quality} drop" if name == "drop" else name for name in head), *rows], head)
    told = [top]
    for attempt, line in zip(shown.attempts, lines, strict=True):
        told.append(line)
        if attempt.state in _TOLD and attempt.sentence:
            told.append(f"      {printable(attempt.sentence)}")
        told += [f"      {printable(str(ranking))}" for ranking in attempt.rankings]
        if attempt.floats is not None and attempt.floats.worth_telling and not attempt.best:
            told.append(f"      in float: {printable(attempt.floats.sentence)}")
        if attempt.forecast:
            told.append(f"      {printable(attempt.forecast)}")
    return [*told, shown.legend] if shown.legend else told


def _best(shown: ReportFacts, best: AttemptLine) -> list[str]:
    title = f"Best: attempt {best.number}, {printable(best.rung)}" if best.number else "Best: the first model itself"
    rows = [
        (f"  {f.condition}", f.status, f.observed, f"n = {f.samples}" if f.samples else "", f.interval)
        for f in shown.findings
    ]
    lines = [f"{title}: {printable(shown.artifact)}" if shown.artifact else title]
    for finding, line in zip(shown.findings, table(rows, ("",) * 5), strict=True):
        lines += [line, f"    {printable(finding.doubt)}"] if finding.doubt else [line]
    return [*lines, *slice_by_slice(shown.slices), *_floats(best), *(f"  {printable(note)}" for note in best.notes)]


def slice_by_slice(tables: Sequence[SliceTable]) -> list[str]:
    """The slices that lost most, of every key."""
    told = []
    for each in tables:
        told.append(f"  {printable(each.title)}{f': {each.told}' if each.told else ''}")
        head = ("    slice", "n", "first model", "now", "drop", "interval", "changed")
        rows = [(f"    {s.name}", s.samples, s.first, s.value, s.drop, s.interval, s.changed) for s in each.lines]
        told += table([head, *rows[:_SLICES]], _SLICED)
        if (more := len(rows) - _SLICES + each.more) > 0:
            told.append(f"    and {more:,} more")
    return told


def _floats(best: AttemptLine) -> list[str]:
    """What stayed float of it: how much, and what counts most."""
    if best.floats is None:
        return []
    told = [f"  in float: {printable(best.floats.sentence)}"]
    told += [f"    {printable(str(line))}" for line in best.floats.some]
    return [*told, f"    and {best.floats.more} more in the report"] if best.floats.more else told


def table(rows: Sequence[tuple[str, ...]], names: Sequence[str]) -> list[str]:
    """Aligned columns, empty ones left out; numbers to the right by the column's name."""
    cells = [[_indented(cell) for cell in row] for row in rows]
    widths = [max((len(row[column]) for row in cells), default=0) for column in range(len(names))]
    return [
        "  ".join(
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for cell, width, name in zip(row, widths, names, strict=True)
            if width
        ).rstrip()
        for row in cells
    ]


def _indented(cell: str) -> str:
    return " " * (len(cell) - len(cell.lstrip(" "))) + printable(cell)
