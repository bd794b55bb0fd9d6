"""What a rung will cost, before it is climbed: its sizes and times by a sketch, its minutes by the pace of this run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from boildown.domain.candidate import Candidate
from boildown.domain.grammar import FOLLOWS
from boildown.domain.measurement import Measurement
from boildown.domain.target import Condition
from boildown.domain.verdict import Finding, Status, Verdict, judge
from boildown.engine.budget import Budget
from boildown.engine.costs import stood_in
from boildown.engine.experience import TOOK, Earlier, earlier_runs
from boildown.engine.job import Job
from boildown.engine.layers import layers
from boildown.engine.maker import Maker
from boildown.engine.rung import Rung, parse_rung
from boildown.engine.search import measure_costs
from boildown.errors import Cancelled, DeadlineError, JournalError, contained, in_words
from boildown.journal.rows import AttemptRow
from boildown.methods.base import OVERHEAD, Alike, Method, Pace, Sketching, Timed, by_costs

COSTS = ("size", "params", "macs", "latency", "memory")
_OF_FILES = ("size", "latency", "memory")
"""Those that depend on the runtime."""
FIRST_MODEL = "first"
"""What attempt 0 is called in the place of a rung."""
BESIDE = "beside"
"""The journal's records of what an attempt takes beside its methods."""
WORTH = 0.5
"""Minutes from which on a rung is worth a sketch: climbing a shorter one says more in about the time."""

_TOLERANCE = {"size": 0.02, "params": 0.05, "macs": 0.02, "latency": 0.1, "memory": 0.25}
"""How far a sketch may be off, relative."""
_CLOCK = 0.25
"""The same for a bound in seconds, which drifts with the machine; a ratio is measured side by side."""
_GLANCE = 10.0
"""Seconds that a glance at the clock takes, about."""
_CUT, _FAR, _INSTANT = 1.25, 10.0, 1.0
"""How much longer than it had what was cut is taken to need, how far one attempt corrects a forecast at most, and
seconds below which nothing is learned from one."""
_TIMED = 64
_SHARE = 1 / 20
_MOST_SECONDS = 600.0


@dataclass(frozen=True)
class Forecast:
    """What is expected of a rung.

    rung: with the settings that sketches have found. minutes: from its start to its verdict. costs: measured on the
    sketch, by metric, as far as one was made, or on what costs as much. findings: the target's conditions on them.
    factors: how many times as long as they say its methods take, by what attempts took.
    why: what else is known of what it misses. cut: whether its sketch ran out of time.
    """

    rung: Rung
    minutes: float
    costs: Mapping[str, Measurement] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    factors: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    cut: bool = False

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
        why = f": {self.why}" if self.why else ""
        return f"hopeless by forecast: {self.rung} would have {told}{why}"

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
        more = {"factors": dict(self.factors), "why": self.why, "cut": self.cut}
        told = {name: value for name, value in more.items() if value}
        return {"rung": str(self.rung), "minutes": round(self.minutes, 3), "misses": misses, **told, **figures}


def unknown(rung: Rung) -> Forecast:
    """The forecast of who has measured nothing: the minutes of the cards."""
    return Forecast(rung, rung.minutes)


class Forecaster:
    """Says what rungs will cost: sketches those worth it, journals every forecast and makes none twice.

    beside: seconds that an attempt takes beside its methods, for writing, checking, scoring and timing: what it took
    for the first model, then for the last attempt that was judged. share: of what remains of the budget, the most that
    one forecast takes.
    """

    def __init__(self, maker: Maker, budget: Budget) -> None:
        self._maker, self._budget, self._job = maker, budget, maker.job
        found = {str(r.data["asked"]): from_quote(r.data, self._job) for r in maker.journal.records("forecast")}
        self._known = {asked: forecast for asked, forecast in found.items() if not forecast.cut}
        self._made_before: dict[str, Forecast | None] = {}
        self._factors: dict[str, float] = {}
        for record in maker.journal.records(TOOK):
            self._factors |= record.data["factors"]
        told = [float(record.data["seconds"]) for record in maker.journal.records(BESIDE)]
        self.beside = told[-1] if told else 0.0
        self.share = _SHARE

    def __call__(self, rung: Rung, *, worth: float = WORTH) -> Forecast:
        """What a rung will cost, with the settings that can be found on sketches.

        worth: minutes from which on a sketch is made; a rung that searches on sketches, or trains, is always sketched.
        No sketch is made of what costs as much as something that is known, and so misses. Where a sketch runs out of
        time, what it has measured counts. Raises Cancelled and JournalError; what goes wrong in a sketch is
        journalled, and the rung may be climbed all the same.
        """
        if (known := self._known.get(str(rung))) is not None and (known.costs or worth >= WORTH):
            return self.guess(rung)
        if self._budget.remaining <= 0:  # not kept: with more time a sketch may be made
            return self._timed(unknown(rung))
        found, number, self._maker.number, start = unknown(rung), self._maker.number, None, time.monotonic()
        try:
            with contained():
                found = self.guess(rung)
                if not found.misses and self._worth_a_sketch(found, worth):
                    found = self._sketched(found)
        except (Cancelled, JournalError):
            raise
        except Exception as error:  # noqa: BLE001 - journalled; the attempt will meet it again and tell
            self._maker.journal.record(None, "not forecast", {"rung": str(rung), "why": in_words(error)})
        finally:
            self._maker.number = number
            shutil.rmtree(self._folder, ignore_errors=True)
        took = time.monotonic() - start
        self._maker.journal.record(None, "forecast", {"asked": str(rung), "seconds": took, **found.quote()})
        self._known[str(rung)] = found
        return found

    def guess(self, rung: Rung) -> Forecast:
        """What is known of a rung without a sketch: its time, and the costs that it shares with what was measured."""
        if (made := self._reused(rung)) is not None:
            return made
        if (known := self._known.get(str(rung))) is not None:
            return self._timed(known)
        costs = self._shared(rung)
        return self._timed(Forecast(rung, 0.0, costs, held_against(self._job, costs)))

    def knows(self, rung: Rung) -> bool:
        """Whether a forecast of the rung has come to its end."""
        return str(rung) in self._known and not self._known[str(rung)].cut

    # -- time ----------------------------------------------------------------------------------------

    def making(self, forecast: Forecast) -> float:
        """Seconds that a rung's methods take: by the first model's pace, and by what attempts took before.

        What this run has made already, for whatever runtime, takes none.
        """
        rung = forecast.rung
        left = rung.methods[self._maker.known(rung)[0] :]
        return sum(self._links_of(replace(forecast, rung=replace(rung, methods=left))).values())

    def judged_first(self, seconds: float) -> None:
        """Writing, checking and measuring the first model took so long."""
        self.beside = seconds
        self._maker.journal.record(0, BESIDE, {"seconds": seconds})

    def judged(self, seconds: float) -> None:
        """Writing, checking and measuring an attempt took so long."""
        self.beside = seconds

    def learn(self, number: int, forecast: Forecast, seconds: float, *, cut: bool) -> None:
        """Correct what the methods of a rung are expected to take by what making it took, or more if it was cut.

        Every link's factor moves by its share of what was expected, so that a short one is not blamed for a long one.
        """
        expected = self._links_of(forecast)
        off = seconds * (_CUT if cut else 1.0) / max(sum(expected.values()), _INSTANT)
        if cut and off < 1:
            return
        for name, own in expected.items():
            share = own / max(sum(expected.values()), _INSTANT)
            self._factors[name] = self._factor(name) * min(max(1 + share * (off - 1), 1 / _FAR), _FAR)
        factors = {name: self._factors[name] for name in expected if name in self._factors}
        took = {"seconds": seconds, "expected": sum(expected.values()), "cut": cut, "factors": factors}
        self._maker.journal.record(number, TOOK, took)

    def _factor(self, method: str) -> float:
        """How many times as long as it says a method takes: in this run, else in earlier ones."""
        return self._factors.get(method) or self.earlier.factors.get(method, 1.0)

    def _links_of(self, forecast: Forecast) -> dict[str, float]:
        """Seconds by method."""
        pace, told = replace(self._pace, share=forecast.left), dict[str, float]()
        for method in forecast.rung.methods:
            name, seconds = method.card.name, seconds_of(Rung((method,)), pace)
            told[name] = told.get(name, 0.0) + self._factor(name) * seconds
        return told

    def _timed(self, forecast: Forecast) -> Forecast:
        """A forecast with the minutes that it takes by all that is known now."""
        seconds = self.beside + self._links(forecast.rung) + self.making(forecast)
        names = (method.card.name for method in forecast.rung.methods)
        factors = {name: round(self._factor(name), 3) for name in names if self._factor(name) != 1.0}
        return replace(forecast, minutes=seconds / 60, factors=factors)

    def _links(self, rung: Rung) -> float:
        """Seconds to measure every link of a chain but the last: its outputs on the search samples, and a glance."""
        glance = _GLANCE if self._job.is_about("latency") else 0.0
        return (len(rung.methods) - 1) * (glance + 2 * len(self._job.splits.search) * self._pace.forward)

    @cached_property
    def _pace(self) -> Pace:
        with self._maker.bench.timed("apply"):
            return pace_of(self._job, self._maker.first, self._maker.check)

    # -- what is known already -----------------------------------------------------------------------

    @property
    def record(self) -> Callable[[str, Mapping[str, Any]], None]:
        """Journals something."""
        return self._maker.record

    @cached_property
    def earlier(self) -> Earlier:
        """What runs before this one teach; nothing where nothing of them is to be used."""
        maker = self._maker
        if maker.fresh:
            return Earlier()
        kind, runtime = type(maker.first.model).__name__, self._job.deployment.first
        return earlier_runs(maker.runs, maker.first_key, kind, runtime, maker.folder)

    def _reused(self, rung: Rung) -> Forecast | None:
        """What was found by an earlier run that has made the rung: it is not made again."""
        if str(rung) not in self._made_before:
            donor = self._maker.donor(self._maker.keys(rung)[0])
            told = donor is not None and "rung" in donor[1].quote
            self._made_before[str(rung)] = self._told_there(rung, donor[1]) if donor is not None and told else None
        found = self._made_before[str(rung)]
        return None if found is None else replace(found, minutes=self.beside / 60)

    def _told_there(self, rung: Rung, row: AttemptRow) -> Forecast:
        """What an earlier run has told of a rung; of its files only where they ran in this run's first runtime."""
        found, runtime = from_quote(row.quote, self._job), None if row.artifact is None else row.artifact.runtime
        if (rung.runtime, found.rung.runtime, runtime) == ("", "", self._job.deployment.first):
            return found
        costs = {metric: cost for metric, cost in found.costs.items() if metric not in _OF_FILES}
        settled = replace(found.rung, runtime=rung.runtime)
        return replace(found, rung=settled, costs=costs, findings=held_against(self._job, costs))

    @property
    def _folder(self) -> Path:
        return self._maker.folder / "forecasts"

    def _worth_a_sketch(self, guess: Forecast, worth: float) -> bool:
        """Whether it would tell more than what costs as much has told, and that is worth it."""
        rung, asked = guess.rung, {metric for metric in COSTS if self._job.is_about(metric)}
        open_ = asked - guess.costs.keys() or (asked and any(by_costs(method) for method in rung.methods))
        return bool(open_) and sketchable(rung) and long_enough(rung, worth) and self._maker.refusal(rung) is None

    def _shared(self, rung: Rung) -> dict[str, Measurement]:
        """The costs of a rung that those of another say, by what its methods say they share."""
        others = {metric: other for metric in COSTS if (other := shared(rung, metric)) is not None}
        if not others:
            return {}
        found = dict[str, Mapping[str, Measurement]]()
        for row in self._maker.journal.attempts():
            if row.verdict is not None:
                measured = Verdict.from_json(row.verdict).measurements
                found |= dict.fromkeys((row.rung, str(row.quote.get("rung", row.rung))), measured)
        sketched = {str(f.rung): f.costs for f in self._known.values()}
        known = {asked: forecast.costs for asked, forecast in self._known.items()} | sketched | found
        costs = {metric: known.get(other, {}).get(metric) for metric, other in others.items()}
        return {metric: cost for metric, cost in costs.items() if cost is not None}

    # -- sketches ----------------------------------------------------------------------------------------

    def _sketched(self, guess: Forecast) -> Forecast:
        """A forecast with the settings that sketches settle, and what the sketch of those costs."""
        maker, bench, exports = self._maker, self._maker.bench, self._maker.folder / "exports"
        before, rung, cut = set(exports.glob("*")), guess.rung, False
        ended, costs = len(maker.journal.records(OVERHEAD)), dict[str, Measurement]()
        # However many rungs are open, sketches leave most of the budget to the climbing.
        maker.end = time.monotonic() + min(_MOST_SECONDS, max(1.0, self._budget.remaining * self.share))
        try:
            with bench.timed("apply"):
                rung = maker.settle(rung, self._folder, sketched=True)
                costs |= maker.sketched.get(str(rung), {})
                candidate = None if costs else maker.make(rung, self._folder / "settled", sketched=True)
            if candidate is not None:
                timed = self._job.is_about("latency")
                measure_costs(
                    candidate, self._folder / "settled", maker.first, self._job, bench,
                    runtime=rung.runtime, timed=timed, found=costs,
                )  # fmt: skip
        except DeadlineError:
            cut = True
        finally:
            maker.end = math.inf
            for path in set(exports.glob("*")) - before:
                shutil.rmtree(path)
        told = frozenset[str](COSTS).intersection(*(method.card.sketched for method in rung.methods))
        costs = dict(guess.costs) | {metric: found for metric, found in costs.items() if metric in told}
        levels = maker.journal.records(OVERHEAD)[ended:]
        why = self._overhead(levels[-1].data) if levels else ""
        return self._timed(Forecast(rung, 0.0, costs, held_against(self._job, costs), why=why, cut=cut))

    def _overhead(self, found: Mapping[str, Any]) -> str:
        count = len(layers(self._maker.bench.graph(self._maker.first), None))
        return f"latency no longer falls below {found['latency']:.2g}x, what remains is overhead of {count} layers"


def _tolerance(condition: Condition) -> float:
    followed = FOLLOWS.get(condition.metric, condition.metric)
    if followed == "latency" and condition.form != "ratio":
        return _CLOCK
    return _TOLERANCE.get(followed, 0.0)


def long_enough(rung: Rung, worth: float = WORTH) -> bool:
    """Whether climbing takes more minutes than `worth`, or the rung trains or has a search that sketches shorten."""
    return rung.minutes >= worth or any(by_costs(method) or method.card.trains for method in rung.methods)


def shared(rung: Rung, metric: str) -> str | None:
    """The rung that costs no more than this one by what its methods say of themselves; None where they say nothing."""
    links: list[Method] = []
    for position, method in enumerate(rung.methods):
        costs: Mapping[Any, str] = method.costs_as(behind=position > 0) if isinstance(method, Alike) else {}
        links += parse_rung(costs[metric]).methods if costs.get(metric) else () if metric in costs else (method,)
    if tuple(links) == rung.methods or (not links and rung.runtime and metric in _OF_FILES):
        return None
    return str(replace(rung, methods=tuple(links))) if links else FIRST_MODEL


def sketchable(rung: Rung) -> bool:
    """Whether every link of a rung can be sketched."""
    return all(isinstance(method, Sketching) for method in rung.methods)


def seconds_of(rung: Rung, pace: Pace) -> float:
    """How long the rung's methods take, by what they say of themselves, else by their cards."""
    return sum(m.duration(pace) if isinstance(m, Timed) else 60 * m.card.minutes for m in rung.methods)


def held_against(job: Job, costs: Mapping[str, Measurement]) -> tuple[Finding, ...]:
    """The target's conditions on the costs that are known."""
    known = {**costs, **stood_in(costs, job.deployment.batch)}
    conditions = tuple(c for c in job.target.conditions if c.metric in known and c.metric not in job.quality)
    return judge(replace(job.target, conditions=conditions), known).findings


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
    told = {"factors": quote.get("factors", {}), "why": quote.get("why", ""), "cut": bool(quote.get("cut"))}
    return Forecast(parse_rung(quote["rung"]), quote["minutes"], costs, held_against(job, costs), **told)
