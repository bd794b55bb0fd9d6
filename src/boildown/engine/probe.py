"""A cheap look at why a quantized candidate lost quality: its weights alone, and what the activations add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from boildown.domain.candidate import Candidate
from boildown.engine.job import Job
from boildown.surgery.graph import captured
from boildown.surgery.simulate import simulate

Floats = NDArray[np.float64]

PROBED = 256
"""Samples of the search, without their labels, that a probe looks at."""
_BATCH = 64


def probe(
    candidate: Candidate, first: Candidate, job: Job, check: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Mean divergence of the outputs from the first model's: `weights` quantized alone, what `activations` add.

    Empty for a candidate without a plan. Simulated in PyTorch: a verdict is never read from it. Activations alone are
    no measure of their own: weights may have been changed, and biases corrected, to be quantized together.
    """
    if candidate.plan is None:
        return {}
    graph = captured(candidate, *job.task.example())
    modules = [simulate(graph, plan) for plan in (replace(candidate.plan, activations={}, dynamic=()), candidate.plan)]
    samples = job.splits.search.subset(range(min(PROBED, len(job.splits.search))))
    found: list[list[Floats]] = [[] for _ in modules]
    with torch.no_grad():
        for inputs, _target in samples.batches(_BATCH):
            check()
            base = job.task.run(first.model, inputs)
            for values, module in zip(found, modules, strict=True):
                values.append(np.asarray(job.task.divergence(job.task.run(module, inputs), base), np.float64))
    weights, everything = (float(np.concatenate(values).mean()) for values in found)
    return {"weights": weights, "activations": max(0.0, everything - weights)}


def culprit(probed: Mapping[str, float]) -> str | None:
    """The part with more than two thirds of the divergence; None where neither has it."""
    if not probed:
        return None
    worst = max(probed, key=lambda part: probed[part])
    return worst if probed[worst] > 2 * (sum(probed.values()) - probed[worst]) else None
