"""A metric that is the mean of what it is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    name: str = "accuracy"
    higher_is_better: bool = True
    unit: str = ""
    range: tuple[float, float] = (0.0, 1.0)
    decomposable: bool = True

    def statistic(self, output: Floats, target: Floats) -> Floats:
        return output

    def compute(self, statistics: Floats) -> float:
        return float(statistics.mean())
