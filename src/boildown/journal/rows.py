"""What the journal gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from boildown.domain.artifact import Artifact
from boildown.domain.outcome import Outcome, State

LATENCY, FASTEST = "latency of ", "latency of the fastest"
"""What looks at the clock are looks at: an artifact, by the hash behind it, or whatever was chosen as the fastest."""


@dataclass(frozen=True)
class AttemptRow:
    """One attempt as the journal knows it. Times are UTC, ISO 8601.

    `reason` says why this rung was chosen, `sentence` how it ended. An attempt whose process was
    killed is still RUNNING. `artifact` lies where the run folder has been moved to.
    """

    number: int
    rung: str
    reason: str = ""
    parent: str | None = None
    candidate_key: str | None = None
    quote: Mapping[str, Any] = field(default_factory=dict)
    state: State = State.RUNNING
    started: str = ""
    ended: str | None = None
    sentence: str = ""
    verdict: Mapping[str, Any] | None = None
    candidate: Mapping[str, Any] | None = None
    artifact: Artifact | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """One look of an attempt: the `k`-th at verdict samples of this fingerprint, or at the clock."""

    attempt: int
    data: str
    k: int
    at: str

    @property
    def timed(self) -> bool:
        """Whether it was at the clock."""
        return self.data.startswith(LATENCY)


@dataclass(frozen=True)
class Record:
    """Something worth keeping, of a kind that only its writer and the report know."""

    attempt: int | None
    kind: str
    data: Mapping[str, Any]
    at: str


@dataclass(frozen=True)
class Ending:
    """How a run ended; one that is resumed ends again. `seconds` are of all sittings."""

    outcome: Outcome
    best_attempt: int | None
    sentence: str
    seconds: float
    at: str
