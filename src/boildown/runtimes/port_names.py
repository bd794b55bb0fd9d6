"""What the inputs and outputs of a file are called: by the model's arguments and keys, or as its user says."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

TOLD = "ports.json"
"""Beside a serialized program: `{"word": what an output is called, "names": those that the user gave}`; of a model that
came as a file also `"inputs"`, their names, and `"axes"`."""


Axes = Mapping[str, Sequence[Sequence[int | str | None]]]
"""For `inputs` and `outputs` the axes of each: a size, a name, or None where nothing is said."""


def loaded(program: bytes) -> tuple[ExportedProgram, list[str], list[str], Axes]:
    """A serialized program, the names of its inputs and outputs in their order, and what its axes are to be."""
    extra = {TOLD: ""}
    found = torch.export.load(io.BytesIO(program), extra_files=extra)
    told = json.loads(extra[TOLD] or "{}")
    signature = found.graph_signature
    inputs = [
        spec.arg.name
        for spec in signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    ]
    word = str(told.get("word") or "output")
    results = [spec.arg for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    leaves = pytree.tree_unflatten(list(range(len(results))), found.call_spec.out_spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(leaves)[0]]
    tensors = [path for path, result in zip(paths, results, strict=True) if isinstance(result, TensorArgument)]
    names = told.get("names") or ()
    outputs = names if len(names) == len(tensors) else [_joined(path, word) for path in tensors]
    given = told.get("inputs") or ()
    inputs = list(distinct(given if len(given) == len(inputs) else inputs))
    return found, inputs, list(distinct(outputs, inputs)), told.get("axes") or {}


def distinct(names: Iterable[str], taken: Sequence[str] = ()) -> Iterator[str]:
    """The names in order; one that is taken gets the first number that is free."""
    used = set(taken)
    for name in names:
        number, free = 0, name
        while free in used:
            number += 1
            free = f"{name}_{number}"
        used.add(free)
        yield free


def _joined(path: Sequence[object], word: str) -> str:
    """A place in a tree of outputs as one name: `hidden_0` for `["hidden"][0]`, and `word` for the tree itself."""
    parts = [str(getattr(step, "key", getattr(step, "idx", getattr(step, "name", "")))) for step in path]
    name = re.sub(r"\W+", "_", "_".join(parts), flags=re.ASCII).strip("_")
    return name if name and not name[0].isdigit() else "_".join(filter(None, (word, name)))
