"""Following a run from elsewhere, by reading its journal only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from boildown.domain.measurement import Measurement
from boildown.domain.outcome import State
from boildown.domain.verdict import Verdict
from boildown.journal.journal import Journal, readable
from boildown.journal.rows import AttemptRow, Ending

Event = tuple[str, Mapping[str, Any]]

_SILENCE = 60.0  # seconds after its last sign of life in which a run of another machine is taken to be at work


@dataclass(frozen=True)
class Attempt:
    """One attempt as the journal knows it, for who shows events."""

    number: int
    rung: str
    state: State
    sentence: str
    verdict: Verdict | None
    quote: Mapping[str, Any]

    @property
    def measurements(self) -> Mapping[str, Measurement]:
        """By metric; none without a verdict."""
        return {} if self.verdict is None else self.verdict.measurements


class Follower:
    """Tells what is new in a run as the events that the run itself tells.

    After every `look`: `facts` of the run, `ending` if it has ended, and whether it is `working`. The run is read
    only, and never waits for who follows it.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = folder, clock
        self.facts: dict[str, Any] = {}
        self.ending: Ending | None = None
        self.working = True
        self._known: dict[int, tuple[State, str]] = {}
        self._now: Any = None

    def look(self) -> Iterator[Event]:
        """What happened since the last look. Raises JournalError if the journal cannot be read."""
        with Journal.open(self.folder, readonly=True) as journal, readable(self.folder):
            writer = journal.writer
            self.facts, rows, ending = journal.facts, journal.attempts(), journal.ending
            now = self.facts.get("now") or {}
            seen = float(now.get("at", 0.0))
            over = ending is not None and datetime.fromisoformat(ending.at).timestamp() >= seen
            self.ending = ending if over else None
            self.working = writer is not None or (not over and self._clock() - seen < _SILENCE)
            for row in rows:
                yield from self._told(row)
            if now and now != self._now and self.working:
                self._now = now
                total = None if now["total"] is None else int(now["total"])
                left = _left(now, self._clock())
                yield "step", {"what": str(now["what"]), "done": int(now["done"]), "total": total, "left": left}

    def _told(self, row: AttemptRow) -> Iterator[Event]:
        known = self._known.get(row.number)
        if known == (row.state, row.sentence):
            return
        verdict = None if row.verdict is None else Verdict.from_json(row.verdict)
        attempt = Attempt(row.number, row.rung, row.state, row.sentence, verdict, row.quote)
        if known is None or known[0] is not State.RUNNING:
            gone = self._clock() - datetime.fromisoformat(row.started).timestamp()
            yield "attempt", {"attempt": attempt, "gone": gone}
        if row.state is not State.RUNNING:
            yield "verdict", {"attempt": attempt}
        self._known[row.number] = row.state, row.sentence


def _left(now: Mapping[str, Any], at: float) -> float | None:
    """What is left of the budget, the time since it was told taken off."""
    return None if now.get("left") is None else float(now["left"]) - max(0.0, at - float(now["at"]))
