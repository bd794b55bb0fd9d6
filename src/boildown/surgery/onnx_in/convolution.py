"""Convolutions, pooling and normalizations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from boildown.surgery.onnx_in.linear import activated
from boildown.surgery.onnx_in.table import CONTRIB, Floats, Ints, operator
from boildown.surgery.onnx_in.values import Value, axes_of, sym_max, sym_min, tensor

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAXIMA = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGES: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_GLOBAL: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}

Ends = list[tuple[Any, Any]]


def ends_of(
    sizes: Sequence[Any], kernel: Sequence[int], auto_pad: str, pads: Ints | None, strides: Sequence[int],
    dilations: Sequence[int],
) -> Ends:  # fmt: skip
    """How much is padded at both ends of each axis."""
    count = len(kernel)
    if auto_pad in ("", "NOTSET"):
        given = list(pads) if pads is not None else [0] * (2 * count)
        if len(given) != 2 * count:
            raise ValueError(f"pads has {len(given)} numbers for {count} axes")
        return list(zip(given[:count], given[count:], strict=True))
    if auto_pad == "VALID":
        return [(0, 0)] * count
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad {auto_pad!r} is not known")
    found: Ends = []
    for size, span, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        if stride == 1:
            more = dilation * (span - 1)
        else:
            more = sym_max((-(-size // stride) - 1) * stride + dilation * (span - 1) + 1 - size, 0)
        less = more // 2
        found.append((less, more - less) if auto_pad == "SAME_UPPER" else (more - less, less))
    return found


def padded(x: Tensor, ends: Ends, filler: float = 0.0) -> Tensor:
    """A value with more at the ends of its last axes."""
    flat = [amount for pair in reversed(ends) for amount in pair]
    return x if all(isinstance(amount, int) and amount == 0 for amount in flat) else F.pad(x, flat, value=filler)


def alike(ends: Ends) -> bool:
    """Whether both ends of each axis are padded by the same number."""
    return all(isinstance(a, int) and isinstance(b, int) and a == b >= 0 for a, b in ends)


def _settings(rank: int, strides: Ints | None, dilations: Ints | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    made = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
    if any(len(each) != rank or min(each) < 1 for each in made):
        raise ValueError(f"strides {made[0]} and dilations {made[1]} do not fit {rank} axes")
    return made


@operator("Conv", folds=False, ignores=("kernel_shape",))
def convolution(
    x: Value, weight: Value, bias: Value = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    """A convolution."""
    x, weight = tensor(x), tensor(weight)
    rank = weight.ndim - 2
    by, spread = _settings(rank, strides, dilations)
    ends = ends_of(x.shape[2:], weight.shape[2:], auto_pad, pads, by, spread)
    same = alike(ends)
    given = x if same else padded(x, ends)
    padding = tuple(first for first, _ in ends) if same else 0
    return _CONVOLUTIONS[rank](given, weight, None if bias is None else tensor(bias), by, padding, spread, group)


@operator("FusedConv", domain=CONTRIB, folds=False, ignores=("kernel_shape",))
def fused_convolution(
    x: Value, weight: Value, bias: Value = None, added: Value = None, *, auto_pad: str = "NOTSET",
    dilations: Ints | None = None, group: int = 1, pads: Ints | None = None, strides: Ints | None = None,
    activation: str = "", activation_params: Floats = (),
) -> Value:  # fmt: skip
    """A convolution, something added, and a function of it."""
    found = convolution(x, weight, bias, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads,
                        strides=strides)  # fmt: skip
    return activated(found if added is None else found + tensor(added), activation, activation_params)


@operator("ConvTranspose", folds=False, ignores=("kernel_shape",))
def transposed_convolution(
    x: Value, weight: Value, bias: Value = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, output_padding: Ints | None = None, output_shape: Ints | None = None, pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:  # fmt: skip
    """A convolution's transpose."""
    x, weight = tensor(x), tensor(weight)
    rank = weight.ndim - 2
    by, spread = _settings(rank, strides, dilations)
    extra = list(output_padding or [0] * rank)
    spans = [dilation * (size - 1) + 1 for dilation, size in zip(spread, weight.shape[2:], strict=True)]
    full = [(size - 1) * stride + span for size, stride, span in zip(x.shape[2:], by, spans, strict=True)]
    if output_shape is not None or auto_pad.startswith("SAME"):
        wanted = list(output_shape)[-rank:] if output_shape is not None else [
            size * stride for size, stride in zip(x.shape[2:], by, strict=True)]  # fmt: skip
        total = [size + more - want for size, more, want in zip(full, extra, wanted, strict=True)]
        halves = [(each // 2, each - each // 2) for each in total]
        ends: Ends = halves if auto_pad == "SAME_UPPER" else [(b, a) for a, b in halves]
    else:
        ends = ends_of(x.shape[2:], weight.shape[2:], auto_pad, pads, by, spread)
    given = None if bias is None else tensor(bias)
    if alike(ends) and all(more < max(stride, dilation) for more, stride, dilation in
                           zip(extra, by, spread, strict=True)):  # fmt: skip
        padding = tuple(first for first, _ in ends)
        return _TRANSPOSED[rank](x, weight, given, by, padding, tuple(extra), group, spread)
    found = _TRANSPOSED[rank](x, weight, given, by, 0, 0, group, spread)
    flat = [amount for (a, b), more in zip(reversed(ends), reversed(extra), strict=True) for amount in (-a, more - b)]
    if any(amount > 0 for amount in flat) and given is not None:
        raise ValueError("padding of the output beside a bias is not read")
    return F.pad(found, flat)


# ---- pooling -------------------------------------------------------------------------------------


@operator("MaxPool", ignores=("storage_order",), folds=False, results=1)
def max_pool(
    x: Value, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints | None = None,
    pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    """The largest of each window."""
    x, kernel = tensor(x), tuple(kernel_shape)
    by, spread = _settings(len(kernel), strides, dilations)
    ends = ends_of(x.shape[2:], kernel, auto_pad, pads, by, spread)
    pool = _MAXIMA[len(kernel)]
    if alike(ends) and all(first <= size // 2 for (first, _), size in zip(ends, kernel, strict=True)):
        return pool(x, kernel, by, tuple(first for first, _ in ends), spread, bool(ceil_mode))
    lowest = torch.finfo(x.dtype).min if x.is_floating_point() else torch.iinfo(x.dtype).min
    found = pool(padded(x, ends, lowest), kernel, by, 0, spread, bool(ceil_mode))
    return _inside(found, x, ends, by) if ceil_mode else found


def _inside(found: Tensor, x: Tensor, ends: Ends, by: Sequence[int]) -> Tensor:
    """Without windows that begin behind the value and what is padded before it."""
    for axis, ((before, _), stride) in enumerate(zip(ends, by, strict=True), start=2):
        most = -(-(x.shape[axis] + before) // stride)
        found = found.narrow(axis, 0, sym_min(found.shape[axis], most))
    return found


def _unread(told: Mapping[str, Any]) -> str:
    spread = any(each != 1 for each in told.get("dilations") or ())
    return "dilations beside ceil_mode are not read" if spread and told.get("ceil_mode") else ""


@operator("AveragePool", folds=False, unread=_unread)
def average_pool(
    x: Value, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    """The average of each window."""
    x, kernel = tensor(x), tuple(kernel_shape)
    by, spread = _settings(len(kernel), strides, dilations)
    ends = ends_of(x.shape[2:], kernel, auto_pad, pads, by, spread)
    pool = _AVERAGES[len(kernel)]
    if any(each != 1 for each in spread):
        return _dilated_average(x, kernel, by, spread, ends, bool(count_include_pad))
    if alike(ends) and all(first <= size // 2 for (first, _), size in zip(ends, kernel, strict=True)):
        padding = tuple(first for first, _ in ends)
        return pool(x, kernel, by, padding, bool(ceil_mode), bool(count_include_pad))
    found = pool(padded(x, ends), kernel, by, 0, bool(ceil_mode))
    if not count_include_pad:
        found = found / pool(padded(torch.ones_like(x[:1, :1]), ends), kernel, by, 0, bool(ceil_mode))
    return _inside(found, x, ends, by) if ceil_mode else found


def _dilated_average(
    x: Tensor, kernel: tuple[int, ...], by: tuple[int, ...], spread: tuple[int, ...], ends: Ends, inside: bool
) -> Tensor:
    channels = x.shape[1]
    weight = torch.full((channels, 1, *kernel), 1 / prod(kernel))
    convolve = _CONVOLUTIONS[len(kernel)]
    found = convolve(padded(x, ends), weight, None, by, 0, spread, channels)
    if inside:
        return found
    return found / convolve(padded(torch.ones_like(x[:1, :1]), ends), weight[:1], None, by, 0, spread, 1)


@operator("LpPool", folds=False, unread=_unread)
def lp_pool(
    x: Value, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints | None = None,
    p: int = 2, pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    """The length of each window."""
    powers = tensor(x).abs() ** p
    means = average_pool(powers, kernel_shape=kernel_shape, auto_pad=auto_pad, ceil_mode=ceil_mode,
                         count_include_pad=1, dilations=dilations, pads=pads, strides=strides)  # fmt: skip
    return (means * prod(kernel_shape)) ** (1 / p)


@operator("GlobalAveragePool", folds=False)
def global_average(x: Value) -> Value:
    """The average of each channel."""
    x = tensor(x)
    pool = _GLOBAL.get(x.ndim - 2)
    return pool(x, 1) if pool is not None else x.mean(list(range(2, x.ndim)), True)


@operator("GlobalMaxPool", folds=False)
def global_maximum(x: Value) -> Value:
    """The largest of each channel."""
    return tensor(x).amax(list(range(2, x.ndim)), True)


@operator("GlobalLpPool", folds=False)
def global_length(x: Value, *, p: int = 2) -> Value:
    """The length of each channel."""
    return torch.linalg.vector_norm(tensor(x), p, list(range(2, x.ndim)), True)


# ---- normalization -------------------------------------------------------------------------------


@operator(
    "BatchNormalization",
    folds=False,
    results=1,
    only={"spatial": (1,)},
    ignores=("momentum", "training_mode", "consumed_inputs", "is_test"),
)
def batch_norm(
    x: Value, scale: Value, bias: Value, mean: Value, variance: Value, *, epsilon: float = 1e-5,
    spatial: int = 1,
) -> Value:  # fmt: skip
    """By statistics of the training."""
    assert spatial
    weight, added = tensor(scale), tensor(bias)
    return F.batch_norm(tensor(x), tensor(mean), tensor(variance), weight, added, training=False, eps=epsilon)


@operator("InstanceNormalization", folds=False)
def instance_norm(x: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5) -> Value:
    """By statistics of each channel of each sample."""
    return F.instance_norm(tensor(x), None, None, tensor(scale), tensor(bias), True, eps=epsilon)


@operator("GroupNormalization", folds=False, ignores=("stash_type",))
def group_norm(x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5, opset: int) -> Value:
    """By statistics of groups of channels."""
    weight, added = tensor(scale), tensor(bias)
    if opset < 21 and len(weight) == num_groups != x.shape[1]:  # of groups, not of channels
        weight, added = (each.repeat_interleave(x.shape[1] // num_groups) for each in (weight, added))
    return F.group_norm(tensor(x), num_groups, weight, added, epsilon)


@operator("LayerNormalization", folds=False, ignores=("stash_type",))
@operator("LayerNormalization", domain=CONTRIB, folds=False, ignores=("stash_type",))
def layer_norm(
    x: Value, scale: Value, bias: Value = None, *, axis: int = -1, epsilon: float = 1e-5, outputs: int = 1
) -> Value:
    """By statistics of the last axes."""
    x = tensor(x)
    (along,) = axes_of([axis], x.ndim)
    shape, weight, added = x.shape[along:], tensor(scale), None if bias is None else tensor(bias)
    if outputs > 1:
        axes = list(range(along, x.ndim))
        mean = x.mean(axes, True)
        spread = torch.rsqrt(((x - mean) ** 2).mean(axes, True) + epsilon)
        found = (x - mean) * spread * weight
        return (found if added is None else found + added, mean, spread)[:outputs]
    if str(weight.shape) == str(shape) and (added is None or str(added.shape) == str(shape)):
        return F.layer_norm(x, shape, weight, added, epsilon)
    found = F.layer_norm(x, shape, None, None, epsilon) * weight
    return found if added is None else found + added


@operator("RMSNormalization", "SimplifiedLayerNormalization", folds=False, ignores=("stash_type",))
@operator("SimplifiedLayerNormalization", domain=CONTRIB, folds=False, ignores=("stash_type",))
def rms_norm(x: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5) -> Value:
    """By the root of the mean square of the last axes."""
    x, weight = tensor(x), tensor(scale)
    (along,) = axes_of([axis], x.ndim)
    shape = x.shape[along:]
    if str(weight.shape) == str(shape):
        return F.rms_norm(x, list(shape), weight, epsilon)
    return F.rms_norm(x, list(shape), None, epsilon) * weight


@operator("LRN", folds=False)
def local_response(x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Value:
    """By the squares of channels around."""
    x = tensor(x)
    if size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    squares = F.pad((x * x).transpose(1, -1), ((size - 1) // 2, size // 2))
    around = squares.unfold(-1, size, 1).sum(-1).transpose(1, -1)
    return x / (bias + alpha / size * around) ** beta
