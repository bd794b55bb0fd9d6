"""Grids inside of functions between two grids: what a runtime's integers and their simulation share."""

from __future__ import annotations

from collections.abc import Sequence

from boildown.domain.candidate import Quantizer

GATE = 1 / 255
"""The step of the function inside of a hard-swish or SiLU, from 0 to 1."""

TOP = 255
"""The largest integer of an unsigned grid, and the steps that it has."""

Grid = tuple[float, int]
"""Scale and zero point."""


def leaks(slopes: Sequence[float], value: Quantizer) -> tuple[Grid, Grid]:
    """The grids of slopes less 1, and of their products with what is negative of `value`.

    A value plus such a product is a leaky rectifier of it.
    """
    low, high = min(0.0, *(slope - 1 for slope in slopes)), max(0.0, *(slope - 1 for slope in slopes))
    depth = value.scale[0] * value.zero_point[0]
    return _over(low, high), _over(-depth * high, -depth * low)


def _over(low: float, high: float) -> Grid:
    scale = (high - low) / TOP
    return (scale, round(-low / scale)) if scale > 0 else (1.0, 0)
