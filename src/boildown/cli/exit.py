"""Exit codes, and how errors are told: 0 met, 1 not met, 2 wrong input, 130 cancelled, 3 anything else."""

from __future__ import annotations

import os
import traceback

import typer

from boildown.domain.outcome import Outcome
from boildown.domain.verdict import Status
from boildown.errors import BoildownError, Cancelled, InputError, in_words, shortened
from boildown.report.words import printable, visible

MET, NOT_MET, WRONG_INPUT, OTHER, CANCELLED = 0, 1, 2, 3, 130


def of_outcome(outcome: Outcome) -> int:
    """The exit code of a run."""
    return {Outcome.TARGET_MET: MET, Outcome.CANCELLED: CANCELLED}.get(outcome, NOT_MET)


def of_status(status: Status) -> int:
    """The exit code of a verdict."""
    return MET if status is Status.MET else NOT_MET


def code_of(error: BaseException) -> int:
    """The exit code of an error."""
    if isinstance(error, InputError):
        return WRONG_INPUT
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return CANCELLED
    return OTHER


def explain(error: BaseException) -> None:
    """Tell an error on standard error: mistakes with their cures, or what went wrong inside."""
    if isinstance(error, InputError):
        for mistake in error.mistakes:
            typer.echo(visible(f"error: {mistake.cause}"), err=True)
            if mistake.cure:
                typer.echo(visible(f"  cure: {mistake.cure}"), err=True)
    elif isinstance(error, KeyboardInterrupt):
        typer.echo("stopped at once; a run that had begun goes on where it stood with `boildown resume`", err=True)
    elif isinstance(error, BoildownError):
        typer.echo(visible(f"error: {error}"), err=True)
    elif isinstance(error, OSError):
        said = f"error: {error.strerror or in_words(error)}: {shortened(error.filename or '')}"
        typer.echo(visible(said), err=True)
        typer.echo("  cure: see that it is there, can be read and written, and that the disk is not full", err=True)
    else:
        if os.environ.get("BOILDOWN_DEBUG"):
            traceback.print_exception(error)
        typer.echo(
            f"error: {printable(in_words(error))}\n  This is a fault in boildown or in the task's own code; "
            "set BOILDOWN_DEBUG=1 to see where.",
            err=True,
        )
