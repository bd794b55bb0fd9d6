"""Which of the shipped corruptions fit some data, and what their numbers mean in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils import _pytree as pytree

from boildown.domain.preprocess import Preprocess, Raw
from boildown.errors import InputError
from boildown.tasks.corrupted import pictures, rows, sounds
from boildown.tasks.corrupted.labels import SEVERITIES, SHIPPED, Kind, Label
from boildown.tasks.corrupted.samples import Change, Own
from boildown.tasks.data import IndexedSamples, evenly_spaced, map_leaves

_CALLED: Mapping[Kind, str] = {"picture": "pictures", "sound": "sounds", "row": "rows of a table"}
_WIDEST = 4096
"""Longer rows are no table's."""
_SHORTEST = 400
"""What is shorter is no sound, where it has an axis of channels."""
_LOOKED_AT, _NUMBERS = 512, 20_000_000


@dataclass(frozen=True)
class Leafwise:
    """Changes those parts of the inputs that there is a change for, by their places."""

    changes: Mapping[int, Change]

    def __call__(self, inputs: Any, generator: Generator) -> Any:
        parts, form = pytree.tree_flatten(inputs)
        for place, change in self.changes.items():
            parts[place] = change(parts[place], generator)
        return pytree.tree_unflatten(parts, form)


def shipped(label: Label, samples: IndexedSamples, said: Preprocess | None, seed: int) -> tuple[Change, str]:
    """(a shipped corruption for inputs like those of some samples, what they are taken for).

    said: how raw things become the inputs, where that is known. Raises InputError where it is for other inputs.
    """
    raw = said.inputs[0] if said is not None and len(said.inputs) == 1 and said.inputs[0].kind != "tensor" else None
    parts = _parts(samples)
    kinds = [kind_of(part, raw) for part in parts]
    kind = next((kind for kind in SHIPPED if kind in kinds and label.name in SHIPPED[kind]), None)
    if kind is None or (label.unit and kind != "sound"):
        raise _other(label, parts, kinds)
    raw = raw if kinds.count(kind) == 1 else None
    changes, told = dict[int, Change](), list[str]()
    for place, part in enumerate(parts):
        if kinds[place] == kind:
            changes[place], known, how = _change(kind, label, part, raw, seed)
            shape = tuple(part.shape[1:])
            told += [] if known else [f"inputs of shape {shape} are taken for {_CALLED[kind]}{how}"]
    return Leafwise(changes), "; ".join(told)


def own(label: Label, function: Own) -> Change:
    """A function of the user's at a severity, a whole number where it is one."""
    return partial(_called, function=function, severity=int(label.number) if label.number % 1 == 0 else label.number)


def kind_of(part: Any, raw: Raw | None) -> Kind | None:
    """What a batch of one input holds, by how it was made where that is known, else by its type and shape."""
    if not isinstance(part, Tensor) or not (part.is_floating_point() or part.dtype in (torch.uint8, torch.int16)):
        return None
    if raw is not None:
        described: dict[str, tuple[Kind, int]] = {"picture": ("picture", 4), "row": ("row", 2)}
        kind, axes = described.get(raw.kind, (None, 0))
        return kind if part.ndim == axes else None
    whole, sides = not part.is_floating_point(), part.shape[1:]
    if part.ndim == 2:
        return "sound" if sides[0] > _WIDEST or part.dtype == torch.int16 else None if whole else "row"
    if part.ndim == 3 and sides[0] <= 2 and sides[1] >= _SHORTEST:
        return "sound"
    grey = part.ndim == 3 and (sides[0] == sides[1] or whole)
    return "picture" if part.ndim == 4 or grey else None


def _change(kind: Kind, label: Label, part: Tensor, raw: Raw | None, seed: int) -> tuple[Change, bool, str]:
    """(the change of one input, whether it is described what its numbers are, how it looks)."""
    level = SEVERITIES.index(int(label.number)) if not label.unit else 0
    if kind == "picture":
        pixels = pictures.seen(part) if raw is None else pictures.described(raw, part)
        how = f", {pixels}, by what is seen of them; preprocess= says it where that is wrong"
        return partial(_picture, pixels=pixels, name=label.name, level=level), pixels.known, how
    if kind == "sound":
        decibel = label.number if label.unit else sounds.CORRUPTIONS[label.name].levels[level]
        return partial(_sound, name=label.name, decibel=decibel), False, ""
    columns, amount = rows.columns_of(part, raw), rows.CORRUPTIONS[label.name][level]
    if label.name == "missing":
        return partial(_missing, columns=columns, share=amount), columns.known, ""
    up = rows.ways(part.shape[1], Generator().manual_seed(seed))
    return partial(_shift, columns=columns, deviations=amount, up=up), columns.known, ""


def _parts(samples: IndexedSamples) -> list[Any]:
    """The parts of the inputs of some samples, as many as are soon read."""
    inputs, _target = next(samples.subset([0]).batches(1))
    numbers = sum(part.numel() for part in pytree.tree_leaves(inputs) if isinstance(part, Tensor))
    count = max(8, min(_LOOKED_AT, _NUMBERS // max(1, numbers)))
    inputs, _target = next(samples.subset(evenly_spaced(len(samples), count)).batches(count))
    return pytree.tree_leaves(map_leaves(lambda part: part, inputs))


def _other(label: Label, parts: Sequence[Any], kinds: Sequence[Kind | None]) -> InputError:
    """What is told of a corruption of other inputs, with those that there are."""
    theirs = [_CALLED[kind] for kind, names in SHIPPED.items() if label.name in names]
    here = list(dict.fromkeys(kind for kind in kinds if kind is not None))
    shapes = ", ".join(str(tuple(part.shape[1:])) for part in parts if isinstance(part, Tensor))
    what = " and ".join(_CALLED[kind] for kind in here) or f"no pictures, sounds or rows of a table (shape {shapes})"
    fitting = "".join(f"For {_CALLED[kind]} there are {', '.join(SHIPPED[kind])}. " for kind in here)
    return InputError.of(
        f"The corruption {label} is one of {'sounds' if label.unit else ' and '.join(theirs)}; the inputs are {what}.",
        f"{fitting}Or give the task a function of your own: corruptions={{{label.name!r}: fn}}.",
    )


# Functions by their names, which may go to other processes.


def _picture(batch: Tensor, generator: Generator, *, pixels: pictures.Pixels, name: str, level: int) -> Tensor:
    return pixels.corrupted(batch, pictures.CORRUPTIONS[name], level, generator)


def _sound(batch: Tensor, generator: Generator, *, name: str, decibel: float) -> Tensor:
    return sounds.CORRUPTIONS[name].corrupted(batch, decibel, generator)


def _missing(batch: Tensor, generator: Generator, *, columns: rows.Rows, share: float) -> Tensor:
    return columns.missing(batch, share, generator)


def _shift(batch: Tensor, _generator: Generator, *, columns: rows.Rows, deviations: float, up: Tensor) -> Tensor:
    return columns.shift(batch, deviations, up)


def _called(inputs: Any, generator: Generator, *, function: Own, severity: float) -> Any:
    return function(inputs, severity, generator)
