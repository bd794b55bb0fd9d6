"""What every method that quantizes from calibration samples needs: the calls, the bits, part of a plan."""

from __future__ import annotations

from dataclasses import replace

from boildown.domain.candidate import Candidate, Plan
from boildown.domain.rules import Rules
from boildown.domain.task import Samples, Task
from boildown.errors import AttemptError
from boildown.measuring.environment import resolved
from boildown.surgery.calibrate import Call
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import Placement, place

_BATCH = 64


def nothing_to_quantize(candidate: Candidate, task: Task) -> str | None:
    """Why a candidate cannot be given a quantization plan, in words; None where it can."""
    if candidate.plan is not None or candidate.rewrite is not None:
        return "the model is quantized already"
    if not place(capture(candidate.model, *task.example())).layers:
        return "the model has no convolution or linear layer with weights of its own"
    return None


def calibration_calls(task: Task, samples: Samples, limit: int) -> list[Call]:
    """Every call of the model that the task makes for the first `limit` calibration samples."""
    chosen = samples if len(samples) <= limit else samples.subset(range(limit))
    return [call for inputs, _ in chosen.batches(min(_BATCH, limit)) for call in task.calls(inputs)]


def weight_bits(hardware: str) -> int:
    """Bits of the weights that are safe on `hardware`: "this machine", "x86-vnni", "x86-any", "arm64" or any other.

    x86 without VNNI adds two products of uint8 and int8 in 16 bits (vpmaddubsw), which saturate:
    255 * 127 * 2 does not fit, 255 * 63 * 2 does. So its weights get 7 bits, all others 8.
    """
    return 7 if resolved(hardware) == "x86-any" else 8


def placed(graph: Graph, rules: Rules, *, products: bool = False) -> Placement:
    """Quantizers placed by the rules of a runtime. Raises AttemptError where there are none."""
    placement = place(graph, rules, products=products)
    if not placement.layers:
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
    if not (set(placement.activations) <= set(plan.activations) and set(placement.weights) <= set(plan.weights)):
        return None
    return replace(
        plan,
        activations={name: plan.activations[name] for name in placement.activations},
        weights={name: plan.weights[name] for name in placement.weights},
        biases={},
    )
