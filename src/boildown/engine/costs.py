"""Costs that are measured only where they are asked for: tails, throughput, loading, planned memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from boildown.domain.artifact import Artifact
from boildown.domain.measurement import Form, Interval, Measurement
from boildown.engine.job import Job
from boildown.execution.quiet import quiet
from boildown.measuring import loading, tails

if TYPE_CHECKING:
    from boildown.engine.bench import Bench

OF_CALLS = (*tails.QUANTILES, tails.THROUGHPUT)
"""The costs that single calls tell, beside the median of `latency`."""
LOAD_TIME, PLANNED = "load time", "planned memory"

SECONDS, GLANCE = 30.0, 5.0
"""The most that timing calls takes which has bounds to decide, and what it takes else; more where calls are too few."""
_NOT_ALONE = "other runs may have computed meanwhile: files cannot be locked here"


def of_the_file(job: Job, bench: Bench, artifact: Artifact, plain: int | None = None) -> dict[str, Measurement]:
    """What the files of an artifact say themselves: their size, and the memory that they plan where it is asked for."""
    found = {"size": bench.size(artifact, plain)}
    if job.asks(PLANNED):
        found |= bench.apart((PLANNED,), artifact, lambda call: {PLANNED: _planned(bench, artifact, call)})
    return found


def of_calls(job: Job, bench: Bench, artifact: Artifact) -> dict[str, Measurement]:
    """Tails, throughput and load time of an artifact on this machine, those that are asked for, beside the first's."""
    found: dict[str, Measurement] = {}
    if asked := tuple(metric for metric in OF_CALLS if job.asks(metric)):
        bounds = {metric: found_in for metric in asked if (found_in := _bounds(job, metric))}
        found |= bench.apart(
            asked, artifact, lambda call: _tails(bench, artifact, asked, bounds, call), bounds=bounds, level=job.level
        )
    if job.asks(LOAD_TIME):
        found |= bench.apart(
            (LOAD_TIME,), artifact, lambda call: {LOAD_TIME: _loaded(bench, artifact, call)}, level=job.level
        )
    return {name: beside_itself(m) for name, m in found.items()} if bench.is_first(artifact) else found


def stood_in(found: Mapping[str, Measurement], batch: int) -> dict[str, Measurement]:
    """What a glance at the median lets expect of costs that follow it, for a search, where they are not measured."""
    latency = found.get("latency")
    if latency is None or latency.value <= 0:
        return {}
    ratio = latency.ratio
    guesses = {name: Measurement(name, latency.value, "s", ratio=ratio) for name in tails.QUANTILES}
    rate = Measurement(tails.THROUGHPUT, batch / latency.value, "samples/s", ratio=1 / ratio if ratio else None)
    return {name: guess for name, guess in {**guesses, rate.metric: rate}.items() if name not in found}


def in_company(found: Measurement, still: Any) -> Measurement:
    """A timing that says what else computed meanwhile, as `still` has seen it."""
    beside = still.beside and f"timed while other work ran beside it: {still.beside}"
    notes = () if still.alone else (beside or _NOT_ALONE,)
    return replace(found, notes=(*found.notes, *notes), alone=not beside)


def beside_itself(measurement: Measurement) -> Measurement:
    """A timing of the first model beside itself: its ratio is 1, whatever the clock says."""
    intervals: dict[Form, Interval] = {f: i for f, i in measurement.intervals.items() if f != "ratio"}
    return replace(measurement, ratio=None if measurement.ratio is None else 1.0, intervals=intervals)


def _bounds(job: Job, metric: str) -> dict[Form, float]:
    forms: tuple[Form, ...] = ("value", "ratio")
    return {form: bound for form in forms if (bound := job.bound(metric, form)) is not None}


def _tails(
    bench: Bench,
    artifact: Artifact,
    asked: Sequence[str],
    bounds: Mapping[str, Mapping[Form, float]],
    call: Callable[..., Any],
) -> dict[str, Measurement]:
    deployment = bench.job.deployment
    assert bench.first is not None
    with quiet(bench.check) as still:
        bench.progress("time single calls", 0, None)
        told = call(
            "boildown.measuring.tails:compare_calls",
            str(bench.first.path), str(artifact.path), bench.sample(deployment.batch), asked, bounds,
            batch=deployment.batch, runtime=artifact.runtime, first_runtime=bench.first.runtime,
            threads=deployment.threads, level=bench.job.level,
            seconds=SECONDS if bounds else GLANCE, trust=bench.trust, doing="timing calls",
        )  # fmt: skip
    return {name: in_company(Measurement.from_json(data), still) for name, data in told.items()}


def _loaded(bench: Bench, artifact: Artifact, call: Callable[..., Any]) -> Measurement:
    level, threads = bench.job.level, bench.job.deployment.threads
    assert bench.first is not None
    seconds: dict[str, list[float]] = {"first": [], "own": []}
    count = loading.times(level)
    with quiet(bench.check) as still:
        for turn in range(count + 1):
            for whose, which in (("first", bench.first), ("own", artifact)):
                bench.progress("time loading", turn, count + 1)
                took = call(
                    "boildown.measuring.loading:load", str(which.path), which.runtime, threads, bench.trust,
                    doing="loading",
                )  # fmt: skip
                if turn:  # the first time brings the files into memory
                    seconds[whose].append(took)
    found = loading.summarise(seconds["first"], seconds["own"], level)
    return in_company(found, still)


def _planned(bench: Bench, artifact: Artifact, call: Callable[..., Any]) -> Measurement:
    assert bench.first is not None
    inputs = bench.sample(bench.job.deployment.batch)
    first, own = (
        float(call("boildown.measuring.planned:planned", str(which.path), inputs, doing="planning memory"))
        for which in (bench.first, artifact)
    )
    ratio = own / first if first else None
    return Measurement(PLANNED, own, "B", first=first, drop=own - first, ratio=ratio, samples=1)
