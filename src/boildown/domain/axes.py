"""Axes of a model's inputs that differ from call to call, besides the batch: marked on the tensors of its example.

Texts are padded to the longest of a batch, and images may have any size: the file that is exported has to leave such
axes open. Which they are only the data knows, and whoever captures a model sees one example call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_MARK = "_boildown_open_axes"


def opened(tensor: Any, axes: Iterable[int]) -> Any:
    """The tensor itself, its axes marked as open; copies of it are not marked."""
    if found := tuple(sorted(axes)):
        setattr(tensor, _MARK, found)
    return tensor


def open_axes(tensor: Any) -> tuple[int, ...]:
    """The axes of a tensor that are marked, in order."""
    found: tuple[int, ...] = getattr(tensor, _MARK, ())
    return found
