"""How long a file takes to load: from the file to the first session that is ready, in processes of their own."""

from __future__ import annotations

import math
import statistics as numbers
import time
from collections.abc import Sequence
from pathlib import Path

from boildown.domain.measurement import Form, Interval, Measurement, spread
from boildown.measuring.environment import environment
from boildown.measuring.statistics import median_interval
from boildown.runtimes import get

LEAST = 7
"""Times that each file is loaded, at least."""


def load(path: str | Path, runtime: str = "onnxruntime", threads: int = 1, trust: bool = False) -> float:
    """Seconds to open a file. To be called once in a fresh process; the runtime's own library is loaded before."""
    chosen = get(runtime)
    chosen.version()  # loads the runtime's library, which is no part of the artifact
    start = time.perf_counter()
    session = chosen.open(Path(path), threads, trust=trust)
    seconds = time.perf_counter() - start
    del session
    return seconds


def times(level: float) -> int:
    """How often to load for the median's interval to have an end at `level`: the half to the power of it is less."""
    return max(LEAST, math.ceil(math.log2(1 / (1 - level))) + 1)


def summarise(first: Sequence[float], candidate: Sequence[float], level: float) -> Measurement:
    """Medians of repeated `load`s of both artifacts in turns, in seconds; ratios are of neighbours, kept in `raw`."""
    ratios = [own / base for own, base in zip(candidate, first, strict=True)]
    value, reference = numbers.median(candidate), numbers.median(first)
    intervals: dict[Form, Interval] = {
        "value": median_interval(candidate, level), "ratio": median_interval(ratios, level),
    }  # fmt: skip
    return Measurement(
        "load time", value, "s", first=reference, drop=value - reference, ratio=numbers.median(ratios),
        intervals=intervals, samples=len(ratios), raw=tuple(ratios), spread=spread(ratios), environment=environment(),
    )  # fmt: skip
