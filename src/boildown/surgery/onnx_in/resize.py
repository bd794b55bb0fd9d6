"""Pictures at other sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from boildown.surgery.onnx_in.table import Ints, operator
from boildown.surgery.onnx_in.values import Known, Value, axes_of, ints, sym_int, tensor

_MODES = {"nearest": "nearest", "linear": "linear", "cubic": "cubic", "bilinear": "linear"}
_BY_AXES = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}

_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
                "tf_half_pixel_for_nn")  # fmt: skip


def _unread(told: Mapping[str, Any]) -> str:
    coordinates = told.get("coordinate_transformation_mode", "half_pixel")
    if told.get("antialias"):
        return "antialias=1 is not read"
    odd = told.get("cubic_coeff_a", -0.75) != -0.75 or told.get("exclude_outside") or coordinates not in (
        "half_pixel", "align_corners", "pytorch_half_pixel")  # fmt: skip
    return (
        f"cubic with {coordinates} is not read, nor with other settings" if told.get("mode") == "cubic" and odd else ""
    )


@operator(
    "Resize",
    ignores=("extrapolation_value", "antialias", "cubic_coeff_a", "exclude_outside"),
    folds=False,
    plain=(1, 2, 3),
    unread=_unread,
    only={
        "keep_aspect_ratio_policy": ("stretch",),
        "coordinate_transformation_mode": _COORDINATES,
        "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
        "mode": tuple(_MODES),
    },
)
def resize(
    x: Value, roi: Value = None, scales: Value = None, sizes: Value = None, *, mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel", nearest_mode: str = "round_prefer_floor",
    axes: Ints | None = None,
    keep_aspect_ratio_policy: str = "stretch", opset: int,
) -> Value:  # fmt: skip
    """The values of a picture at the points of a larger or a smaller one."""
    x = tensor(x)
    if opset < 11:  # its second input are the scales
        scales, roi = (roi if scales is None else scales), None
        coordinate_transformation_mode, nearest_mode = "asymmetric", "floor"
    assert keep_aspect_ratio_policy == "stretch"
    along = axes_of(axes, x.ndim) if axes is not None else list(range(x.ndim))
    factors, wanted = _asked(x, along, scales, sizes)
    changed = [axis for axis in range(x.ndim) if axis in wanted and not _same(x.shape[axis], wanted[axis])]
    if not changed:
        return x
    kind = _MODES[mode]
    if changed[0] >= 2:
        found = _by_pytorch(x, factors, wanted, kind, coordinate_transformation_mode, nearest_mode)
        if found is not None:
            return found
    if kind == "cubic":
        raise ValueError(f"{mode!r} is read for pictures alone")
    for axis in changed:
        places = _places(x.shape[axis], wanted[axis], factors.get(axis), coordinate_transformation_mode)
        x = _nearest(x, axis, places, nearest_mode) if kind == "nearest" else _between(x, axis, places)
    return x


def _asked(x: Tensor, along: Sequence[int], scales: Value, sizes: Value) -> tuple[dict[int, Any], dict[int, Any]]:
    """(factors that were given, sizes that are wanted), by axis."""
    if sizes is not None and len(ints(sizes)):
        return {}, dict(zip(along, ints(sizes), strict=True))
    if scales is None:
        raise ValueError("it has neither scales nor sizes")
    given = scales.items() if isinstance(scales, Known) else scales.tolist()
    factors = dict(zip(along, given, strict=True))
    wanted = {}
    for axis, factor in factors.items():
        whole = isinstance(factor, float) and factor.is_integer()
        size = x.shape[axis]
        wanted[axis] = size * int(factor) if whole else sym_int(math.floor(size * factor))
    return factors, wanted


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, int) and isinstance(b, int) and a == b) or str(a) == str(b)


def _by_pytorch(
    x: Tensor, factors: dict[int, Any], wanted: dict[int, Any], kind: str, coordinates: str, nearest: str
) -> Tensor | None:
    """What PyTorch's own operator gives; None where it computes something else."""
    axes = list(range(2, x.ndim))
    if any(axis not in wanted for axis in axes):
        wanted = {**{axis: x.shape[axis] for axis in axes}, **wanted}
    corners = coordinates == "align_corners"
    scale = [factors.get(axis) for axis in axes]
    if kind == "nearest":
        whole = all(isinstance(factor, float) and factor.is_integer() and factor >= 1 for factor in scale)
        as_first = coordinates == "asymmetric" and (nearest == "floor")
        middle = coordinates in ("half_pixel", "pytorch_half_pixel")
        if as_first or (whole and (middle and nearest.startswith("round"))):
            name = "nearest"
        elif middle and nearest == "round_prefer_ceil":
            name = "nearest-exact"
        else:
            return None
        return _interpolated(x, scale, [wanted[axis] for axis in axes], name, None)
    if (kind, len(axes)) not in _BY_AXES:
        return None
    usual = coordinates == "half_pixel" or (
        coordinates == "pytorch_half_pixel" and all(not _same(wanted[axis], 1) for axis in axes)
    )
    if not (corners or usual):
        return None
    return _interpolated(x, scale, [wanted[axis] for axis in axes], _BY_AXES[kind, len(axes)], corners)


def _interpolated(x: Tensor, scale: list[Any], sizes: list[Any], mode: str, corners: bool | None) -> Tensor:
    if all(isinstance(factor, float) for factor in scale):
        return F.interpolate(x, scale_factor=scale, mode=mode, align_corners=corners, recompute_scale_factor=False)
    return F.interpolate(x, size=sizes, mode=mode, align_corners=corners)


def _places(size: Any, wanted: Any, factor: Any, coordinates: str) -> Any:
    """Where the points of the new picture lie in the old one."""
    at = torch.arange(wanted, dtype=torch.float32)
    factor = wanted / size if factor is None else factor
    if coordinates == "align_corners":
        return at * ((size - 1) / (wanted - 1)) if not _same(wanted, 1) else at * 0.0
    if coordinates == "asymmetric":
        return at / factor
    if coordinates == "tf_half_pixel_for_nn":
        return (at + 0.5) / factor
    if coordinates == "pytorch_half_pixel" and _same(wanted, 1):
        return at * 0.0 - 0.5
    found = (at + 0.5) / factor - 0.5
    if coordinates == "half_pixel_symmetric":
        return found + size / 2 * (1 - wanted / (factor * size))
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return found
    raise ValueError(f"coordinates by {coordinates!r} are not read")


def _nearest(x: Tensor, axis: int, places: Tensor, mode: str) -> Tensor:
    rounded = {
        "round_prefer_floor": lambda: torch.ceil(places - 0.5),
        "round_prefer_ceil": lambda: torch.floor(places + 0.5),
        "floor": lambda: torch.floor(places),
        "ceil": lambda: torch.ceil(places),
    }
    if mode not in rounded:
        raise ValueError(f"a nearest_mode {mode!r} is not read")
    return x.index_select(axis, rounded[mode]().clamp(0, x.shape[axis] - 1).to(torch.int64))


def _between(x: Tensor, axis: int, places: Tensor) -> Tensor:
    places = places.clamp(0, x.shape[axis] - 1)
    below = torch.floor(places)
    shape = [-1 if other == axis else 1 for other in range(x.ndim)]
    part = (places - below).reshape(shape)
    first = x.index_select(axis, below.to(torch.int64))
    second = x.index_select(axis, (below + 1).clamp(max=x.shape[axis] - 1).to(torch.int64))
    return first + (second - first) * part
