"""Which precision each weight takes, so that a file has a given size and its outputs move least.

How far the outputs move when one layer alone is quantized is measured for every precision, and taken to add up over
layers, as in ZeroQ (Cai et al., arXiv 2001.00281, 3.3). What to take is then a knapsack with one choice for each layer,
as in HAWQ-V3 (Yao et al., arXiv 2011.10680) and Hubara et al. (arXiv 2006.10518), who solve it by integer programming;
here by dynamic programming over bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

FLOAT = 32
"""The bits of a weight that stays float."""

_CAST = 40
"""Bytes of the operator that makes 8 bits of 4."""
_UNITS = 2**14
_AWFUL = 1e30
"""In the place of a divergence that is infinite."""


@dataclass(frozen=True)
class Choice:
    """One precision that a weight may take: its bytes in a file, and the divergence that it causes alone."""

    bytes: int
    divergence: float


def weight_bytes(weight: Tensor, bits: int) -> int:
    """What a weight takes in a file: whole numbers, packed, with a scale for every output channel, or floats."""
    if bits == FLOAT:
        return 4 * weight.numel()
    return math.ceil(weight.numel() * bits / 8) + 4 * len(weight) + (_CAST if bits <= 4 else 0)


def allocate(choices: Mapping[str, Mapping[int, Choice]], most: float) -> dict[str, int]:
    """The bits of each weight, of those it may take, that together have the least divergence in at most so many bytes.

    Where nothing is small enough, the smallest of each. The more bytes there are, the less divergence is left.
    """
    unit = max(1.0, sum(max(c.bytes for c in offered.values()) for offered in choices.values()) / _UNITS)
    room = int(min(most // unit, _UNITS + len(choices))) if most >= 0 else -1  # more than all of them can take
    least = np.zeros(room + 1)
    """The least divergence of the weights so far within so many units."""
    taken = []
    for offered in choices.values():
        found, which = np.full(room + 1, np.inf), np.zeros(room + 1, np.int64)
        for bits, choice in sorted(offered.items()):
            units = math.ceil(choice.bytes / unit)
            tried = np.full(room + 1, np.inf)
            tried[units:] = least[: max(room + 1 - units, 0)] + min(choice.divergence, _AWFUL)
            better = tried < found
            found[better], which[better] = tried[better], bits
        least = found
        taken.append(which)
    if room < 0 or not np.isfinite(least[room]):
        return {name: min(offered, key=lambda bits: offered[bits].bytes) for name, offered in choices.items()}
    bits_of = dict[str, int]()
    for (name, offered), which in reversed(list(zip(choices.items(), taken, strict=True))):
        bits_of[name] = int(which[room])
        room -= math.ceil(offered[bits_of[name]].bytes / unit)
    return dict(reversed(bits_of.items()))
