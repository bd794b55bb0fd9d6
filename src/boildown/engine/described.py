"""What a task says of its preprocessing, held against what its data set does: before any work."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boildown.domain.preprocess import Preprocess, shape_of, sides
from boildown.domain.task import Task
from boildown.engine import predict
from boildown.engine.artifact import flatten
from boildown.engine.handover import write_picture
from boildown.errors import InputError
from boildown.runtimes.base import Array
from boildown.tasks.data import evenly_spaced, source_of
from boildown.tasks.transforms import Described

CLOSE = 1e-3
"""How far what is described may be from what the data set yields, of the largest number or 1."""

_COUNT = 3
_CURE = "Describe what the data set does; without preprocess= predict.py takes tensors."


def held_against_data(task: Task) -> list[str]:
    """What is worth knowing of a task's description, in sentences. Raises InputError for one that is wrong.

    What was read of a transform is held against the transform on made-up pictures, and against samples where the data
    set has the raw ones. What does not agree and is not the user's own words is taken back: predict.py takes tensors.
    """
    said = getattr(task, "preprocess", None)
    described = getattr(task, "described", None)
    if not isinstance(described, Described):
        return []
    notes = list(described.notes)
    if not isinstance(said, Preprocess) or [raw.kind for raw in said.inputs] != ["picture"]:
        return notes
    source, _places = source_of(task.validation)
    own_words, own = task.given_preprocess is not None, "preprocess="  # type: ignore[attr-defined]
    if not own_words and said is described.preprocess:
        own = f"the transform of {type(source).__name__}"
    read = described.called is not None
    wrong = _unlike_made_up(said, described.called, must=True) if read else None
    if wrong is not None:
        return [*notes, *_taken_back(task, f"{type(described.called).__name__} does more than can be read: {wrong}")]
    wrong = _unlike_example(said, task) or _unlike_samples(said, task)
    if wrong is None and task.raw is None and not read:  # type: ignore[attr-defined]
        wrong = _unlike_made_up(said, getattr(source, "transform", None))
    if wrong is not None and own_words:
        raise InputError.of(f"What {own} makes of a picture is not what the data set yields: {wrong}.", _CURE)
    if wrong is not None:
        return [*notes, *_taken_back(task, f"{own} is not all that is done to a picture: {wrong}")]
    return [*notes, *([] if own_words or not read else [f"preprocessing: read from {own}"])]


def _taken_back(task: Any, why: str) -> list[str]:
    task.preprocess = task.raw = None
    return [f"preprocessing: {why}, so predict.py takes tensors"]


def _unlike_example(said: Preprocess, task: Any) -> str | None:
    args, kwargs = task.example()
    tensors = flatten(args, kwargs, (args, kwargs))
    made = shape_of(said.inputs[0].steps)
    taken = tensors[0].shape[1:]
    fits = len(made) == len(taken) and all(side is None or side == own for side, own in zip(made, taken, strict=True))
    return None if len(tensors) == 1 and fits else f"{sides(made)}, and the data set's are {sides(taken)}"


def _unlike_samples(said: Preprocess, task: Any) -> str | None:
    """How the samples whose raw pictures there are differ from what the description makes of them."""
    if task.raw is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for place in evenly_spaced(len(task.validation), _COUNT):
            inputs, _target = next(task.validation.subset([place]).batches(1))
            args, kwargs = task.calls(inputs)[0]
            (wanted,) = flatten(args, kwargs, task.example())
            file = Path(folder) / write_picture(task.raw(place), Path(folder), str(place))
            try:
                own = made_of(said, predict.decode(file, _plain(said)[0]))
            except predict.Refused as refused:
                return f"sample {place}: {refused}"
            if differs := _difference(own, wanted[0]):
                return f"sample {place} differs by {differs}"
    return None


def _unlike_made_up(said: Preprocess, transform: Callable[[Any], Any] | None, *, must: bool = False) -> str | None:
    """How made-up pictures differ; None where they do not, and, unless it `must`, where the transform takes none."""
    if not callable(transform):
        return None
    from PIL import Image

    for pixels in made_up(said):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        for given in (picture, torch.from_numpy(pixels).movedim(2, 0)):
            try:
                wanted = np.asarray(transform(given))
                break
            except Exception as error:  # noqa: BLE001 - it is the user's, and takes something else
                why = f"it takes no picture ({type(error).__name__})"
        else:
            return why if must else None
        if differs := _difference(made_of(said, pixels), wanted):
            return f"a made-up picture differs by {differs}"
    return None


def made_up(said: Preprocess) -> list[Array]:
    """Pictures that are nobody's, higher, wider, smaller and larger than what is made of them: shades and noise."""
    random, channels = np.random.default_rng(0), 1 if _plain(said)[0].get("mode") == "L" else 3
    made = shape_of(said.inputs[0].steps)
    usual = max([side for side in made if side is not None and side > 4], default=64)
    found = []
    for height, width in ((1.31, 1.0), (0.47, 0.83), (2.9, 4.3)):
        rows, columns = np.mgrid[: round(usual * height), : round(usual * width)]
        shades = np.stack([128 + 60 * (np.sin(rows / (5 + c)) + np.cos(columns / (7 + c))) for c in range(channels)], 2)
        found.append((shades + random.normal(0, 20, shades.shape)).clip(0, 255).astype(np.uint8))
    return found


def made_of(said: Preprocess, pixels: Array) -> Array:
    """The tensor of a picture that is decoded, as `predict.py` makes it."""
    for step in _plain(said)[1:]:
        pixels = predict.STEPS[step["do"]](pixels, step)
    return pixels


def _plain(said: Preprocess) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads(said.dump())["inputs"][0]["steps"]
    return steps


def _difference(own: Array, wanted: Array) -> str:
    if own.shape != wanted.shape:
        return f"its shape, {sides(own.shape)} and {sides(wanted.shape)}"
    most = float(np.abs(own.astype(np.float64) - wanted.astype(np.float64)).max(initial=0))
    return f"up to {most:.3g}" if not most <= CLOSE * max(1.0, float(np.abs(wanted).max(initial=0))) else ""
