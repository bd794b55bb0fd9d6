"""Driving a method that chooses its settings by measurement of the exported file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path

from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.measurement import Measurement
from boildown.domain.target import Target
from boildown.domain.verdict import Status, judge
from boildown.engine.bench import Bench
from boildown.engine.costs import of_the_file, stood_in
from boildown.engine.job import Job
from boildown.engine.rung import Rung
from boildown.errors import AttemptError, DeadlineError, disk_is_full
from boildown.methods.base import Method, Search, Standing
from boildown.surgery.weights import weights_hash

IMPOSSIBLE = Standing(size=inf, latency=inf, divergence=inf, excess=inf, accepted=False)
"""How a variant stands that a method cannot make: nothing to take out so gently, for one."""


@dataclass(frozen=True)
class Variant:
    """One rung with all settings fixed, made and measured in a folder of its own."""

    rung: Rung
    folder: Path
    standing: Standing


def search(searching: Search, make: Callable[[Method], Variant], record: Callable[[Variant], None]) -> Method:
    """Make and measure what the method yields until it says which variant to keep.

    A variant yielded twice is made once; one that cannot be made stands last.
    """
    made: dict[Method, Standing] = {}
    try:
        method = next(searching)
        while True:
            if method not in made:
                try:
                    variant = make(method)
                except DeadlineError:
                    raise
                except AttemptError as error:
                    if disk_is_full(error):
                        raise
                    made[method] = IMPOSSIBLE
                else:
                    record(variant)
                    made[method] = variant.standing
            method = searching.send(made[method])
    except StopIteration as end:
        kept: Method = end.value
    return kept


def measure_variant(
    candidate: Candidate, folder: Path, first: Candidate, job: Job, bench: Bench,
    scored: Callable[[Standing], bool] = lambda _: True, *, runtime: str = "",
) -> Standing:  # fmt: skip
    """Write the artifact of a variant and measure what a search looks at: a glance, no verdict samples.

    scored: whether its quality is still worth a look, once its costs are known. runtime: as in `Bench.write`.
    """
    artifact, costs = measure_costs(candidate, folder, first, job, bench, runtime=runtime, timed=True)
    standing = standing_of(job, costs)
    if not scored(standing):
        return standing
    divergence = bench.divergence(candidate, artifact, first)
    accepted = None
    if job.splits.search_labelled:
        quality = {m.metric: m for m in bench.quality(candidate, artifact, "search", first=first)}
        accepted = _accepted(job, quality)
    return replace(standing, divergence=divergence.value, accepted=accepted)


def measure_costs(
    candidate: Candidate, folder: Path, first: Candidate, job: Job, bench: Bench, *, timed: bool,
    runtime: str = "", found: dict[str, Measurement] | None = None,
) -> tuple[Artifact, dict[str, Measurement]]:  # fmt: skip
    """Write the artifact of a candidate and measure what it costs; timed: with a glance at the clock.

    found: what is measured is put in here, one after the other, and stays where time runs out in between. runtime: as
    in `Bench.write`.
    """
    found = {} if found is None else found
    found |= {m.metric: m for m in bench.operations(candidate, first)}
    artifact, _ = bench.write(candidate, weights_hash(candidate.model), folder, runtime)
    found |= of_the_file(job, bench, artifact)
    if timed:
        found["latency"] = bench.latency(artifact, purpose="search")
    if job.asks("memory"):
        found["memory"] = bench.memory(artifact)
    return artifact, found


def standing_of(job: Job, found: Mapping[str, Measurement]) -> Standing:
    """How a variant stands by its costs alone."""
    latency = {"latency": _at_worst(found["latency"])} if "latency" in found else {}
    known = {**found, **latency}
    known |= stood_in(known, job.deployment.batch)
    costs = judge(_part(job.target, known), known)
    return Standing(
        size=found["size"].ratio or 1.0,
        latency=found["latency"].ratio or 1.0 if latency else inf,
        divergence=inf,
        excess=costs.excess if costs.findings else 0.0,
    )


def _at_worst(measurement: Measurement) -> Measurement:
    """The far end of a noisy measurement: a glance must not choose what a long look rejects."""
    ends = {form: interval.high for form, interval in measurement.intervals.items() if isfinite(interval.high)}
    return replace(measurement, value=ends.get("value", measurement.value), ratio=ends.get("ratio", measurement.ratio))


def _accepted(job: Job, found: Mapping[str, Measurement]) -> bool:
    """Whether the conditions on quality are met, as far as the search's samples tell."""
    findings = judge(_part(job.target, found), found).findings
    return all(finding.status is Status.MET or finding.by_chance for finding in findings)


def _part(target: Target, found: Mapping[str, Measurement]) -> Target:
    """The conditions that have been measured."""
    return replace(target, conditions=tuple(c for c in target.conditions if c.metric in found))
