"""The target read for a task: with what its evaluation returns, and what holds outputs against the first model's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from boildown.domain.grammar import COSTS, base_of, set_of, unknown_names
from boildown.domain.target import Target
from boildown.domain.task import Metric, Task
from boildown.engine.costs import PLANNED
from boildown.engine.evaluation import NO_INTERVAL
from boildown.errors import InputError, Mistake, Mistakes
from boildown.runtimes import get
from boildown.tasks.evaluating import ALONE, assumed, takes_indices
from boildown.tasks.others import target_of


def wanted(task: Task, texts: Any) -> tuple[Task, Target, tuple[str, ...]]:
    """(the task as it is judged, the target, what the user should know).

    What a target names and nobody else has is what the task's evaluation returns. Where the data to judge on has no
    targets the task has no metrics that need them. Raises InputError with every mistake.
    """
    task, notices = _evaluated(task, texts)
    offered: tuple[Metric, ...] = getattr(task, "likeness", ())
    metrics = (*task.metrics, *offered, *getattr(task, "evaluated", ()))
    mistakes, target = Mistakes(), Target(())
    with mistakes:
        target = target_of(task, texts, metrics)
        refuse_parts(target, (*getattr(task, "evaluated", ()),))
    with mistakes:
        refuse_unlabelled(task, target)
    if not getattr(task, "labelled", True):
        task, told = _unlabelled(task)
        notices += told
    mistakes.raise_all()
    return task, target, tuple(notices)


def refuse_parts(target: Target, evaluated: Sequence[Metric]) -> None:
    """Raise InputError for conditions on parts of the data, of what an evaluation returns."""
    names = {metric.name for metric in evaluated}
    asked = [c.text for c in target.conditions if c.metric not in names and base_of(c.metric) in names]
    if asked:
        raise InputError.of(
            f"{', '.join(asked)}: evaluate decides by itself which data it looks at.",
            "Let it return a number of its own for that part, such as {'map': ..., 'map_night': ...}.",
        )


def check_costs(costs: Any) -> None:
    """Raise InputError for costs that cannot be measured of a file, or are none."""
    known = [name for name in COSTS if name not in ("params", "macs")]
    wrong = [costs] if isinstance(costs, str) else [cost for cost in costs if cost not in known]
    if wrong:
        raise InputError.of(
            f"costs = {wrong!r:.80} names none that is measured of a file.", f"One of {', '.join(known)}."
        )


def refuse_unplanned(target: Target, runtimes: Sequence[str], costs: Sequence[str] = ()) -> None:
    """Raise InputError where planned memory is asked for of files that say nothing of it."""
    asked = [condition.text for condition in target.conditions if condition.metric == PLANNED]
    asked += [PLANNED] if PLANNED in costs else []
    if asked and (others := [name for name in runtimes if get(name).suffix != ".onnx"]):
        raise InputError.of(
            f"{', '.join(asked)}: planned from the graph of an ONNX file, and {', '.join(others)} runs others.",
            "Leave the condition out, or choose the runtime onnxruntime.",
        )


def _evaluated(task: Task, texts: Any) -> tuple[Task, list[str]]:
    """The task with what the target names of its evaluation, and what to tell of that."""
    evaluate = getattr(task, "evaluate", None)
    if evaluate is None:
        return task, []
    offered: tuple[Metric, ...] = getattr(task, "likeness", ())
    declared = getattr(task, "evaluated", ())
    found = unknown_names(texts, (*task.metrics, *offered, *(each for each in declared if not each.open)))
    units = {name.casefold(): unit for name, unit in found.items()}
    declared = tuple(each.bounded(units.get(each.name.casefold(), "")) if each.open else each for each in declared)
    known = {each.name.casefold() for each in declared}
    others = (assumed(name, unit) for name, unit in found.items() if name.casefold() not in known)
    named = (*declared, *others)
    made: Any = copy.copy(task)
    made.evaluated = named
    taken = [metric.name for metric in named if metric.assumed] or ([] if named else [ALONE])
    notices = []
    if taken:
        said = ", ".join(f'"{name}": "lower"' for name in taken)
        notices.append(
            f"higher is taken to be better of {', '.join(taken)}, which evaluate returns: metrics={{{said}}} "
            "says otherwise"
        )
    if not takes_indices(evaluate):
        notices.append(f"no interval of what evaluate returns: {NO_INTERVAL}")
    return made, notices


def refuse_unlabelled(task: Task, target: Target) -> None:
    """Raise InputError for conditions on metrics that need targets, of data that has none."""
    needing, labelled = {metric.name for metric in task.metrics}, getattr(task, "labelled", True)
    without: dict[str, list[str]] = {}
    for condition in target.conditions:
        name = set_of(condition.metric)
        has = getattr(task, "labelled_on", lambda _: True)(name) if name else True
        if base_of(condition.metric) in needing and not (labelled and has):
            without.setdefault("" if not labelled else f"[{name}]", []).append(condition.text)
    mistakes = [
        Mistake(
            f"The validation{which} data has no targets, which {', '.join(asked)} needs.",
            "Let items be (inputs, target), or dicts with a key 'label' or 'target'; without them ask for "
            "agreement or divergence.",
        )
        for which, asked in without.items()
    ]
    if mistakes:
        raise InputError(*mistakes)


def _unlabelled(task: Any) -> tuple[Task, list[str]]:
    """The task without the metrics that need targets, which the data to judge on lacks, and what to tell of that."""
    made: Task = task.without_labels()
    beside = "what evaluate returns, and " if task.evaluate is not None else ""
    return made, [f"the validation data has no targets: quality is {beside}how far outputs are the first model's"]
