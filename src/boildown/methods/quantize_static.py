"""int8 after training, with activation ranges from calibration samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

from boildown.domain.candidate import Candidate, Plan
from boildown.domain.task import Task
from boildown.errors import AttemptError
from boildown.methods.base import FEW, Card, Context, Lowers, Pace, setting
from boildown.surgery.calibrate import Call, Ranges, calibrate, correct_biases
from boildown.surgery.equalize import equalized
from boildown.surgery.graph import LATEST, WRITTEN_OUT, capture, captured
from boildown.surgery.guard import BIASES, EQUALIZATION, RANGES, Fitted, guarded
from boildown.surgery.quantize import (
    OF_RECURRENT,
    OfRecurrent,
    calibration_calls,
    nothing_to_quantize,
    placed,
    told_recurrent,
    weight_bits,
    with_recurrent,
)
from boildown.surgery.simulate import simulate


@dataclass(frozen=True)
class QuantizeStatic:
    """Static post-training quantization: uint8 activations, int8 weights per output channel."""

    card: ClassVar[Card] = Card(
        name="quantize-static",
        version=2,
        family="quantization",
        summary="int8 weights and activations after training, ranges calibrated on samples",
        when=(
            "Convolutional, linear and recurrent models that run on a CPU with int8 instructions; needs no training. "
            "A large LSTM computes in integers beside the convolutions; a small one, and a GRU, for which ONNX Runtime "
            "has no kernel, get int8 weights for size only."
        ),
        when_not="Most of the time is spent outside convolutions, linear and recurrent layers.",
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
    recurrent: OfRecurrent = setting("dynamic", OF_RECURRENT, choices=("dynamic", "weights", "float"), later=True)

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether anything in the model can be quantized that is not yet."""
        return nothing_to_quantize(candidate, task, recurrent=self.recurrent != "float")

    def outline(self) -> Plan:
        """A plan is asked of the runtime."""
        return Plan()

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The same float model with a quantization plan, but for the steps that held-out samples say are worse.

        Raises AttemptError without samples.
        """
        context = replace(context, rules=with_recurrent(context.rules, self.recurrent))
        samples = context.data.calibration
        if samples is None:
            raise AttemptError("Static quantization needs calibration samples, and there are none.")
        asked = {EQUALIZATION: self.equalize, RANGES: self.ranges != "minmax", BIASES: self.bias_correction}
        graph = capture(candidate.model, *task.example(), version=self._version)
        every = calibration_calls(task, samples, self.samples)
        plain = cache(lambda: self._ranged(candidate, task, every, frozenset(), context))

        def fit(calls: Sequence[Call]) -> Fitted[Candidate]:
            @cache
            def ranged(steps: frozenset[str]) -> Candidate:
                return self._ranged(candidate, task, calls, steps, context) if steps else plain()

            def made(steps: frozenset[str]) -> Candidate:
                before = ranged(steps - {BIASES})
                if BIASES not in steps or before.plan is None:
                    return before
                graph, told = captured(before, *task.example()), (context.check, context.progress)
                placement = placed(graph, context.rules, products=self.products)
                plan = correct_biases(graph, placement, before.plan, calls, check=told[0], progress=told[1])
                return before.derive(plan=plan)

            return made

        made, notes = guarded(
            graph.module,
            task,
            samples,
            self.samples,
            every,
            [step for step, wanted in asked.items() if wanted],
            fit,
            lambda made: simulate(captured(made, *task.example()), made.plan or Plan()),
            check=context.check,
        )
        return replace(made, notes=(*told_recurrent(placed(graph, context.rules)), *notes))

    def _ranged(
        self, candidate: Candidate, task: Task, calls: Sequence[Call], steps: frozenset[str], context: Context
    ) -> Candidate:
        """The candidate with ranges, equalized before where that is one of the steps."""
        if EQUALIZATION in steps:
            example, told = task.example(), (context.check, context.progress)
            found = equalized(candidate.model, example, calls, check=told[0], progress=told[1])
            candidate = candidate if found is None else candidate.derive(model=found[0], edits=(found[1],))
        graph = capture(candidate.model, *task.example(), version=self._version)
        plan = calibrate(
            graph,
            placed(graph, context.rules, products=self.products),
            calls,
            ranges=self.ranges if RANGES in steps else "minmax",
            percentile=self.percentile,
            weight_bits=weight_bits(context.hardware),
            rules=context.rules,
            check=context.check,
            progress=context.progress,
        )
        return candidate.derive(plan=replace(plan, version=self._version))

    @property
    def _version(self) -> int:
        """Of the names that the plan speaks of."""
        return WRITTEN_OUT if self.products else LATEST

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """Integers compute as much as floats did."""
        return {"params": "", "macs": ""}

    def duration(self, pace: Pace) -> float:
        """Ranges and two rounds of corrections, at most once more for the guard."""
        return pace.calibrating(6, self.samples)

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """Rough ranges from a few samples."""
        rough = replace(self, samples=FEW, ranges="minmax", bias_correction=False, equalize=False)
        return rough.apply(candidate, task, context)
