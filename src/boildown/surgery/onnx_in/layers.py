"""Nodes that are a layer of PyTorch's, with their weights in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from boildown.surgery.onnx_in.convolution import alike, ends_of, padded
from boildown.surgery.onnx_in.file import Constant, Op
from boildown.surgery.onnx_in.recurrent import layer as recurrent_layer
from boildown.surgery.onnx_in.recurrent import usual
from boildown.surgery.onnx_in.values import Value, tensor


class Builder(Protocol):
    """What a layer is made with."""

    def constant(self, name: str) -> Constant | None:
        """The constant of this name."""

    def parameter(self, value: Tensor) -> nn.Parameter:
        """A parameter; equal places in memory are one."""

    def is_zero(self, name: str) -> bool:
        """Whether a value is 0 everywhere."""

    def before(self, op: Op, function: Callable[..., Any], settings: Mapping[str, Any]) -> str:
        """Put a function in front of a node's first input; the name of what it gives."""

    def add_behind(self, op: Op) -> Op | None:
        """The sum that alone reads what a node gives."""


Made = tuple[nn.Module, list[str], list[str]]
"""(the layer, the values that it reads, the names that its weights came from)."""


def _weights(builder: Builder, names: Sequence[str]) -> list[Tensor | None] | None:
    """Constants of these names; None where one is computed."""
    found: list[Tensor | None] = []
    for name in names:
        constant = builder.constant(name) if name else None
        if name and (constant is None or not constant.tensor.is_floating_point()):
            return None
        found.append(None if constant is None else constant.tensor)
    return found


def _filled(module: Any, builder: Builder, **tensors: Tensor | None) -> Any:
    """A module with these tensors as its parameters. Raises ValueError where they do not fit."""
    for name, value in tensors.items():
        own = getattr(module, name)
        if value is None or own is None:
            continue
        if own.shape != value.shape:
            raise ValueError(f"its {name} has the shape {list(value.shape)}, not {list(own.shape)}")
        setattr(module, name, builder.parameter(value))
    return module


def _at(op: Op, position: int) -> str:
    return op.inputs[position] if position < len(op.inputs) else ""


_CONVOLUTIONS: Mapping[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: Mapping[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def convolution(op: Op, builder: Builder) -> Made | None:
    """Conv."""
    found = _weights(builder, [op.inputs[1], _at(op, 2)])
    if found is None or found[0] is None or (rank := found[0].ndim - 2) not in _CONVOLUTIONS:
        return None
    weight, bias = found[0], found[1]
    told = op.attributes
    strides, dilations = (tuple(told.get(name) or (1,) * rank) for name in ("strides", "dilations"))
    groups, auto, kernel = told.get("group", 1), told.get("auto_pad", "NOTSET"), tuple(weight.shape[2:])
    if len(strides) != rank or len(dilations) != rank or min((*strides, *dilations, groups)) < 1:
        raise ValueError(f"strides {strides}, dilations {dilations} and group {groups} do not fit {rank} axes")
    value, padding = op.inputs[0], (0,) * rank
    static = not auto.startswith("SAME") or set(strides) == {1}
    ends = ends_of([0] * rank, kernel, auto, told.get("pads"), strides, dilations) if static else []
    if static and alike(ends):
        padding = tuple(first for first, _ in ends)
    else:
        settings = {"kernel": kernel, "auto_pad": auto, "pads": told.get("pads"), "strides": strides,
                    "dilations": dilations}  # fmt: skip
        value = builder.before(op, _pad_first, settings)
    module = _CONVOLUTIONS[rank](
        weight.shape[1] * groups, weight.shape[0], kernel, strides, padding, dilations, groups, bias is not None,
        device="meta",
    )  # fmt: skip
    return _filled(module, builder, weight=weight, bias=bias), [value], op.inputs[1:]


def _pad_first(
    x: Value, *, kernel: Sequence[int], auto_pad: str, pads: Sequence[int] | None, strides: Sequence[int],
    dilations: Sequence[int],
) -> Value:  # fmt: skip
    """What a convolution pads unevenly."""
    return padded(tensor(x), ends_of(x.shape[2:], kernel, auto_pad, pads, strides, dilations))


def transposed_convolution(op: Op, builder: Builder) -> Made | None:
    """ConvTranspose, where it is padded evenly."""
    found = _weights(builder, [op.inputs[1], _at(op, 2)])
    if found is None or found[0] is None or (rank := found[0].ndim - 2) not in _TRANSPOSED:
        return None
    weight, bias = found[0], found[1]
    told = op.attributes
    strides, dilations = (tuple(told.get(name) or (1,) * rank) for name in ("strides", "dilations"))
    extra, groups = tuple(told.get("output_padding") or (0,) * rank), told.get("group", 1)
    if told.get("output_shape") or told.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    ends = ends_of([0] * rank, weight.shape[2:], told.get("auto_pad", "NOTSET"), told.get("pads"), strides, dilations)
    even = alike(ends) and len(strides) == len(dilations) == len(extra) == rank and groups > 0
    if not even or any(more >= max(s, d) for more, s, d in zip(extra, strides, dilations, strict=True)):
        return None
    module = _TRANSPOSED[rank](
        weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]), strides, tuple(a for a, _ in ends), extra,
        groups, bias is not None, dilations, device="meta",
    )  # fmt: skip
    return _filled(module, builder, weight=weight, bias=bias), [op.inputs[0]], op.inputs[1:]


def _linear(builder: Builder, weight: Tensor, bias: Tensor | None) -> nn.Module:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    filled: nn.Module = _filled(module, builder, weight=weight, bias=bias)
    return filled


def gemm(op: Op, builder: Builder) -> Made | None:
    """Gemm with a weight of the model's own."""
    found, told = _weights(builder, op.inputs[1:]), op.attributes
    if found is None or found[0] is None or found[0].ndim != 2 or told.get("transA"):
        return None
    weight = found[0] if told.get("transB") else found[0].t()
    bias = found[1] if len(found) > 1 and told.get("beta", 1.0) != 0 else None
    if bias is not None:
        if bias.numel() not in (1, len(weight)) or (bias.ndim and bias.shape[-1] != bias.numel()):
            return None
        bias = bias.reshape(-1) if bias.numel() == len(weight) else bias.reshape(-1).expand(len(weight)).contiguous()
        bias = bias * told["beta"] if told.get("beta", 1.0) != 1 else bias
    weight = weight * told["alpha"] if told.get("alpha", 1.0) != 1 else weight
    return _linear(builder, weight, bias), [op.inputs[0]], op.inputs[1:]


def product(op: Op, builder: Builder) -> Made | None:
    """MatMul with a matrix of the model's own, and the bias that is added behind it."""
    found = _weights(builder, op.inputs[1:2])
    if found is None or found[0] is None or found[0].ndim != 2:
        return None
    weight, names = found[0].t(), [op.inputs[1]]
    bias = None
    added = builder.add_behind(op)
    if added is not None:
        other = added.inputs[1] if added.inputs[0] == op.outputs[0] else added.inputs[0]
        constant = builder.constant(other)
        if constant is not None and constant.tensor.shape == weight.shape[:1] and constant.tensor.is_floating_point():
            bias = constant.tensor
            names.append(other)
            op.outputs, added.outputs = list(added.outputs), []
    return _linear(builder, weight, bias), [op.inputs[0]], names


class BatchNorm(_BatchNorm):
    """Batch norm over inputs of any number of axes."""

    def _check_input_dim(self, input: Tensor) -> None:
        return None


def batch_norm(op: Op, builder: Builder) -> Made | None:
    """BatchNormalization."""
    found = _weights(builder, op.inputs[1:])
    if found is None or len(found) != 4 or len(op.outputs) > 1 or not op.attributes.get("spatial", 1):
        return None
    scale, bias, mean, variance = found
    if any(part is None or part.ndim != 1 or part.shape != found[0].shape for part in found):  # type: ignore[union-attr]
        raise ValueError("its scale, bias, mean and variance do not fit each other")
    assert scale is not None
    assert mean is not None
    assert variance is not None
    momentum = min(max(1 - op.attributes.get("momentum", 0.9), 0.0), 1.0)
    norm = BatchNorm(len(scale), op.attributes.get("epsilon", 1e-5), momentum, device="meta")
    _filled(norm, builder, weight=scale, bias=bias)
    norm.running_mean, norm.running_var = mean.clone(), variance.clone()
    norm.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return norm, [op.inputs[0]], op.inputs[1:]


def embedding(op: Op, builder: Builder) -> Made | None:
    """Gather of rows of a table."""
    constant = builder.constant(op.inputs[0])
    table = None if constant is None else constant.tensor
    if table is None or constant is None or table.ndim != 2 or not table.is_floating_point():
        return None
    if (
        op.attributes.get("axis", 0) not in (0, -2)
        or builder.constant(op.inputs[1]) is not None
        or not constant.learned
    ):
        return None
    module = Embedding(table.shape[0], table.shape[1], device="meta")
    return _filled(module, builder, weight=table), [op.inputs[1]], op.inputs[:1]


class Embedding(nn.Embedding):
    """Rows of a table by indices of any type of whole numbers."""

    def forward(self, input: Value) -> Tensor:
        places = tensor(input)
        return super().forward(places if places.dtype in (torch.int32, torch.int64) else places.long())


class PRelu(nn.Module):
    """A slope for each channel, behind which `behind` axes follow."""

    def __init__(self, weight: nn.Parameter, behind: int) -> None:
        super().__init__()
        self.weight, self.behind = weight, behind

    def forward(self, x: Value) -> Tensor:
        """The function."""
        x = tensor(x)
        if self.weight.numel() == 1 or x.ndim == self.behind + 2:
            return F.prelu(x, self.weight)
        return torch.where(x < 0, x * self.weight.reshape(-1, *[1] * self.behind), x)


def prelu(op: Op, builder: Builder) -> Made | None:
    """PRelu with slopes of the model's own."""
    found = _weights(builder, op.inputs[1:2])
    slope = None if found is None else found[0]
    if slope is None or slope.numel() != max(slope.shape, default=1):
        return None
    places = [axis for axis, size in enumerate(slope.shape) if size > 1]
    behind = slope.ndim - 1 - places[0] if places else 0
    return PRelu(builder.parameter(slope.reshape(-1)), behind), [op.inputs[0]], op.inputs[1:2]


def recurrent(op: Op, builder: Builder) -> Made | None:
    """LSTM, GRU and RNN that PyTorch has a layer for."""
    told = op.attributes
    found = _weights(builder, [op.inputs[1], op.inputs[2], _at(op, 3)])
    direction = told.get("direction", "forward")
    activation = usual(op.kind, told, bool(_at(op, 4)), bool(_at(op, 7)))
    if found is None or activation is None or "hidden_size" not in told:
        return None
    states = [_at(op, position) for position in (5, 6)]
    states = ["" if builder.is_zero(name) else name for name in states]
    if states[1] and not states[0]:
        return None
    module = recurrent_layer(
        op.kind, found, hidden_size=told["hidden_size"], direction=direction, activation=activation,
        layout=told.get("layout", 0), outputs=len(op.outputs),
    )  # fmt: skip
    return module, [op.inputs[0], *(name for name in states if name)], op.inputs[1:4]


LAYERS: Mapping[str, Callable[[Op, Builder], Made | None]] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": gemm,
    "MatMul": product,
    "BatchNormalization": batch_norm,
    "Gather": embedding,
    "PRelu": prelu,
    "LSTM": recurrent,
    "GRU": recurrent,
    "RNN": recurrent,
}
