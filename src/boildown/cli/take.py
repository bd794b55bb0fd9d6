"""`boildown take RUN ATTEMPT`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import boildown as bd
from boildown.cli.options import RUNS, Runs, Trust, Which


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("take")(take)


def take(
    run: Which,
    attempt: Annotated[int, typer.Argument(help="The attempt's number; 0 is the first model.", metavar="ATTEMPT")],
    to: Annotated[Path | None, typer.Option("--to", help="Where to; attempt-N in the run folder by default.")] = None,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Lay a few samples of your data beside.")
    ] = True,
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Lay a file beside that takes raw pictures of any size.")
    ] = False,
    trust: Trust = False,
    runs: Runs = RUNS,
) -> int:
    """Write a deployable folder for any attempt of a run, whatever its verdict."""
    typer.echo(
        bd.take(run, attempt, to, runs=runs, samples=samples, with_preprocessing=with_preprocessing, trust=trust)
    )
    return 0
