"""How a run ends, and how an attempt stands."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """How a run ended. The value is the sentence that says what to try next."""

    TARGET_MET = "The target is met: the artifact in best/ can be deployed."
    TARGET_MISSED = (
        "Every rung was climbed and none met the target: relax a condition, give training data if the "
        "task has none, or add rungs."
    )
    UNDECIDED = (
        "No rung is proven to meet the target with the confidence asked for, and at least one is not "
        "proven to miss it: give more validation samples, or ask for less confidence."
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
