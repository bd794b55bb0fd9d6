"""int8 after training with some layers left float: a prefix for speed, the most sensitive for quality."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from boildown.domain.candidate import Candidate, Plan
from boildown.domain.task import Samples, Task
from boildown.errors import AttemptError
from boildown.methods.base import FEW, Card, Context, Lowers, Method, Pace, Search, Standing, setting
from boildown.surgery.calibrate import Ranges, calibrate, correct_biases
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import Placement, place
from boildown.surgery.quantize import (
    OF_RECURRENT,
    OfRecurrent,
    calibration_calls,
    restrict,
    told_recurrent,
    weight_bits,
    with_recurrent,
)
from boildown.surgery.sensitivity import sensitivity

SEARCH = -1
_LONGEST = 5
_PATIENCE = 2
_NOISE = 0.05
_UNMEASURED_PREFIX = 1
_LIGHT = 0.01
"""The share of the weights that a sketch leaves float at most."""


@dataclass(frozen=True)
class QuantizeMixed:
    """Static quantization with layers left float, chosen by measurement of the exported file.

    A float prefix is free where narrow first layers run faster in float than in int8: they are
    followed by one change of representation. A float layer in mid-graph costs two, and is worth it
    only for quality. Without an engine that measures (`apply` of a search that was not made), the
    first layer alone stays float.
    """

    card: ClassVar[Card] = Card(
        name="quantize-mixed",
        version=1,
        family="quantization",
        summary="int8 after training; the first and the most sensitive layers stay float, chosen by measurement",
        when="Depthwise and narrow convolutional models: their first layers are slow in int8, their quality suffers.",
        when_not="quantize-static meets the target already: it is smaller, and found at once.",
        source=(
            "Float prefix: own measurements of ONNX Runtime; layers ranked one at a time as for the partial "
            "quantization of Wu et al., Integer quantization for deep learning inference (arXiv 2004.09602), but by "
            "the divergence of the outputs, without labels"
        ),
        lowers=("size", "latency", "memory"),
        needs=("calibration",),
        minutes=3.0,
        order=30,
        recovers=("quantize-static",),
        mends=("activations",),
        sketched=("size", "latency", "params", "macs"),
    )

    prefix: int = setting(SEARCH, "how many of the first layers stay float; -1 searches 1 to 5 by measurement")
    layers: int = setting(SEARCH, "how many of the most sensitive other layers stay float; -1 searches by bisection")
    float_layers: tuple[str, ...] | None = setting(
        None, "names of the layers that stay float, instead of any choice by measurement"
    )
    ranges: Ranges = setting(
        "minmax",
        "how an activation's range is chosen from its calibration values",
        choices=("minmax", "percentile", "mse"),
    )
    percentile: float = setting(99.99, "the percentile kept when ranges = percentile")
    bias_correction: bool = setting(True, "shift biases so that the quantized layers keep their mean outputs")
    samples: int = setting(256, "how many calibration samples to use at most")
    recurrent: OfRecurrent = setting("dynamic", OF_RECURRENT, choices=("dynamic", "weights", "float"), later=True)

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether there are layers to quantize and layers to leave float."""
        if candidate.plan is not None or candidate.rewrite is not None:
            return "the model is quantized already"
        placement = place(capture(candidate.model, *task.example()))
        if len(placement.layers) < 2:
            return "the model has fewer than two convolutions and linear layers with weights of their own"
        known = {name for layer in placement.layers for name in (layer.node, layer.weight)}
        if unknown := sorted(set(self.float_layers or ()) - known):
            layers = ", ".join(layer.weight for layer in placement.layers)
            return f"it has no quantizable layer called {', '.join(unknown)}; there are: {layers}"
        return None

    def search(self, candidate: Candidate, task: Task, context: Context) -> Search:
        """Yield float prefixes, then more and more float layers; return the best of what was measured.

        The prefix grows until neither latency nor divergence improves twice in a row. Then the most
        sensitive of the other layers are left float: with labels as few as make the quality accepted,
        without as many as the target's costs allow. A variant whose settings are fixed is returned
        at once.
        """
        if self.fixed:
            return self
        context = replace(context, rules=with_recurrent(context.rules, self.recurrent))
        count = len(place(capture(candidate.model, *task.example()), context.rules).layers)
        found: dict[QuantizeMixed, Standing] = {}
        start = replace(self, layers=max(self.layers, 0))
        if self.prefix == SEARCH:
            yield from _prefixes(start, min(_LONGEST, count - 1), found)
            start = best(found)
        else:
            found[start] = yield start
        if self.layers == SEARCH and not _enough(found[start]):
            yield from _fewest(start, (count - start.prefix) // 2, found)
        return best(found)

    @property
    def fixed(self) -> bool:
        """Whether nothing is left to search."""
        return self.float_layers is not None or SEARCH not in (self.prefix, self.layers)

    def outline(self) -> Plan:
        """A plan is asked of the runtime."""
        return Plan()

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The same float model with a plan that leaves the chosen layers out.

        Raises AttemptError without samples or where no layer would be quantized.
        """
        samples = context.data.calibration
        if samples is None:
            raise AttemptError("Static quantization needs calibration samples, and there are none.")
        context = replace(context, rules=with_recurrent(context.rules, self.recurrent))
        graph = capture(candidate.model, *task.example())
        kept = self._float(graph, task, samples, context)
        placement = place(graph, context.rules, skip=kept)
        if not placement.layers:
            raise AttemptError(
                f"quantize-mixed would leave all {len(kept)} layers float.\n  Give it a smaller prefix or fewer layers."
            )
        whole = self._calibrated(graph, task, samples, context).plan
        plan = restrict(whole, placement) or self._ranged(graph, placement, task, samples, context)
        if self.bias_correction:
            calls = calibration_calls(task, samples, self.samples)
            plan = correct_biases(graph, placement, plan, calls, check=context.check, progress=context.progress)
        return candidate.derive(plan=plan, notes=(_told(placement), *told_recurrent(placement)))

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """Its file is larger than with every layer in int8; float layers may run faster."""
        return {"size": "quantize-static", "params": "", "macs": ""}

    def duration(self, pace: Pace) -> float:
        """The static plan, and for a search about ten variants of it, each written and scored."""
        once = pace.calibrating(8, self.samples)
        return once if self.fixed else 10 * once

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """A float prefix of layers that weigh next to nothing: about as small and as fast as a search can come.

        Where the settings ask for sensitive layers, they are ranked on few samples and may be others in the end.
        """
        prefix = _light(candidate, task) if self.prefix == SEARCH else self.prefix
        shown = self if self.fixed else replace(self, prefix=prefix, layers=max(self.layers, 0))
        rough = replace(shown, samples=FEW, ranges="minmax", bias_correction=False)
        return rough.apply(candidate, task, context)

    def _float(self, graph: Graph, task: Task, samples: Samples, context: Context) -> tuple[str, ...]:
        """The names of the layers that stay float, in order of choice."""
        if self.float_layers is not None:
            return self.float_layers
        names = [layer.node for layer in place(graph, context.rules).layers]
        prefix = _UNMEASURED_PREFIX if self.prefix == SEARCH else self.prefix
        if self.layers <= 0:
            return tuple(names[:prefix])
        known = self._calibrated(graph, task, samples, context)
        if known.ranking is None:
            known.ranking = sensitivity(
                graph,
                place(graph, context.rules),
                known.plan,
                task,
                samples,
                check=context.check,
                progress=context.progress,
            )
            context.record("sensitivity", {"layers": known.ranking})
        ranked = [name for name in known.ranking if name not in names[:prefix]]
        return *names[:prefix], *ranked[: self.layers]

    def _calibrated(self, graph: Graph, task: Task, samples: Samples, context: Context) -> _Calibrated:
        """Ranges of the whole graph, made once for all variants that differ in their float layers only."""
        key = (
            replace(self, prefix=0, layers=0, float_layers=None),
            samples,
            weight_bits(context.hardware),
            context.rules,
        )
        known = _calibrations.get(graph)
        if known is None or known.key != key:
            placement = place(graph, context.rules)
            plan = self._ranged(graph, placement, task, samples, context)
            if self.bias_correction:
                calls = calibration_calls(task, samples, self.samples)
                plan = correct_biases(graph, placement, plan, calls, check=context.check, progress=context.progress)
            known = _calibrations[graph] = _Calibrated(key, plan)
        return known

    def _ranged(self, graph: Graph, placement: Placement, task: Task, samples: Samples, context: Context) -> Plan:
        return calibrate(
            graph,
            placement,
            calibration_calls(task, samples, self.samples),
            ranges=self.ranges,
            percentile=self.percentile,
            weight_bits=weight_bits(context.hardware),
            rules=context.rules,
            check=context.check,
            progress=context.progress,
        )


@dataclass
class _Calibrated:
    """The plan of a whole graph, biases corrected, and what is known about its layers."""

    key: tuple[Any, ...]
    plan: Plan
    ranking: dict[str, float] | None = None


_calibrations: WeakKeyDictionary[Graph, _Calibrated] = WeakKeyDictionary()

_Variants = Generator[Method, Standing, None]


def best(found: dict[QuantizeMixed, Standing]) -> QuantizeMixed:
    """The variant to keep.

    Those within the target's costs come first (or, if none is, the one nearest to them), then those
    whose quality is accepted, then the least divergence; among those as good but for noise, the fastest.
    """
    feasible = {variant: standing for variant, standing in found.items() if standing.excess <= 0}
    if not feasible:
        return min(found, key=lambda variant: found[variant].excess)
    accepted = {variant: standing for variant, standing in feasible.items() if standing.accepted}
    left = accepted or feasible
    least = min(standing.divergence for standing in left.values())
    equal = [variant for variant, standing in left.items() if standing.divergence <= least * (1 + _NOISE)]
    return min(equal, key=lambda variant: left[variant].latency)


def _light(candidate: Candidate, task: Task) -> int:
    """How many of the first layers together hold next to none of the weights."""
    graph = capture(candidate.model, *task.example())
    sizes = [graph.module.get_parameter(layer.weight).numel() for layer in place(graph).layers[:_LONGEST]]
    most = _LIGHT * sum(parameter.numel() for parameter in graph.module.parameters())
    return sum(total <= most for total in accumulate(sizes))


def _prefixes(start: QuantizeMixed, longest: int, found: dict[QuantizeMixed, Standing]) -> _Variants:
    """Float prefixes from one layer on, until two in a row gain neither speed nor quality."""
    latency, divergence = float("inf"), float("inf")
    in_vain = 0
    for prefix in range(1, longest + 1):
        variant = replace(start, prefix=prefix)
        standing = found[variant] = yield variant
        gained = standing.latency < latency * (1 - _NOISE) or standing.divergence < divergence * (1 - _NOISE)
        in_vain = 0 if gained else in_vain + 1
        latency, divergence = min(latency, standing.latency), min(divergence, standing.divergence)
        if in_vain == _PATIENCE:
            return


def _fewest(start: QuantizeMixed, most: int, found: dict[QuantizeMixed, Standing]) -> _Variants:
    """Close in on the fewest float layers that are enough: doubling, then bisection.

    Quality and costs both grow with the number of float layers, so the first number that is enough
    parts those with too little quality from those that cost more than they need to.
    """
    low, high, step = 0, most + 1, 1
    while low + 1 < high:
        count = min(low + step, most) if high > most else (low + high) // 2
        variant = replace(start, layers=count)
        standing = found[variant] = yield variant
        if _enough(standing):
            high = count
        else:
            low, step = count, 2 * step


def _enough(standing: Standing) -> bool:
    """Whether more float layers would be pointless: quality is accepted, or costs are too high already."""
    return standing.accepted is True or standing.excess > 0


def _told(placement: Placement) -> str:
    kept = [name for name, reason in placement.left.items() if reason == "asked to stay float"]
    if not kept:
        return "no layer was left float"
    return f"{len(kept)} of {len(kept) + len(placement.layers)} layers stay float: {', '.join(kept)}"
