"""Which rung is next: what climbing each is expected to gain per minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from boildown.domain.front import GOALS
from boildown.engine.attempt import Attempt
from boildown.engine.experience import Earlier
from boildown.engine.forecast import Forecast
from boildown.engine.job import Job
from boildown.engine.rung import Rung

CHOICE = "choice"
"""The journal's records of why a rung was climbed next."""

_NOISE = {"size": 0.01, "latency": 0.03}
"""What a cost has to be lower by, at least, to count as lower."""
_PRIOR = 2
"""The attempts of earlier runs that count as much as what is thought without any."""
_BLIND = 0.5
"""What is gained of the goal's cost where nobody knows."""
_LEAST_MINUTES = 0.02


@dataclass(frozen=True)
class Option:
    """A rung that may be next, with the reason for it.

    chance: that it meets the target, before anything is known of its costs. shrinks: whether the share of the network
    that its sketch keeps says it better.
    """

    rung: Rung
    reason: str
    chance: float
    shrinks: bool = False


@dataclass(frozen=True)
class Expected:
    """What is expected of an option.

    chance: that it meets what is asked, by its costs, what is left of the network, and earlier runs, of which `met` of
    `of` tries would have met. gain: how much of what is wanted that would be, 1 where the first model that meets the
    target is all.
    """

    option: Option
    forecast: Forecast
    chance: float
    gain: float
    met: int = 0
    of: int = 0

    @property
    def rate(self) -> float:
        """The expected gain per minute."""
        return self.chance * self.gain / max(self.forecast.minutes, _LEAST_MINUTES)

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        figures = {"minutes": self.forecast.minutes, "chance": self.chance, "gain": self.gain, "per minute": self.rate}
        earlier = {"earlier runs": f"{self.met} of {self.of}"} if self.of else {}
        return {"rung": str(self.option.rung), **{name: round(v, 4) for name, v in figures.items()}, **earlier}


def expect(option: Option, forecast: Forecast, job: Job, best: float | None, earlier: Earlier) -> Expected:
    """What is expected of an option by its forecast; `best`: the lowest of the goal's cost that has met the target."""
    chance = forecast.left if option.shrinks and forecast.costs else option.chance
    met, of = earlier.held(str(option.rung), job.target)
    chance = (_PRIOR * chance + met) / (_PRIOR + of)
    if forecast.misses:
        chance = 0.0
    gain = 1.0
    if job.goal in GOALS:
        cost = _cost(forecast, GOALS[job.goal])
        gain = _BLIND if cost is None else max(0.0, 1 - cost / (best or 1.0))
    return Expected(option, forecast, chance, gain, met, of)


def in_vain(forecast: Forecast, job: Job, best: float | None) -> str:
    """Why a rung cannot be better than what has met the target, for the goals about a cost; empty where it may be."""
    metric = GOALS.get(job.goal)
    if metric is None or best is None or (cost := _cost(forecast, metric)) is None:
        return ""
    if cost <= best * (1 - _NOISE[metric]):
        return ""
    return f"{metric} {cost:.3g}x by forecast, and {best:.3g}x meets the target"


def best_met(attempts: Sequence[Attempt], job: Job) -> float | None:
    """The lowest of the goal's cost, relative to the first model, among the attempts that met the target."""
    metric = GOALS.get(job.goal, "")
    costs = [attempt.measurements.get(metric) for attempt in attempts[1:] if attempt.state.value == "met"]
    return min((cost.ratio for cost in costs if cost is not None and cost.ratio is not None), default=None)


def _cost(forecast: Forecast, metric: str) -> float | None:
    found = forecast.costs.get(metric)
    return None if found is None else found.ratio
