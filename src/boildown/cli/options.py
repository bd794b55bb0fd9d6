"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from boildown.errors import ConfigError, Mistake
from boildown.files import as_json
from boildown.journal.runs import run_folders
from boildown.methods.registry import listed

RUNS = Path("runs")
READY = ("auto", "quick", "post-training")
"""Ladders that are ready, by name."""


def runs_beginning(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of runs that complete what was typed, newest first."""
    names = [folder.name for folder in run_folders(Path(ctx.params.get("runs") or RUNS))]
    yield from (name for name in ("latest", *names) if name.startswith(incomplete))


def methods_beginning(incomplete: str) -> Iterator[str]:
    """Names of methods that complete what was typed."""
    yield from (name for name in listed() if name.startswith(incomplete))


def ladders_beginning(incomplete: str) -> Iterator[str]:
    """Ladders, and methods as rungs, that complete what was typed; in a chain the link after the last +."""
    before, plus, link = incomplete.rpartition("+")
    made = f"{before}{plus}{' ' if plus else ''}"
    yield from (f"{made}{name}" for name in (*(() if plus else READY), *listed()) if name.startswith(link.strip()))


Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="The file is your own: it may be of a format that could run code (.pt2).")
]
Which = Annotated[
    str,
    typer.Argument(help="A path, an id, a unique prefix, or `latest`.", metavar="RUN", autocompletion=runs_beginning),
]

Sets = Annotated[
    list[str] | None,
    typer.Option("--validation", help="One more set to judge on. May be given again.", metavar="NAME=PATH"),
]


def judged_on(task: str, sets: Mapping[str, str]) -> str:
    """The name of a task's factory with more sets to judge on, by name and path."""
    return f"{task}{'&' if '?' in task else '?'}{urlencode(sets)}" if sets else task


def sets_of(given: Sequence[str] | None) -> dict[str, str]:
    """Sets as they are given on the command line. Raises ConfigError for what is not NAME=PATH."""
    parts = {each: each.partition("=") for each in given or ()}
    if wrong := [each for each, (name, _, path) in parts.items() if not name or not path]:
        raise ConfigError(*(Mistake(f"--validation {each} names no set.", "Write NAME=PATH.") for each in wrong))
    return {name: str(Path(path).absolute()) for name, _, path in parts.values()}


def echo_json(data: Any) -> None:
    """Print plain data as JSON on standard output; numbers that JSON lacks become null."""
    typer.echo(as_json(data), nl=False)
