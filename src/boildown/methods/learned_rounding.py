"""8-bit or 4-bit weights whose rounding is learned on calibration samples, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from boildown.domain.candidate import Candidate, Plan, Quantizer
from boildown.domain.task import Samples, Task
from boildown.errors import AttemptError
from boildown.methods.base import FEW, Card, Context, Lowers, Pace, setting
from boildown.surgery.calibrate import Call, calibrate, recurrent_weights
from boildown.surgery.fold import fold
from boildown.surgery.graph import Graph, capture, captured
from boildown.surgery.guard import BIASES, Judges, answered, divergences, farther, grows
from boildown.surgery.plan import Placement, place
from boildown.surgery.quantize import (
    OF_RECURRENT,
    OfRecurrent,
    nothing_to_quantize,
    placed,
    refuse_other_grids,
    told_recurrent,
    weight_bits,
    with_recurrent,
)
from boildown.surgery.rounding import Rounded, Rounding, round_weights
from boildown.surgery.simulate import fake_quantize

_PARTS = 16
"""The calibration samples are run in this many batches at least; every fourth one is the guard."""


@dataclass(frozen=True)
class LearnedRounding:
    """Post-training quantization that rounds each weight up or down by what it does to the layer's output."""

    card: ClassVar[Card] = Card(
        name="learned-rounding",
        version=2,
        family="quantization",
        summary="int8 or int4 weights, each rounded up or down by what it does to its layer's output",
        when=(
            "The file must be smaller than int8 makes it: 4 bits give 0.13x the float file where int8 gives 0.26x "
            "(ResNet-20), and with 8-bit activations they run on the int8 kernels (0.48x the float latency)."
        ),
        when_not=(
            "int8 is small enough: rounded to nearest it is as good and made sooner. With float activations 4 bits "
            "save bytes only: the runtime turns the weights into floats at load (1.00x the float latency)."
        ),
        source=(
            "AdaRound (arXiv 2004.10568); GPTQ (arXiv 2210.17323); refit by ridge regression and "
            "guarded by samples that nothing was fitted to"
        ),
        lowers=("size", "latency", "memory"),
        needs=("calibration",),
        minutes=1.0,
        order=40,
        recovers=("quantize-static",),
        mends=("weights",),
        harder={"bits": 4},
        shape=("bits", "edges"),
    )

    bits: int = setting(8, "bits of a weight", choices=(8, 4))
    rounding: Rounding = setting(
        "learned",
        "learned (AdaRound), error-feedback (GPTQ) or nearest",
        choices=("learned", "error-feedback", "nearest"),
    )
    refit: bool = setting(False, "move weights to their least squared output error before they are rounded")
    activations: str = setting(
        "8-bit", "8-bit for integer kernels, or float for weights alone", choices=("8-bit", "float")
    )
    edges: str = setting("same", "bits of the first and the last layer: as the others, or 8", choices=("same", "8"))
    steps: int = setting(400, "steps of learning per layer")
    samples: int = setting(512, "how many calibration samples to use at most, those of the guard included")
    recurrent: OfRecurrent = setting("dynamic", OF_RECURRENT, choices=("dynamic", "weights", "float"), later=True)

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether anything in the model can be quantized that is not yet, or has a plan to round the weights for."""
        if candidate.plan is not None and candidate.plan.weights and candidate.rewrite is None:
            rounded = _on_grids(captured(candidate, *task.example()), candidate.plan)
            return "its weights lie on their grids already" if rounded else None
        if (reason := nothing_to_quantize(candidate, task)) is not None:
            return reason
        if self._bits(place(capture(candidate.model, *task.example()))):
            return None
        return "every layer that could be quantized is called more than once, and is rounded for one call at a time"

    def outline(self) -> Plan:
        """A plan is asked of the runtime."""
        return Plan()

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The folded model with weights on their grids, and the plan that says which.

        A candidate that has a plan, as from quantize-mixed, keeps its bits and its activations. The learned rounding is
        kept only if on the guard, samples that it was not fitted to, the outputs diverge less from the float model's
        than with rounding to nearest; and so are corrected channel means, if they do not diverge more than without.
        Raises AttemptError with fewer than two samples.
        """
        fitted, guard = _split(context.data.calibration, self.samples)
        graph, given = captured(candidate, *task.example()), candidate.plan
        refuse_other_grids(context.rules)
        rules = with_recurrent(context.rules, self._of_recurrent)
        placement = placed(graph, rules)
        if given is not None:
            floats = [name for name in placement.weights if name not in given.weights]
            placement = place(graph, rules, skip=floats)
        bits = self._bits(placement, given)
        calls = [[call for inputs in part for call in task.calls(inputs)] for part in (fitted, guard)]
        activations = self._activations(graph, placement, calls[0], context) if given is None else given.activations
        held = answered(graph.module, task, guard, context.check)

        def rounded(rounding: Rounding) -> Rounded:
            return round_weights(
                graph,
                placement,
                bits,
                *calls,
                activations=activations,
                rounding=rounding,
                refitted=self.refit,
                steps=self.steps,
                seed=context.seed,
                check=context.check,
                progress=context.progress,
            )

        best, note = rounded("nearest"), "weights rounded to nearest, channel means corrected"
        plain = replace(best, plan=replace(best.plan, biases={}))
        theirs, without = (_divergences(graph, choice, task, held) for choice in (best, plain))
        if grows(theirs, without):
            told = f"on {len(without)} samples that it was not fitted to, {farther(theirs, without)}"
            best, theirs, note = plain, without, f"weights rounded to nearest; {BIASES} left out: {told}"
        if self.rounding != "nearest":
            tried = rounded(self.rounding)
            ours = float(_divergences(graph, tried, task, held).mean())
            standing = {"divergence": ours, "nearest": float(theirs.mean()), "layers": len(tried.kept)}
            context.record("rounding", standing)
            if ours < standing["nearest"]:
                best, note = tried, f"{self.rounding} rounding kept in {len(tried.kept)} of {len(tried.weights)} layers"
            else:
                note += f": {self.rounding} rounding was no better on samples it had not seen"
        model, edit = fold(candidate.model, *task.example())
        with torch.no_grad():
            for name, weight in best.weights.items():
                model.get_parameter(name).copy_(weight)
        recurrent = recurrent_weights(graph.parameter, placement, weight_bits(context.hardware))
        weights = {**({} if given is None else given.weights), **best.plan.weights, **recurrent}
        plan = replace(best.plan, weights=weights, dynamic=placement.dynamic)
        return candidate.derive(model=model, edits=(edit,), plan=plan, notes=(note, *told_recurrent(placement)))

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """The kernels of int8, for 4 bits too, which fold at load; those of floats where activations stay floats."""
        kept: dict[Lowers, str] = {"params": "", "macs": ""}
        if self.activations == "float":
            return {**kept, "latency": ""}
        alike: tuple[Lowers, ...] = ("latency", "size", "memory") if self.bits == 8 else ("latency",)
        return {**kept, **dict.fromkeys(alike, "quantize-static")}

    def duration(self, pace: Pace) -> float:
        """Learning takes most of it, layer by layer."""
        return pace.calibrating(10 + self.steps / 6 if self.rounding == "learned" else 10, self.samples)

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """Rounded to nearest, from a few samples."""
        return replace(self, rounding="nearest", refit=False, samples=FEW).apply(candidate, task, context)

    @property
    def _of_recurrent(self) -> OfRecurrent:
        """Where activations stay float, those of recurrent layers do."""
        return "weights" if (self.recurrent, self.activations) == ("dynamic", "float") else self.recurrent

    def _bits(self, placement: Placement, given: Plan | None = None) -> dict[str, int]:
        if given is not None:
            return {name: given.weights[name].bits for name in placement.weights if name not in placement.shared}
        ends = {placement.weights[0], placement.weights[-1]} if self.edges == "8" else set()
        return {name: 8 if name in ends else self.bits for name in placement.weights if name not in placement.shared}

    def _activations(
        self, graph: Graph, placement: Placement, calls: Sequence[Call], context: Context
    ) -> dict[str, Quantizer]:
        if self.activations == "float":
            return {}
        plan = calibrate(graph, placement, calls, check=context.check, progress=context.progress)
        return dict(plan.activations)


def _split(samples: Samples | None, limit: int) -> tuple[list[Any], list[Any]]:
    """Inputs in batches: three parts to fit to, every fourth batch for the guard."""
    count = 0 if samples is None else min(len(samples), limit)
    if samples is None or count < 2:
        raise AttemptError("Learned rounding needs at least 2 calibration samples: some to fit to, some to judge on.")
    size = min(64, max(1, count // _PARTS))
    batches = [inputs for inputs, _ in samples.subset(range(count)).batches(size)]
    return [b for i, b in enumerate(batches) if i % 4 != 1], batches[1::4]


def _divergences(graph: Graph, rounded: Rounded, task: Task, held: Judges) -> Tensor:
    return divergences(rounded.simulate(graph), task, held)


def _on_grids(graph: Graph, plan: Plan) -> bool:
    """Whether every weight of a plan is a whole number of its steps already."""
    return all(
        torch.allclose(fake_quantize(graph.parameter(name), quantizer), graph.parameter(name), rtol=1e-4, atol=1e-8)
        for name, quantizer in plan.weights.items()
    )
