"""`boildown compare RUN...`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boildown.cli.options import RUNS, AsJson, Runs, echo_json
from boildown.errors import InputError
from boildown.journal.runs import resolve_run
from boildown.report.compare import compare as side_by_side
from boildown.report.html import page


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("compare")(compare)


def compare(
    run: Annotated[list[str], typer.Argument(help="Paths, ids, unique prefixes, or `latest`.", metavar="RUN...")],
    html: Annotated[Path | None, typer.Option("--html", help="Write a page too.", metavar="FILE")] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> int:
    """Show runs side by side: targets, best candidates, verdicts, and what differs between them."""
    folders, mistakes = [], []
    for text in run:
        try:
            folders.append(resolve_run(runs, text))
        except InputError as error:
            mistakes.append(error)
    if mistakes:
        raise InputError.merge(mistakes)
    found = side_by_side(folders)
    if html is not None:
        html.write_text(page("compare.html.jinja", compared=found), encoding="utf-8", errors="backslashreplace")
    if as_json:
        echo_json(found.to_json())
    else:
        typer.echo(str(found))
    return 0
