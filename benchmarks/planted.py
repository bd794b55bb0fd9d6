"""Five bugs planted in boildown, one at a time, that the cases must find: `python -m benchmarks.fuzz --planted`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import Phase

from benchmarks.fuzz import LIMIT, TARGETS, Fuzzed, folders, fuzz, ground, worked
from boildown import errors, files
from boildown.domain import grammar
from boildown.report import html


@dataclass(frozen=True)
class Bug:
    """What stands in boildown in place of something, and the cases that must find it.

    most: how many of them it may take. told: what is said of it. commands: of cases that are run folders, by default
    all. limit: seconds of a case.
    """

    owner: Any
    name: str
    planted: Any
    surface: str
    most: int
    told: str
    commands: tuple[str, ...] = ()
    limit: float = LIMIT

    @property
    def in_folders(self) -> bool:
        """Whether its cases are run folders."""
        return self.surface.startswith("folders")

    def cases(self, folder: Path) -> Fuzzed:
        """The cases, made without the bug."""
        return (
            folders(ground(folder), self.commands, self.limit) if self.in_folders else TARGETS[self.surface][1](folder)
        )


def _through(path: Path, data: str | bytes) -> None:
    """Write a file wherever its name leads."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


_NESTED = grammar._CONDITION.pattern.replace("(?P<subject>[^<>=≤≥]*)", "(?P<subject>(?:[^<>=≤≥]+)*)")
assert grammar._CONDITION.pattern != _NESTED
_BACKTRACKS = re.compile(_NESTED, grammar._CONDITION.flags)
_UNESCAPED = html._TEMPLATES.overlay(autoescape=False)
BUGS: dict[str, Bug] = {
    "a link is followed": Bug(files, "replace", _through, "folders", 300, "changed files of others", ("report",)),
    "no limit on a size": Bug(files, "_SPARSE", 1 << 60, "folders", 300, "takes more", ("verify",), limit=10.0),
    "an expression that backtracks": Bug(grammar, "_CONDITION", _BACKTRACKS, "targets", 2000, "takes more", limit=2.0),
    "a name that is not escaped": Bug(html, "_TEMPLATES", _UNESCAPED, "journal, cells", 50, "as markup"),
    "an error that cannot be asked": Bug(errors, "text_of", lambda error: str(error), "metrics", 1000, "no words"),
}


def find(bug: Bug, folder: Path, seed: int) -> tuple[int, str]:
    """(how many cases it took to find a planted bug, what was said); nothing was where it was not found."""
    fuzzed = bug.cases(folder)
    with patch.object(bug.owner, bug.name, bug.planted):
        counts, fault = fuzz("planted", fuzzed, bug.most, seed, limit=bug.limit, phases=(Phase.generate,))
    return counts["cases"], fault


def find_all(folder: Path, seed: int) -> int:
    """Print what was found as a table; 1 if a bug was not, or something else was."""
    print("| planted | cases | seed | found in case | processor s |\n| --- | --- | --- | --- | --- |")
    missed = ""
    for name, bug in BUGS.items():
        start = worked()
        cases, fault = find(bug, folder, seed)
        found = cases if bug.told in fault else "NOT FOUND"
        missed += "" if bug.told in fault else f"{name}: {fault or 'no fault'}\n"
        print(f"| {name} | {bug.surface} | {seed} | {found} | {worked() - start:.1f} |", flush=True)
    print(missed)
    return 1 if missed else 0
