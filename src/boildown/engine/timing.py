"""What a verdict says of the machine: when a latency is timed a second time, and never a third."""

from __future__ import annotations

from collections.abc import Mapping

from boildown.domain.artifact import Artifact
from boildown.domain.measurement import Measurement
from boildown.domain.verdict import Status, judge
from boildown.engine.bench import Bench
from boildown.engine.costs import of_calls
from boildown.engine.job import Job

LOOKS = 2
"""How often an artifact is timed for a verdict at most; what was chosen by a timing is timed once more."""


def of_the_machine(
    job: Job, bench: Bench, artifact: Artifact, found: Mapping[str, Measurement]
) -> dict[str, Measurement]:
    """The figures of a verdict that hold for this machine, as far as they are asked for; `found`: the others."""
    own: dict[str, Measurement] = {}
    if job.asks("latency"):
        own["latency"] = bench.latency(artifact)
        if in_doubt(job, {**found, **own}):
            own["latency"] = bench.latency(artifact, look=2)
    if job.asks("memory"):
        own["memory"] = bench.memory(artifact)
    return own | of_calls(job, bench, artifact)


def in_doubt(job: Job, found: Mapping[str, Measurement]) -> bool:
    """Whether the first look at the latency leaves open what nothing else that was measured speaks against.

    Open is what is undecided, and what could be luck: a bound missed by luck as much as one met by luck.
    """
    latency = found.get("latency")
    if latency is None or not 1 <= latency.look < LOOKS:
        return False
    timed = [f for f in judge(job.target, found, job.confidence).findings if f.condition.metric == "latency"]
    open_ = [finding.lucky or finding.status is Status.UNDECIDED for finding in timed]
    others = [f for f in judge(job.target, found).findings if f.condition.metric != "latency"]
    against = [finding for finding in others if finding.status is Status.MISSED]
    return any(open_) and not against and not any(f.status is Status.MISSED and not f.lucky for f in timed)
