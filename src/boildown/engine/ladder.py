"""Which rung comes next: the user's own ladders, ready ones, and `auto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from boildown.engine.attempt import AGAIN, Attempt
from boildown.engine.auto import Auto, Knowledge
from boildown.engine.forecast import Forecaster
from boildown.engine.job import Job
from boildown.engine.rivals import check_named, rivals
from boildown.engine.rung import Rung, parse_rung, parse_rungs
from boildown.errors import InputError

LADDERS: dict[str, tuple[str, ...]] = {
    "quick": ("quantize-static",),
    "post-training": (
        "quantize-dynamic",
        "quantize-static",
        "quantize-mixed",
        "learned-rounding",
        "learned-rounding(bits=4)",
    ),
}
"""Ready ladders by name."""


class Ladder(Protocol):
    """Rungs in order, decided as attempts come in.

    skips: whether rungs are left out that must miss a cost by forecast. rungs: what it may climb, in order, as far
    as that is known before any verdict.
    """

    skips: bool

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """What it may climb."""
        ...

    def next(self, attempts: Sequence[Attempt]) -> tuple[Rung, str] | None:
        """The next rung and the reason for it in a sentence, or None at the top."""
        ...

    def ends(self, attempts: Sequence[Attempt]) -> bool:
        """Whether no other rung comes after the next one."""
        ...


class Fixed:
    """The user's rungs in the user's order; forecasts only warn."""

    skips = False

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self._rungs = tuple(rungs)

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """All of them."""
        return self._rungs

    def next(self, attempts: Sequence[Attempt]) -> tuple[Rung, str] | None:
        """The rung after those attempted."""
        done = sum(attempt.reason != AGAIN for attempt in attempts[1:])
        if done >= len(self.rungs):
            return None
        return self.rungs[done], f"rung {done + 1} of {len(self.rungs)} of the ladder given"

    def ends(self, attempts: Sequence[Attempt]) -> bool:
        """Whether the next one is the last."""
        return sum(attempt.reason != AGAIN for attempt in attempts[1:]) + 1 >= len(self.rungs)


def ladder(given: str | Sequence[str | Mapping[str, Any]], job: Job, forecaster: Forecaster | None = None) -> Ladder:
    """`"auto"`, a ready ladder's name, one rung, or a list of rungs.

    forecaster: what `auto` asks about rungs that it has to choose among.

    Where the deployment names several runtimes, rungs that name none are climbed in each in which they may gain. Raises
    InputError with the mistakes of all rungs.
    """
    if given == "auto":
        if forecaster is None:
            return Auto(job)
        return Auto(job, Knowledge(forecaster, forecaster.guess, lambda: forecaster.earlier, forecaster.record))
    asked = fixed_rungs(given, job.deployment.runtimes)
    found = [rival for rung in asked for rival in rivals(rung, job)]
    return Fixed(found if len(found) == len(asked) else tuple(dict.fromkeys(found)))


def fixed_rungs(given: str | Sequence[str | Mapping[str, Any]], runtimes: Sequence[str]) -> tuple[Rung, ...]:
    """The rungs of a ladder that is not `auto`, for no other than these runtimes."""
    if isinstance(given, str) and given in LADDERS:
        given = LADDERS[given]
    elif isinstance(given, str):
        try:
            given = (str(parse_rung(given)),)
        except InputError as error:
            known = ", ".join(["auto", *LADDERS])
            raise InputError.of(
                f"The ladder {given!r} is neither a ready ladder nor a rung.",
                f"Ready ladders: {known}. Or give rungs in order. {error.mistakes[0].cause}",
            ) from None
    rungs = parse_rungs(given)
    check_named(rungs, runtimes)
    return rungs
