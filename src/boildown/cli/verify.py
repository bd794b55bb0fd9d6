"""`boildown verify RUN`"""

from __future__ import annotations

import typer

import boildown as bd
from boildown.cli.exit import MET, NOT_MET
from boildown.cli.options import RUNS, AsJson, Runs, Trust, Which, echo_json


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("verify")(verify)


def verify(run: Which = "latest", runs: Runs = RUNS, trust: Trust = False, as_json: AsJson = False) -> int:
    """Check what a run handed over against its record, and measure it again; or a folder that was handed over."""
    found = bd.verify(run, runs=runs, trust=trust)
    if as_json:
        echo_json(found.to_json())
    else:
        typer.echo(str(found))
    return MET if found.agrees else NOT_MET
