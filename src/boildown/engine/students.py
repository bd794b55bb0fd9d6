"""Networks of the user's own to be trained in place of edited copies of the first model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from boildown.domain.task import Task
from boildown.engine.rung import Rung
from boildown.errors import ConfigError, InputError, Mistake
from boildown.journal.keys import hash_of
from boildown.methods.base import INITIAL, settings_of
from boildown.surgery.factories import call_factory
from boildown.surgery.graph import capture
from boildown.surgery.weights import plain, weights_hash

OBJECT = "object"
"""In place of a factory: the user gave a module, and has to give it again to go on with a run."""

Named = tuple[tuple[str, str], ...]
"""The students of a run: (name, `module:callable` or `OBJECT`). Names are `0`, `1`, ..., `initial`, or factories."""


def named(students: Any, initial: Any) -> tuple[Named, dict[str, nn.Module]]:
    """What the user gave as `students` and `initial_student`: by name, and the modules among them.

    Raises InputError for everything that is neither a module nor the name of a factory.
    """
    given = list(students) if isinstance(students, list | tuple) else [students]
    every = {str(position): student for position, student in enumerate(given)}
    if initial is not None:
        every[INITIAL] = initial
    wrong = [
        Mistake(
            f"The student {name} is {student!r}, no torch.nn.Module.",
            'Give a module, or its factory "module:callable".',
        )
        for name, student in every.items()
        if not isinstance(student, nn.Module | str)
    ]
    if wrong:
        raise InputError(*wrong)
    names = tuple((name, student if isinstance(student, str) else OBJECT) for name, student in every.items())
    return names, {name: student for name, student in every.items() if isinstance(student, nn.Module)}


def named_in(rungs: Iterable[Rung]) -> Named:
    """The factories that rungs name as their students."""
    settings = [settings_of(method).get("student") for rung in rungs for method in rung.methods]
    return tuple((name, name) for name in dict.fromkeys(settings) if isinstance(name, str) and ":" in name)


def missing(names: Named, given: Mapping[str, nn.Module]) -> list[str]:
    """The arguments of `resume` that are needed again, because modules were given for them."""
    left = [name for name, factory in names if factory == OBJECT and name not in given]
    arguments = ["initial_student" if name == INITIAL else "students" for name in left]
    return list(dict.fromkeys(arguments))


def gather(names: Named, given: Mapping[str, nn.Module], seed: int) -> dict[str, nn.Module]:
    """Every student as a module on the CPU; those of factories have the first weights of the seed.

    Raises InputError with the mistakes of all factories.
    """
    found, errors = {}, []
    for name, factory in names:
        try:
            found[name] = plain(given[name] if name in given else _built(factory, seed))[0]
        except InputError as error:
            errors.append(error)
    if errors:
        raise InputError.merge(errors)
    return found


def key_of(students: Mapping[str, nn.Module], task: Task) -> str | None:
    """A hash of the students' weights and code; None without students. Raises AttemptError for what is not captured."""
    args, kwargs = task.example() if students else ((), {})
    parts: Sequence[Any] = [
        [name, weights_hash(model), capture(model, args, kwargs).code_hash()] for name, model in students.items()
    ]
    return hash_of(parts) if parts else None


def _built(factory: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        student = call_factory(factory)
    if not isinstance(student, nn.Module):
        raise ConfigError.of(
            f"The factory {factory!r} of a student returned {type(student).__name__}, no torch.nn.Module.",
            "Return the network to train.",
        )
    return student
