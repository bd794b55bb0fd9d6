"""The results of the zoo: a file of JSON lines, and the matrix in Markdown."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import boildown
from benchmarks.zoo.entry import Entry

_MARKS = {"ok": "ok", "skipped": "–", "failed": "**failed**", "missing": ""}
_PARTS = ("domain", "methods", "runtimes", "surgery", "tasks", "training")
"""The parts of the package that a cell's result depends on."""


class Results:
    """What was found, the last of every cell; appended to the file as it is found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: dict[tuple[str, str], Mapping[str, Any]] = {}
        for row in map(json.loads, lines):
            self.rows[row["model"], row["cell"]] = row

    def add(self, entry: Entry, cell: str, found: Mapping[str, Any]) -> None:
        """Keep a cell's result."""
        row = {"model": entry.name, "cell": cell, "version": version(entry.module), **found}
        self.rows[entry.name, cell] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def done(self, entry: Entry, cell: str, *, keep: bool) -> bool:
        """Whether the cell was filled by this version of the code; `keep`: or by any, and has not failed."""
        row = self.rows.get((entry.name, cell))
        return row is not None and (row["version"] == version(entry.module) or (keep and row["state"] != "failed"))

    def state(self, name: str, cell: str) -> str:
        """ok, skipped, failed, or missing."""
        return str(self.rows.get((name, cell), {"state": "missing"})["state"])


@cache
def version(module: str) -> str:
    """What results depend on, hashed: the library, the checks, and the file that defines the architecture."""
    root = Path(boildown.__file__).parent
    files = [path for part in _PARTS for path in sorted((root / part).rglob("*.py"))]
    files += [Path(__file__).parent / name for name in ("cells.py", "entry.py")]
    files.append(Path(str(sys.modules[module].__file__)))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def markdown(results: Results, entries: Sequence[Entry], cells: Sequence[str]) -> str:
    """The matrix, a count of each column, and the reason of everything that is not ok."""
    lines = [_line(["model", *cells]), _line(["---"] * (len(cells) + 1))]
    for entry in entries:
        lines.append(_line([entry.name, *(_MARKS[results.state(entry.name, cell)] for cell in cells)]))
    for state in ("ok", "skipped", "failed"):
        counts = Counter(cell for entry in entries for cell in cells if results.state(entry.name, cell) == state)
        lines.append(_line([f"**{state}**", *(str(counts[cell]) for cell in cells)]))
    for state, title in (("failed", "Failed"), ("skipped", "Skipped, in the method's own words")):
        lines += ["", f"{title}:", ""]
        for entry in entries:
            for cell in cells:
                if results.state(entry.name, cell) == state:
                    text = " ".join(str(results.rows[entry.name, cell]["text"]).split())
                    lines.append(f"- {entry.name}, {cell}: {text}")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
