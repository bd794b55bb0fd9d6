"""What a child process is asked to do with a runtime, by name; sessions stay open between calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from io import StringIO
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np

from boildown.domain.candidate import Edit, Plan
from boildown.domain.deployment import LEAN
from boildown.domain.preprocess import Preprocess
from boildown.errors import InputError
from boildown.runtimes import formed, get
from boildown.runtimes.base import Array, Executed, Port, Session, Written


def load_exporter(runtime: str) -> None:
    """Load a runtime and what it exports with."""
    get(runtime).load_exporter()


def export(runtime: str, program: bytes, path: str) -> None:
    """`Runtime.export` by the runtime's name."""
    get(runtime).export(program, Path(path))


def write(runtime: str, exported: str, path: str, plan: Plan | None, rewrite: Edit | None, form: str = LEAN) -> Written:
    """`Runtime.write` by the runtime's name."""
    chosen = get(runtime)
    return chosen.write(Path(exported), Path(path), plan, rewrite, **formed(chosen, form))


def with_preprocessing(
    runtime: str,
    path: str,
    target: str,
    description: Preprocess,
    classes: Sequence[str] | None,
    said: Mapping[str, str],
) -> None:
    """`Runtime.with_preprocessing` by the runtime's name."""
    get(runtime).with_preprocessing(Path(path), Path(target), description, classes, said)


def stamp(runtime: str, path: str, identity: Mapping[str, str]) -> bool:
    """`Runtime.stamp` by the runtime's name."""
    return get(runtime).stamp(Path(path), identity)


def about(runtime: str, path: str) -> dict[str, Any]:
    """`Runtime.about` by the runtime's name."""
    return get(runtime).about(Path(path))


def ports(runtime: str, path: str, threads: int, trust: bool = False) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of an artifact."""
    session = _open(runtime, path, threads, trust)
    return session.inputs, session.outputs


def run(runtime: str, path: str, threads: int, arrays: Sequence[Array], trust: bool = False) -> list[Array]:
    """Flat inputs to flat outputs, in an artifact that stays loaded."""
    return _whole(_open(runtime, path, threads, trust), arrays)


def _whole(session: Session, arrays: Sequence[Array]) -> list[Array]:
    """The outputs for a batch of any size; where the session takes one size only, in parts, the last of them filled up.

    Raises InputError for an output that is not one part per sample then.
    """
    takes = {port.shape[0] for port in session.inputs if port.shape}
    given = {len(array) for array in arrays if array.ndim}
    size, count = takes.pop() if len(takes) == 1 else None, given.pop() if len(given) == 1 else 0
    if not isinstance(size, int) or size < 1 or not count or size == count:
        return session.run(arrays)
    parts = []
    for start in range(0, count, size):
        places = [min(place, count - 1) for place in range(start, start + size)]
        parts.append(session.run([array[places] if array.ndim else array for array in arrays]))
    made = zip(session.outputs, parts[0], strict=True)
    if wrong := [port.name for port, output in made if output.shape[:1] != (size,)]:
        raise InputError.of(
            f"the file takes {size} samples at a time, and its output {wrong[0]!r} is not one part for each",
            "export it with an open first axis",
        )
    return [np.concatenate(output)[:count] for output in zip(*parts, strict=True)]


def executed(runtime: str, path: str, inputs: Sequence[Array], threads: int) -> tuple[Executed, ...]:
    """`Runtime.executed` by the runtime's name."""
    return get(runtime).executed(Path(path), inputs, threads)


def inside(
    runtime: str, path: str, names: Sequence[str], arrays: Sequence[Array], threads: int
) -> tuple[dict[str, Array], list[Array]] | None:
    """`Runtime.inside` by the runtime's name."""
    return get(runtime).inside(Path(path), names, arrays, threads)


@lru_cache(maxsize=3)
def _open(runtime: str, path: str, threads: int, trust: bool) -> Session:
    return get(runtime).open(Path(path), threads, trust=trust)


def load(script: str) -> None:
    """Run the loader of an artifact. Raises RuntimeError where it says that it failed."""
    with redirect_stdout(StringIO()):
        try:
            run_path(script, run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{Path(script).name} ends with {end.code!r}") from end
