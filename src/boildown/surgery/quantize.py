"""What every method that quantizes from calibration samples needs: the calls, the bits, part of a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from boildown.domain.candidate import Candidate, Plan
from boildown.domain.rules import Recurrent, Rules
from boildown.domain.task import Samples, Task
from boildown.errors import AttemptError
from boildown.measuring.environment import resolved
from boildown.surgery.calibrate import Call
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import Placement, place

_BATCH = 64
_EVERYTHING = Rules(dynamic=get_args(Recurrent))

OfRecurrent = Literal["dynamic", "weights", "float"]
OF_RECURRENT = (
    "what becomes of LSTM, GRU, RNN and cells: dynamic (integers where the runtime is faster so, grids found while "
    "it runs; else int8 weights for size only), weights (int8 weights for size only, everywhere) or float"
)
"""What the setting `recurrent` of a method says."""


def with_recurrent(rules: Rules, asked: OfRecurrent) -> Rules:
    """The rules of a runtime for what is asked of recurrent layers; linear layers in a loop are as others for float."""
    if asked == "float":
        return replace(rules, dynamic=(), stored=())
    return rules if asked == "dynamic" else rules.without_dynamic()


def told_recurrent(placement: Placement) -> tuple[str, ...]:
    """What becomes of recurrent layers, as notes."""
    named: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for layer in placement.recurrent:
        named[layer.dynamic].update(dict.fromkeys(name.rpartition(".")[0] or name for name in layer.weights))
    notes = {True: "in int8, grids found while it runs", False: "int8 weights for size only: computed in float"}
    return tuple(f"{', '.join(names)}: {notes[dynamic]}" for dynamic, names in named.items() if names)


def nothing_to_quantize(candidate: Candidate, task: Task, *, recurrent: bool = False) -> str | None:
    """Why a candidate cannot be given a quantization plan, in words; None where it can.

    recurrent: whether recurrent layers alone are enough.
    """
    if candidate.plan is not None or candidate.rewrite is not None:
        return "the model is quantized already"
    found = place(capture(candidate.model, *task.example()), _EVERYTHING)
    if found.layers or (recurrent and found.recurrent):
        return None
    return "the model has no convolution or linear layer with weights of its own"


def calibration_calls(task: Task, samples: Samples, limit: int, parts: int = 1) -> list[Call]:
    """Every call of the model that the task makes for the first `limit` calibration samples.

    parts: how many batches there are at least, where there are as many samples.
    """
    chosen = samples if len(samples) <= limit else samples.subset(range(limit))
    size = min(_BATCH, max(1, -(-len(chosen) // parts)))
    return [call for inputs, _ in chosen.batches(size) for call in task.calls(inputs)]


def weight_bits(hardware: str) -> int:
    """Bits of the weights that are safe on `hardware`: "this machine", "x86-vnni", "x86-any", "arm64" or any other.

    x86 without VNNI adds two products of uint8 and int8 in 16 bits (vpmaddubsw), which saturate:
    255 * 127 * 2 does not fit, 255 * 63 * 2 does. So its weights get 7 bits, all others 8.
    """
    return 7 if resolved(hardware) == "x86-any" else 8


def placed(graph: Graph, rules: Rules, *, products: bool = False) -> Placement:
    """Quantizers placed by the rules of a runtime. Raises AttemptError where there are none."""
    placement = place(graph, rules, products=products)
    if not (placement.layers or placement.recurrent):
        raise AttemptError(
            f"The runtime quantizes no layer of this model: {'; '.join(sorted(set(placement.left.values())))}.\n"
            "  Choose another runtime, or a method that does not quantize."
        )
    return placement


def refuse_other_grids(rules: Rules) -> None:
    """Raise AttemptError where a runtime's grids are not those that can be learned."""
    if rules.signed or not rules.per_channel:
        raise AttemptError(
            "Grids are learned for unsigned activations and one scale per output channel of a weight, and the runtime "
            "has others.\n  Use quantize-static or quantize-mixed."
        )


def restrict(plan: Plan, placement: Placement) -> Plan | None:
    """The part of a calibrated plan that another placement on the same graph asks for.

    Biases are left out: they were corrected for the whole. None where the placement quantizes what
    the plan does not.
    """
    recurrent = [name for layer in placement.recurrent for name in layer.weights]
    weights = {*placement.weights, *recurrent}
    if not (set(placement.activations) <= set(plan.activations) and weights <= set(plan.weights)):
        return None
    return replace(
        plan,
        activations={name: plan.activations[name] for name in placement.activations},
        weights={name: quantizer for name, quantizer in plan.weights.items() if name in weights},
        biases={},
        dynamic=placement.dynamic,
    )
