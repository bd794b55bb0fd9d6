"""Which rung comes next, and why: fixed ladders, and `auto`, which reads cards and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from boildown.domain.outcome import State
from boildown.engine.attempt import Attempt
from boildown.engine.diagnosis import diagnose
from boildown.engine.job import Job
from boildown.engine.rung import Rung, parse_rung, parse_rungs
from boildown.errors import InputError
from boildown.methods.registry import installed

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


AGAIN = "again, with more time"
"""The reason for an attempt that climbs an earlier one's rung once more."""


class Ladder(Protocol):
    """Rungs in order, decided as attempts come in."""

    def next(self, attempts: Sequence[Attempt]) -> tuple[Rung, str] | None:
        """The next rung and the reason for it in a sentence, or None at the top."""
        ...


class Fixed:
    """The user's rungs in the user's order."""

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self.rungs = tuple(rungs)

    def next(self, attempts: Sequence[Attempt]) -> tuple[Rung, str] | None:
        """The rung after those attempted."""
        done = sum(attempt.reason != AGAIN for attempt in attempts[1:])
        if done >= len(self.rungs):
            return None
        return self.rungs[done], f"rung {done + 1} of {len(self.rungs)} of the ladder given"


class Auto:
    """Every installed method that lowers something the target asks for, cheapest first.

    After a miss the method whose card answers the miss best comes next; ties keep the cards' order.
    Settings that compress harder are climbed only where a gentler method of their kind missed a cost.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        asked = {condition.metric for condition in job.target.conditions} - job.quality
        suited = [method for method in installed().values() if not asked or asked & set(method.card.lowers)]
        self._usual = [Rung((method(),)) for method in suited]
        self._harder = [Rung((method(**method.card.harder),)) for method in suited if method.card.harder]

    def next(self, attempts: Sequence[Attempt]) -> tuple[Rung, str] | None:
        """The open rung that answers the last verdict best."""
        tried = {attempt.rung for attempt in attempts}
        judged = [a for a in attempts[1:] if a.state is State.MISSED and a.verdict is not None]
        if not judged:
            left = [rung for rung in self._usual if str(rung) not in tried]
            return (left[0], "the cheapest method that lowers what the target asks for") if left else None
        last = judged[-1]
        assert last.verdict is not None
        diagnosis, card = diagnose(last.verdict, self._job.quality), parse_rung(last.rung).methods[-1].card
        scores = {rung: diagnosis.suits(rung.methods[-1].card, card) for rung in self._usual}
        if diagnosis.lower:
            scores |= {
                rung: diagnosis.suits(rung.methods[-1].card, card) + 1
                for rung in self._harder
                if card.name in (rung.methods[-1].card.name, *rung.methods[-1].card.recovers)
            }
        left = [rung for rung in scores if str(rung) not in tried]
        if not left:
            return None
        return max(left, key=lambda rung: scores[rung]), f"after {last.rung}: {diagnosis.sentence}"


def ladder(given: str | Sequence[str | Mapping[str, Any]], job: Job) -> Ladder:
    """`"auto"`, a ready ladder's name, one rung, or a list of rungs.

    Raises InputError with the mistakes of all rungs.
    """
    if given == "auto":
        return Auto(job)
    return Fixed(fixed_rungs(given))


def fixed_rungs(given: str | Sequence[str | Mapping[str, Any]]) -> tuple[Rung, ...]:
    """The rungs of a ladder that is not `auto`."""
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
    return parse_rungs(given)
