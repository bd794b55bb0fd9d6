"""`boildown show RUN`"""

from __future__ import annotations

import typer

from boildown.cli.options import RUNS, AsJson, Runs, Which, echo_json
from boildown.journal.journal import Journal, readable
from boildown.journal.runs import resolve_run
from boildown.report import facts
from boildown.report.text import summary


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("show")(show)


def show(run: Which = "latest", runs: Runs = RUNS, as_json: AsJson = False) -> int:
    """Show a run: the first model, the ladder climbed, the verdict."""
    folder = resolve_run(runs, run)
    if as_json:
        from boildown import api  # torch comes with it, and completion must not wait for that

        echo_json(api.show(folder))
        return 0
    with Journal.open(folder, readonly=True) as journal, readable(folder):
        typer.echo(summary(facts(journal)))
    return 0
