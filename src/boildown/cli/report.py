"""`boildown report RUN`"""

from __future__ import annotations

import typer

from boildown.cli.options import RUNS, Runs, Which
from boildown.journal.runs import resolve_run
from boildown.report import write


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("report")(report)


def report(run: Which = "latest", runs: Runs = RUNS) -> int:
    """Write the HTML report of a run anew and print its path."""
    typer.echo(write(resolve_run(runs, run)))
    return 0
