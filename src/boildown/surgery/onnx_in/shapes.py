"""Operators that move values, pick some of them, or make them from a shape."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from boildown.surgery.onnx_in.dtypes import dtype_of
from boildown.surgery.onnx_in.table import CONTRIB, Floats, Ints, operator
from boildown.surgery.onnx_in.values import (
    Known,
    Value,
    are_known,
    axes_of,
    bounded,
    ints,
    number,
    objects,
    small,
    sym_max,
    sym_min,
    tensor,
)

_PADS = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Shape", settles=True)
def shape(x: Value, *, start: int = 0, end: int | None = None) -> Value:
    """The sizes of the axes."""
    return Known.of(list(x.shape)[start:end])


@operator("Size", settles=True)
def size(x: Value) -> Value:
    """How many numbers there are."""
    return Known(objects([prod(x.shape)], ()), torch.int64)


@operator("Reshape", settles=True, moves=True)
def reshape(x: Value, shape: Value, *, allowzero: int = 0) -> Value:
    """The same numbers under another shape; 0 keeps an axis, -1 follows from the others."""
    wanted = ints(shape)
    if not allowzero:
        wanted = [x.shape[axis] if _is(each, 0) else each for axis, each in enumerate(wanted)]
    if isinstance(x, Known):
        return Known(x.array.reshape([int(each) for each in wanted]), x.dtype)
    return x.reshape(wanted)


def _is(item: Any, number: int) -> bool:
    return isinstance(item, int) and item == number


@operator("Flatten", settles=True, moves=True)
def flatten(x: Value, *, axis: int = 1) -> Value:
    """Two axes: those before one, and the rest."""
    axis = axis + x.ndim if axis < 0 else axis
    if isinstance(x, Known):
        return Known(x.array.reshape(prod(x.shape[:axis]), -1), x.dtype)
    if axis == 1 and x.ndim > 1:
        return torch.flatten(x, 1)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Transpose", settles=True, moves=True)
def transpose(x: Value, *, perm: Ints | None = None) -> Value:
    """The axes in another order; turned around without one."""
    order = list(perm) if perm is not None else list(reversed(range(x.ndim)))
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"perm is {order} for {x.ndim} axes")
    return Known(x.array.transpose(order), x.dtype) if isinstance(x, Known) else x.permute(order)


@operator("Squeeze", settles=True, moves=True)
def squeeze(x: Value, given: Value = None, *, axes: Ints | None = None) -> Value:
    """Without axes of one."""
    if given is None and axes is None:
        found = [axis for axis, each in enumerate(x.shape) if _is(each, 1)]
    else:
        found = axes_of(ints(given if given is not None else axes), x.ndim)
    if isinstance(x, Known):
        return Known(x.array.squeeze(tuple(found)), x.dtype)
    for axis in found:
        if isinstance(x.shape[axis], int) and x.shape[axis] != 1:
            raise ValueError(f"axis {axis} has {x.shape[axis]} entries, not one")
    return x.squeeze(found) if found else x


@operator("Unsqueeze", settles=True, moves=True)
def unsqueeze(x: Value, given: Value = None, *, axes: Ints | None = None) -> Value:
    """With new axes of one."""
    wanted = ints(given if given is not None else axes)
    found = sorted(axes_of(wanted, x.ndim + len(wanted)))
    if isinstance(x, Known):
        return Known(np.expand_dims(x.array, tuple(found)), x.dtype)
    for axis in found:
        x = x.unsqueeze(axis)
    return x


@operator("Concat", settles=True, moves=True)
def concatenate(*values: Value, axis: int = 1) -> Value:
    """One behind the other."""
    if are_known(*values):
        return Known(np.concatenate([value.array for value in values], axis), values[0].dtype)
    return torch.cat([tensor(value) for value in values], axis)


@operator("Split", settles=True, moves=True)
def split(
    x: Value, given: Value = None, *, axis: int = 0, split: Ints | None = None, num_outputs: int | None = None,
    outputs: int,
) -> Value:  # fmt: skip
    """Parts along an axis, of the sizes given or as equal as can be."""
    sizes = given if given is not None else split
    along = x.shape[axis]
    if sizes is not None:
        parts = ints(sizes)
    elif num_outputs is None:
        parts = [along // outputs] * outputs
    else:
        part = -(-along // num_outputs)
        parts = [part] * (num_outputs - 1) + [along - part * (num_outputs - 1)]
    if isinstance(x, Known):
        ends = np.cumsum([int(part) for part in parts])[:-1]
        found: tuple[Any, ...] = tuple(Known(part, x.dtype) for part in np.split(x.array, ends, axis))
    else:
        found = tuple(torch.split(x, parts, axis))
    return found if outputs > 1 else found[0]


@operator("Slice", settles=True, moves=True)
def slices(
    x: Value, starts: Value = None, ends: Value = None, axes: Value = None, steps: Value = None, *,
    starts_: Ints | None = None, ends_: Ints | None = None, axes_: Ints | None = None,
) -> Value:  # fmt: skip
    """From one place up to another along some axes."""
    first, last = (ints(given if given is not None else old) for given, old in ((starts, starts_), (ends, ends_)))
    wanted = axes if axes is not None else axes_
    along = axes_of(ints(wanted), x.ndim) if wanted is not None else list(range(len(first)))
    by = ints(steps) if steps is not None else [1] * len(first)
    if isinstance(x, Known):
        index: list[slice] = [slice(None)] * x.ndim
        for start, end, axis, step in zip(first, last, along, by, strict=True):
            index[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
        return Known(x.array[tuple(index)], x.dtype)
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        x = _sliced(x, axis, start, end, step)
    return x


_FAR = 2**31 - 1


def _sliced(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    if isinstance(step, int) and step < 0:
        size = x.shape[axis]
        begin = size - 1 if isinstance(start, int) and start >= _FAR else sym_min(_place(start, size), size - 1)
        stop = -1 if isinstance(end, int) and end <= -_FAR else sym_max(_place(end, size), -1)
        part = x.narrow(axis, stop + 1, sym_max(begin - stop, 0)).flip(axis)
        return part if step == -1 else torch.ops.aten.slice.Tensor(part, axis, 0, _FAR, -step)
    end = _FAR if isinstance(end, int) and end > _FAR else end
    whole = _is(start, 0) and step == 1 and (_is(end, _FAR) or end is x.shape[axis])
    return x if whole else torch.ops.aten.slice.Tensor(x, axis, start, end, step)


def _place(position: Any, size: Any) -> Any:
    """A place counted from the front."""
    return position + size if isinstance(position, int) and position < 0 else position


# ---- making --------------------------------------------------------------------------------------


@operator("Expand", settles=True)
def expand(x: Value, shape: Value) -> Value:
    """The same numbers again and again, up to a shape."""
    wanted = ints(shape)
    if isinstance(x, Known) and small(wanted):
        return Known(np.broadcast_to(x.array, np.broadcast_shapes(x.shape, tuple(wanted))).copy(), x.dtype)
    x = tensor(x)
    rank = max(x.ndim, len(wanted))
    sizes = [*[1] * (rank - x.ndim), *x.shape]
    wanted = [*[1] * (rank - len(wanted)), *wanted]
    bounded(wanted)
    return x.expand([own if _is(asked, 1) else asked for own, asked in zip(sizes, wanted, strict=True)])


@operator("Tile", settles=True)
def tile(x: Value, repeats: Value) -> Value:
    """Copies beside each other."""
    times = ints(repeats)
    if isinstance(x, Known) and small([*x.shape, *times]):
        return Known(np.tile(x.array, times), x.dtype)
    bounded([*x.shape, *times])
    return tensor(x) if all(_is(each, 1) for each in times) else tensor(x).repeat(times)


@operator("ConstantOfShape", settles=True)
def constant_of_shape(shape: Value, *, value: Tensor | None = None) -> Value:
    """One number everywhere."""
    filler = torch.zeros(1) if value is None else value
    item, sizes = filler.item(), ints(shape)
    if small(sizes):
        return Known(objects([item] * prod(sizes), tuple(sizes)), filler.dtype)
    return torch.full(bounded(sizes), item, dtype=filler.dtype)


@operator("Range")
def counted(start: Value, limit: Value, delta: Value) -> Value:
    """Numbers at equal distances."""
    first, last, step = (number(each) for each in (start, limit, delta))
    if all(isinstance(each, int | float) for each in (first, last, step)):
        bounded([int((last - first) / step)])
    return torch.arange(first, last, step, dtype=start.dtype)


@operator("EyeLike")
def eye_like(x: Value, *, dtype: int | None = None, k: int = 0) -> Value:
    """1 on a diagonal, 0 elsewhere."""
    rows, columns = (torch.arange(each) for each in bounded(x.shape))
    found = columns.unsqueeze(0) - rows.unsqueeze(1) == k
    return found.to(x.dtype if dtype is None else dtype_of(dtype))


@operator("OneHot", plain=(1, 2))
def one_hot(indices: Value, depth: Value, values: Value, *, axis: int = -1) -> Value:
    """One value at the place of an index, another elsewhere."""
    places, count, (off, on) = tensor(indices), number(depth), _pair(values)
    rank = places.ndim + 1
    (axis,) = axes_of([axis], rank)
    count = int(count) if isinstance(count, float) else count
    bounded([*places.shape, count])
    at = torch.arange(count, device=places.device).reshape([-1 if other == axis else 1 for other in range(rank)])
    places = torch.where(places < 0, places + count, places).to(torch.int64).unsqueeze(axis)
    return torch.where(places == at, *(torch.as_tensor(each, dtype=values.dtype) for each in (on, off)))


def _pair(values: Value) -> tuple[Any, Any]:
    off, on = values.items() if isinstance(values, Known) else values.unbind()
    return off, on


@operator("Trilu")
@operator("Trilu", domain=CONTRIB)
def triangle(x: Value, k: Value = None, *, upper: int = 1) -> Value:
    """What lies above a diagonal, or below."""
    x, diagonal = tensor(x), 0 if k is None else number(k)
    if isinstance(diagonal, int):
        return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)
    rows, columns = torch.arange(x.shape[-2]).unsqueeze(1), torch.arange(x.shape[-1])
    kept = columns - rows >= diagonal if upper else columns - rows <= diagonal
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


@operator("Pad", plain=(1, 2, 3), only={"mode": ("constant", *_PADS)})
@operator("Pad", domain=CONTRIB)
def pad(
    x: Value, given: Value = None, filler: Value = None, axes: Value = None, *, mode: str = "constant",
    pads: Ints | None = None, value: float = 0.0,
) -> Value:  # fmt: skip
    """More at the ends of axes: a number, or what lies there."""
    x, amounts = tensor(x), ints(given if given is not None else pads)
    along = axes_of(ints(axes), x.ndim) if axes is not None else list(range(x.ndim))
    ends: list[tuple[Any, Any]] = [(0, 0)] * x.ndim
    for axis, before, after in zip(along, amounts[: len(along)], amounts[len(along) :], strict=True):
        ends[axis] = before, after
    used = [axis for axis in range(x.ndim) if not (_is(ends[axis][0], 0) and _is(ends[axis][1], 0))]
    if not used:
        return x
    bounded([size + before + after for size, (before, after) in zip(x.shape, ends, strict=True)])
    if mode == "constant":
        item = value if filler is None else number(filler)
        flat = [amount for axis in reversed(range(used[0], x.ndim)) for amount in ends[axis]]
        return F.pad(x, flat, value=item)
    first = min(used[0], x.ndim - 1)
    return _padded(x, ends, first, _PADS[mode])


def _padded(x: Tensor, ends: Sequence[tuple[Any, Any]], first: int, mode: str) -> Tensor:
    """Padded by what lies there, along the last axes, which are up to three."""
    count = x.ndim - first
    if count > 3:
        raise ValueError("it pads more than three axes by what lies there")
    flat = [amount for axis in reversed(range(first, x.ndim)) for amount in ends[axis]]
    lead = list(x.shape[:first])
    plain = x.reshape(prod(lead[:-1]) if len(lead) > 1 else 1, lead[-1] if lead else 1, *x.shape[first:])
    padded = F.pad(plain if x.ndim != count + 2 else x, flat, mode=mode)
    return padded if x.ndim == count + 2 else padded.reshape(*lead, *padded.shape[2:])


@operator("DepthToSpace")
def depth_to_space(x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    """Channels laid out as blocks of pixels."""
    if mode == "CRD":
        return F.pixel_shuffle(tensor(x), blocksize)
    n, c, h, w = x.shape
    parts = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


@operator("SpaceToDepth")
def space_to_depth(x: Value, *, blocksize: int) -> Value:
    """Blocks of pixels laid out as channels."""
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


@operator("Col2Im")
def columns_to_image(
    x: Value, image: Value, block: Value, *, dilations: Ints | None = None, pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:  # fmt: skip
    """Blocks added up where they overlap."""
    ends = list(pads or (0, 0, 0, 0))
    if ends[:2] != ends[2:] or len(ints(image)) != 2:
        raise ValueError("it is read for two axes that are padded alike at both ends")
    return F.fold(tensor(x), tuple(ints(image)), tuple(ints(block)), tuple(dilations or (1, 1)), tuple(ends[:2]),
                  tuple(strides or (1, 1)))  # fmt: skip


# ---- grids and windows ---------------------------------------------------------------------------


def _window(name: str, *parts: float) -> None:
    def window(size: Value, *, output_datatype: int = 1, periodic: int = 1) -> Value:
        (count,) = bounded([number(size)])
        steps = torch.arange(count, dtype=torch.float32) / (count if periodic else count - 1)
        waves = [part * torch.cos(2 * torch.pi * at * steps) for at, part in enumerate(parts)]
        return torch.stack(waves).sum(0).to(dtype_of(output_datatype))

    operator(name)(window)


_window("HannWindow", 0.5, -0.5)
_window("HammingWindow", 25 / 46, -21 / 46)
_window("BlackmanWindow", 0.42, -0.5, 0.08)


@operator("AffineGrid")
def affine_grid(theta: Value, size: Value, *, align_corners: int = 0) -> Value:
    """Where the points of a transformed picture lie."""
    return F.affine_grid(tensor(theta), ints(size), align_corners=bool(align_corners))


@operator("GridSample")
def grid_sample(
    x: Value, grid: Value, *, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0
) -> Value:
    """A picture's values at points of a grid."""
    modes = {"linear": "bilinear", "cubic": "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}
    return F.grid_sample(tensor(x), tensor(grid), modes.get(mode, mode), padding_mode, bool(align_corners))


@operator("CenterCropPad", settles=True)
def center_crop_pad(x: Value, shape: Value, *, axes: Ints | None = None) -> Value:
    """The middle of a value, or zeros around it."""
    x = tensor(x)
    along = axes_of(axes, x.ndim) if axes is not None else list(range(x.ndim))
    for axis, wanted in zip(along, bounded(ints(shape)), strict=True):
        own = x.shape[axis]
        if wanted <= own:
            x = x.narrow(axis, (own - wanted) // 2, wanted)
        else:
            before = (wanted - own) // 2
            x = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [before, wanted - own - before])
    return x


@operator("Upsample", folds=False, plain=(1,))
def upsample(x: Value, scales: Value = None, *, mode: str = "nearest", scales_: Floats | None = None) -> Value:
    """As Resize was called before opset 10."""
    from boildown.surgery.onnx_in.resize import resize

    given = scales if scales is not None else Known.of(list(scales_ or ()), torch.float32)
    return resize(x, None, given, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor", opset=9)
