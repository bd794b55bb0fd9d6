"""What is judged on beside the main validation data: second data sets, and corruptions of the first.

Only those that a condition names are scored, `accuracy[night] drop <= 2 pp` or `accuracy[noise:3] >= 80 %`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from boildown.domain.grammar import parse_target, set_of
from boildown.domain.target import Target
from boildown.domain.task import Metric, Samples, Task
from boildown.errors import InputError, Mistakes
from boildown.tasks.corrupted import corrupted, label, labels, own, shipped, tried
from boildown.tasks.data import IndexedSamples, Unlabelled
from boildown.tasks.general import written
from boildown.tasks.groups import groups_of
from boildown.tasks.slices import Values
from boildown.tasks.splits import Splits, judged_alone, resolve

Part = Callable[[str, Samples, Samples | None], Splits]
"""How a set of a name, and its test set if there is one, are parted."""

_IN_BRACKETS = re.compile(r"\[\s*([^\[\]=]*?)\s*\]")


def target_of(task: Task, texts: Sequence[str] | str, metrics: Sequence[Metric] | None = None) -> Target:
    """The target, with the task's data sets and corruptions as what may stand in brackets behind a metric.

    metrics: by default the task's. The main set may stand there too. Raises TargetError with every mistake.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    main = getattr(task, "main", "validation")

    def plain(found: re.Match[str]) -> str:
        return "" if found[1].casefold() == main.casefold() else f"[{found[1]}]"

    plained = [_IN_BRACKETS.sub(plain, text) if isinstance(text, str) else text for text in given]
    asked = [name for text in plained if isinstance(text, str) for name in _IN_BRACKETS.findall(text)]
    sets = (*_others(task), *labels(_corruptions(task), asked))
    return parse_target(plained, task.metrics if metrics is None else metrics, slices=Values(task), sets=sets)


def beside(task: Task, splits: Splits, target: Target, seed: int) -> Splits:
    """The splits of a run with those of the other sets that a target names, each parted as the main one is.

    Raises InputError with every mistake: corruptions that cannot be applied.
    """

    def part(name: str, samples: Samples, test: Samples | None) -> Splits:
        alone = SimpleNamespace(
            train=task.train, calibration=splits.calibration, validation=samples, test=test, metrics=task.metrics,
            groups_of=lambda which: groups_of(task, name if which == "validation" else _test(name)),
        )  # fmt: skip
        return resolve(cast(Task, alone), seed)

    return _beside(task, splits, target, seed, part)


def judged_beside(task: Task, target: Target, seed: int) -> Splits:
    """All samples of the main set, and of the other sets that a target names, for the verdict."""
    splits = judged_alone(task.test or task.validation, groups_of(task, "validation" if task.test is None else "test"))

    def part(name: str, samples: Samples, test: Samples | None) -> Splits:
        return judged_alone(test or samples, groups_of(task, name if test is None else _test(name)))

    return _beside(task, splits, target, seed, part)


def _beside(task: Task, splits: Splits, target: Target, seed: int, part: Part) -> Splits:
    others, tests = _others(task), getattr(task, "tests", {})
    own = {metric.name for metric in task.metrics}
    asked = [condition.metric for condition in target.conditions if condition.metric not in own]
    names = list(dict.fromkeys(filter(None, map(set_of, asked))))
    found, notes, mistakes = dict[str, Splits](), list[str](), Mistakes()
    for name in names:
        with mistakes:
            if name in others:
                parted = part(name, others[name], tests.get(name))
                found[name] = replace(parted, notes=(*parted.notes, *_ungrouped(task, name)))
                notes += [f"{name}: {note}" for note in found[name].notes]
            else:
                found[name] = _corrupted(task, splits, name, seed)
                notes += found[name].notes
    mistakes.raise_all()
    if unused := [name for name in others if name not in names]:
        notes.append(f"no condition names {' or '.join(unused)}: such a set is not scored")
    return replace(splits, others=found, notes=(*splits.notes, *dict.fromkeys(notes)))


def _corrupted(task: Task, splits: Splits, name: str, seed: int) -> Splits:
    """The main set's splits with corrupted inputs."""
    meant, said = label(name), getattr(task, "preprocess", None)
    assert meant is not None
    functions, main = _corruptions(task), task.validation
    if not isinstance(main, IndexedSamples):
        raise InputError.of(
            f"The corruption {meant} needs data that is read item by item.", "Let the task read a map-style data set."
        )
    if meant.name in functions:
        change, key, told = own(meant, functions[meant.name]), written(functions[meant.name]), ""
    else:
        change, told = shipped(meant, main, said, seed)
        key = told

    def changed(of: Samples) -> Samples:
        if isinstance(of, Unlabelled):
            return Unlabelled(changed(of.samples))
        assert isinstance(of, IndexedSamples)
        return corrupted(of, change, meant, seed, key)

    notes = tuple(filter(None, (told, tried(corrupted(main, change, meant, seed, key)))))
    return replace(splits, search=changed(splits.search), verdict=changed(splits.verdict), notes=notes, others={})


def _ungrouped(task: Task, name: str) -> Iterator[str]:
    """A word where samples of the main set are in groups, and those of another that is judged on are not."""
    tests = getattr(task, "tests", {})
    main = groups_of(task, "validation" if task.test is None else "test")
    own = _test(name) if name in tests else name
    if main is not None and groups_of(task, own) is None:
        yield f"its samples are in no groups, so that each of them counts: groups={{{own!r}: ids}} says which do not"


def _test(name: str) -> str:
    """What the test data of a set is called where there are groups."""
    return f"test[{name}]"


def _others(task: Task) -> Mapping[str, Samples]:
    found: Mapping[str, Samples] = getattr(task, "others", {})
    return found


def _corruptions(task: Task) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(task, "corruptions", {})
    return found
