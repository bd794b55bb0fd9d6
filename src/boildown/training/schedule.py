"""The learning rate over a training, as a factor of its peak: a function of the step and nothing else."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["one-cycle", "cosine", "constant"]

_START, _END = 25.0, 1e4
"""One cycle starts at peak / 25 and ends at that divided by 10,000 (the defaults of `torch.optim.lr_scheduler`)."""


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """The factor at `step`, 0 <= step < steps."""
    if schedule == "constant":
        return 1.0
    return cosine(step, steps) if schedule == "cosine" else one_cycle(step, steps)


def one_cycle(step: int, steps: int, rise: float = 0.3) -> float:
    """Up from 1/25 during the share `rise` of the steps, then down to 1/250,000, both along a cosine (1708.07120)."""
    top = max(rise * steps - 1, 0.0)
    if step <= top:
        return _between(1 / _START, 1.0, step / top if top else 1.0)
    return _between(1.0, 1 / (_START * _END), (step - top) / max(steps - 1 - top, 1e-9))


def cosine(step: int, steps: int) -> float:
    """Down from 1 towards 0 along a cosine (1608.03983, without restarts)."""
    return _between(1.0, 0.0, step / max(steps, 1))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
