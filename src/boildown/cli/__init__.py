"""The command line: parse, call the api, exit code."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

import boildown
from boildown.cli import (
    compare,
    compress,
    demo,
    doctor,
    init,
    measure,
    methods,
    report,
    resume,
    runs,
    show,
    take,
    verify,
    watch,
)
from boildown.cli.exit import CANCELLED, WRONG_INPUT, code_of, explain
from boildown.report.words import printable

app = typer.Typer(
    name="boildown",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    demo,
    init,
    compress,
    watch,
    resume,
    runs,
    show,
    report,
    compare,
    take,
    measure,
    verify,
    methods,
    doctor,
):
    command.add_to(app)

# Newer versions of typer bring a click of their own, whose errors are not those of the package click.
_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"boildown {boildown.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _asked: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Boil a trained PyTorch model down until it meets your targets."""


def _note(
    message: Warning | str, category: type[Warning], place: str, line: int, _file: Any = None, _line: Any = None
) -> None:
    """Show a warning: of boildown's own what it says, and of others also where it comes from."""
    if place.startswith(str(Path(boildown.__file__).parent)):
        typer.echo(f"note: {printable(str(message))}", err=True)
    else:
        typer.echo(warnings.formatwarning(message, category, place, line), err=True, nl=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files are any bytes; as on standard error
    try:
        with warnings.catch_warnings():
            # Torch about itself, of no use here.
            warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
            warnings.showwarning = _note  # type: ignore[assignment]
            code = app(arguments, standalone_mode=False)
    except typer.Abort:
        code = CANCELLED
    except _USAGE as error:
        error.show()
        code = WRONG_INPUT
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every ending becomes an exit code
        explain(error)
        code = code_of(error)
    sys.exit(code if isinstance(code, int) else 0)
