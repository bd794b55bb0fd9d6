"""What a runtime quantizes, and how: placement and calibration read it, and so every method that quantizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["convolution", "linear", "product"]

MOVES = (
    *("aten.view.default", "aten.reshape.default", "aten.flatten.using_ints", "aten.unflatten.int"),
    *("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.unsqueeze.default"),
    *("aten.permute.default", "aten.transpose.int", "aten.slice.Tensor", "aten.select.int"),
    *("aten.clone.default", "aten.contiguous.default", "aten.pixel_shuffle.default"),
    *("aten.max_pool1d.default", "aten.max_pool2d.default", "aten.max_pool3d.default"),
)
"""Operators of PyTorch that give back numbers they were given."""


@dataclass(frozen=True)
class Rules:
    """What a runtime quantizes and how; by default what ONNX Runtime fuses into integer kernels.

    Activations have one grid per tensor, weights a symmetric one.

    layers: the kinds whose products are integer; none where the runtime computes in float alone. grids: the kinds
    whose output must be on a grid for that. joins: the operators that are integer between values that all are
    quantized. fused: whether a rectifier is part of the layer before it, so that the grid lies behind it. moves:
    operators that only move numbers, and so keep the grid. signed: whether activations are signed, or unsigned.
    per_channel: one scale per output channel of a weight, or one for all of it. never: layers and joins that stay
    float whatever else is said, by the operator's name in PyTorch.
    """

    layers: tuple[Kind, ...] = ("convolution", "linear")
    grids: tuple[Kind, ...] = ("convolution",)
    joins: tuple[Literal["add", "concatenate"], ...] = ("add", "concatenate")
    fused: bool = True
    moves: tuple[str, ...] = MOVES
    signed: bool = False
    per_channel: bool = True
    never: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data, for keys."""
        return asdict(self)


FLOAT = Rules(layers=())
"""The rules of a runtime that computes in float alone."""
