"""8 bits after training with some layers left float or given 4: a prefix for speed, others by what they cost."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from boildown.domain.candidate import Candidate, Plan, Quantizer
from boildown.domain.task import Samples, Task
from boildown.errors import AttemptError
from boildown.methods.base import FEW, Card, Context, Lowers, Method, Pace, Search, Standing, setting
from boildown.surgery.allocate import FLOAT, Choice, allocate, weight_bytes
from boildown.surgery.calibrate import Call, Ranges, as_ruled, calibrate, correct_each_alone, weight_quantizer
from boildown.surgery.graph import Graph, capture
from boildown.surgery.guard import RANGES, Fitted, guarded, guarded_biases
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
from boildown.surgery.rounding import round_weights
from boildown.surgery.sensitivity import sensitivity
from boildown.surgery.simulate import simulate

SEARCH = -1
_LONGEST = 5
_PATIENCE = 2
_NOISE = 0.05
_UNMEASURED_PREFIX = 1
_LIGHT = 0.01
"""The share of the weights that a sketch leaves float at most."""
_FEWER, _MOST, _FIRST = 0.005, 0.5, 4
"""With 4 bits: the steps in which shares of the weights' bytes are tried, the largest, and how far the first goes."""
_COLUMNS = 6144
"""Inputs of an output beyond which a layer's moments take too much memory."""
_PRECISIONS = {"4": 4, "8": 8, "float": FLOAT}


@dataclass(frozen=True)
class QuantizeMixed:
    """Static quantization with layers left float, or of 4 bits, chosen by measurement of the exported file.

    A float prefix is free where narrow first layers run faster in float than in int8: they are
    followed by one change of representation. A float layer in mid-graph costs two, and is worth it
    only for quality. 4 bits are for size alone. Without an engine that measures (`apply` of a search that was not
    made), the first layer alone stays float, or all have the fewest bits.
    """

    card: ClassVar[Card] = Card(
        name="quantize-mixed",
        version=2,
        family="quantization",
        summary="4 bits, 8 bits or float layer by layer, chosen by measurement",
        when=(
            "Depthwise and narrow convolutional models: their first layers are slow in int8, their quality suffers. "
            "With bits=4, files smaller than int8 makes them where 4 bits everywhere lose too much."
        ),
        when_not="quantize-static meets the target already: it is smaller, and found at once.",
        source=(
            "Float prefix: own measurements of ONNX Runtime; layers ranked one at a time as for the partial "
            "quantization of Wu et al., Integer quantization for deep learning inference (arXiv 2004.09602), but by "
            "the divergence of the outputs, without labels; bits by such divergences, added up as in ZeroQ "
            "(arXiv 2001.00281) and chosen by an exact knapsack as in HAWQ-V3 (arXiv 2011.10680)"
        ),
        lowers=("size", "latency", "memory"),
        needs=("calibration",),
        minutes=3.0,
        order=30,
        recovers=("quantize-static",),
        mends=("activations",),
        harder={"bits": 4},
        sketched=("size", "latency", "params", "macs"),
        shape=("bits",),
    )

    prefix: int = setting(SEARCH, "how many of the first layers stay float; -1 searches 1 to 5 by measurement")
    layers: int = setting(
        SEARCH, "how many of the most sensitive other layers stay float with bits = 8; -1 searches by bisection"
    )
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
    bits: int = setting(8, "the fewest bits that the weights of a layer may have", choices=(8, 4))
    share: float = setting(
        float(SEARCH),
        "with bits = 4, how many bytes the weights may take, by their float ones: each layer gets 4 bits, 8 or float "
        "so that the outputs move least; -1 searches by measurement, 0 gives all of them 4",
        most=1.0,
    )
    table: tuple[str, ...] | None = setting(
        None,
        "bits of layers by name, as NAME=4, NAME=8 or NAME=float, instead of any choice by measurement; others have 8",
    )
    recurrent: OfRecurrent = setting("dynamic", OF_RECURRENT, choices=("dynamic", "weights", "float"), later=True)

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether there are layers to quantize and layers to leave float."""
        if candidate.plan is not None or candidate.rewrite is not None:
            return "the model is quantized already"
        placement = place(capture(candidate.model, *task.example()))
        if len(placement.layers) < 2:
            return "the model has fewer than two convolutions and linear layers with weights of their own"
        if unread := [entry for entry in map(str, self.table or ()) if entry.rpartition("=")[2] not in _PRECISIONS]:
            return f"its table says {', '.join(unread)}; write NAME=4, NAME=8 or NAME=float"
        known = {name for layer in placement.layers for name in (layer.node, layer.weight)}
        if unknown := sorted({*(self.float_layers or ()), *self._named} - known):
            layers = ", ".join(layer.weight for layer in placement.layers)
            return f"it has no quantizable layer called {', '.join(unknown)}; there are: {layers}"
        return None

    def search(self, candidate: Candidate, task: Task, context: Context) -> Search:
        """Yield float prefixes, then other choices of the layers' bits; return the best of what was measured.

        The prefix grows until neither latency nor divergence improves twice in a row. Then the most
        sensitive of the other layers are left float: with labels as few as make the quality accepted,
        without as many as the target's costs allow. With 4 bits the prefix is there for speed alone, and then the
        weights get as many bytes as the costs allow; where the target has no costs, as few as are accepted. A variant
        whose settings are fixed is returned at once.
        """
        if self.fixed:
            return self
        context = replace(context, rules=with_recurrent(context.rules, self.recurrent))
        graph = capture(candidate.model, *task.example())
        placement = place(graph, context.rules)
        count, narrow = len(placement.layers), self.bits < 8
        found: dict[QuantizeMixed, Standing] = {}
        start = replace(
            self, layers=0 if narrow else max(self.layers, 0), share=max(self.share, 0.0) if narrow else 0.0
        )
        if self.prefix == SEARCH:
            lengths = range(0 if narrow else 1, min(_LONGEST, count - 1) + 1)
            yield from _prefixes(start, lengths, found, for_speed=narrow)
            start = _fastest(found) if narrow else best(found)
        else:
            found[start] = yield start
        if narrow and self.share == SEARCH:
            least = _least_share(graph, placement, start.prefix)
            most = int((_MOST - least) / _FEWER)
            bounded = found[start].excess < 0
            if found[start].excess > 0 or (found[start].accepted in (True, None) and not bounded):
                return best(found)
            fewest = yield from _fewest(
                most,
                lambda count: replace(start, share=round(least + count * _FEWER, 4)),
                (lambda standing: standing.excess > 0) if bounded else _enough,
                found,
                _FIRST,
            )
            if fewest is not None and not bounded:
                return fewest
        elif not narrow and self.layers == SEARCH and not _enough(found[start]):
            yield from _fewest((count - start.prefix) // 2, lambda count: replace(start, layers=count), _enough, found)
        return best(found)

    @property
    def fixed(self) -> bool:
        """Whether nothing is left to search."""
        open_ = (self.prefix, self.layers if self.bits == 8 else self.share)
        return self.float_layers is not None or self.table is not None or SEARCH not in open_

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
        chosen = self._bits(graph, task, samples, context)
        kept = [name for name, bits in chosen.items() if bits == FLOAT]
        placement = place(graph, context.rules, skip=kept)
        if not placement.layers:
            raise AttemptError(
                f"quantize-mixed would leave all {len(kept)} layers float.\n  Give it a smaller prefix or fewer layers."
            )
        known = self._calibrated(graph, task, samples, context)
        calls = calibration_calls(task, samples, self.samples)
        plan = restrict(known.plan, placement) or self._ranged(graph, placement, calls, known.ranges, context)
        few = {layer.weight for layer in placement.layers if 4 in (chosen.get(layer.node), chosen.get(layer.weight))}
        if few:
            four = self._four(graph, task, samples, context)
            plan = replace(plan, weights={**plan.weights, **{name: four[name] for name in few if name in four}})
        notes: tuple[str, ...] = ()
        if self.bias_correction:
            plan, notes = guarded_biases(
                graph, placement, plan, task, samples, self.samples, calls, check=context.check,
                progress=context.progress,
            )  # fmt: skip
        notes = (*_told(placement, plan), *told_recurrent(placement), *known.notes, *notes)
        return candidate.derive(plan=plan, notes=notes)

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """Its file is larger than with the fewest bits in every layer; float layers may run faster."""
        size = "quantize-static" if self.bits == 8 else "learned-rounding(bits=4)"
        return {"size": size, "params": "", "macs": ""}

    def duration(self, pace: Pace) -> float:
        """The static plan, and for a search about ten variants of it, each written and scored."""
        once = pace.calibrating(10 if self.bits == 8 else 20, self.samples)
        return once if self.fixed else 10 * once

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """A float prefix of layers that weigh next to nothing: about as small and as fast as a search can come.

        Where the settings ask for sensitive layers, they are ranked on few samples and may be others in the end.
        """
        lightest = _LIGHT if self.bits == 8 else _LIGHT / 10  # so that it counts for little in a small file, too
        prefix = _light(candidate, task, lightest) if self.prefix == SEARCH else self.prefix
        shown = (
            self if self.fixed else replace(self, prefix=prefix, layers=max(self.layers, 0), share=max(self.share, 0.0))
        )
        rough = replace(shown, samples=FEW, ranges="minmax", bias_correction=False)
        return rough.apply(candidate, task, context)

    @property
    def _named(self) -> dict[str, int]:
        """The user's own table."""
        return {name: _PRECISIONS[bits] for name, _, bits in (entry.rpartition("=") for entry in self.table or ())}

    def _bits(self, graph: Graph, task: Task, samples: Samples, context: Context) -> dict[str, int]:
        """The bits of the layers that do not have 8, by node or weight."""
        if self.float_layers is not None or self.table is not None:
            return {**dict.fromkeys(self.float_layers or (), FLOAT), **self._named}
        placement = place(graph, context.rules)
        names = [layer.node for layer in placement.layers]
        unsearched = _UNMEASURED_PREFIX if self.bits == 8 else 0
        prefix = names[: unsearched if self.prefix == SEARCH else self.prefix]
        kept = dict.fromkeys(prefix, FLOAT)
        if self.bits < 8:
            return {**self._allocated(graph, prefix, task, samples, context), **kept}
        if self.layers <= 0:
            return kept
        known = self._calibrated(graph, task, samples, context)
        if known.ranking is None:
            known.ranking = self._alone(graph, placement, known.plan, task, samples, context)
            context.record("sensitivity", {"layers": known.ranking})
        ranked = [name for name in known.ranking if name not in prefix]
        return {**kept, **dict.fromkeys(ranked[: self.layers], FLOAT)}

    def _allocated(
        self, graph: Graph, prefix: Sequence[str], task: Task, samples: Samples, context: Context
    ) -> dict[str, int]:
        """The bits of every weight behind the prefix with which the outputs move least, within the share of bytes."""
        placement = place(graph, context.rules)
        ahead = {layer.weight for layer in placement.layers if layer.node in prefix}
        sizes = {name: graph.parameter(name) for name in placement.weights}
        fewest = {name: 8 if name in placement.shared else 4 for name in sizes if name not in ahead}
        if self.share <= 0 or not fewest:
            return fewest
        caused, shares = self._caused(graph, task, samples, context), [weight_bytes(w, FLOAT) for w in sizes.values()]
        room = self.share * sum(shares) - sum(weight_bytes(sizes[name], FLOAT) for name in ahead)
        choices = {
            name: {
                bits: Choice(weight_bytes(sizes[name], bits), caused[bits][name]) for bits in caused if bits >= least
            }
            for name, least in fewest.items()
        }
        return allocate(choices, room)

    def _caused(self, graph: Graph, task: Task, samples: Samples, context: Context) -> dict[int, dict[str, float]]:
        """By bits and weight, the divergence that its layers cause alone; measured once for all variants."""
        known = self._calibrated(graph, task, samples, context)
        if known.caused is None:
            placement = place(graph, context.rules)
            four = replace(known.plan, weights={**known.plan.weights, **self._four(graph, task, samples, context)})
            by_node = {
                bits: self._alone(graph, placement, plan, task, samples, context)
                for bits, plan in ((8, known.plan), (4, four))
            }
            context.record("sensitivity", {"layers": by_node[8], "4 bits": by_node[4]})
            known.caused = {FLOAT: dict.fromkeys(placement.weights, 0.0)}
            for bits, found in by_node.items():
                known.caused[bits] = {
                    name: max(found[layer.node] for layer in placement.layers if layer.weight == name)
                    for name in placement.weights
                }
        return known.caused

    def _alone(
        self, graph: Graph, placement: Placement, plan: Plan, task: Task, samples: Samples, context: Context
    ) -> dict[str, float]:
        """By node, the divergence that a layer causes where it alone is quantized, and corrected."""
        told = context.check, context.progress
        if self.bias_correction:
            calls = calibration_calls(task, samples, self.samples)
            plan = correct_each_alone(graph, placement, plan, calls, check=told[0], progress=told[1])
        return sensitivity(graph, placement, plan, task, samples, check=told[0], progress=told[1])

    def _four(self, graph: Graph, task: Task, samples: Samples, context: Context) -> dict[str, Quantizer]:
        """4 bits for every weight that one layer reads, with the scales that move the layer's output least.

        Of very wide layers, those that move the weights least.
        """
        known = self._calibrated(graph, task, samples, context)
        if known.four is None:
            placement = place(graph, context.rules)
            calls = calibration_calls(task, samples, self.samples)
            alone = {name: graph.parameter(name) for name in placement.weights if name not in placement.shared}
            rounded = round_weights(
                graph,
                placement,
                {name: 4 for name, weight in alone.items() if weight[0].numel() <= _COLUMNS},
                calls,
                calls[:1],
                activations=known.plan.activations,
                rounding="nearest",
                seed=context.seed,
                check=context.check,
                progress=context.progress,
            )
            found = {
                name: rounded.plan.weights.get(name) or weight_quantizer(name, weight, 4, search=True)
                for name, weight in alone.items()
            }
            known.four = as_ruled(found, context.rules)
        return known.four

    def _calibrated(self, graph: Graph, task: Task, samples: Samples, context: Context) -> _Calibrated:
        """Ranges of the whole graph, made once for all variants that differ in the bits of their layers only."""
        key = (
            replace(self, prefix=0, layers=0, float_layers=None, bits=8, share=0.0, table=None),
            samples,
            weight_bits(context.hardware),
            context.rules,
            context.seed,
        )
        known = _calibrations.get(graph)
        if known is None or known.key != key:
            placement = place(graph, context.rules)

            def fit(calls: Sequence[Call]) -> Fitted[Plan]:
                return lambda steps: self._ranged(graph, placement, calls, self.ranges if steps else "minmax", context)

            plan, notes = guarded(
                graph.module, task, samples, self.samples, calibration_calls(task, samples, self.samples),
                [RANGES] if self.ranges != "minmax" else [], fit,
                lambda plan: simulate(graph, plan), check=context.check,
            )  # fmt: skip
            ranges: Ranges = "minmax" if notes else self.ranges
            known = _calibrations[graph] = _Calibrated(key, plan, ranges, notes)
        return known

    def _ranged(
        self, graph: Graph, placement: Placement, calls: Sequence[Call], ranges: Ranges, context: Context
    ) -> Plan:
        return calibrate(
            graph,
            placement,
            calls,
            ranges=ranges,
            percentile=self.percentile,
            weight_bits=weight_bits(context.hardware),
            rules=context.rules,
            check=context.check,
            progress=context.progress,
        )


@dataclass
class _Calibrated:
    """The plan of a whole graph with 8 bits, biases as they are, and what is known about its layers.

    ranges, notes: of the ranges that were kept, and why. ranking: what each layer causes alone, by node. four: 4 bits
    for the weights. caused: what each weight causes alone, by bits.
    """

    key: tuple[Any, ...]
    plan: Plan
    ranges: Ranges
    notes: tuple[str, ...]
    ranking: dict[str, float] | None = None
    four: dict[str, Quantizer] | None = None
    caused: dict[int, dict[str, float]] | None = None


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


def _fastest(found: dict[QuantizeMixed, Standing]) -> QuantizeMixed:
    """The shortest prefix that is the fastest but for noise."""
    least = min(standing.latency for standing in found.values())
    return next(variant for variant, standing in found.items() if standing.latency <= least * (1 + _NOISE))


def _light(candidate: Candidate, task: Task, most: float) -> int:
    """How many of the first layers together hold next to none of the weights."""
    graph = capture(candidate.model, *task.example())
    sizes = [graph.module.get_parameter(layer.weight).numel() for layer in place(graph).layers[:_LONGEST]]
    most *= sum(parameter.numel() for parameter in graph.module.parameters())
    return sum(total <= most for total in accumulate(sizes))


def _least_share(graph: Graph, placement: Placement, prefix: int) -> float:
    """The bytes of the weights with the fewest bits behind a float prefix, by their float ones."""
    ahead = {layer.weight for layer in placement.layers[:prefix]}
    least = total = 0
    for name in placement.weights:
        weight = graph.parameter(name)
        total += weight_bytes(weight, FLOAT)
        least += weight_bytes(weight, FLOAT if name in ahead else 8 if name in placement.shared else 4)
    return least / total


def _prefixes(
    start: QuantizeMixed, lengths: Sequence[int], found: dict[QuantizeMixed, Standing], *, for_speed: bool = False
) -> _Variants:
    """Longer and longer float prefixes, until two in a row gain neither speed nor, unless it is for speed, quality."""
    latency, divergence = float("inf"), float("inf")
    in_vain = 0
    for prefix in lengths:
        variant = replace(start, prefix=prefix)
        standing = found[variant] = yield variant
        gained = standing.latency < latency * (1 - _NOISE)
        gained |= not for_speed and standing.divergence < divergence * (1 - _NOISE)
        in_vain = 0 if gained else in_vain + 1
        latency, divergence = min(latency, standing.latency), min(divergence, standing.divergence)
        if in_vain == _PATIENCE:
            return


def _fewest(
    most: int,
    variant: Callable[[int], QuantizeMixed],
    enough: Callable[[Standing], bool],
    found: dict[QuantizeMixed, Standing],
    step: int = 1,
) -> Generator[Method, Standing, QuantizeMixed | None]:
    """Close in on the fewest of what a variant has so many of that are enough, 0 of them not: doubling, then bisection.

    Quality and costs both grow with the number of float layers, and with the bytes of weights, so the first number
    that is enough parts those with too little quality from those that cost more than they need to. Returns that
    variant, None where not even the most are enough.
    """
    low, high = 0, most + 1
    while low + 1 < high:
        count = min(low + step, most) if high > most else (low + high) // 2
        tried = variant(count)
        standing = found[tried] = yield tried
        if enough(standing):
            high = count
        else:
            low, step = count, 2 * step
    return variant(high) if high <= most else None


def _enough(standing: Standing) -> bool:
    """Whether more float layers would be pointless: quality is accepted, or costs are too high already."""
    return standing.accepted is True or standing.excess > 0


def _told(placement: Placement, plan: Plan) -> tuple[str, ...]:
    kept = [name for name, reason in placement.left.items() if reason == "asked to stay float"]
    total = len(kept) + len(placement.layers)
    floats = f"{len(kept)} of {total} layers stay float: {', '.join(kept)}" if kept else "no layer was left float"
    few = [layer.node for layer in placement.layers if plan.weights[layer.weight].bits == 4]
    others = [layer.node for layer in placement.layers if layer.node not in few]
    if not few:
        return (floats,)
    rest = f", {len(others)} have more: {', '.join(others)}" if others else ""
    return floats, f"{len(few)} of {total} layers have 4 bits{rest}"
