"""`boildown compress boildown.toml`"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import boildown as bd
from boildown.cli.config import Config, read_config
from boildown.cli.exit import of_outcome
from boildown.cli.options import RUNS, AsJson, Runs, Sets, echo_json, judged_on, ladders_beginning, sets_of
from boildown.errors import InputError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("compress")(compress)


def compress(
    what: Annotated[
        Path,
        typer.Argument(
            help="The configuration, or an ONNX file that is the model.", metavar="boildown.toml|MODEL.onnx"
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Where task and target stand, for an ONNX file; boildown.toml by default."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="A condition; replaces the file's. May be given again."),
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", help='Wall time, like "30 min".')] = None,
    ladder: Annotated[
        list[str] | None,
        typer.Option(
            "--ladder", help="auto, a ready ladder, or a rung. May be given again.", autocompletion=ladders_beginning
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option("--runtime", help="What runs the model, or auto; replaces the file's. Again for rivals."),
    ] = None,
    goal: Annotated[
        str | None,
        typer.Option(
            "--goal",
            help="first, smallest, fastest or best.",
            autocompletion=lambda: ["first", "smallest", "fastest", "best"],
        ),
    ] = None,
    validation: Sets = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Reuse nothing of earlier runs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do and take.")] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> int:
    """Boil a model down until it meets the target."""
    read = _read(what, config)
    read = replace(read, task=judged_on(read.task, sets_of(validation)))
    arguments: dict[str, Any] = {**read.arguments, "fresh": fresh}
    if runs != RUNS or "runs" not in arguments:
        arguments["runs"] = runs
    if budget is not None:
        arguments["budget"] = budget
    if ladder:
        arguments["ladder"] = ladder[0] if len(ladder) == 1 else ladder
    if goal is not None:
        arguments["goal"] = goal
    if runtime and "deployment" in arguments:
        arguments["deployment"] = replace(arguments["deployment"], runtime=runtime)
    elif runtime:
        arguments["runtime"] = runtime
    if dry_run:
        return _quote(read, target, arguments, as_json)
    run = bd.compress(
        read.model,
        read.task,
        target or read.target,
        **arguments,
        command=f"boildown {shlex.join(sys.argv[1:])}",
    )
    if as_json:
        echo_json(run.to_json())
    else:
        typer.echo(str(run))
    return of_outcome(run.outcome)


def _read(what: Path, config: Path | None) -> Config:
    """What is asked for: by a configuration file, or by one for the ONNX file that is named."""
    if what.suffix.lower() == ".onnx":
        return read_config(config or Path("boildown.toml"), what)
    if config is not None:
        cause = f"--config {config} is given beside {what}, which is no ONNX file."
        raise InputError.of(cause, "Name the model first: boildown compress MODEL.onnx --config boildown.toml.")
    return read_config(what)


def _quote(read: Config, target: list[str] | None, arguments: dict[str, Any], as_json: bool) -> int:
    left_out = ("goal", "confidence", "fresh", "samples")
    given = {name: value for name, value in arguments.items() if name not in left_out}
    found = bd.quote(read.model, read.task, target or read.target, **given)
    if as_json:
        echo_json(found.to_json())
    else:
        typer.echo(str(found))
    return 0
