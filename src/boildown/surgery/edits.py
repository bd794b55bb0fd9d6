"""Edits of architecture: a registry of pure functions, so that a candidate can be rebuilt from data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from boildown.domain.candidate import Edit
from boildown.errors import Mistake, ModelError

Apply = Callable[[nn.Module, Mapping[str, Any]], nn.Module]
"""Edits a module that is its own to change, by the edit's `args`, and returns the result."""

_applies: dict[tuple[str, int], Apply] = {}


def register(op: str, version: int) -> Callable[[Apply], Apply]:
    """Decorate the function that applies edits of this op and version.

    A change of what an edit means is a new version; old versions stay, so that old runs can still
    be rebuilt. Raises ValueError if the pair is taken.
    """

    def add(apply: Apply) -> Apply:
        if (op, version) in _applies:
            raise ValueError(f"edit {op!r} version {version} is registered twice")
        _applies[op, version] = apply
        return apply

    return add


def apply_edits(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """A copy of the model with the edits applied in order; the model itself is not touched.

    Raises ModelError naming every edit that this version of boildown does not know.
    """
    edits = tuple(edits)
    unknown = [edit for edit in edits if (edit.op, edit.version) not in _applies]
    if unknown:
        raise ModelError(
            *(
                Mistake(
                    f"The model was edited by {edit.op!r} version {edit.version}, which is not known here.",
                    "Install the version of boildown, or the plug-in, that made it.",
                )
                for edit in unknown
            )
        )
    model = copy.deepcopy(model)
    for edit in edits:
        model = _applies[edit.op, edit.version](model, edit.args)
    return model
