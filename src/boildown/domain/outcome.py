"""How a run ends, and how an attempt stands."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """How a run ended. The value is the sentence that says what to try next."""

    TARGET_MET = "The target is met: the artifact in best/ can be deployed."
    TARGET_MISSED = (
        "Every rung was climbed and none met the target: relax the condition named as the cheapest "
        "relaxation, give training data, or add rungs."
    )
    UNDECIDED = (
        "The conditions hold as measured, but not with the confidence asked for: give more "
        "validation samples, or ask for less confidence."
    )
    OUT_OF_BUDGET = (
        "The budget ended before a rung met the target: resume the run with a larger budget; "
        "nothing finished is done again."
    )
    CANCELLED = "The run was stopped: `boildown resume` goes on where it stood."

    @property
    def sentence(self) -> str:
        """What to try next."""
        return self.value


class State(Enum):
    """The state of an attempt."""

    RUNNING = "running"
    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"
    SKIPPED = "skipped"
    FAILED = "failed"

    @property
    def finished(self) -> bool:
        """Whether the attempt will never be climbed again."""
        return self is not State.RUNNING
