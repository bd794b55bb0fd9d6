"""Looking over the folders of many runs: names, what can be reused, which one is meant."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from boildown.domain.measurement import Measurement
from boildown.domain.outcome import State
from boildown.errors import InputError, JournalError
from boildown.files import real
from boildown.journal.journal import FILE, Journal
from boildown.journal.rows import AttemptRow

HIDDEN = ".new-"
"""How the folder of a run is called before its name until all that is checked beforehand has been."""

_USABLE = (State.MET, State.MISSED, State.UNDECIDED)
_SHOWN = 10
_Found = TypeVar("_Found")


def run_id() -> str:
    """A new name: UTC time and four hex digits, so that names sort by age."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_folders(runs: Path) -> list[Path]:
    """The folders of all runs, newest first; those that a killed process left before they began are none."""
    folders = (file.parent for file in runs.glob(f"*/{FILE}"))
    return sorted((run for run in folders if not run.name.startswith(HIDDEN)), key=lambda run: run.name, reverse=True)


def resolve_run(runs: Path, text: str) -> Path:
    """The folder of the run that is meant by a path, an id, a unique prefix of one, or `latest`, as an absolute path.

    Raises InputError naming the choices.
    """
    if os.path.lexists(Path(text) / FILE):
        return Path(text).absolute()
    folders = run_folders(runs.absolute())
    if text == "latest" and folders:
        return folders[0]
    found = [run for run in folders if run.name == text] or [run for run in folders if run.name.startswith(text)]
    if len(found) == 1 and text:
        return found[0]
    if not folders:
        raise InputError.of(f"There are no runs in {runs}.", "Start one with `boildown compress`, or give --runs.")
    choices = found or folders
    names = ", ".join(run.name for run in choices[:_SHOWN]) + (", ..." if len(choices) > _SHOWN else "")
    many = f"{text!r} could be any of {len(found)} runs" if found else f"There is no run {text!r} in {runs}"
    raise InputError.of(f"{many}.", f"Give a path, `latest`, or one of: {names}.")


def find_finished(runs: Path, candidate_key: str, exclude: Path | str | None = None) -> tuple[Path, AttemptRow] | None:
    """The newest finished attempt at a candidate in any run, whose files still are what they were.

    One that lies outside its run folder was not put there by a run.
    exclude: the folder or id of a run not to look at. The first of the pair is the run's folder.
    """

    def look(journal: Journal) -> tuple[Path, AttemptRow] | None:
        for row in reversed(journal.attempts_of(candidate_key)):
            inside = row.artifact is not None and real(row.artifact.path).is_relative_to(real(journal.folder))
            if row.state in _USABLE and inside and not journal.changed(row):
                return journal.folder, row
        return None

    return _first(runs, exclude, look)


def find_measurement(runs: Path, key: str, exclude: Path | str | None = None) -> Measurement | None:
    """The newest measurement of this key in any run."""
    return _first(runs, exclude, lambda journal: journal.measurement(key))


def look_over(
    runs: Path, exclude: Path | str | None, look: Callable[[Journal], _Found | None], *, most: int | None = None
) -> Iterator[_Found]:
    """What `look` finds in each run, newest first, in so many at most; a damaged or foreign journal has nothing."""
    excluded = Path(exclude).name if exclude is not None else None
    for folder in [folder for folder in run_folders(runs) if folder.name != excluded][:most]:
        found = None
        with (
            contextlib.suppress(JournalError, ValueError, TypeError, KeyError, AttributeError, OSError),
            Journal.open(folder, readonly=True) as journal,
        ):
            found = look(journal)
        if found is not None:
            yield found


def _first(runs: Path, exclude: Path | str | None, look: Callable[[Journal], _Found | None]) -> _Found | None:
    """What `look` finds first."""
    return next(look_over(runs, exclude, look), None)
