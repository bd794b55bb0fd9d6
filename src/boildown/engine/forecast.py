"""What a rung will cost, before it is climbed: its sizes and times by a sketch, its minutes by the pace of this run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from boildown.domain.candidate import Candidate
from boildown.domain.measurement import Measurement
from boildown.domain.target import Condition
from boildown.domain.verdict import Finding, Status, judge
from boildown.engine.budget import Budget
from boildown.engine.job import Job
from boildown.engine.maker import Maker
from boildown.engine.rung import Rung, parse_rung
from boildown.engine.search import measure_costs
from boildown.errors import Cancelled, DeadlineError, JournalError, contained, in_words
from boildown.methods.base import Pace, Sketching, Timed, by_costs

COSTS = ("size", "params", "macs", "latency", "memory")
WORTH = 0.5
"""Minutes from which on a rung is worth a sketch: climbing a shorter one says more in about the time."""

_TOLERANCE = {"size": 0.02, "params": 0.02, "macs": 0.02, "latency": 0.1, "memory": 0.25}
"""How far a sketch may be off, relative."""
_CLOCK = 0.25
"""The same for a bound in seconds, which drifts with the machine; a ratio is measured side by side."""
_GLANCE = 10.0
"""Seconds that a glance at the clock takes, about."""
_TIMED = 64
_SHARE = 1 / 20
_MOST_SECONDS = 600.0


@dataclass(frozen=True)
class Forecast:
    """What is expected of a rung.

    rung: with the settings that sketches have found. minutes: from its start to its verdict. costs: measured on the
    sketch, by metric; empty where none was made. findings: the target's conditions on them.
    """

    rung: Rung
    minutes: float
    costs: Mapping[str, Measurement] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def misses(self) -> tuple[Finding, ...]:
        """The conditions on costs that are missed by more than a sketch may be off."""
        return tuple(
            finding
            for finding in self.findings
            if finding.status is Status.MISSED and finding.excess > _tolerance(finding.condition)
        )

    @property
    def left(self) -> float:
        """The share of the first model's multiply-accumulates that it keeps; 1 where nothing is known."""
        macs = self.costs.get("macs")
        return 1.0 if macs is None or macs.ratio is None else macs.ratio

    def sentence(self) -> str:
        """Why it is not worth climbing; empty where it may be."""
        if not self.misses:
            return ""
        told = " and ".join(f"{f.condition.metric} {f.shown} where {f.condition.text} is asked" for f in self.misses)
        return f"hopeless by forecast: {self.rung} would have {told}"

    def quote(self) -> dict[str, Any]:
        """For the journal: minutes, and values and ratios of what was measured, and how far timings spread."""
        figures = {
            name: {"value": found.value, "ratio": found.ratio}
            | ({} if found.spread is None else {"spread": found.spread, "noisy": found.noisy})
            | ({} if found.alone else {"alone": False})
            for name, found in self.costs.items()
            if name in COSTS
        }
        misses = [finding.condition.metric for finding in self.misses]
        return {"rung": str(self.rung), "minutes": round(self.minutes, 3), "misses": misses, **figures}


def unknown(rung: Rung) -> Forecast:
    """The forecast of who has measured nothing: the minutes of the cards."""
    return Forecast(rung, rung.minutes)


class Forecaster:
    """Says what rungs will cost: sketches those worth it, journals every forecast and makes none twice.

    beside: seconds that the last attempt took beside its methods, for writing, checking and measuring. share: of what
    remains of the budget, the most that one forecast takes.
    """

    def __init__(self, maker: Maker, budget: Budget) -> None:
        self._maker, self._budget, self._job = maker, budget, maker.job
        self._known = {
            str(record.data["asked"]): from_quote(record.data, self._job)
            for record in maker.journal.records("forecast")
        }
        self._pace: Pace | None = None
        self.beside = 0.0
        self.share = _SHARE

    def __call__(self, rung: Rung, *, worth: float = WORTH) -> Forecast:
        """What a rung will cost, with the settings that can be found on sketches.

        worth: minutes from which on a sketch is made; a rung that searches on sketches is always sketched. Raises
        Cancelled and JournalError; what goes wrong in a sketch is journalled, and the rung may be climbed all the same.
        """
        if (known := self._known.get(str(rung))) is not None and (known.costs or worth >= WORTH):
            return known
        found = Forecast(rung, rung.minutes)  # not kept where time is short: with more of it a sketch may be made
        if self._budget.remaining <= 0:
            return found
        number, self._maker.number, start = self._maker.number, None, time.monotonic()
        # However many rungs are open, sketches leave most of the budget to the climbing.
        self._maker.end = time.monotonic() + min(_MOST_SECONDS, max(1.0, self._budget.remaining * self.share))
        try:
            with contained():
                found = self._made(rung, worth)
        except (Cancelled, JournalError):
            raise
        except DeadlineError:
            return found
        except Exception as error:  # noqa: BLE001 - journalled; the attempt will meet it again and tell
            self._maker.journal.record(None, "not forecast", {"rung": str(rung), "why": in_words(error)})
        finally:
            self._maker.number, self._maker.end = number, math.inf
            shutil.rmtree(self._folder, ignore_errors=True)
        took = time.monotonic() - start
        self._maker.journal.record(None, "forecast", {"asked": str(rung), "seconds": took, **found.quote()})
        self._known[str(rung)] = found
        return found

    def knows(self, rung: Rung) -> bool:
        """Whether a forecast of the rung has come to its end."""
        return str(rung) in self._known

    @property
    def _folder(self) -> Path:
        return self._maker.folder / "forecasts"

    def _made(self, rung: Rung, worth: float) -> Forecast:
        donor = self._maker.donor(self._maker.keys(rung)[0])
        if donor is not None and "rung" in donor[1].quote:  # an earlier run has made it: what it found holds here too
            return replace(from_quote(donor[1].quote, self._job), minutes=self.beside / 60)
        with self._maker.bench.timed("apply"):
            self._pace = self._pace or pace_of(self._job, self._maker.first, self._maker.check)
        settled, costs = rung, dict[str, Measurement]()
        if self._worth_a_sketch(rung, worth):
            settled, costs = self._sketched(rung)
        share = costs["macs"].ratio if "macs" in costs else None
        seconds = self.beside + self._links(settled) + seconds_of(settled, replace(self._pace, share=share or 1.0))
        return Forecast(settled, seconds / 60, costs, held_against(self._job, costs))

    def _links(self, rung: Rung) -> float:
        """Seconds to measure every link of a chain but the last: its outputs on the search samples, and a glance."""
        assert self._pace is not None
        glance = _GLANCE if self._job.asks("latency") else 0.0
        return (len(rung.methods) - 1) * (glance + 2 * len(self._job.splits.search) * self._pace.forward)

    def _worth_a_sketch(self, rung: Rung, worth: float) -> bool:
        asked = any(self._job.asks(metric) for metric in COSTS)
        return asked and sketchable(rung) and long_enough(rung, worth) and self._maker.refusal(rung) is None

    def _sketched(self, rung: Rung) -> tuple[Rung, dict[str, Measurement]]:
        """(the rung with what sketches can settle, the costs of its sketch)."""
        maker, bench, exports = self._maker, self._maker.bench, self._maker.folder / "exports"
        before = set(exports.glob("*"))
        try:
            with bench.timed("apply"):
                rung = maker.settle(rung, self._folder, sketched=True)
                candidate = maker.make(rung, self._folder / "settled", sketched=True)
            timed = self._job.asks("latency")
            costs = measure_costs(candidate, self._folder / "settled", maker.first, self._job, bench, timed=timed)
            told = frozenset[str](COSTS).intersection(*(method.card.sketched for method in rung.methods))
            return rung, {metric: found for metric, found in costs.items() if metric in told}
        finally:
            for path in set(exports.glob("*")) - before:
                shutil.rmtree(path)


def _tolerance(condition: Condition) -> float:
    if condition.metric == "latency" and condition.form != "ratio":
        return _CLOCK
    return _TOLERANCE.get(condition.metric, 0.0)


def long_enough(rung: Rung, worth: float = WORTH) -> bool:
    """Whether climbing takes more minutes than `worth`, or the rung has a search that sketches shorten."""
    return rung.minutes >= worth or any(by_costs(method) for method in rung.methods)


def sketchable(rung: Rung) -> bool:
    """Whether every link of a rung can be sketched."""
    return all(isinstance(method, Sketching) for method in rung.methods)


def seconds_of(rung: Rung, pace: Pace) -> float:
    """How long the rung's methods take, by what they say of themselves, else by their cards."""
    return sum(m.duration(pace) if isinstance(m, Timed) else 60 * m.card.minutes for m in rung.methods)


def held_against(job: Job, costs: Mapping[str, Measurement]) -> tuple[Finding, ...]:
    """The target's conditions on the costs that are known."""
    conditions = tuple(c for c in job.target.conditions if c.metric in costs and c.metric not in job.quality)
    return judge(replace(job.target, conditions=conditions), costs).findings


def pace_of(job: Job, first: Candidate, check: Callable[[], None] = lambda: None) -> Pace:
    """How fast the first model is in PyTorch here, and how much data there is."""
    splits = job.splits
    samples = splits.search.subset(range(min(_TIMED, len(splits.search))))
    best = math.inf
    with torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            for inputs, _target in samples.batches(_TIMED):
                check()
                job.task.run(first.model, inputs)
            best = min(best, time.perf_counter() - start)
    sizes = [0 if part is None else len(part) for part in (splits.train, splits.calibration)]
    return Pace(best / len(samples), 1.0, *sizes)


def from_quote(quote: Mapping[str, Any], job: Job) -> Forecast:
    """The inverse of `Forecast.quote`, for a run that is resumed."""
    costs = {
        name: Measurement(
            name, quote[name]["value"], ratio=quote[name]["ratio"], spread=quote[name].get("spread"),
            alone=quote[name].get("alone", True),
        )
        for name in COSTS
        if name in quote
    }  # fmt: skip
    return Forecast(parse_rung(quote["rung"]), quote["minutes"], costs, held_against(job, costs))
