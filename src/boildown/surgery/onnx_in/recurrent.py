"""Recurrent layers: PyTorch's own with the shapes of the file, and step by step what PyTorch has no layer for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boildown.surgery.onnx_in.table import Floats, Strings, operator
from boildown.surgery.onnx_in.values import Value, tensor

ORDERS: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where PyTorch's gates stand among ONNX's."""

_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_MOST_STEPS = 2048


class Recurrent(nn.Module):
    """A recurrent layer of PyTorch's that takes and gives what the file's operator does.

    inner: the layer. backward: it reads the sequence from its end. batch_first: as `layout` says.
    """

    def __init__(self, inner: nn.RNNBase, *, backward: bool, batch_first: bool, outputs: int) -> None:
        super().__init__()
        self.inner, self.backward, self.batch_first, self.outputs = inner, backward, batch_first, outputs

    def forward(self, x: Value, hidden: Value = None, cell: Value = None) -> Any:
        """The outputs of all steps, and the last state."""
        sequence = tensor(x).transpose(0, 1) if self.batch_first else tensor(x)
        sequence = sequence.flip(0) if self.backward else sequence
        states = [_state(state, self.batch_first) for state in (hidden, cell) if state is not None]
        if self.inner.mode == "LSTM" and len(states) == 1:  # the other one is zeros
            states = [torch.zeros_like(states[0]) if state is None else states[0] for state in (hidden, cell)]
        given = None if not states else states[0] if self.inner.mode != "LSTM" else tuple(states)
        found, last = self.inner(sequence, given)
        found = found.flip(0) if self.backward else found
        ways = 2 if self.inner.bidirectional else 1
        found = found.reshape(found.shape[0], found.shape[1], ways, self.inner.hidden_size)
        found = found.permute(1, 0, 2, 3) if self.batch_first else found.permute(0, 2, 1, 3)
        ended = last if isinstance(last, tuple) else (last,)
        ended = tuple(_state(state, self.batch_first) for state in ended)
        return (found, *ended)[: self.outputs] if self.outputs > 1 else found


def _state(state: Value, batch_first: bool) -> Tensor:
    return tensor(state).transpose(0, 1) if batch_first else tensor(state)


def layer(
    kind: str, parts: Sequence[Tensor | None], *, hidden_size: int, direction: str, activation: str, layout: int,
    outputs: int,
) -> Recurrent:  # fmt: skip
    """A layer with the weights of a file: `parts` are W, R and B."""
    weight, recurrent, bias = parts
    assert weight is not None
    assert recurrent is not None
    ways = _DIRECTIONS[direction]
    more = {"nonlinearity": activation.lower()} if kind == "RNN" else {}
    kinds: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    inner = kinds[kind](weight.shape[2], hidden_size, bias=bias is not None, bidirectional=ways == 2, device="meta",
                        **more)  # fmt: skip
    inner = inner.to_empty(device="cpu")
    for way in range(ways):
        end = "_reverse" if way else ""
        pieces = {"weight_ih_l0": weight[way], "weight_hh_l0": recurrent[way]}
        if bias is not None:
            half = bias.shape[1] // 2
            pieces |= {"bias_ih_l0": bias[way, :half], "bias_hh_l0": bias[way, half:]}
        for name, piece in pieces.items():
            target = getattr(inner, name + end)
            gates = piece.chunk(len(ORDERS[kind]))
            made = torch.cat([gates[gate] for gate in ORDERS[kind]]).contiguous()
            if target.shape != made.shape:
                raise ValueError(f"its weights have the shape {list(made.shape)}, not {list(target.shape)}")
            setattr(inner, name + end, nn.Parameter(made))
    inner.flatten_parameters()
    return Recurrent(inner.eval(), backward=direction == "reverse", batch_first=bool(layout), outputs=outputs)


def usual(kind: str, attributes: Mapping[str, Any], sequence_lengths: bool, peepholes: bool) -> str | None:
    """The activation function of a layer that PyTorch has; None where it has none."""
    ways = _DIRECTIONS.get(attributes.get("direction", "forward"), 0)
    given = tuple(attributes.get("activations") or _USUAL[kind] * ways)
    known = given == _USUAL[kind] * ways or (kind == "RNN" and given == ("Relu",) * ways)
    odd = attributes.get("clip") or attributes.get("input_forget") or peepholes or sequence_lengths
    before = kind == "GRU" and not attributes.get("linear_before_reset")
    return given[0] if known and not odd and not before and ways else None


# ---- step by step --------------------------------------------------------------------------------

_Function = Callable[[Tensor], Tensor]


def _function(name: str, alpha: float | None, beta: float | None) -> _Function:
    known: dict[str, _Function] = {
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "Relu": F.relu,
        "Softsign": F.softsign,
        "Softplus": F.softplus,
        "LeakyRelu": lambda x: F.leaky_relu(x, 0.01 if alpha is None else alpha),
        "Elu": lambda x: F.elu(x, 1.0 if alpha is None else alpha),
        "HardSigmoid": lambda x: torch.clamp(
            (0.2 if alpha is None else alpha) * x + (0.5 if beta is None else beta), 0, 1
        ),
        "Affine": lambda x: (1.0 if alpha is None else alpha) * x + (0.0 if beta is None else beta),
        "ScaledTanh": lambda x: (1.0 if alpha is None else alpha) * torch.tanh((1.0 if beta is None else beta) * x),
    }
    if name not in known:
        raise ValueError(f"an activation {name!r} is not read")
    return known[name]


def _stepped(
    kind: str, x: Value, w: Value, r: Value, b: Value, lengths: Value, states: Sequence[Value], peepholes: Value, *,
    activations: Strings | None, activation_alpha: Floats | None, activation_beta: Floats | None, clip: float | None,
    direction: str, hidden_size: int, layout: int, outputs: int, before_reset: int = 0, input_forget: int = 0,
) -> Value:  # fmt: skip
    """All directions of a layer, one step after another."""
    sequence, ways = tensor(x), _DIRECTIONS[direction]
    sequence = sequence.transpose(0, 1) if layout else sequence
    steps, batch = sequence.shape[0], sequence.shape[1]
    if not isinstance(steps, int) or steps > _MOST_STEPS:
        raise ValueError("it is computed step by step, which an open or long sequence does not allow")
    names = list(activations or _USUAL[kind] * ways)
    each = len(_USUAL[kind])
    functions = [
        _function(name, _at(activation_alpha, index), _at(activation_beta, index)) for index, name in enumerate(names)
    ]
    outputs_of, ended = [], []
    for way in range(ways):
        own = [
            tensor(s).transpose(0, 1)[way] if layout and s is not None else
            sequence.new_zeros(batch, hidden_size) if s is None else tensor(s)[way] for s in states
        ]  # fmt: skip
        bias = None if b is None else tensor(b)[way]
        peeps = None if peepholes is None else tensor(peepholes)[way].chunk(3)
        step = _Step(kind, tensor(w)[way], tensor(r)[way], bias, functions[way * each : (way + 1) * each], clip,
                     before_reset, input_forget, peeps)  # fmt: skip
        order = range(steps - 1, -1, -1) if way == 1 or direction == "reverse" else range(steps)
        found: list[Tensor] = [sequence[0]] * steps
        for at in order:
            fresh = step(sequence[at], own)
            if lengths is not None:
                going = (at < tensor(lengths)).unsqueeze(1)
                found[at] = torch.where(going, fresh[0], torch.zeros_like(fresh[0]))
                own = [torch.where(going, new, old) for new, old in zip(fresh, own, strict=True)]
            else:
                found[at], own = fresh[0], fresh
        outputs_of.append(torch.stack(found))
        ended.append(own)
    whole = torch.stack(outputs_of, 1)
    last = [torch.stack(parts) for parts in zip(*ended, strict=True)]
    if layout:
        whole, last = whole.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in last]
    return (whole, *last)[:outputs] if outputs > 1 else whole


def _at(given: Floats | None, index: int) -> float | None:
    return given[index] if given is not None and index < len(given) else None


class _Step:
    """One step of one direction."""

    def __init__(
        self, kind: str, w: Tensor, r: Tensor, b: Tensor | None, functions: Sequence[_Function], clip: float | None,
        before_reset: int, input_forget: int, peepholes: Sequence[Tensor] | None,
    ) -> None:  # fmt: skip
        self.kind, self.w, self.r, self.functions, self.clip = kind, w, r, functions, clip
        self.before_reset, self.input_forget, self.peepholes = before_reset, input_forget, peepholes
        half = r.shape[0]
        self.given = None if b is None else b[:half]
        self.own = None if b is None else b[half:]

    def __call__(self, x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        return cast("list[Tensor]", getattr(self, f"_{self.kind.lower()}")(x, *states))

    def _clipped(self, x: Tensor) -> Tensor:
        return x if not self.clip else x.clamp(-self.clip, self.clip)

    def _rnn(self, x: Tensor, hidden: Tensor) -> list[Tensor]:
        (f,) = self.functions
        return [f(self._clipped(F.linear(x, self.w, self.given) + F.linear(hidden, self.r, self.own)))]

    def _lstm(self, x: Tensor, hidden: Tensor, cell: Tensor) -> list[Tensor]:
        f, g, h = self.functions
        gates = F.linear(x, self.w, self.given) + F.linear(hidden, self.r, self.own)
        into, out, forget, new = gates.chunk(4, -1)
        if self.peepholes is not None:
            into, forget = into + self.peepholes[0] * cell, forget + self.peepholes[2] * cell
        into = f(self._clipped(into))
        forget = 1 - into if self.input_forget else f(self._clipped(forget))
        memory = forget * cell + into * g(self._clipped(new))
        out = out if self.peepholes is None else out + self.peepholes[1] * memory
        return [f(self._clipped(out)) * h(memory), memory]

    def _gru(self, x: Tensor, hidden: Tensor) -> list[Tensor]:
        f, g = self.functions
        (z, r, n), size = F.linear(x, self.w, self.given).chunk(3, -1), hidden.shape[-1]
        own = [None] * 3 if self.own is None else self.own.chunk(3)
        update = f(self._clipped(z + F.linear(hidden, self.r[:size], own[0])))
        reset = f(self._clipped(r + F.linear(hidden, self.r[size : 2 * size], own[1])))
        last = self.r[2 * size :]
        state = reset * F.linear(hidden, last, own[2]) if self.before_reset else F.linear(reset * hidden, last, own[2])
        return [(1 - update) * g(self._clipped(n + state)) + update * hidden]


@operator("LSTM", folds=False)
def lstm(
    x: Value, w: Value, r: Value, b: Value = None, lengths: Value = None, hidden: Value = None, cell: Value = None,
    peepholes: Value = None, *, activations: Strings | None = None, activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None, clip: float | None = None, direction: str = "forward", hidden_size: int,
    input_forget: int = 0, layout: int = 0, outputs: int,
) -> Value:  # fmt: skip
    """A layer with a memory."""
    return _stepped("LSTM", x, w, r, b, lengths, [hidden, cell], peepholes, activations=activations,
                    activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip,
                    direction=direction, hidden_size=hidden_size, layout=layout, outputs=outputs,
                    input_forget=input_forget)  # fmt: skip


@operator("GRU", folds=False)
def gru(
    x: Value, w: Value, r: Value, b: Value = None, lengths: Value = None, hidden: Value = None, *,
    activations: Strings | None = None, activation_alpha: Floats | None = None, activation_beta: Floats | None = None,
    clip: float | None = None, direction: str = "forward", hidden_size: int, layout: int = 0,
    linear_before_reset: int = 0, outputs: int,
) -> Value:  # fmt: skip
    """A layer with gates."""
    return _stepped("GRU", x, w, r, b, lengths, [hidden], None, activations=activations,
                    activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip,
                    direction=direction, hidden_size=hidden_size, layout=layout, outputs=outputs,
                    before_reset=linear_before_reset)  # fmt: skip


@operator("RNN", folds=False)
def rnn(
    x: Value, w: Value, r: Value, b: Value = None, lengths: Value = None, hidden: Value = None, *,
    activations: Strings | None = None, activation_alpha: Floats | None = None, activation_beta: Floats | None = None,
    clip: float | None = None, direction: str = "forward", hidden_size: int, layout: int = 0, outputs: int,
) -> Value:  # fmt: skip
    """A plain layer."""
    return _stepped("RNN", x, w, r, b, lengths, [hidden], None, activations=activations,
                    activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip,
                    direction=direction, hidden_size=hidden_size, layout=layout, outputs=outputs)  # fmt: skip
