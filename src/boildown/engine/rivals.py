"""Rival runtimes: in which of those that a deployment names a rung is climbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from boildown.domain.candidate import Plan
from boildown.domain.deployment import written_form
from boildown.engine.job import Job
from boildown.engine.rung import Rung
from boildown.errors import InputError, Mistake
from boildown.methods.base import Quantizing, quantizes
from boildown.runtimes import formed, get, names
from boildown.runtimes.base import Runtime

_OF_RUNTIMES = ("latency", "memory")
"""The costs that a runtime decides, whatever is in the file."""


def rivals(rung: Rung, job: Job) -> tuple[Rung, ...]:
    """A rung for every runtime in which it may gain, the first before others; for one alone where it names that."""
    first, *others = job.deployment.runtimes
    if rung.runtime:
        return (replace(rung, runtime="" if rung.runtime == first else rung.runtime),)
    return (rung, *(replace(rung, runtime=name) for name in others if may_gain(rung, name, job)))


def may_gain(rung: Rung, runtime: str, job: Job) -> bool:
    """Whether a runtime that is not the first may make something better of a rung.

    Where time or memory counts, of all that it can write; else of what it quantizes by rules of its own.
    """
    deployment = job.deployment
    before = deployment.runtimes[: deployment.runtimes.index(runtime)]
    own = job.rules_of(runtime) not in map(job.rules_of, before)
    if not (own and any(map(quantizes, rung.methods))) and not any(map(job.is_about, _OF_RUNTIMES)):
        return False
    return refusal(rung, get(runtime), written_form(deployment.form, deployment.runtime)) is None


def refusal(rung: Rung, runtime: Runtime, form: str) -> str | None:
    """Why a runtime cannot write what the methods of a rung make in a form, in words; None where it may."""
    for method in rung.methods:
        outline = method.outline() if isinstance(method, Quantizing) else None
        plan, rewrite = (outline, None) if isinstance(outline, Plan) else (None, outline)
        if (reason := runtime.refuses(plan, rewrite, **formed(runtime, form))) is not None:
            return f"{method.card.name} does not apply: {reason}"
    return None


def check_named(rungs: Sequence[Rung], runtimes: Sequence[str]) -> None:
    """Raise InputError for every rung that is for a runtime which is none of these."""
    mistakes = []
    for rung in rungs:
        if rung.runtime in ("", *runtimes):
            continue
        if rung.runtime in names():
            cause = f"The rung {str(rung)!r} is for {rung.runtime}, and the run for {', '.join(runtimes)}."
            cure = f"Name both: runtime=[{', '.join(map(repr, (*runtimes, rung.runtime)))}]. Or leave the @ out."
        else:
            cause = f"The rung {str(rung)!r} is for {rung.runtime!r}, and there is no such runtime."
            cure = f'Write "method + method @ runtime", the runtime at the end. There are: {", ".join(names())}.'
        mistakes.append(Mistake(cause, cure))
    if mistakes:
        raise InputError(*mistakes)
