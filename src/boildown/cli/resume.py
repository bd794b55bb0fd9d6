"""`boildown resume RUN`"""

from __future__ import annotations

from typing import Annotated

import typer

import boildown as bd
from boildown.cli.exit import of_outcome
from boildown.cli.options import RUNS, AsJson, Runs, Which, echo_json


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("resume")(resume)


def resume(
    run: Which = "latest",
    budget: Annotated[str | None, typer.Option("--budget", help="A new budget for all sittings together.")] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> int:
    """Go on with a run where it stood."""
    resumed = bd.resume(run, budget=budget, runs=runs)
    if as_json:
        echo_json(resumed.to_json())
    else:
        typer.echo(str(resumed))
    return of_outcome(resumed.outcome)
