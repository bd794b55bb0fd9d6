"""The guard of steps: what is learned from few samples is kept only where others do not say that it is worse.

A step (corrected biases, a searched range, equalized layers) learns from calibration samples, and where they are few
it may learn their chance. So it is fitted to a part of them and judged on the others, by how far the simulated outputs
diverge from the float network's with the step and without, paired by sample. Where samples are few, several parts
take their turn at judging (cross-validation: Stone 1974). What is kept is then made of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from boildown.domain.candidate import Plan
from boildown.domain.task import Samples, Task
from boildown.surgery.calibrate import Call, Check, Progress, correct_biases
from boildown.surgery.graph import Graph
from boildown.surgery.plan import Placement
from boildown.surgery.quantize import calibration_calls
from boildown.surgery.simulate import simulate

T = TypeVar("T")

BIASES, RANGES, EQUALIZATION = "bias correction", "the ranges asked for", "equalization"
"""Steps that several methods take."""

LEAST = 4
"""Samples from which on some can be held back; with fewer, no step is taken."""

ENOUGH = 64
"""Samples that judge, where there are as many."""

_PARTS = 4
_NOISE = 1.2
"""Standard errors that a mean has to be larger by, to be larger: no one sample alone can make it more than 1."""
_BATCH = 64

Fitted = Callable[[frozenset[str]], T]
"""What is made with these steps of the calls that it was fitted to; steps that are not named are not taken."""

Judges = Sequence[tuple[Any, Any]]
"""Batches of inputs, each with the float network's outputs."""


def guarded(
    exact: nn.Module,
    task: Task,
    samples: Samples,
    limit: int,
    every: Sequence[Call],
    steps: Sequence[str],
    fit: Callable[[Sequence[Call]], Fitted[T]],
    simulated: Callable[[T], nn.Module],
    *,
    check: Check = lambda: None,
) -> tuple[T, tuple[str, ...]]:
    """What `fit` makes of the first `limit` samples with the steps that are kept, and notes on those that are not.

    A step is left out where the outputs of samples that it was not fitted to diverge more with it than without, by
    more than noise; the worst first, and then the others are judged anew. Samples behind the limit judge, where they
    are enough; else each of some quarters in turn judges what was fitted to the rest. exact: the float network. every:
    the calls for the samples up to the limit.
    """
    whole, count = fit(every), min(len(samples), limit)
    spare = range(count, len(samples), max(1, (len(samples) - count) // ENOUGH))[:ENOUGH]
    trials: list[tuple[Fitted[T], Judges]] = []
    if not steps:
        return whole(frozenset()), ()
    if len(spare) == ENOUGH:
        trials.append((whole, judges(exact, task, samples.subset(spare), check)))
    elif count < LEAST:
        why = f"{count} calibration samples are too few to judge it by, {LEAST} are needed"
        return whole(frozenset()), tuple(f"{step} left out: {why}" for step in steps)
    for part in range(0 if trials else min(_PARTS, math.ceil(ENOUGH * _PARTS / count))):
        held = range(part, count, _PARTS)
        rest = [index for index in range(count) if index not in held]
        fitted = fit(calibration_calls(task, samples.subset(rest), limit))
        trials.append((fitted, judges(exact, task, samples.subset(held), check)))

    @cache
    def judged(taken: frozenset[str]) -> Tensor:
        return torch.cat([divergences(simulated(fitted(taken)), task, held, check) for fitted, held in trials])

    kept, notes = frozenset(steps), []
    while worse := {step: judged(kept - {step}) for step in kept if grows(judged(kept), judged(kept - {step}))}:
        step = min(worse, key=lambda step: _far(worse[step]))
        told = farther(judged(kept), worse[step])
        notes.append(f"{step} left out: on {len(worse[step])} samples that it was not fitted to, {told}")
        kept -= {step}
    return whole(kept), tuple(notes)


def guarded_biases(
    graph: Graph,
    placement: Placement,
    plan: Plan,
    task: Task,
    samples: Samples,
    limit: int,
    every: Sequence[Call],
    *,
    check: Check = lambda: None,
    progress: Progress = lambda _what, _done, _total: None,
) -> tuple[Plan, tuple[str, ...]]:
    """The plan with corrected biases, or as it is where they are left out, and why; see `guarded`."""

    def fit(calls: Sequence[Call]) -> Fitted[Plan]:
        def made(steps: frozenset[str]) -> Plan:
            return correct_biases(graph, placement, plan, calls, check=check, progress=progress) if steps else plan

        return made

    return guarded(
        graph.module, task, samples, limit, every, [BIASES], fit, lambda plan: simulate(graph, plan), check=check
    )


def judges(exact: nn.Module, task: Task, samples: Samples, check: Check = lambda: None) -> Judges:
    """The samples' inputs in batches, each with the float network's outputs."""
    return answered(exact, task, (inputs for inputs, _ in samples.batches(_BATCH)), check)


@torch.no_grad()
def answered(exact: nn.Module, task: Task, batches: Iterable[Any], check: Check = lambda: None) -> Judges:
    """Batches of inputs, each with the float network's outputs."""
    found = []
    for inputs in batches:
        check()
        found.append((inputs, task.run(exact, inputs)))
    return found


@torch.no_grad()
def divergences(module: nn.Module, task: Task, held: Judges, check: Check = lambda: None) -> Tensor:
    """How far a module's outputs are from the float network's, by sample."""
    found = []
    for inputs, reference in held:
        check()
        found.append(torch.as_tensor(task.divergence(task.run(module, inputs), reference)).double().flatten())
    return torch.cat(found)


def grows(ours: Tensor, theirs: Tensor) -> bool:
    """Whether divergences are larger than others of the same samples, in the mean of their roots and beyond noise.

    Roots are distances: of divergences a few samples outweigh all others.
    """
    spoiled, spoiled_too = (~values.isfinite() for values in (ours, theirs))
    if int(spoiled.sum()) != int(spoiled_too.sum()):
        return int(spoiled.sum()) > int(spoiled_too.sum())
    more = (_roots(ours) - _roots(theirs))[~(spoiled | spoiled_too)]
    if len(more) < 2:
        return bool((more > 0).any())
    return float(more.mean()) > _NOISE * float(more.std()) / math.sqrt(len(more))


def farther(ours: Tensor, theirs: Tensor) -> str:
    """By how much outputs with a step are worse than those without, in words."""
    times = _far(ours) / max(_far(theirs), torch.finfo(torch.float64).tiny)
    return f"the outputs are {times:.3g} times as far from the float network's with it as without"


def _far(values: Tensor) -> float:
    return float(_roots(values).mean())


def _roots(values: Tensor) -> Tensor:
    return values.clamp_min(0.0).sqrt()
