"""`boildown watch RUN`"""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.console import Console

from boildown.cli.exit import CANCELLED, MET, NOT_MET, of_outcome
from boildown.cli.options import RUNS, Runs, Which
from boildown.journal.runs import resolve_run
from boildown.report.follow import Follower
from boildown.report.live import Live, plain
from boildown.report.words import printable

_PAUSE = 2.0


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("watch")(watch)


def watch(
    run: Which = "latest",
    once: Annotated[bool, typer.Option("--once", help="Tell how it stands now, and end.")] = False,
    runs: Runs = RUNS,
) -> int:
    """Follow a run that another process works on, until it ends; Ctrl-C ends the watching only."""
    follower = Follower(resolve_run(runs, run))
    try:
        with Live(Console(highlight=False, soft_wrap=not sys.stdout.isatty()), lines=True) as live:
            _follow(follower, live, once)
    except KeyboardInterrupt:
        typer.echo("no longer watching; the run goes on", err=True)
        return CANCELLED
    if follower.ending is not None and not follower.working:
        typer.echo(f"{follower.ending.outcome.name}: {printable(follower.ending.sentence)}")
        return of_outcome(follower.ending.outcome)
    if follower.working:
        return MET
    typer.echo(f"cut off: nobody works on it. `boildown resume {follower.folder.name}` goes on where it stood.")
    return NOT_MET


def _follow(follower: Follower, live: Live, once: bool) -> None:
    told = False
    while True:
        events = list(follower.look())
        if not told:
            target = ", ".join(map(str, follower.facts.get("target", ())))
            live.say(plain(f"run {follower.folder.name}, target {target}"))
            told = True
        for kind, data in events:
            live(kind, data)
        if once or not follower.working:
            for line in live.standing() if once else ():
                live.say(line)
            return
        time.sleep(_PAUSE)
