"""What a child process is asked to do with a runtime, by name; sessions stay open between calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from io import StringIO
from pathlib import Path
from runpy import run_path
from typing import Any

from boildown.domain.candidate import Edit, Plan
from boildown.domain.deployment import LEAN
from boildown.domain.preprocess import Preprocess
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
    return _open(runtime, path, threads, trust).run(arrays)


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
