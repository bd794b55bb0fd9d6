"""What the user asked for, read and checked: every mistake is told at once, before anything is made."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boildown.api.wanted import refuse_unplanned, wanted
from boildown.domain.candidate import Candidate
from boildown.domain.deployment import FORMS, HERE, PORTABLE, Deployment, Latency, written_form
from boildown.domain.rules import Rules
from boildown.domain.target import Target
from boildown.domain.task import Samples, Task
from boildown.engine.brought import check, fit, held, is_brought, opened
from boildown.engine.budget import Budget, parse_time
from boildown.engine.described import held_against_data
from boildown.engine.job import GOALS, Factories, Job
from boildown.engine.ladder import fixed_rungs
from boildown.engine.plugged import check_runtimes
from boildown.engine.prepare import check_expectations, named
from boildown.engine.students import gather, named_in
from boildown.engine.unread import Unread
from boildown.errors import (
    BoildownError,
    BudgetError,
    ConfigError,
    DataError,
    DeadlineError,
    InputError,
    Mistake,
    Mistakes,
    ModelError,
    WorkerLost,
)
from boildown.execution.child import Child
from boildown.measuring.environment import free_memory, resolved
from boildown.runtimes import AUTO, at_hand
from boildown.surgery.checkpoints import load
from boildown.surgery.factories import call_factory
from boildown.surgery.onnx_file import file_of
from boildown.surgery.weights import copied, plain, precisions, refuse_non_finite
from boildown.tasks.checks import overlap
from boildown.tasks.data import evenly_spaced
from boildown.tasks.general import Task as Usual
from boildown.tasks.groups import shared_groups
from boildown.tasks.others import beside
from boildown.tasks.slice_checks import check_slices
from boildown.tasks.splits import Splits, resolve
from boildown.tasks.watch import current

HARDWARE = (HERE, "x86-vnni", "x86-any", "arm64")
Ladder = str | Sequence[str | Mapping[str, Any]]

BATCH = 64
_OVERLAP_ITEMS = 20_000


@dataclass(frozen=True)
class Read:
    """A job ready to begin: its first candidate, its budget, and what the user should know."""

    job: Job
    first: Candidate
    budget: Budget
    notices: tuple[str, ...]
    building: float = 0.0
    """Seconds that the user's own factories took."""
    reading: float = 0.0
    """Seconds that it took to read and check the data."""
    late: bool = False
    """The budget ended while the data was read: it is not split yet."""


def read(
    asked: Mapping[str, Any],
    model: nn.Module | str,
    task: Task | str,
    modules: Mapping[str, nn.Module] | None = None,
    wrong: Sequence[Mistake] = (),
    clock: Budget | None = None,
) -> Read:
    """Everything the user gave as a job; `modules` are the students given as such, by name.

    wrong: mistakes found already. clock: the budget, where it counts already. Raises InputError with all mistakes.
    """
    mistakes = Mistakes()
    names = tuple((name, factory) for name, factory in asked["factories"].get("students", ()))
    path = tuple(asked["factories"]["path"])
    factories = Factories(**{**asked["factories"], "path": path, "students": names})
    students: dict[str, nn.Module] = {}
    notices: list[str] = []
    budget, target, splits, first, read_task, late = Budget(), Target(()), None, None, None, False
    types: frozenset[torch.dtype] = frozenset()
    deployment, rules = deployment_of(asked), tuple[Rules, ...]()
    with mistakes:
        if wrong:
            raise InputError(*wrong)
    with mistakes:
        if asked["budget"] is not None:
            budget = Budget(parse_time(asked["budget"]))
            current().left = partial(_left, budget)
    with mistakes:
        _check_choices(asked)
    with mistakes:
        rules = tuple(runtime.rules for runtime in check_runtimes(deployment.runtimes, deployment.form))
        if deployment.form == PORTABLE:  # the kernels are no operators of ONNX
            rules = tuple(each.without_dynamic() for each in rules)
    with mistakes:
        if asked["ladder"] != "auto":
            rungs = fixed_rungs(asked["ladder"], deployment.runtimes)
            factories = replace(factories, students=(*names, *named_in(rungs)))
    start = time.perf_counter()
    with mistakes:
        first, found, types = _first(model, factories.weights)
        notices += found
        if factories.model is not None and isinstance(model, nn.Module):
            _check_factory(factories.model, model)
    with mistakes:
        read_task = task_from(task)
    with mistakes:
        students = gather(factories.students, modules or {}, _seed(asked["seed"]))
    building, start = time.perf_counter() - start, time.perf_counter()
    if read_task is not None:
        if types and file_of(first) is None and isinstance(read_task, Usual):
            with mistakes:
                read_task, cast = read_task.in_float(types)
                notices += cast
        try:
            with mistakes:
                read_task, target, told = wanted(read_task, asked["target"])
                notices += told
                refuse_unplanned(target, deployment.runtimes)
            with mistakes:
                check_expectations(asked["expected"], (*read_task.metrics, *getattr(read_task, "evaluated", ())))
            with mistakes:
                check_data(read_task)
                with named("The data cannot be read", "Mend that item, or leave it out."):
                    splits = resolve(read_task, _seed(asked["seed"]))
                    described = held_against_data(read_task)
                    splits = beside(read_task, splits, target, _seed(asked["seed"]))
                    notices += [*splits.notes, *_overlap(read_task, splits), *shared_groups(read_task), *described]
                    if first is not None and file_of(first) is not None:
                        first, read_task, of_file = fit(first, read_task)
                        notices += of_file
                notices += check_slices(target, read_task, splits, _level(asked["confidence"]))
        except BudgetError:
            unread = read_task.validation
            late, splits = True, Splits(read_task.train, unread, unread, False, unread)
    mistakes.raise_all()
    assert read_task is not None
    assert splits is not None
    assert first is not None
    if not late:
        first = held(first, read_task, splits.search)
    file = file_of(first)
    if isinstance(first, Unread):
        factories = replace(factories, model=None)  # nothing is made of it that needs a process of its own
        notices.append(
            f"{first.file.path.name} stays a file, which methods that change a file can lighten: {first.reason}"
        )
    job = Job(
        read_task, splits, target, goal=asked["goal"], confidence=asked["confidence"],
        deployment=deployment, rules=rules, device=_device(asked["device"]),
        batch_size=asked["batch_size"] or getattr(splits.verdict, "batch_size", None) or BATCH,
        seed=asked["seed"], factories=factories, expected=asked["expected"], students=students,
        samples=asked.get("samples", True),
        file={} if file is None else file.ports,
    )  # fmt: skip
    check(first, job)
    reading = time.perf_counter() - start
    return Read(job, Candidate(first), clock or budget, tuple(notices), building, reading, late)


def started(budget: Any) -> Budget:
    """A budget that counts from now; what cannot be read is left for `read` to refuse, with all other mistakes."""
    with contextlib.suppress(InputError):
        return Budget(None if budget is None else parse_time(budget))
    return Budget()


def _left(budget: Budget) -> float:
    """Seconds that are left of a budget, with what is kept for the final verdict."""
    return math.inf if budget.seconds is None else budget.seconds - budget.elapsed


def conditions(target: Any) -> list[str]:
    """The target as a list of texts; what is no text is left for the grammar to refuse."""
    return [str(text) for text in target] if isinstance(target, list | tuple) else [str(target)]


def task_from(task: Task | str) -> Task:
    """The task, built by its factory if need be. Raises InputError for what is none."""
    built = call_factory(task) if isinstance(task, str) else task
    if not all(hasattr(built, name) for name in ("validation", "metrics", "check", "run")):
        made = f"The factory {task!r} returned" if isinstance(task, str) else "The task is"
        raise ConfigError.of(
            f"{made} {type(built).__name__}, no task.",
            "Wrap the data: boildown.Classification(train=..., validation=...), Regression, Embedding or Task.",
        )
    found: Task = built
    return found


def check_data(task: Task) -> None:
    """Raise DataError with every mistake in the task's data."""
    if found := task.check():
        raise DataError(*found)


def _check_choices(asked: Mapping[str, Any]) -> None:
    """Goal, hardware, device, and the numbers."""
    mistakes = number_mistakes(asked)
    deployment = asked["deployment"]
    for name, value, known in (
        ("goal", asked["goal"], GOALS),
        ("hardware", deployment["hardware"], (*HARDWARE, resolved(HERE))),
        ("form", deployment["form"], FORMS),
        ("on", deployment["on"], (HERE,)),
    ):
        if value not in known:
            mistakes.append(Mistake(f"{name} = {value!r} is not known.", f"One of: {', '.join(dict.fromkeys(known))}."))
    if not isinstance(asked.get("samples", True), bool):
        mistakes.append(Mistake(f"samples = {asked['samples']!r} is neither True nor False.", "True is usual."))
    try:
        there = asked["device"] == "auto" or torch.empty(0, device=asked["device"]) is not None
    except (RuntimeError, AssertionError, TypeError):
        there = False
    if not there:
        mistakes.append(Mistake(f"The device {asked['device']!r} is not here.", 'Use "auto" or "cpu".'))
    if mistakes:
        raise InputError(*mistakes)


def number_mistakes(asked: Mapping[str, Any]) -> list[Mistake]:
    """What is wrong with the confidence, the deployment's batch and threads, the batch size and the seed."""
    mistakes = []
    confidence = asked["confidence"]
    if confidence is not None and _level(confidence) is None:
        mistakes.append(Mistake(f"confidence = {confidence!r} is not between 0.5 and 1.", "0.95 is usual."))
    numbers = {name: asked["deployment"][name] for name in ("batch", "threads")}
    numbers["batch_size"] = 1 if asked["batch_size"] is None else asked["batch_size"]
    for name, value in numbers.items():
        if not _whole(value) or value < 1:
            mistakes.append(Mistake(f"{name} = {value!r} is not a positive whole number.", "Give 1 or more."))
    if _seed(asked["seed"]) != asked["seed"]:
        mistakes.append(Mistake(f"seed = {asked['seed']!r} is not a whole number from 0.", "0 is usual."))
    return mistakes


def plain_deployment(
    deployment: Any, runtime: str | Sequence[str] | None = None, hardware: str | None = None, latency: Any = None
) -> tuple[dict[str, Any], list[Mistake]]:
    """(where it will run as plain data, what is wrong with it): the deployment, or the parts of one in its place."""
    mistakes, parts = [], {"runtime": runtime, "hardware": hardware}
    if runtime is not None:
        parts["runtime"] = Deployment(runtime).to_json()["runtime"]
    if latency is not None and not isinstance(latency, Latency):
        mistakes.append(Mistake(f"latency = {latency!r} is no Latency.", "Write boildown.Latency(batch=1, threads=1)."))
    elif latency is not None:
        parts |= asdict(latency)
    if deployment is not None and not isinstance(deployment, Deployment):
        cure = 'Write boildown.Deployment(runtime="onnxruntime", batch=1, threads=1).'
        mistakes.append(Mistake(f"deployment = {deployment!r} is no Deployment.", cure))
        deployment = None
    given = {name: value for name, value in parts.items() if value is not None}
    said = deployment.to_json() if deployment is not None else {**Deployment().to_json(), **given}
    for name, value in given.items():
        if said[name] != value:
            cause = f"{name} is said twice: {value!r} by itself, and {said[name]!r} in the deployment."
            mistakes.append(Mistake(cause, f"Say it in the deployment alone: boildown.Deployment({name}={value!r})."))
    names = Deployment(said["runtime"]).runtimes
    if not names or len(set(names)) < len(names):
        cause = f"runtime = {list(names)!r} names {'one twice' if names else 'none'}."
        mistakes.append(Mistake(cause, 'Name every runtime once, or say "auto" for all that are installed.'))
        said["runtime"] = Deployment().runtime
    return said, mistakes


def deployment_of(asked: Mapping[str, Any]) -> Deployment:
    """What was asked for, with the runtimes, the form and the hardware that are meant."""
    found = Deployment(**asked["deployment"])
    meant = [name for named in found.runtimes for name in (at_hand() if named == AUTO else (named,))]
    meant = list(dict.fromkeys(meant))
    form, hardware = written_form(found.form, meant), resolved(str(found.hardware))
    return replace(found, runtime=meant, form=form, hardware=hardware)


def _level(confidence: Any) -> float | None:
    """The confidence, None in place of one that is refused."""
    return confidence if isinstance(confidence, int | float) and 0.5 < confidence < 1 else None


def _seed(value: Any) -> int:
    """The seed, or 0 in place of one that has been refused."""
    return value if _whole(value) and value >= 0 else 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _first(model: nn.Module | str, weights: str | None) -> tuple[nn.Module, tuple[str, ...], frozenset[torch.dtype]]:
    """The first model as it will be judged, what was changed, and its own types; the user's own is never touched."""
    loaded: tuple[str, ...] = ()
    if is_brought(model):
        return _first_of_file(model, weights)
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError.of(
            "The model is TorchScript, which cannot be captured again.",
            "Give the module it was scripted or traced from, with its weights.",
        )
    if isinstance(model, str):
        _refuse_endless(model)
        built = call_factory(model)
        if not isinstance(built, nn.Module):
            raise ConfigError.of(
                f"The factory {model!r} returned {type(built).__name__}, no torch.nn.Module.",
                "Return the model.",
            )
        model = built.eval()
    elif not isinstance(model, nn.Module):
        raise ModelError.of(
            f"The model is {type(model).__name__}, no torch.nn.Module.",
            _CURES.get(type(model).__name__, "Give the trained module."),
        )
    elif weights is not None:
        model = copied(model)
    first, notices = plain(model)
    types = precisions(model)
    if weights is not None:
        loaded = load(first, Path(weights))
    refuse_non_finite(first)
    return first, (*loaded, *notices), types


def _first_of_file(factory: str, weights: str | None) -> tuple[nn.Module, tuple[str, ...], frozenset[torch.dtype]]:
    """As `_first`, of a file."""
    if weights is not None:
        raise ConfigError.of("weights are given, and an ONNX file has its own.", "Leave weights out, or the file.")
    first, changed = plain(opened(factory))
    file = file_of(first)
    notes = () if file is None else file.notes
    return first, (*notes, *changed), frozenset()


def _refuse_endless(model: str) -> None:
    """Refuse a folder of transformers whose config.json describes a network of another size than its weights.

    It is built in a child, without its weights: a number in that file can make it endless.
    """
    library, _, folder = model.partition(":")
    if library != "transformers" or not folder:
        return
    what, cure = f"config.json in {folder} describes a network", "Save the model again: model.save_pretrained(FOLDER)."
    try:
        with Child(memory=free_memory()) as child:
            made, weights = child.call("boildown.surgery.hub:size_of", folder, deadline=_BUILDING)
    except DeadlineError as error:
        raise ModelError.of(f"{what} that is not built in {_BUILDING:g} s.", cure) from error
    except BoildownError as error:
        if isinstance(error, WorkerLost) or "MemoryError" in str(error):
            raise ModelError.of(f"{what} that cannot be built in the memory there is.", cure) from error
        return  # loading it tells the same, or more
    if made > _MORE * weights + _SMALL:
        raise ModelError.of(f"{what} of {made / 1e9:.1f} GB; the weights have {weights / 1e9:.2f}.", cure)


_CURES = {"ModelProto": 'Write it to a file, onnx.save(model, "model.onnx"), and give its path.'}
_BUILDING = 180.0
_MORE, _SMALL = 32, 1 << 30
"""How many times its weights a network may have, and what it may have in any case."""


def _check_factory(factory: str, model: nn.Module) -> None:
    """Refuse a factory that builds another model than the one given: children and `resume` would use it."""
    built = call_factory(factory)
    ours = {name: tuple(value.shape) for name, value in plain(model)[0].state_dict().items()}
    theirs = (
        {name: tuple(value.shape) for name, value in built.state_dict().items()} if isinstance(built, nn.Module) else {}
    )
    if ours != theirs:
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise ConfigError.of(
            f"The factory {factory!r} does not build the model that was given: {', '.join(names[:5])} differ.",
            "Name the factory that builds it, or leave factory= out.",
        )


def _overlap(task: Task, splits: Splits) -> list[str]:
    """Notices where samples to judge on also serve something else; of large data sets a part is compared."""
    judged, learned = task.test or task.validation, "train: scores may flatter every model"
    pairs = [("", judged, task.train, learned)]
    if task.test is not None:
        pairs.append(("", judged, task.validation, "validation, on which candidates are chosen"))
    others, tests = getattr(task, "others", {}), getattr(task, "tests", {})
    for name in (name for name in splits.others if name in others):
        where, searched = f" ({name})", f"validation[{name}], on which candidates are chosen"
        pairs.append((where, tests.get(name) or others[name], task.train, learned))
        pairs += [(where, tests[name], others[name], searched)] if name in tests else []
    notices = []
    for where, judged, other, what in pairs:
        shared = 0 if other is None else overlap(_at_most(other), _at_most(judged))
        if other is not None and shared:
            least = "at least " if max(len(other), len(judged)) > _OVERLAP_ITEMS else ""
            notices.append(f"{least}{shared} of {len(judged)} samples to judge on{where} are also in {what}")
    return notices


def _at_most(samples: Samples) -> Samples:
    whole = len(samples) <= _OVERLAP_ITEMS
    return samples if whole else samples.subset(evenly_spaced(len(samples), _OVERLAP_ITEMS))


def _device(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
