"""A candidate on disk: `candidate.json` and safetensors, rebuilt from the first model, never a pickle."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from torch import nn

from boildown import files
from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.errors import BoildownError, in_words
from boildown.surgery.edits import apply_edits
from boildown.surgery.weights import restore, save

CANDIDATE = "candidate.json"
WEIGHTS = "weights.safetensors"


def save_candidate(candidate: Candidate, folder: Path, first: Candidate, first_folder: Path) -> None:
    """Write a candidate into its attempt's folder.

    Weights that are the first model's own are not written again but named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = WEIGHTS
    if candidate.model is first.model and folder != first_folder:
        weights = Path(os.path.relpath(first_folder / WEIGHTS, folder)).as_posix()
    else:
        save(candidate.model, folder / WEIGHTS)
    data = {
        "method": candidate.method,
        "settings": dict(candidate.settings),
        "parent": candidate.parent,
        "edits": [edit.to_json() for edit in candidate.edits],
        "plan": candidate.plan.to_json() if candidate.plan else None,
        "rewrite": candidate.rewrite.to_json() if candidate.rewrite else None,
        "notes": list(candidate.notes),
        "weights": weights,
    }
    files.replace(folder / CANDIDATE, json.dumps(data))


def load_candidate(
    folder: Path, first: Candidate, students: Mapping[str, nn.Module] = MappingProxyType({})
) -> Candidate:
    """Rebuild a candidate from its folder, the first model and the user's students, which are not touched.

    Raises OSError or ValueError where the files are missing or damaged, ModelError for an edit of
    a newer version.
    """
    try:
        return _load(folder, first, students)
    except (OSError, BoildownError):
        raise
    except Exception as error:  # what was written by others can fail anywhere
        raise ValueError(f"{folder} holds no candidate that can be read: {in_words(error)}") from error


def _load(folder: Path, first: Candidate, students: Mapping[str, nn.Module]) -> Candidate:
    data = json.loads(files.read_text(folder / CANDIDATE, folder))
    edits = tuple(Edit.from_json(edit) for edit in data["edits"])
    model = first.model
    if edits or data["weights"] == WEIGHTS:
        model = apply_edits(copy.deepcopy(model), edits, students)
        weights = folder / data["weights"]
        files.check(weights, weights.parent)
        restore(model, weights)
        model.eval()
    return replace(
        first,
        model=model,
        method=data["method"],
        settings=data["settings"],
        parent=data["parent"],
        edits=edits,
        plan=Plan.from_json(data["plan"]) if data["plan"] else None,
        rewrite=Edit.from_json(data["rewrite"]) if data["rewrite"] else None,
        notes=tuple(data["notes"]),
    )
