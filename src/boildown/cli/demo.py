"""`boildown demo`: the main job on real input, scikit-learn's handwritten digits."""

from __future__ import annotations

import time
from typing import Annotated

import typer

import boildown as bd
from boildown.cli.exit import of_outcome
from boildown.cli.options import RUNS, AsJson, Runs, echo_json, telling
from boildown.errors import InputError

TARGET = ("accuracy drop <= 3 pp", "size <= 0.3x")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("demo")(demo)


def demo(
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="A condition instead of the demo's own. May be given again."),
    ] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> int:
    """Train a small network on handwritten digits and boil it down."""
    try:
        from boildown.testing import digits
    except ImportError:
        raise InputError.of(
            "The demo's data come with scikit-learn, which is not installed.", 'pip install "boildown[demo]"'
        ) from None
    start = time.perf_counter()
    if not as_json:
        typer.echo("training a convolutional network on scikit-learn's 1,797 handwritten digits ...")
    model = digits.trained_network()
    if not as_json:
        parameters = sum(p.numel() for p in model.parameters())
        typer.echo(f"trained {parameters:,} parameters in {time.perf_counter() - start:.0f} s\n")
    run = bd.compress(model, digits.task(), list(target or TARGET), runs=runs, callbacks=telling())
    if as_json:
        echo_json(run.to_json())
    else:
        typer.echo(str(run))
    return of_outcome(run.outcome)
