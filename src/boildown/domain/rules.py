"""What a runtime quantizes, and how: placement and calibration read it, and so every method that quantizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Kind = Literal["convolution", "linear", "product"]
Recurrent = Literal["lstm", "gru", "rnn", "cell", "loop"]
"""What computes step by step on its own results: layers over a sequence, cells, and linear layers in a loop."""
Join = Literal["add", "concatenate", "multiply", "average"]

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
    """What a runtime quantizes and how; by default layers, sums and concatenations, on ONNX Runtime's grids.

    Activations have one grid per tensor, weights a symmetric one.

    layers: the kinds whose products are integer; none where the runtime computes in float alone. grids: the kinds
    whose output must be on a grid for that. joins: the operators that are integer between values that all are
    quantized; a product of a quantized value and a smaller one, as the gate of squeeze and excitation is, counts
    for one too, and an average is that over all axes behind the channels. fused: whether a rectifier is part of the
    layer before it, so that the grid lies behind it. moves: operators that only move numbers, and so keep the grid.
    signed: whether activations are signed, or unsigned. per_channel: one scale per output channel of a weight, or one
    for all of it. never: layers and joins that stay float whatever else is said, by the operator's name in PyTorch.
    activations: functions of one value that are integer between two grids, by their names. fuses: functions that are
    part of the layer before them as a rectifier is, by their names. narrow: up to how many channels the first layers
    stay float, where few products are behind each of many numbers and such a function behind the first.
    dynamic: the recurrent layers whose products are integer, with grids for their inputs found while they run, where
    one multiplies by `dynamic_from` weights at least: finding grids takes its time, too. stored: those whose weights
    may be kept as integers, for size only, and are computed in float, as smaller ones are. A linear layer in a loop
    that neither names is quantized as any other.
    """

    layers: tuple[Kind, ...] = ("convolution", "linear")
    grids: tuple[Kind, ...] = ("convolution",)
    joins: tuple[Join, ...] = ("add", "concatenate")
    fused: bool = True
    moves: tuple[str, ...] = MOVES
    signed: bool = False
    per_channel: bool = True
    never: tuple[str, ...] = ()
    dynamic: tuple[Recurrent, ...] = ()
    dynamic_from: int = 0
    stored: tuple[Recurrent, ...] = ()
    activations: tuple[str, ...] = ()
    fuses: tuple[str, ...] = ()
    narrow: int = 0

    def without_dynamic(self) -> Rules:
        """These rules where nothing finds grids while it runs: of recurrent layers the weights alone are integers."""
        return replace(self, dynamic=(), stored=self.stored + self.dynamic)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for keys; without what was added later and says nothing."""
        return {name: said for name, said in asdict(self).items() if said or name not in _LATER}


_LATER = ("dynamic", "dynamic_from", "stored", "activations", "fuses", "narrow")


FLOAT = Rules(layers=())
"""The rules of a runtime that computes in float alone."""
