"""Options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="The file is your own: it may be of a format that could run code (.pt2).")
]
Which = Annotated[str, typer.Argument(help="A path, an id, a unique prefix, or `latest`.", metavar="RUN")]

RUNS = Path("runs")


def echo_json(data: Any) -> None:
    """Print plain data as JSON on standard output; numbers that JSON lacks become null."""
    typer.echo(json.dumps(_finite(data), indent=2, default=str))


def _finite(data: Any) -> Any:
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
