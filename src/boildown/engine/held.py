"""Whether `predict.py` gives a run's answers: asked in a child process, which needs no torch for it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from runpy import run_path

import numpy as np

from boildown.runtimes.base import Array

SCRIPT, SAMPLES, CALLS = "predict.py", "samples", "calls.npz"


def held(folder: str, kept: str) -> list[str]:
    """Run `predict.py` on the samples beside it, in a child process: what does not agree, in sentences."""
    names = run_path(str(Path(folder) / SCRIPT))
    listed = Path(folder) / SAMPLES / "answers.json"
    if not listed.is_file():
        return []
    told, said = json.loads(listed.read_text(encoding="utf-8")), io.StringIO()
    files = dict.fromkeys(str(Path(folder) / SAMPLES / each["file"]) for each in told)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            model = names["Model"]()
            for (_name, calls), wanted in zip(model.things(list(files)), calls_of(Path(kept)), strict=True):
                if isinstance(calls, Exception):
                    raise calls
                for own, its in zip(calls, wanted, strict=True):
                    if not all(map(_alike, own.values(), its)):
                        return [
                            "What predict.py makes of a raw sample is not what the data set made: mend preprocess=."
                        ]
            names["check"](model)
    except (names["Refused"], ImportError) as error:
        return [f"predict.py does not give the run's answers on its samples: {error}."]
    return []


def _alike(own: Array, wanted: Array) -> bool:
    if own.shape != wanted.shape or own.dtype != wanted.dtype:
        return False
    return bool(np.allclose(own, wanted, rtol=1e-3, atol=1e-3 * float(np.abs(wanted).max(initial=0)), equal_nan=True))


def calls_of(kept: Path) -> Iterator[list[list[Array]]]:
    """The flat inputs of every call, of each sample that is kept."""
    with np.load(kept / CALLS) as saved:
        arrays = {tuple(map(int, name.split(":"))): saved[name] for name in saved.files}
    for place in range(1 + max((key[0] for key in arrays), default=-1)):
        numbers = sorted({key[1] for key in arrays if key[0] == place})
        yield [[arrays[key] for key in sorted(arrays) if key[:2] == (place, number)] for number in numbers]
