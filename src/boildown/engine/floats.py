"""What a runtime computes in float of a quantized candidate, layer by layer, as plain data for journal and report.

What it ends up running says so, and not the plan alone; the plan, and the rules that it was made by, give the reasons.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node

from boildown.domain.candidate import Candidate, Plan
from boildown.domain.measurement import Measurement
from boildown.domain.rules import Kind, Rules
from boildown.engine.layers import weights
from boildown.errors import AttemptError
from boildown.runtimes.base import Executed
from boildown.surgery.graph import LINEAR, Graph
from boildown.surgery.nodes import base_name
from boildown.surgery.plan import Layer, place

FLOATS = "floats"
"""The kind of record."""
UNKNOWN = "floats not known"
"""That of why there is none."""

_WORTH = 0.01
"""The share of the time from which on something without weights is told."""
_NOT_FASTER = 0.9
_SLOWED = 0.3
_HEAVY = ("conv", "gemm", "matmul", "fullyconnected", "lstm", "gru", "rnn")
"""What the operators have in their names that multiply by weights, in any runtime."""
_RECURRENT = ("gru", "rnn")
_BETWEEN = ("quantize", "cast", "convert", "reorder")


@dataclass
class _Own:
    """A layer with weights of its own, and what runs of it; `node` is the first that reads them."""

    node: Node
    weights: list[str] = field(default_factory=list)
    size: int = 0
    steps: list[Executed] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As in the state dict of the model, without the weight's own name where that says nothing."""
        if len(self.weights) == 1:
            return self.weights[0].removesuffix(".weight")
        return ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in self.weights))

    @property
    def is_float(self) -> bool:
        return any(_is_float(step) for step in self.steps)


def floats(
    graph: Graph, candidate: Candidate, executed: Sequence[Executed], names: Mapping[str, str], rules: Rules
) -> dict[str, Any]:
    """What stayed float of a candidate whose file runs as `executed`, `names` leading its names back to the graph's.

    layers: what is computed in float and holds weights, in the order of the graph, then other operators that take
    time, together by kind; each with its shares of weights and of time (None where no times are known) and why. of:
    how many layers hold weights. weights, time: the shares of all that is float. lost: layers that nothing of what
    runs could be led back to. Raises AttemptError where that is all of them.
    """
    layers, homes = _layers(graph)
    order = {node.name: place for place, node in enumerate(graph.module.graph.nodes)}
    nodes = {node.name: node for node in graph.module.graph.nodes}
    others: dict[tuple[str, str], list[Executed]] = defaultdict(list)
    nameless: list[Executed] = []
    for step in executed:
        heavy = _is_heavy(step.kind)
        called = step.name.split(",")  # several where a runtime fuses them
        owners = [names.get(name, name) for name in called]
        if heavy and (step.weights or "matmul" not in step.kind.lower()):
            owners += [_behind(nodes.get(owner), homes, order) for owner in owners]
        owner = next((owner for owner in owners if owner in homes), "")
        if owner and (heavy or step.weights):
            homes[owner].steps.append(step)
        elif heavy and not any(name in names or name in nodes for name in called):
            nameless.append(step)
        else:
            others[step.kind, step.precision].append(step)
    lost = [own for own in layers if not own.steps]
    if len(nameless) == len(lost) < len(layers):  # the runtime calls them by names of its own, and runs them in order
        for own, step in zip(lost, nameless, strict=True):
            own.steps.append(step)
        lost = []
    else:
        for step in nameless:
            others[step.kind, step.precision].append(step)
    if layers and len(lost) == len(layers):
        raise AttemptError("No layer of the model is known again in what the runtime runs.")
    total = sum(layer.size for layer in layers) or 1
    seconds = sum(step.seconds for step in executed)
    why = _Reasons(graph, candidate, rules)

    def line(name: str, steps: Sequence[Executed], size: int, reason: str) -> dict[str, Any]:
        return {
            "name": name,
            "kind": ", ".join(dict.fromkeys(step.kind for step in steps)),
            "weights": size / total,
            "time": sum(step.seconds for step in steps) / seconds if seconds else None,
            "reason": reason,
        }

    found = [line(own.name, own.steps, own.size, why(own)) for own in layers if own.steps and own.is_float]
    rest = [
        line(kind if len(steps) == 1 else f"{len(steps)} {kind}", steps, 0, _without_weights(kind))
        for (kind, _precision), steps in others.items()
        if _is_float(steps[0])
    ]
    return {
        "layers": [*found, *(each for each in rest if (each["time"] or 0.0) >= _WORTH)],
        "of": len(layers),
        "weights": sum(each["weights"] for each in found),
        "time": sum(each["time"] for each in (*found, *rest)) if seconds else None,
        "lost": [own.name for own in lost],
    }


def not_faster(found: Mapping[str, Any], latency: Measurement | None) -> str:
    """What takes the time of a quantized candidate that is hardly faster; empty where floats are not the reason."""
    if latency is None or latency.ratio is None or latency.ratio < _NOT_FASTER or (found["time"] or 0.0) < _SLOWED:
        return ""
    most = max(found["layers"], key=lambda each: each["time"], default=None)
    if most is None:
        return ""
    return (
        f"hardly faster: {100 * found['time']:.0f} % of its time goes to what runs in float, "
        f"{100 * most['time']:.0f} % to {most['name']} ({most['reason']})"
    )


def _layers(graph: Graph) -> tuple[list[_Own], dict[str, _Own]]:
    """The layers of a graph, and each by its weights and by the nodes that read them."""
    layers: list[_Own] = []
    homes: dict[str, _Own] = {}
    for node, name, tensor in weights(graph):
        own = homes.get(name) or homes.get(node.name)
        if own is None:
            layers.append(own := _Own(node))
        if name not in homes:
            own.weights.append(name)
            own.size += tensor.numel()
        homes[name] = own
        homes.setdefault(node.name, own)
    return layers, homes


def _behind(node: Node | None, homes: Mapping[str, _Own], order: Mapping[str, int]) -> str:
    """The nearest layer before a value, as where an activation or a sum is part of it; empty for none."""
    while node is not None and node.name not in homes:
        node = max(
            (source for source in node.all_input_nodes if source.op == "call_function"),
            key=lambda source: order[source.name], default=None,
        )  # fmt: skip
    return "" if node is None else node.name


class _Reasons:
    """Why layers run in float."""

    def __init__(self, graph: Graph, candidate: Candidate, rules: Rules) -> None:
        self._candidate, self._rules = candidate, rules
        self._placement = place(graph, rules)
        self._placed = {layer.node: layer for layer in self._placement.layers}
        self._first = {layer.node for layer in self._prefix()}

    def __call__(self, own: _Own) -> str:
        """The reason for a layer in words."""
        step = max(own.steps, key=lambda step: step.weights)
        stored = step.stored or next(
            (f"int{self._plan.weights[name].bits}" for name in own.weights if name in self._plan.weights), ""
        )
        reason = self._reason(own, step.kind)
        is_small = stored.startswith(("int", "uint")) or (stored == "float16" and step.precision == "float32")
        return f"stored in {stored}, computed in float: {reason}" if is_small else reason

    @property
    def _plan(self) -> Plan:
        return self._candidate.plan or Plan()

    def _reason(self, own: _Own, kind: str) -> str:
        method, node = self._candidate.method, own.node.name
        if self._candidate.plan is not None and node in self._placement.left:
            return self._placement.left[node]
        placed = self._placed.get(node)
        if self._candidate.plan is not None and placed is not None:
            return self._of_placed(own.node, placed, kind)
        if (recurrent := base_name(own.node).partition("_")[0]) in _RECURRENT:
            return f"no integer kernel for {recurrent.upper()}"
        kind = "LSTM" if recurrent == "lstm" else kind
        if "gather" in kind.lower():
            return f"rows are looked up in it; {method} leaves them float"
        return f"{method} leaves {kind} float"

    def _of_placed(self, node: Node, layer: Layer, kind: str) -> str:
        """Of a layer that the runtime's rules would quantize."""
        if layer.weight not in self._plan.weights:
            which = "one of the first layers, " if layer.node in self._first else ""
            return f"{which}left float by {self._candidate.method}"
        if not self._plan.activations:
            return "only weights are quantized"
        if layer.output not in self._plan.activations and _kind(node) in self._rules.grids:
            return "its output is on no grid"
        return f"the runtime runs it in float, as {kind}"

    def _prefix(self) -> Iterator[Layer]:
        """The first layers that the plan leaves float, up to one that it quantizes."""
        for layer in self._placement.layers:
            if layer.weight in self._plan.weights:
                return
            yield layer


def _is_heavy(kind: str) -> bool:
    return "convert" not in kind.lower() and any(word in kind.lower() for word in _HEAVY)


def _is_float(step: Executed) -> bool:
    return step.precision.startswith(("float", "bfloat"))


def _kind(node: Node) -> Kind:
    return "linear" if node.target is LINEAR else "convolution"


def _without_weights(kind: str) -> str:
    between = any(word in kind.lower() for word in _BETWEEN)
    return "between integers and floats" if between else "no weights; computed in float"
