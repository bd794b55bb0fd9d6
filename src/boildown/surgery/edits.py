"""Edits of architecture: a registry of pure functions, so that a candidate can be rebuilt from data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from boildown.domain.candidate import Edit
from boildown.errors import Mistake, ModelError

Apply = Callable[[nn.Module, Mapping[str, Any]], nn.Module]
"""Edits a module that is its own to change, by the edit's `args`, and returns the result."""

STUDENT = "student"
"""The op of the edit that takes a network of the user's own in place of the model; its `args` name it."""

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


def take_student(name: str) -> Edit:
    """The edit that takes the user's student of this name."""
    return Edit(STUDENT, 1, {"student": name})


def apply_edits(
    model: nn.Module, edits: Iterable[Edit], students: Mapping[str, nn.Module] = MappingProxyType({})
) -> nn.Module:
    """A copy of the model with the edits applied in order; the model itself is not touched.

    students: the user's own networks by name. Raises ModelError naming every edit that this version of
    boildown does not know, and a student that is not given.
    """
    edits = tuple(edits)
    taken = max((place for place, edit in enumerate(edits) if edit.op == STUDENT), default=None)
    if taken is not None:
        name = str(edits[taken].args["student"])
        if name not in students:
            raise ModelError.of(f"The model was made from the student {name!r}, which is not given.", "Give students=.")
        model, edits = students[name], edits[taken + 1 :]
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
