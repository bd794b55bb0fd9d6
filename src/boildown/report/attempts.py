"""One attempt in words: why it was tried, what was expected, what came out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from boildown.domain.front import DIVERGENCE
from boildown.domain.grammar import format_measurement, format_value
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import State
from boildown.journal.rows import AttemptRow
from boildown.report import proof
from boildown.report.axes import Axis
from boildown.report.course import Curve, Ranking
from boildown.report.floats import Floats
from boildown.report.words import short


@dataclass(frozen=True)
class AttemptLine:
    """One attempt; `places` are its values on the axes of the chart, by metric, where it has any."""

    number: int
    rung: str
    state: str
    reason: str = ""
    sentence: str = ""
    size: str = ""
    ratio: str = ""
    drop: str = ""
    latency: str = ""
    minutes: str = ""
    notes: tuple[str, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    """Of every tournament among losses, how its contestants stood."""
    curves: tuple[Curve, ...] = ()
    forecast: str = ""
    """What was expected of it."""
    expected: tuple[tuple[str, str, str], ...] = ()
    """What was expected beside what was measured: (what, forecast, measured)."""
    best: bool = False
    front: bool = False
    """Whether no other attempt beats it in every metric of the target."""
    places: Mapping[str, float] | None = None
    noisy: frozenset[str] = frozenset()
    """The metrics whose figures are marked."""
    floats: Floats | None = None
    """What stayed float; None for one that is not quantized."""
    runtime: str = ""
    """That it is made for, in a run for several."""

    @property
    def chain(self) -> str:
        """Its rung without the runtime."""
        return self.rung.removesuffix(f" @ {self.runtime}")

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of its links' methods, without settings; the first model has none."""
        return tuple(link.partition("(")[0].strip() for link in self.chain.split(" + ")) if self.number else ()

    @property
    def word(self) -> str:
        """Its state in one word."""
        return self.state.split()[0]


def line(
    row: AttemptRow, measured: Mapping[str, Measurement], axes: Sequence[Axis], quality: str, *,
    rankings: tuple[Ranking, ...], curves: tuple[Curve, ...], floats: Floats | None, best: bool, front: bool,
    runtimes: Sequence[str],
) -> AttemptLine:  # fmt: skip
    """An attempt as the journal knows it; `quality` names the metric whose drop is told, `runtimes` the run's."""
    places = {a.metric: value for a in axes if (value := a.value(measured, row.number)) is not None}
    found, drop = measured.get(quality), places.get(quality)
    size, latency = measured.get("size"), measured.get("latency")
    total = row.timings.get("total", math.fsum(row.timings.values()))
    skipped = row.state is State.SKIPPED
    return AttemptLine(
        number=row.number,
        rung=row.rung,
        state=row.state.value if row.state is not State.RUNNING else "cut off or running",
        reason=short(row.reason),
        sentence=short(row.sentence),
        size=format_measurement(size) if size else "",
        ratio=_ratio(size),
        drop=_drop(drop, found) if found and drop is not None else _diverged(measured),
        latency=_ratio(latency) if row.number or latency is None else format_measurement(latency),
        minutes=f"{total / 60:.1f}" if row.timings else "",
        notes=tuple(map(short, row.notes)),
        rankings=rankings,
        curves=curves,
        forecast="" if skipped else proof.forecast(row.quote),
        expected=() if skipped else _expected(row, measured, total),
        best=best,
        front=front,
        places=places,
        noisy=frozenset(metric for metric, found in measured.items() if found.noisy),
        runtime=_runtime(row, runtimes),
        floats=floats,
    )


def _runtime(row: AttemptRow, runtimes: Sequence[str]) -> str:
    """The runtime that an attempt is for, the first where its rung names none; empty in a run for one."""
    named = row.rung.rpartition(" @ ")[2]
    return "" if len(runtimes) < 2 else named if named in runtimes else runtimes[0]


def _expected(row: AttemptRow, measured: Mapping[str, Measurement], seconds: float) -> tuple[tuple[str, str, str], ...]:
    told = []
    if row.quote.get("minutes") is not None:
        took = f"{seconds / 60:.1f} min" if row.timings else ""
        told.append(("time", f"{row.quote['minutes']:.1f} min", took))
    told += [(metric, ratio, _ratio(measured.get(metric))) for metric, ratio in proof.ratios(row.quote).items()]
    return tuple(told)


def _drop(drop: float, quality: Measurement) -> str:
    """A drop in words; one that only the search samples know of says so."""
    return format_value(drop, quality.unit, "drop") + (" (search)" if quality.data == "search" else "")


def _diverged(measured: Mapping[str, Measurement]) -> str:
    """What is known of the quality of an attempt that has no score."""
    return f"divergence {measured[DIVERGENCE].value:.3g}" if DIVERGENCE in measured else ""


def _ratio(measurement: Measurement | None) -> str:
    if measurement is None or measurement.ratio is None:
        return ""
    return format_measurement(measurement, "ratio")
