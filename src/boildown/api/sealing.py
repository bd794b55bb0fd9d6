"""What is written last into a folder that is handed over: its card, for people and programs, and its manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from boildown import files
from boildown.domain.preprocess import Preprocess, missing
from boildown.engine.handover import DESCRIPTION
from boildown.engine.held import SAMPLES, SCRIPT
from boildown.engine.manifest import CARD, README, seal
from boildown.journal.journal import Journal
from boildown.journal.rows import AttemptRow
from boildown.report.card import card, readme
from boildown.runtimes import get

_KINDS = {
    ("picture", "classes"): "image-classification",
    ("row", "classes"): "tabular-classification",
    ("row", "number"): "tabular-regression",
    ("text", "classes"): "text-classification",
    ("text", "number"): "text-classification",
    ("text pair", "classes"): "text-classification",
    ("text pair", "number"): "text-classification",
    ("text pair", "cosine"): "sentence-similarity",
}
"""What the Hugging Face Hub calls a model that makes of such a raw thing such an answer."""

_PACKAGES = {"picture": "pillow", "text": "tokenizers", "text pair": "tokenizers"}
"""What `predict.py` reads such a raw thing with, beside the runtime and numpy."""


def sealing(journal: Journal, row: AttemptRow) -> Callable[[Path], None]:
    """What finishes a folder with an attempt's artifact; see `engine.deliver`."""
    artifact = row.artifact
    assert artifact is not None

    def finish(folder: Path) -> None:
        runtime = get(artifact.runtime)
        about = runtime.about(folder / artifact.name)
        answers = folder / SAMPLES / "answers.json"
        samples = len(json.loads(answers.read_text(encoding="utf-8"))) if answers.is_file() else 0
        said = Preprocess.load((folder / DESCRIPTION).read_text(encoding="utf-8"))
        told = card(journal, row, about) | {
            "kind": next((_KINDS.get((raw.kind, said.output.kind), "other") for raw in said.inputs), "other"),
            "preprocessing": missing(said) or f"{DESCRIPTION} says every step from the raw thing to the answer.",
            "samples": f"{samples} of the user's data, in {SAMPLES}/" if samples else "no user's data lies here",
            "predicts": (folder / SCRIPT).is_file(),
            "packages": [
                runtime.version().split()[0],
                "numpy",
                *sorted({_PACKAGES[raw.kind] for raw in said.inputs if raw.kind in _PACKAGES}),
            ],
        }
        (folder / CARD).write_text(files.as_json(told), encoding="utf-8")
        (folder / README).write_text(readme(told), encoding="utf-8")
        seal(folder, artifact.runtime, artifact.name, about["identity"])

    return finish
