"""`boildown take RUN ATTEMPT`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import boildown as bd
from boildown.cli.options import RUNS, Runs, Trust, Which
from boildown.engine.manifest import CARD
from boildown.report.words import printable


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("take")(take)


def take(
    run: Which,
    attempt: Annotated[
        int | None,
        typer.Argument(help="The attempt's number; 0 is the first model. By default the best.", metavar="[ATTEMPT]"),
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Where to; attempt-N in the run folder by default.")] = None,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Lay a few samples of your data beside.")
    ] = True,
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Lay a file beside that takes raw pictures of any size.")
    ] = False,
    as_: Annotated[
        str | None, typer.Option("--as", help="`transformers`: with config and tokenizer, for optimum's ORTModel.")
    ] = None,
    trust: Trust = False,
    runs: Runs = RUNS,
) -> int:
    """Write a deployable folder for any attempt of a run, whatever its verdict."""
    path = bd.take(
        run, attempt, to, runs=runs, samples=samples, with_preprocessing=with_preprocessing, as_=as_, trust=trust
    )
    if attempt is None:
        card = json.loads((path.parent / CARD).read_text(encoding="utf-8"))
        typer.echo(f"the best is attempt {card['attempt']}, {printable(card['method'])}: {card['status']}", err=True)
    typer.echo(path)
    return 0
