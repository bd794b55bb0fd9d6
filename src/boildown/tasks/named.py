"""Several data sets to judge on, by name: the first is the main one."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from boildown.domain.task import Samples
from boildown.errors import DataError, InputError, Mistake, Mistakes
from boildown.tasks.corrupted import NAMES, Own
from boildown.tasks.data import TARGET_KEYS

_NAME = re.compile(r"\w[\w.-]*")
_MODELS = ("input_ids", "pixel_values", "inputs")
"""Keys of a data set's own parts, besides its targets."""
_PARTS = ("train", "training", "calibration", "test", "search", "verdict")
"""What a set to judge on is not called: a dictionary of them is a whole data set that was not taken apart."""


@dataclass(frozen=True)
class Named:
    """What was given as validation and test: the main set's, called `main`, and the others' by name."""

    validation: Any
    test: Any
    main: str = "validation"
    others: Mapping[str, Any] = field(default_factory=dict)
    tests: Mapping[str, Any] = field(default_factory=dict)


class Judged:
    """The part of a task that is about several sets to judge on.

    main: what the main set is called. others: the other sets, by name. tests: those of them that their verdicts read,
    where there are such. corruptions: the user's own, by name. reads: reads another file or folder as a data set, where
    the task was made of such.
    """

    main: str
    others: dict[str, Samples]
    tests: dict[str, Samples]
    corruptions: dict[str, Own]
    reads: Callable[[Path], Any] | None = None

    def read(self, name: str, source: Any) -> Samples | None:
        """The samples of one named data set."""
        raise NotImplementedError

    def judged_on(self, sets: Mapping[str, Any]) -> Self:
        """This task with more sets to judge on, by name: data, or paths of files and folders that are read as its own.

        Raises InputError with every mistake.
        """
        made, mistakes = self.copied(), Mistakes()
        with mistakes:
            if wrong := name_mistakes([self.main, *self.others, *sets], self.corruptions):
                raise DataError(*wrong)
        for name, source in sets.items():
            with mistakes:
                samples = self.read(f"validation[{name}]", self._opened(name, source))
                assert samples is not None
                made.others[name] = samples
        mistakes.raise_all()
        return made

    def judged_beside(self) -> dict[str, Samples]:
        """The other sets, called as in messages."""
        return {
            f"{part}[{name}]": samples
            for part, sets in (("validation", self.others), ("test", self.tests))
            for name, samples in sets.items()
        }

    def called_as_sets(self, groups: Any) -> Any:
        """Groups by the names of data sets, which may be called as in messages, and the main set by its name."""
        if not isinstance(groups, Mapping):
            return groups
        names = {self.main: "validation", f"validation[{self.main}]": "validation", f"test[{self.main}]": "test"}
        names |= {name: f"validation[{name}]" for name in self.others}
        called = [names.get(name, name) for name in groups]
        if twice := [name for name in dict.fromkeys(called) if called.count(name) > 1]:
            raise DataError.of(f"groups holds ids of {', '.join(map(str, twice))} twice.", "Give them once.")
        return dict(zip(called, groups.values(), strict=True))

    def copied(self) -> Self:
        """The same task, whose data sets may be exchanged."""
        made = copy.copy(self)
        made.others, made.tests = dict(self.others), dict(self.tests)
        return made

    def put(self, name: str, samples: Samples) -> None:
        """Exchange a data set, called as in messages."""
        part, other, inside = name.partition("[")
        if other:
            {"validation": self.others, "test": self.tests}[part][inside[:-1]] = samples
        else:
            setattr(self, name, samples)

    def _opened(self, name: str, source: Any) -> Any:
        if not isinstance(source, str | Path):
            return source
        if self.reads is None:
            raise DataError.of(
                f"The task does not say how {str(source)!r} is read for the set {name}.",
                "Give the task the data itself: validation={...}, several data sets by name.",
            )
        try:
            return self.reads(Path(source))
        except DataError as error:
            raise DataError(*(Mistake(f"validation[{name}]: {m.cause}", m.cure) for m in error.mistakes)) from error


def named(validation: Any, test: Any, corruptions: Mapping[str, Own] | None = None) -> Named:
    """The sets of validation and test, each a data set or a dictionary of them. Raises DataError with every mistake."""
    if not _several(validation):
        if _several(test):
            raise DataError.of(
                "test names several sets, and validation does not.",
                "Name them in validation too: the search needs its own of each.",
            )
        return Named(validation, test)
    (main, first), *rest = validation.items()
    tests = dict(test) if _several(test) else {} if test is None else {main: test}
    mistakes = name_mistakes(validation, corruptions)
    for name in (name for name in tests if name not in validation):
        near = difflib.get_close_matches(name, validation, n=1)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        mistakes.append(
            Mistake(f"test names a set {name!r}, which validation lacks.", f"{guess}It has {', '.join(validation)}.")
        )
    if mistakes:
        raise DataError(*mistakes)
    own = tests.pop(main, None)
    return Named(first, own, main, dict(rest), tests)


def name_mistakes(names: Iterable[str], corruptions: Mapping[str, Own] | None = None) -> list[Mistake]:
    """What is wrong with the names of data sets."""
    own = corruptions if isinstance(corruptions, Mapping) else ()
    mistakes, taken = [], {str(name).casefold() for name in (*NAMES, *own)}
    seen: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if folded in _PARTS:
            cause = f"validation holds a set called {name!r}, which serves something else."
            mistakes.append(Mistake(cause, "Choose the split to judge on, data['validation'], or name sets otherwise."))
        elif not _NAME.fullmatch(name):
            cause = f"A set cannot be called {name!r}: targets name it in brackets."
            mistakes.append(Mistake(cause, "Take letters, digits, dots, dashes and underscores."))
        elif folded in taken:
            mistakes.append(Mistake(f"The set {name!r} is called like a corruption.", "Give it another name."))
        elif folded in seen:
            mistakes.append(Mistake(f"Two sets are called {seen[folded]!r} and {name!r}.", "Give each its own name."))
        seen[folded] = name
    return mistakes


def refuse_no_corruptions(corruptions: Any) -> None:
    """Raise InputError for what is no dictionary of functions by name."""
    if corruptions is None:
        return
    if not isinstance(corruptions, Mapping):
        cause = f"corruptions is a {type(corruptions).__name__}, not a dictionary of functions by name."
        raise InputError.of(cause, 'Write corruptions={"fog": fn}, with fn(inputs, severity, generator).')
    mistakes = []
    for name, function in corruptions.items():
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            cure = "Take letters, digits, dots, dashes and underscores."
            mistakes.append(Mistake(f"A corruption cannot be called {name!r}: targets name it in brackets.", cure))
        elif not callable(function):
            cause = f"The corruption {name!r} is a {type(function).__name__}, not a function."
            mistakes.append(Mistake(cause, "Give fn(inputs, severity, generator), which returns the inputs changed."))
    if mistakes:
        raise InputError(*mistakes)


def _several(data: Any) -> bool:
    """Whether data are several sets by name, and not one: that has its parts by name."""
    if not isinstance(data, Mapping) or not data or not all(isinstance(name, str) for name in data):
        return False
    return not any(name in (*TARGET_KEYS, *_MODELS) for name in data)
