"""Slices: samples of a kind that a condition may name, by class, by a column, by a function of the sample."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boildown.domain.grammar import COSTS
from boildown.domain.names import WORST
from boildown.domain.task import Metric, Samples, Task
from boildown.errors import BoildownError, DataError, Mistake, contained, in_words
from boildown.tasks.checks import IGNORED
from boildown.tasks.data import IndexedSamples, map_leaves, places_of, read_targets

Labels = NDArray[np.str_]
"""What slice each sample is in, shape (n,); an empty text for none."""

CLASS = "class"
"""The key of slices by class, which are there by themselves where targets are classes."""

_DATA = ("train", "calibration", "validation", "test")
_MISSING = ("<NA>", "NaT")
"""What pandas calls a value that is not there."""


class Slices(Mapping[str, Labels]):
    """The slices of one data set by key; read when they are asked for, and once.

    Raises DataError where they cannot be read.
    """

    def __init__(self, name: str, make: Mapping[str, Callable[[], Labels]]) -> None:
        self._name, self._make = name, dict(make)
        self._made: dict[str, Labels] = {}

    def __getitem__(self, key: str) -> Labels:
        make = self._make[key]
        if key not in self._made:
            try:
                with contained():
                    self._made[key] = make()
            except BoildownError:
                raise
            except Exception as error:
                cause = f"The slices by {key!r} of the {self._name} data cannot be read: {in_words(error)}."
                raise DataError.of(cause, "Mend that item, or the function.") from error
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)


def slices_for(
    name: str,
    samples: Samples,
    given: Mapping[str, Any],
    columns: Mapping[str, Sequence[str]],
    by_class: bool,
    classes: Sequence[str] | None,
) -> Slices:
    """The slices of one data set of a task: by class, by its table's columns, and as they were given."""
    make: dict[str, Callable[[], Labels]] = {}
    if by_class:
        make[CLASS] = partial(_by_class, samples, classes or (), name)
    make |= {column: partial(called, texts) for column, texts in columns.items() if column not in make}
    for key, source in given.items():
        values = source.get(name) if isinstance(source, Mapping) else source
        if callable(values):
            make[key] = partial(_by_function, values, samples, f"slices[{key!r}] for {name}")
        elif values is not None and (name == "validation" or isinstance(source, Mapping)):
            make[key] = partial(called, values)
        else:
            make.pop(key, None)
    return Slices(name, make)


def called(values: Any) -> Labels:
    """What the values of some samples are called: 3.0 is 3, and None or NaN is no slice."""
    return np.array([_text(value) for value in values], dtype=np.str_)


def mistakes_in(
    given: Any, data: Mapping[str, Samples], metrics: Sequence[Metric], others: Sequence[str] = ()
) -> list[Mistake]:
    """What is wrong with the slices that a task was given. others: the names of its other data sets."""
    if not isinstance(given, Mapping):
        cure = 'Write slices={"site": ...}: a value for every validation sample, or a function of inputs and target.'
        return [Mistake(f"slices = {given!r:.80} says not what they are by.", cure)]
    taken = {name.casefold() for name in (*(m.name for m in metrics), *COSTS, *_DATA, *others, "drop", WORST)}
    mistakes = []
    for key, source in given.items():
        if not (isinstance(key, str) and key.isprintable() and key.strip() == key != ""):
            cure = "Name what tells them apart by a word or two, such as 'site'."
            mistakes.append(Mistake(f"slices are by {key!r:.80}, which a target could not name.", cure))
        elif key.casefold() in taken:
            cure = "Call it otherwise: metrics, costs and data sets have these names."
            mistakes.append(Mistake(f"slices are by {key!r}, which means something else in a target.", cure))
        parts = source if isinstance(source, Mapping) else {"validation": source}
        for name, values in parts.items():
            mistakes += _wrong_values(f"slices[{key!r}]", name, values, data)
    return mistakes


def _wrong_values(what: str, name: str, values: Any, data: Mapping[str, Samples]) -> Iterator[Mistake]:
    if name not in data:
        cure = f"There are {', '.join(data)}: give the values of each in its order."
        yield Mistake(f"{what} has values for {name!r:.80}, and the task has no such data.", cure)
    elif callable(values):
        return
    elif isinstance(values, str) or not (hasattr(values, "__len__") and hasattr(values, "__iter__")):
        cure = "Give one value for each sample, or a function of its inputs and target; columns are named for a table."
        yield Mistake(f"{what} is {values!r:.80}.", cure)
    elif len(values) != len(data[name]):
        cure = "Give one for each sample, in their order"
        fits = next((other for other in data if other != name and len(data[other]) == len(values)), None)
        cure += f"; those of {fits} as {{{fits!r}: ...}}." if fits else "."
        yield Mistake(f"{what} has {len(values):,} values, and {name} {len(data[name]):,} samples.", cure)


class Values(Mapping[str, Sequence[str]]):
    """The slices of a task that a condition may name: the values by key, in order; read when they are asked for."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._parts = [found for name in ("test", "validation") if (found := of(task, name))]

    def __getitem__(self, key: str) -> Sequence[str]:
        parts = [part[key] for part in self._parts if key in part]
        if not parts:
            raise KeyError(key)
        found = {str(value) for part in parts for value in np.unique(part)} - {""}
        names = getattr(self._task, "classes", None) or () if key == CLASS else ()
        return tuple(dict.fromkeys((*map(str, names), *sorted(found, key=in_order))))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for part in self._parts for key in part))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def of(task: Task, name: str) -> Mapping[str, Labels]:
    """The slices of one data set of a task by key; none for tasks that know of none."""
    found = getattr(task, "slices_of", None)
    slices: Mapping[str, Labels] = {} if found is None else found(name)
    return slices


def labels_of(task: Task, key: str, samples: Samples, *, judged: bool) -> Labels | None:
    """What slice by a key each of some samples is in; None where nobody knows.

    judged: they are those of the verdict, of `test` where there is one; else they are of validation.
    """
    name = "test" if judged and task.test is not None else "validation"
    slices, whole = of(task, name), task.test if name == "test" else task.validation
    if key not in slices or whole is None:
        return None
    places = places_of(whole)
    order = np.argsort(places)
    return slices[key][order[np.searchsorted(places, places_of(samples), sorter=order)]]


def rows_of(labels: Labels) -> dict[str, NDArray[np.intp]]:
    """The rows of every slice, by its value, in order."""
    values, which = np.unique(labels, return_inverse=True)
    order = np.argsort(which, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
    found = {str(value): at for value, at in zip(values, rows, strict=True) if value}
    return {value: found[value] for value in sorted(found, key=in_order)}


def in_order(value: str) -> tuple[float, str]:
    """What values are sorted by: numbers by their size, then texts."""
    try:
        number = float(value)
    except ValueError:
        number = math.inf
    return (number if math.isfinite(number) else math.inf, value)


def _by_class(samples: Samples, classes: Sequence[str], name: str) -> Labels:
    labels = _classes(read_targets(samples))
    if labels is None:
        cause = f"The {name} targets are not one class for each sample: there are no slices by class."
        raise DataError.of(cause, "Give slices of your own: a value for every sample, or a function of its target.")
    different, places = np.unique(labels, return_inverse=True)
    names = ["" if at == IGNORED else classes[at] if 0 <= at < len(classes) else str(at) for at in map(int, different)]
    return np.array(names, dtype=np.str_)[places.reshape(-1)]


def _classes(targets: NDArray[Any] | None) -> NDArray[np.int64] | None:
    """Targets as one class for each sample, shape (n,); floats are classes where they are 0 and 1 alone."""
    if targets is None or targets.size != len(targets):
        return None
    flat = targets.reshape(-1)
    if flat.dtype.kind not in "biu" and not (flat.dtype.kind == "f" and bool(np.isin(flat, (0.0, 1.0)).all())):
        return None
    return np.asarray(flat, np.int64)


def _by_function(function: Callable[..., Any], samples: Samples, what: str) -> Labels:
    """What a function says of every sample: of its inputs, and of its target if it takes two things."""
    alone, found = _takes_one(function), []
    items = samples.items() if isinstance(samples, IndexedSamples) else samples.batches(1)
    for place, (inputs, target) in zip(places_of(samples), items, strict=True):
        given = (map_leaves(_first, inputs), map_leaves(_first, target))[: 1 if alone else 2]
        try:
            with contained():
                found.append(function(*given))
        except BoildownError:
            raise
        except Exception as error:
            raise DataError.of(
                f"{what} fails on item {int(place)}: {in_words(error)}.",
                "Let it take the inputs and the target of one sample, and return what its slice is called.",
            ) from error
    return called(found)


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = [each.kind for each in parameters]
    positional = sum(
        kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds
    )
    return positional == 1 and inspect.Parameter.VAR_POSITIONAL not in kinds


def _first(leaf: Any) -> Any:
    """A leaf of a batch of one as that of a sample."""
    return leaf[0] if isinstance(leaf, torch.Tensor | np.ndarray) and leaf.ndim else leaf


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.generic | np.ndarray):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return "" if text in _MISSING else text
