"""What the methods that take parts out of a model share: how much has to go, of what, and how the rest is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import ClassVar, Literal, cast

from boildown.domain.candidate import Candidate
from boildown.domain.task import Task
from boildown.errors import AttemptError
from boildown.methods.base import OVERHEAD, Context, Method, Pace, Search, Standing, levels, setting
from boildown.surgery.calibrate import Call
from boildown.surgery.quantize import calibration_calls
from boildown.surgery.repair import ASIDE

SEARCHED = 0.0
_LEAST, _CLOSE, _MOST_VARIANTS = 0.1, 0.03, 6
_NEAR, _EXACT, _MARGIN = 0.03, 0.02, 0.2
"""How far below the target's bound, and below a ratio that was asked for, a cost is near enough; and how near to an end
of an interval nothing is tried."""

_MEMORY, _HELD, _FEWEST = 2e9, 8, 8
"""Bytes that two networks' values may take, how many of the largest they hold at once, and the fewest samples."""

Of = Literal["macs", "params", "size", "latency"]


@dataclass(frozen=True)
class Smaller:
    """How much of a cost should be left."""

    ratio: float = setting(
        SEARCHED,
        "what is left of the cost, such as 0.5; 0 searches the largest ratio that meets the target's costs",
        least=0.0,
        most=0.99,
    )
    of: Of = setting(
        "macs",
        "the cost: macs or params, which are counted, or size or latency, which are measured on the exported file",
        choices=("macs", "params", "size", "latency"),
    )
    repair: bool = setting(True, "refit the layers behind what went, in closed form, on calibration samples")
    samples: int = setting(1024, "how many calibration samples to use at most", least=1)

    by_costs: ClassVar[bool] = True

    def search(self, candidate: Candidate, task: Task, context: Context) -> Search:
        """Close in on the ratio of MACs (or parameters) on measurements of the exported file.

        Against the target where no ratio was asked for, against size or latency where those were. Between a ratio that
        is enough and one that is not, the next is read off the line through what both cost. Returns
        the largest ratio found to be enough, else the smallest there is: tried second where the first is not
        enough, since where it is not either nothing is. Where latency is what is not enough, and falls no longer,
        the rest is overhead: the larger of the two is returned, for what the smaller takes out gains nothing.
        """
        if self.fixed:
            return cast(Method, self)
        counted = self.counted
        low, high = _LEAST, 1.0
        near, under, over = _NEAR if self.ratio == SEARCHED else _EXACT, nan, nan
        kept = replace(self, of=counted, ratio=low)
        for turn in range(_MOST_VARIANTS):
            middle = round(_between(low, high, under, over) if turn else self.ratio or 0.5, 3)
            tried = replace(self, of=counted, ratio=middle)
            standing = yield cast(Method, tried)
            excess = self._excess(standing)
            if excess <= 0:
                low, under, kept = middle, excess, tried
                if excess >= -near:
                    break
            else:
                high, over = middle, excess
                if not turn and isfinite(standing.excess):
                    least = yield cast(Method, kept)
                    if self._overhead(standing, least, middle / low):
                        context.record(OVERHEAD, {"latency": min(standing.latency, least.latency), "ratio": middle})
                        return cast(Method, tried)
                    if (under := self._excess(least)) > 0:
                        break
            if high - low < _CLOSE:
                break
        return cast(Method, kept)

    def duration(self, pace: Pace) -> float:
        """What goes is measured, then the layers behind are refitted."""
        return pace.calibrating(12, self.samples)

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """What is left, not repaired."""
        return cast(Method, replace(self, repair=False)).apply(candidate, task, context)

    @property
    def fixed(self) -> bool:
        """Whether nothing is left to search."""
        return self.ratio != SEARCHED and self.of == self.counted

    def _excess(self, standing: Standing) -> float:
        """By what share a cost is above what was asked for; 0 or less where it is enough."""
        if self.ratio != SEARCHED:
            return (standing.size if self.of == "size" else standing.latency) / self.ratio - 1
        return standing.excess

    def _overhead(self, larger: Standing, smaller: Standing, times: float) -> bool:
        """Whether latency falls no longer, and is what is missed: of sizes there is no overhead."""
        missed = self.of == "latency"
        if self.ratio == SEARCHED:
            missed = levels(1 + larger.excess, 1 + smaller.excess, times)
        return missed and levels(larger.latency, smaller.latency, times)

    @property
    def share(self) -> float:
        """The ratio to work toward where nothing has searched it."""
        return self.ratio or 0.5

    @property
    def counted(self) -> Literal["macs", "params"]:
        """The cost that can be counted without the exported file."""
        return "params" if self.of in ("params", "size") else "macs"

    def calls(self, task: Task, context: Context, largest: float = 0.0) -> Sequence[Call]:
        """The model's calls for the calibration samples, at least so many that one can be kept aside.

        Raises AttemptError where there are no samples.

        largest: bytes of the model's largest value for one sample: of large ones fewer samples are taken.
        """
        if context.data.calibration is None:
            raise AttemptError("What goes is chosen and repaired on calibration samples, and there are none.")
        fit = int(_MEMORY / (_HELD * largest)) if largest else self.samples
        return calibration_calls(task, context.data.calibration, min(self.samples, max(_FEWEST, fit)), ASIDE)


def _between(low: float, high: float, under: float, over: float) -> float:
    """The ratio without excess by the line through that of both ends; the middle where one is unknown."""
    share = under / (under - over) if isfinite(under) and isfinite(over) else 0.5
    return low + (high - low) * min(max(share, _MARGIN), 1 - _MARGIN)


def quantized(candidate: Candidate) -> str | None:
    """Why nothing can be taken out of a quantized candidate; None for a float one."""
    if candidate.plan is not None or candidate.rewrite is not None:
        return "the model is quantized already; take parts out first, then quantize"
    return None
