"""`boildown runs`"""

from __future__ import annotations

import typer

from boildown.cli.options import RUNS, AsJson, Runs, echo_json
from boildown.errors import JournalError
from boildown.journal.runs import run_folders
from boildown.report.words import visible


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("runs")(runs_)


def runs_(runs: Runs = RUNS, as_json: AsJson = False) -> int:
    """List the runs, newest first."""
    from boildown import api  # torch comes with it, and completion must not wait for that

    found = []
    for folder in run_folders(runs):
        try:
            found.append(api.show(folder))
        except JournalError as error:
            typer.echo(visible(f"{folder.name}: {error}"), err=True)
    if as_json:
        echo_json([{key: run[key] for key in ("run", "path", "outcome", "target", "best", "seconds")} for run in found])
    elif not found:
        typer.echo(f"no runs in {runs}")
    for run in [] if as_json else found:
        outcome = run["outcome"] or "not ended"
        told = f"{run['run']}  {outcome:<14} {len(run['attempts']):>2} attempts  {', '.join(run['target'])}"
        typer.echo(visible(told))
    return 0
