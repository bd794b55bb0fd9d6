"""int8 after training, with activation ranges from calibration samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from boildown.domain.candidate import Candidate, Plan
from boildown.domain.task import Task
from boildown.errors import AttemptError
from boildown.methods.base import FEW, Card, Context, Lowers, Pace, setting
from boildown.surgery.calibrate import Call, Ranges, calibrate, correct_biases
from boildown.surgery.equalize import equalized
from boildown.surgery.graph import LATEST, WRITTEN_OUT, Graph, capture
from boildown.surgery.quantize import calibration_calls, nothing_to_quantize, placed, weight_bits


@dataclass(frozen=True)
class QuantizeStatic:
    """Static post-training quantization: uint8 activations, int8 weights per output channel."""

    card: ClassVar[Card] = Card(
        name="quantize-static",
        version=1,
        family="quantization",
        summary="int8 weights and activations after training, ranges calibrated on samples",
        when="Convolutional and linear models that run on a CPU with int8 instructions; needs no training.",
        when_not="Most of the time is spent outside convolutions and linear layers.",
        source=(
            "Krishnamoorthi, Quantizing deep convolutional networks (arXiv 1806.08342); bias correction as in "
            "Nagel et al., Data-free quantization (arXiv 1906.04721), section 4.2, measured on samples; "
            "equalization as in section 4.1"
        ),
        lowers=("size", "latency", "memory"),
        needs=("calibration",),
        minutes=0.3,
        order=20,
    )

    ranges: Ranges = setting(
        "minmax",
        "how an activation's range is chosen from its calibration values",
        choices=("minmax", "percentile", "mse"),
    )
    percentile: float = setting(99.99, "the percentile kept when ranges = percentile", least=50.0, most=100.0)
    bias_correction: bool = setting(True, "shift biases so that the quantized layers keep their mean outputs")
    equalize: bool = setting(False, "move scales between layers so that their channels have like ranges")
    products: bool = setting(False, "the products of attention in int8 too, where the runtime has them", later=True)
    samples: int = setting(256, "how many calibration samples to use at most", least=1)

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether anything in the model can be quantized that is not yet."""
        return nothing_to_quantize(candidate, task)

    def outline(self) -> Plan:
        """A plan is asked of the runtime."""
        return Plan()

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The same float model with a quantization plan. Raises AttemptError without samples."""
        if context.data.calibration is None:
            raise AttemptError("Static quantization needs calibration samples, and there are none.")
        calls = calibration_calls(task, context.data.calibration, self.samples)
        if self.equalize:
            example = task.example()
            found = equalized(candidate.model, example, calls, check=context.check, progress=context.progress)
            if found is not None:
                candidate = candidate.derive(model=found[0], edits=(found[1],))
        version = WRITTEN_OUT if self.products else LATEST
        graph = capture(candidate.model, *task.example(), version=version)
        return candidate.derive(plan=replace(quantize(graph, calls, self, context), version=version))

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """Integers compute as much as floats did."""
        return {"params": "", "macs": ""}

    def duration(self, pace: Pace) -> float:
        """Ranges and two rounds of corrections."""
        return pace.calibrating(4, self.samples)

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """Rough ranges from a few samples."""
        rough = replace(self, samples=FEW, ranges="minmax", bias_correction=False, equalize=False)
        return rough.apply(candidate, task, context)


def quantize(graph: Graph, calls: Sequence[Call], settings: QuantizeStatic, context: Context) -> Plan:
    """The plan for a captured graph from calibration calls: place, calibrate, correct biases."""
    placement = placed(graph, context.rules, products=settings.products)
    plan = calibrate(
        graph,
        placement,
        calls,
        ranges=settings.ranges,
        percentile=settings.percentile,
        weight_bits=weight_bits(context.hardware),
        rules=context.rules,
        check=context.check,
        progress=context.progress,
    )
    if settings.bias_correction:
        plan = correct_biases(graph, placement, plan, calls, check=context.check, progress=context.progress)
    return plan
