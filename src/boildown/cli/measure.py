"""`boildown measure MODEL.onnx --config boildown.toml`"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import boildown as bd
from boildown.cli.config import read_config
from boildown.cli.exit import of_status
from boildown.cli.options import AsJson, Sets, Trust, echo_json, judged_on, sets_of
from boildown.domain.grammar import format_measurement, set_of
from boildown.report.junit import write_junit
from boildown.report.slices import tables
from boildown.report.text import slice_by_slice
from boildown.report.words import printable


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("measure")(measure)


def measure(
    artifact: Annotated[Path, typer.Argument(help="The exported file.", metavar="MODEL.onnx")],
    config: Annotated[Path, typer.Option("--config", help="Where the task and the target stand.")] = Path(
        "boildown.toml"
    ),
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="A condition; replaces the file's. May be given again."),
    ] = None,
    first: Annotated[
        Path | None, typer.Option("--first", help="The first model's artifact, for drops and ratios.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="What runs it; replaces the configuration's.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write the verdict as JUnit XML too, for CI.")] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option("--cost", help="Measure this cost too, such as `latency p99`. May be given again."),
    ] = None,
    limit: Annotated[str, typer.Option("--limit", help="The most time that one call of the file takes.")] = "10 min",
    memory: Annotated[
        float | None, typer.Option("--memory", help="The most GB that it gets; four fifths of what is free by default.")
    ] = None,
    validation: Sets = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> int:
    """Measure an artifact and hold it against the target: a gate for CI."""
    read = read_config(config)
    deployment = read.arguments.get("deployment")
    if deployment is not None and runtime is not None:
        deployment = replace(deployment, runtime=runtime)
    verdict = bd.measure(
        artifact,
        judged_on(read.task, sets_of(validation)),
        target or read.target,
        first=first,
        confidence=read.arguments.get("confidence"),
        deployment=deployment,
        latency=read.arguments.get("latency"),
        runtime=runtime or read.arguments.get("runtime"),
        batch_size=read.arguments.get("batch_size"),
        seed=read.arguments.get("seed", 0),
        trust=trust,
        limit=limit,
        memory=None if memory is None else 1e9 * memory,
        costs=cost or (),
    )
    if junit is not None:
        write_junit(verdict, artifact.name, junit)
    if as_json:
        echo_json(verdict.to_json())
    else:
        for finding in verdict.findings:
            typer.echo(printable(finding.sentence()))
        for name in cost or ():
            typer.echo(f"{name}: {format_measurement(verdict.measurements[name])}")
        for name, measurement in verdict.measurements.items():
            for note in measurement.notes:
                typer.echo(printable(f"note: {name}: {note.removeprefix(f'{set_of(name)}: ')}"))
        for line in slice_by_slice(tables(verdict.measurements)):
            typer.echo(line)
        typer.echo(printable(f"{verdict.status.value}: {verdict.sentence()}"))
    return of_status(verdict.status)
