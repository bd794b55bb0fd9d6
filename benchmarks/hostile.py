"""Run folders that somebody planted things in, under all commands, beside files that must stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from boildown.cli import main

SECONDS = 60.0
"""A command that takes longer hangs."""
CODES = (0, 1, 2, 3, 130)
REFUSED, WRONG_INPUT = (2, 3), 2
READING = ("show", "watch", "compare", "report", "runs")
"""Commands that take milliseconds: none measures anything."""
Plants = Sequence[tuple[str, str]]
"""What is planted: a place in the run folder, and what lies there."""
ODD = "29990101-000000-\udcff\x1b[2J"
PLACES = (
    ".", "journal.db", "journal.db-wal", "journal.db-shm", "journal.db-journal", "journal.lock", "manifest.json",
    "new-manifest.json", ".manifest.json.new", "report.html", "new-report.html", ".report.html.new", "best",
    "best/model.onnx", "best/load.py", "best/sample.npz", "best/ports.json", "best/more", ".new-best", "attempts",
    "attempts/00-first",
    "attempts/00-first/model.onnx", "attempts/00-first/sample.npz", "attempts/00-first/weights.safetensors",
    "attempts/00-first/candidate.json", "attempts/01-quantize-static", "attempts/01-quantize-static/model.onnx",
    "attempts/01-quantize-static/candidate.json", "attempts/01-quantize-static/more", "attempt-0", "attempt-1",
    ".new-attempt-1", "exports", "training", "forecasts", "b\udcffad\n\x1b[2J", "a" * 200,
)  # fmt: skip
VIEW = (
    "CREATE VIEW {table} AS WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more) "
    "SELECT {columns} FROM more"
)
MODEL = """
import torch
from torch import nn
import boildown as bd

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval()

def task():
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return bd.Classification(validation=(x, build()(x).argmax(1)))
"""
CONFIG = """
[model]
factory = "hostile_model:build"
[task]
factory = "hostile_model:task"
[target]
conditions = ["size <= 0.9x"]
[ladder]
rungs = ["quantize-static"]
"""


class Hung(BaseException):
    """What is being done takes too long."""


class Ground:
    """A finished run, a project that made it, and a tree of files that are nobody's business."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project, self.canary, self.runs = folder / "project", folder / "mine", folder / "runs"
        self.project.mkdir(parents=True)
        (self.project / "hostile_model.py").write_text(MODEL)
        (self.project / "boildown.toml").write_text(CONFIG)
        sys.path.append(str(self.project))
        self.config = self.project / "boildown.toml"
        code, said = called("compress", self.config, "--runs", self.folder / "whole", seconds=600)
        assert code == 0, said
        self.whole = next(path for path in (self.folder / "whole").iterdir() if not path.name.startswith("."))
        self._lay()
        self.before = tree(self.canary)

    def _lay(self) -> None:
        """The files that are nobody's business, as they were."""
        shutil.rmtree(self.canary, ignore_errors=True)
        (self.canary / "sub").mkdir(parents=True)
        for name in ("thesis.txt", "sub/figures.txt", "journal.db", "model.onnx", "load.py"):
            (self.canary / name).write_text(f"three years of work: {name}\n")

    def planted(self, plants: Plants, name: str = "") -> Path:
        """A copy of the run in which these (place, what) lie: alone, or under a name of its own beside others."""
        if not name:
            shutil.rmtree(self.runs, ignore_errors=True)
            self._lay()
        run = self.runs / (name or self.whole.name)
        shutil.copytree(self.whole, run)
        for place, what in plants:
            path = run / place
            if any(parent.is_symlink() for parent in path.parents):  # what is planted there lies with the others
                continue
            with contextlib.suppress(OSError, sqlite3.Error):  # what it needs is planted too, or takes no such thing
                if os.path.lexists(path) and path != run:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                PLANTS[what](path, self.canary, run)
        return run

    def commands(self, run: Path) -> Iterator[tuple[str, ...]]:
        """Every command on the run."""
        yield from (("show", str(run)), ("watch", str(run), "--once"), ("compare", str(run), str(self.whole)))
        yield ("show", "latest", "--runs", str(self.runs))
        yield from (("report", str(run)), ("take", str(run), "1"), ("runs", "--runs", str(self.runs)))
        yield ("verify", str(run))
        yield ("measure", str(run / "best" / "model.onnx"), "--config", str(self.config), "--limit", "20 s")
        yield ("compress", str(self.config), "--runs", str(self.runs))
        yield ("resume", str(run))

    def check(self, plants: Plants, only: Sequence[str] = (), seconds: float = SECONDS) -> list[str]:
        """How each command ended: its name and its code. Raises AssertionError for what no command may do."""
        run = self.planted(plants)
        return [
            f"{command[0]} {self.ended(command, plants, seconds)}"
            for command in self.commands(run)
            if not only or command[0] in only
        ]

    def ended(self, command: tuple[str, ...], plants: Any, seconds: float = SECONDS) -> int:
        """The exit code of a command. Raises AssertionError where it is none, or files of others changed."""
        code, said = called(*command, seconds=seconds)
        if tree(self.canary) != self.before:
            raise AssertionError(f"{command} changed files of others, {plants}")
        if "Traceback" in said or "This is a fault in boildown" in said:
            raise AssertionError(f"{command} failed, {plants}: {said[-2000:]}")
        if code not in CODES or (code in REFUSED and "error: " not in said):
            raise AssertionError(f"{command} ended with {code}, {plants}: {said[-2000:]}")
        if code == WRONG_INPUT and "  cure: " not in said:
            raise AssertionError(f"{command} says no cure, {plants}: {said[-2000:]}")
        if control := {c for c in said if not c.isprintable() and c != "\n"}:
            raise AssertionError(f"{command} writes {control} to the terminal, {plants}: {said[-2000:]!r}")
        return code


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def called(*arguments: Any, seconds: float = SECONDS) -> tuple[int, str]:
    """(exit code, what was said) of a command in this process, whose output takes what a file in UTF-8 takes."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", newline="\n", write_through=True)
    err = io.TextIOWrapper(out.buffer, "utf-8", "backslashreplace", newline="\n", write_through=True)
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), in_time(arguments, seconds):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    assert isinstance(out.buffer, io.BytesIO)
    return code, out.buffer.getvalue().decode("utf-8", "backslashreplace")


@contextmanager
def in_time(what: Any, seconds: float) -> Iterator[None]:
    """Raise Hung where what is done inside takes longer, whoever catches it in there."""
    hung = False

    def rung(_number: int, _frame: FrameType | None) -> None:
        nonlocal hung
        hung = True
        raise Hung

    before = signal.signal(signal.SIGALRM, rung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if hung:
            raise Hung(f"{what!r:.500} takes more than {seconds:g} s") from None


def _socket(path: Path, _canary: Path, _run: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _sparse(path: Path, _canary: Path, _run: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _odd(_path: Path, _canary: Path, run: Path) -> None:
    shutil.copytree(run, run.with_name(ODD), symlinks=True)


def _view(_path: Path, _canary: Path, run: Path) -> None:
    """A table of the journal becomes a view without an end."""
    with contextlib.closing(sqlite3.connect(run / "journal.db")) as base:
        columns = ", ".join(f"'x' AS {row[1]}" for row in base.execute("PRAGMA table_info(facts)"))
        if not columns or base.execute("SELECT 1 FROM sqlite_master WHERE type = 'view'").fetchall():
            return
        base.execute("DROP TABLE facts")
        base.execute(VIEW.format(table="facts", columns=columns))
        base.commit()


def _trigger(_path: Path, _canary: Path, run: Path) -> None:
    with contextlib.closing(sqlite3.connect(run / "journal.db")) as base:
        base.execute(
            "CREATE TRIGGER IF NOT EXISTS more AFTER INSERT ON facts BEGIN INSERT INTO records (kind, data, at) "
            "WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more) SELECT 'x', 'y', n FROM more; END"
        )
        base.commit()


def _diary(_path: Path, _canary: Path, run: Path) -> None:
    (run / "journal.db").unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(run / "journal.db")) as base:
        base.execute("CREATE TABLE entries (day, text)")
        base.commit()


PLANTS: dict[str, Callable[[Path, Path, Path], None]] = {
    "link to a file": lambda path, canary, _run: path.symlink_to(canary / "thesis.txt"),
    "link to a folder": lambda path, canary, _run: path.symlink_to(canary),
    "link to one of its name": lambda path, canary, _run: path.symlink_to(canary / path.name),
    "link to the device without an end": lambda path, _canary, _run: path.symlink_to("/dev/zero"),
    "link to itself": lambda path, _canary, _run: path.symlink_to(path.name),
    "link to the whole": lambda path, _canary, run: path.symlink_to(run),
    "hard link": lambda path, canary, _run: os.link(canary / "thesis.txt", path),
    "pipe": lambda path, _canary, _run: os.mkfifo(path),
    "socket": _socket,
    "sparse file": _sparse,
    "folder": lambda path, _canary, _run: path.mkdir(),
    "empty file": lambda path, _canary, _run: path.touch(),
    "bytes": lambda path, _canary, _run: path.write_bytes(bytes(range(256)) * 9) and None,
    "deep text": lambda path, _canary, _run: path.write_text("[" * 100_000) and None,
    "a run of an odd name beside": _odd,
    "view": _view,
    "trigger": _trigger,
    "diary": _diary,
}
