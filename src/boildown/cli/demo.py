"""`boildown demo`: the main job on real input, scikit-learn's handwritten digits."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import boildown as bd
from boildown.cli.exit import of_outcome
from boildown.cli.options import RUNS, AsJson, Runs, echo_json
from boildown.errors import InputError, install

if TYPE_CHECKING:
    from torch import nn

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
            "The demo's data come with scikit-learn, which is not installed.", install("demo")
        ) from None
    start = time.perf_counter()
    if not as_json:
        typer.echo("training a convolutional network on scikit-learn's 1,797 handwritten digits ...")
    model = digits.trained_network()
    weights = _kept(model, runs)
    if not as_json:
        parameters = sum(p.numel() for p in model.parameters())
        typer.echo(f"trained {parameters:,} parameters in {time.perf_counter() - start:.0f} s\n")
    run = bd.compress(
        "boildown.testing.digits:network", "boildown.testing.digits:task", list(target or TARGET),
        weights=weights, runs=runs,
    )  # fmt: skip
    if as_json:
        echo_json(run.to_json())
    else:
        typer.echo(str(run))
    return of_outcome(run.outcome)


def _kept(model: nn.Module, runs: Path) -> Path:
    """The file of the trained weights, among the runs, called by what it holds: a stopped run goes on with it."""
    from safetensors.torch import save_file

    from boildown.surgery.weights import weights_hash

    path = runs / f"digits-{weights_hash(model)[:12]}.safetensors"
    runs.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(model.state_dict(), fresh)
        fresh.replace(path)
    return path
