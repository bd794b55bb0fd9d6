"""Latency of one file beside another, as a run measures it."""

from __future__ import annotations

from pathlib import Path

import torch

from boildown.execution.child import Child
from boildown.execution.quiet import quiet


def latency_ratio(first: Path, path: Path, inputs: torch.Tensor) -> float:
    """Time of one call of `path` over that of `first`, timed in turns in one quiet process."""
    with Child() as child, quiet():
        found = child.call(
            "boildown.measuring.latency:compare", str(first), str(path), [inputs.numpy()], min_seconds=3.0
        )
    return float(found["ratio"])
