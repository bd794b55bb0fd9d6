"""Recurrent layers: what they are in a graph, and how they compute where grids are found while they run.

A layer over a sequence is one operator, a cell one for each step, and a step that is written out is a linear layer
that reads what an earlier call of it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from boildown.domain.rules import Recurrent
from boildown.surgery.graph import LINEAR, tensor_of

aten = torch.ops.aten

SEQUENCES: Mapping[Any, Recurrent] = {
    aten.lstm.input: "lstm",
    aten.gru.input: "gru",
    aten.rnn_tanh.input: "rnn",
    aten.rnn_relu.input: "rnn",
}
CELLS = frozenset(
    {aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default}
)


def matrices(node: Node) -> list[Node]:
    """The weights that a recurrent or a linear layer multiplies by; none for any other node."""
    if node.target in SEQUENCES:
        given = cast("Sequence[Node]", node.args[2])
        return [each for each in given if (value := tensor_of(each)) is not None and value.ndim == 2]
    if node.target in CELLS:
        return list(cast("Sequence[Node]", node.args[2:4]))
    return [cast(Node, node.args[1])] if node.target is LINEAR else []


def kind_of(node: Node, loops: Container[Node] = ()) -> Recurrent | None:
    """What kind of recurrent layer a node is, if any; `loops` holds the linear layers that are."""
    return SEQUENCES.get(node.target) or ("cell" if node.target in CELLS else "loop" if node in loops else None)


def in_loops(module: GraphModule) -> dict[Node, None]:
    """The linear layers that are applied, sooner or later, to what another call of them gave."""
    calls: dict[Node, dict[Node, None]] = {}
    for node in module.graph.nodes:
        if node.target is LINEAR:
            calls.setdefault(cast(Node, node.args[1]), {})[node] = None
    return {call: None for each in calls.values() if len(each) > 1 and _reaches(each) for call in each}


def _reaches(calls: Mapping[Node, None]) -> bool:
    """Whether one of these nodes follows from another."""
    seen = {user: None for call in calls for user in call.users}
    for node in (todo := list(seen)):
        if node in calls:
            return True
        fresh = [user for user in node.users if user not in seen]
        seen |= dict.fromkeys(fresh)
        todo += fresh
    return False


# ---- grids found at run time -------------------------------------------------------------------


def let_find_grids(module: GraphModule, node: Node) -> None:
    """Let a recurrent or linear layer of a simulation round what it multiplies to the grid of its own range."""
    if stepped := _STEPPED.get(node.target):
        node.target = stepped
        return
    with module.graph.inserting_before(node):

        def rounded(value: Node) -> Node:
            found = module.graph.call_function(on_own_grid, (value,))
            found.meta["val"] = value.meta["val"]
            return found

        data, *rest = node.args
        if node.target in CELLS:
            state = rest[0]
            if node.target is aten.lstm_cell.default:
                hidden, memory = cast("Sequence[Node]", state)
                rest[0] = [rounded(hidden), memory]
            else:
                rest[0] = rounded(cast(Node, state))
        node.args = (rounded(cast(Node, data)), *rest)


def on_own_grid(value: Tensor) -> Tensor:
    """`value` on the 256 steps between its smallest number and its largest, 0 among them: ONNX's DynamicQuantizeLinear.

    The range is that of the whole batch.
    """
    low, high = (end.clamp(*ends) for end, ends in zip(value.detach().aminmax(), ((None, 0), (0, None)), strict=True))
    scale = (high - low) / 255
    if not scale > 0:
        return value
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(value, scale, zero, 0, 255)


Step = Callable[[Tensor, Sequence[Tensor], Tensor], tuple[Tensor, ...]]
"""From what the input adds to the gates, the state, and what the state adds to them, to the next state."""


def _lstm(gates: Tensor, state: Sequence[Tensor], own: Tensor) -> tuple[Tensor, ...]:
    into, forget, new, out = (gates + own).chunk(4, -1)
    memory = forget.sigmoid() * state[1] + into.sigmoid() * new.tanh()
    return out.sigmoid() * memory.tanh(), memory


def _rnn_tanh(gates: Tensor, _state: Sequence[Tensor], own: Tensor) -> tuple[Tensor, ...]:
    return ((gates + own).tanh(),)


def _rnn_relu(gates: Tensor, _state: Sequence[Tensor], own: Tensor) -> tuple[Tensor, ...]:
    return ((gates + own).relu(),)


def _gru(gates: Tensor, state: Sequence[Tensor], own: Tensor) -> tuple[Tensor, ...]:
    (reset, update, new), (own_reset, own_update, own_new) = gates.chunk(3, -1), own.chunk(3, -1)
    new = (new + (reset + own_reset).sigmoid() * own_new).tanh()
    kept = (update + own_update).sigmoid()
    return ((1 - kept) * new + kept * state[0],)


def _stepped(
    step: Step, data: Tensor, states: Sequence[Tensor], given: Sequence[Tensor], settings: Sequence[Any]
) -> tuple[Tensor, ...]:
    """All layers and directions of a recurrent operator step by step: outputs, and the last state's parts.

    given, settings: the weights, and what follows them, as PyTorch's operators take them.
    """
    biased, layers, _dropout, _train, both_ways, batch_first = settings
    sequence = data.transpose(0, 1) if batch_first else data
    size, last, parts = 4 if biased else 2, list[tuple[Tensor, ...]](), list(given)
    for _layer in range(layers):
        outputs, read = [], on_own_grid(sequence)
        for backward in range(1 + both_ways):
            (into, own, *biases), parts = parts[:size], parts[size:]
            bias, own_bias = biases or (None, None)
            gates = torch.nn.functional.linear(read, into, bias)
            state, found = tuple(part[len(last)] for part in states), []
            for each in reversed(gates) if backward else gates:
                state = step(each, state, torch.nn.functional.linear(on_own_grid(state[0]), own, own_bias))
                found.append(state[0])
            outputs.append(torch.stack(found[::-1] if backward else found))
            last.append(state)
        sequence = torch.cat(outputs, -1)
    ended = (torch.stack(parts) for parts in zip(*last, strict=True))
    return sequence.transpose(0, 1) if batch_first else sequence, *ended


def lstm(data: Tensor, states: Sequence[Tensor], given: Sequence[Tensor], *settings: Any) -> tuple[Tensor, ...]:
    """`aten.lstm.input` on grids found at run time."""
    return _stepped(_lstm, data, states, given, settings)


def gru(data: Tensor, state: Tensor, given: Sequence[Tensor], *settings: Any) -> tuple[Tensor, ...]:
    """`aten.gru.input` on grids found at run time."""
    return _stepped(_gru, data, [state], given, settings)


def rnn_tanh(data: Tensor, state: Tensor, given: Sequence[Tensor], *settings: Any) -> tuple[Tensor, ...]:
    """`aten.rnn_tanh.input` on grids found at run time."""
    return _stepped(_rnn_tanh, data, [state], given, settings)


def rnn_relu(data: Tensor, state: Tensor, given: Sequence[Tensor], *settings: Any) -> tuple[Tensor, ...]:
    """`aten.rnn_relu.input` on grids found at run time."""
    return _stepped(_rnn_relu, data, [state], given, settings)


_STEPPED: Mapping[Any, Callable[..., Any]] = {
    aten.lstm.input: lstm,
    aten.gru.input: gru,
    aten.rnn_tanh.input: rnn_tanh,
    aten.rnn_relu.input: rnn_relu,
}
