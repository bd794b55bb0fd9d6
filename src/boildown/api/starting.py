"""What a project begins with: a task of the user's files, and a small trained network for who has no model yet."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from boildown.domain.grammar import format_value
from boildown.domain.task import Task
from boildown.errors import DataError, ModelError, in_words, install
from boildown.files import real
from boildown.measuring.clusters import FEW
from boildown.methods.taught import held_out
from boildown.surgery.factories import call_factory
from boildown.surgery.onnx_file import input_shapes
from boildown.tasks.alone import Alone
from boildown.tasks.classification import Classification
from boildown.tasks.columns import some
from boildown.tasks.data import read_targets
from boildown.tasks.groups import groups_of
from boildown.tasks.images import FOLDER, IMAGENET, ImageFolder, Look, written
from boildown.tasks.networks import TableNetwork, image_network
from boildown.tasks.table import Kind, Table, validation_share
from boildown.tasks.text import TextTable
from boildown.training import Training, steps_for, train

Network = TypeVar("Network", bound=nn.Module)

LEAST_STEPS, EPOCHS = 2000, 40
_NAMED = 3
# The two quotes on either side of the quoted title make it a docstring.
_TASK = """\
""{title}""

from pathlib import Path

from {module} import {name}

HERE = Path(__file__).parent


def build():
{body}
"""
_NETWORK = '''\
"""The small network that `boildown init` trained."""

from boildown.tasks.networks import {name}


def build():
    return {call}
'''


def quoted(text: str) -> str:
    """A text in double quotes, as Python and TOML alike read it: nothing in it ends the string, or the line."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@dataclass(frozen=True)
class Start:
    """A project that can be written: the task with its code, conditions that suit it, what a person should know.

    files: what the code reads, by name, and model.py where there is one. factory: of the model. network: one that is
    to be trained first. alone: what each column of a table tells by itself.
    """

    task: Task
    code: str
    conditions: tuple[str, ...]
    told: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    factory: str = "model:build"
    network: nn.Module | None = None
    alone: tuple[Alone, ...] = ()


def start_table(
    path: Path,
    target: str,
    folder: Path,
    kind: Kind | None = None,
    *,
    train: bool = True,
    keep: Collection[str] = (),
    leave_out: Collection[str] = (),
    groups: str = "",
) -> Start:
    """Begin with a CSV or Parquet file, in a project that lies in `folder`. Raises InputError with every mistake.

    train: begin with a small network of its own, too. keep, leave_out, groups: columns, as `Table.find` takes them.
    """
    table, told = Table.find(path, target, kind, keep=keep, leave_out=leave_out, groups=groups)
    share = validation_share(table.group_count or table.rows)
    task = table.task(path, validation=share)
    what = f"one of {len(table.classes)} classes" if table.classes else "a number"
    told = [f"{target!r} is {what}, predicted from {len(table.columns)} columns.", *told]
    code = _TASK.format(
        title=quoted(f"Predict {target} from other columns of {path.name}; columns.json says how they become numbers."),
        module="boildown.tasks.table", name="Table",
        body=f'    table = Table.load(HERE / "columns.json")\n'
        f"    return table.task({_place(path, folder)}, validation={share})  # the share of rows to judge on",
    )  # fmt: skip
    files = {"columns.json": table.dump()}
    everything = (*told, *_sizes(task))
    alone = table.alone(path, validation=share)
    if not train:
        return Start(task, code, _conditions(task), (*everything, *giving_away(alone, task)), files)
    numbers = sum(column.kind == "number" for column in table.columns)
    categories = [len(column.categories) for column in table.columns if column.kind == "category"]
    regression = table.kind == "regression"
    outputs = len(table.classes) or 1
    network = _fresh(lambda: TableNetwork(numbers, categories, outputs, regression=regression))
    network.standardize(*_whole(task))
    called = f"TableNetwork({numbers}, {categories}, {outputs}{', regression=True' if regression else ''})"
    files["model.py"] = _NETWORK.format(name="TableNetwork", call=called)
    return Start(task, code, _conditions(task), everything, files, network=network, alone=alone)


def start_images(
    root: Path, folder: Path, look: Look | None = None, *, size: int | None = None, skip_broken: bool = False,
    groups: str = "",
) -> Start:  # fmt: skip
    """Begin with a folder of images, in a project that lies in `folder`. Raises InputError with every mistake.

    look: what a network that is there already expects; by default as the images are. size: in place of its own.
    skip_broken: leave out what cannot be read to its end. groups: which images belong together, see `ImageFolder.task`.
    """
    found, told = ImageFolder.find(root)
    broken = found.broken() if skip_broken else ()
    if broken:
        found, told = ImageFolder.find(root, broken)
        told.append(f"{len(broken):,} files cannot be read as images and are left out: {some(broken)}.")
    own = look is None
    seen = found.look()
    look = seen if look is None else replace(look, white=seen.white)
    if size is not None:
        look = replace(look, size=size)
    share = validation_share(len(set(found.groups(groups))) or len(found.files))
    task = found.task(look, validation=share, groups=groups)
    told += _folders(found) if not groups else []
    parted = any(part == "validation" for part, *_ in found.files)
    code = _TASK.format(
        title=quoted(f"Tell the {len(found.classes)} classes of images in {root.name}/ apart."),
        module="boildown.tasks.images", name="image_folder",
        body=f"    return image_folder(\n        {_place(root, folder)},\n        {written(look)},\n"
        + ("" if parted else f"        validation={share},  # the share of images to judge on\n")
        + (f"        leave_out={list(broken)!r},\n" if broken else "")
        + (f"        groups={quoted(groups)},\n" if groups else "")
        + "    )",
    )  # fmt: skip
    channels, classes, side = look.channels, len(found.classes), look.size
    colours = "grey" if channels == 1 else "colour"
    told = [f"{len(found.files):,} images of {classes} classes, read at {look.size} x {look.size} in {colours}.", *told]
    called = f"image_network({channels}, {side}, {classes})"
    return Start(
        task, code, _conditions(task), (*told, *_sizes(task)),
        files={"model.py": _NETWORK.format(name="image_network", call=called)} if own else {},
        network=_fresh(lambda: image_network(channels, side, classes)) if own else None,
    )  # fmt: skip


def start_timm(
    root: Path, folder: Path, name: str, *, size: int | None = None, train: bool = True, skip_broken: bool = False,
    groups: str = "",
) -> Start:  # fmt: skip
    """Begin with a folder of images and a timm network, perhaps with settings: `resnet18?pretrained=true`.

    train: it has no weights for these classes yet. Raises InputError with every mistake.
    """
    look = timm_look(name.partition("?")[0])
    start = start_images(root, folder, look, size=size, skip_broken=skip_broken, groups=groups)
    assert isinstance(start.task, Classification)
    assert start.task.classes is not None
    factory = f"timm:{name}{'&' if '?' in name else '?'}num_classes={len(start.task.classes)}"
    return replace(start, factory=factory, network=call_factory(factory) if train else None)


def start_text(
    path: Path, target: str, model: Path, folder: Path, texts: Sequence[str] = (), *, groups: str = ""
) -> Start:
    """Begin with a file of texts and the folder of a Hugging Face model. Raises InputError with every mistake."""
    table, told = TextTable.find(path, target, model, texts, groups=groups)
    share = validation_share(table.group_count or table.rows)
    task = table.task(path, model, validation=share)
    what = {"classification": f"one of {len(table.classes)} classes", "regression": "a number"}.get(table.kind)
    what = (
        f"how alike {' and '.join(table.texts)} are" if what is None else f"{what}, read off {', '.join(table.texts)}"
    )
    code = _TASK.format(
        title=quoted(f"{target} of {path.name}: {what}; texts.json says how the columns are read."),
        module="boildown.tasks.text", name="TextTable",
        body=f'    table = TextTable.load(HERE / "texts.json")\n'
        f"    return table.task({_place(path, folder)}, {_place(model, folder)}, validation={share})",
    )  # fmt: skip
    named = real(model)
    named = named.relative_to(real(folder)) if named.is_relative_to(real(folder)) else named
    return Start(
        task, code, _conditions(task), (f"{target!r} is {what}.", *told, *_sizes(task)), {"texts.json": table.dump()},
        f"transformers:{named.as_posix()}",
    )  # fmt: skip


def timm_look(name: str) -> Look:
    """What a timm network expects of its images. Raises ModelError where timm is not there, or has no such network."""
    try:
        import timm
    except Exception as error:
        raise ModelError.of(
            f"timm networks need timm, which cannot be imported: {in_words(error)}.",
            install("timm"),
        ) from error
    found = timm.get_pretrained_cfg(name)
    if found is None:
        raise ModelError.of(f"timm has no network {name!r}.", "`timm.list_models()` lists them.")
    channels, size, _ = found.input_size
    return Look(size, channels, found.crop_pct, tuple(found.mean), tuple(found.std))


def usual_look() -> Look:
    """What most networks for images expect: 224 pixels, normalized as ImageNet is."""
    return Look(224, 3, 0.875, *IMAGENET)


def look_of(path: Path) -> Look:
    """What an ONNX file expects of its images, as far as its first input says it; normalized as ImageNet is.

    Raises ModelError where that is no picture, or one that is laid out otherwise.
    """
    shape = next(iter(input_shapes(path)), ())
    channels, sides = (shape[1], shape[2:]) if len(shape) == 4 else (None, ())
    square = len({side for side in sides if isinstance(side, int)}) < 2
    if len(shape) != 4 or not square or (isinstance(channels, int) and channels not in (1, 3)):
        axes = ", ".join(map(str, shape)) or "none"
        raise ModelError.of(
            f"{path.name} takes no square pictures of one or three channels, (n, channels, side, side): "
            f"the axes of its first input are {axes}.",
            "Begin without --image-folder, and write the data set in task.py.",
        )
    side = next((side for side in sides if isinstance(side, int)), usual_look().size)
    look = replace(usual_look(), size=side, crop=1.0 if side < usual_look().size else usual_look().crop)
    return look if channels != 1 else replace(look, channels=1, mean=(0.5,), std=(0.5,))


def told_of_look(start: Start, path: Path) -> Start:
    """The same, saying what of an ONNX file's preprocessing nobody can know."""
    said = f"How pictures are normalized {path.name} does not say: see mean and std in task.py, and mend them."
    return replace(start, told=(*start.told, said))


def train_first(
    start: Start,
    minutes: float,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None,
) -> tuple[nn.Module, dict[str, float]]:
    """The small network of a start, trained, and its scores on validation by metric.

    minutes: the most it takes. Raises ModelError where it has learned nothing.
    """
    task = start.task
    assert task.train is not None
    assert start.network is not None
    settings = Training(batch=64)
    samples, judged = held_out(task.train, task, seed)
    epochs = EPOCHS * max(1, len(samples) // settings.batch)
    steps = min(
        max(LEAST_STEPS, epochs), steps_for(minutes, start.network, task, samples, settings=settings, seed=seed)
    )
    trained = train(
        start.network, task, samples, steps=steps, settings=settings, holdout=judged, seed=seed, progress=progress
    )
    scores = _scores(trained.model, task)
    if isinstance(task, Classification) and scores["accuracy"] <= majority(task):
        raise ModelError.of(
            f"A small network learns nothing here: it is right in {scores['accuracy']:.1%}, the most frequent class is "
            f"the answer in {majority(task):.1%}.",
            "Give more data or more --minutes, or a model of your own: --model module:callable --weights FILE.",
        )
    return trained.model, scores


def majority(task: Task) -> float:
    """The share of the most frequent class of validation."""
    targets = read_targets(task.validation)
    assert targets is not None
    return float(np.unique(targets, return_counts=True)[1].max() / len(targets))


def shown(task: Task, scores: Mapping[str, float]) -> str:
    """Scores for people."""
    return ", ".join(f"{m.name} {format_value(scores[m.name], m.unit, 'value')}" for m in task.metrics)


def giving_away(alone: Sequence[Alone], task: Task, score: float | None = None) -> tuple[str, ...]:
    """Which columns by themselves do about as well as all of them, in a sentence where there are some.

    score: that of all columns, in the task's first metric; by default a perfect one.
    """
    metric, regression = task.metrics[0], not isinstance(task, Classification)
    loss = 0.0 if score is None else score**2 if regression else 1 - score
    found = [column for column in alone if column.gives_away(loss, regression=regression)]
    if not found or len(alone) == 1:
        return ()
    found.sort(key=lambda column: column.loss)
    owns = [math.sqrt(column.loss) if regression else 1 - column.loss for column in found]
    told = [
        f"{column.name!r} {format_value(own, metric.unit)}" + (" by whether it is filled" if column.filled else "")
        for column, own in zip(found, owns, strict=True)
    ]
    options = " ".join(f"--leave-out {shlex.quote(column.name)}" for column in found[:_NAMED])
    return (
        f"One column alone does about as well as {'all together' if score is not None else 'any model can'}, in "
        f"{metric.name}: {some(told, _NAMED)}. Where it is known only once the answer is, begin again with {options}.",
    )


@torch.no_grad()
def _scores(model: nn.Module, task: Task) -> dict[str, float]:
    batches = [(task.run(model, inputs), target) for inputs, target in task.validation.batches()]
    return {
        metric.name: metric.compute(np.concatenate([metric.statistic(*batch) for batch in batches]))
        for metric in task.metrics
    }


def _conditions(task: Task) -> tuple[str, ...]:
    """A target to begin with: a point of each score, or 2 % of an error, and a third of the size."""
    quality = [
        f"{metric.name} drop <= 1 pp"
        if np.isfinite(metric.range).all() and metric.range[0] == 0
        else f"{metric.name} drop <= 0.01"
        if metric.higher_is_better
        else f"{metric.name} <= 1.02x"
        for metric in task.metrics
    ]
    return (*quality, "size <= 0.35x")


def _sizes(task: Task) -> tuple[str, ...]:
    """How many samples serve what, and whether they are few."""
    assert task.train is not None
    judged, groups = len(task.validation), groups_of(task, "validation")
    told = f"{len(task.train):,} samples to train on, {judged:,} to judge on."
    if groups is not None:
        count = np.unique(groups).size
        told = f"{told} These are in {count:,} groups."
        if count < FEW:
            return (told, f"Below {FEW} groups to judge on little can be proven; more groups would tell.")
        judged = count
    if judged >= 1000:
        return (told,)
    return (told, "Below 1,000 to judge on a drop of one point is within the noise; more data would tell.")


def _folders(found: ImageFolder) -> list[str]:
    """A word where images lie in folders below those of the classes, as those of one subject or video do."""
    with contextlib.suppress(DataError):
        names = found.groups(FOLDER)
        if 1 < len(set(names)) <= len(names) / 2:
            return [
                f"Images lie in {len(set(names)):,} folders below those of the classes: where those of one belong "
                "together, begin again with --groups folder; alike images prove less than as many others."
            ]
    return []


def _whole(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """All training inputs and targets."""
    assert task.train is not None
    parts = list(task.train.batches(4096))
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([target for _, target in parts])


def _fresh(make: Callable[[], Network], seed: int = 0) -> Network:
    """A network with the first weights of a seed; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _place(path: Path, folder: Path) -> str:
    """A path as code: relative to the project where it lies in it."""
    inside = real(path).is_relative_to(real(folder))
    found = real(path).relative_to(real(folder)) if inside else real(path)
    name = quoted(found.as_posix())
    return f"HERE / {name}" if inside else f"Path({name})"
