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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from boildown.cli import main

SECONDS = 60
"""A command that takes longer hangs."""
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
    """A command took too long."""


class Ground:
    """A finished run, a project that made it, and a tree of files that are nobody's business."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project, self.canary, self.runs = folder / "project", folder / "mine", folder / "runs"
        self.project.mkdir(parents=True)
        (self.canary / "sub").mkdir(parents=True)
        for name in ("thesis.txt", "sub/figures.txt", "journal.db", "model.onnx", "load.py"):
            (self.canary / name).write_text(f"three years of work: {name}\n")
        (self.project / "hostile_model.py").write_text(MODEL)
        (self.project / "boildown.toml").write_text(CONFIG)
        sys.path.append(str(self.project))
        self.config = self.project / "boildown.toml"
        code, said = called("compress", self.config, "--runs", self.folder / "whole", seconds=600)
        assert code == 0, said
        self.whole = next(path for path in (self.folder / "whole").iterdir() if not path.name.startswith("."))
        self.before = tree(self.canary)

    def planted(self, plants: list[tuple[str, str]]) -> Path:
        """A copy of the run in which these (place, what) lie."""
        shutil.rmtree(self.runs, ignore_errors=True)
        run = self.runs / self.whole.name
        shutil.copytree(self.whole, run)
        for place, what in plants:
            path = run / place
            with contextlib.suppress(OSError):  # what is above it is planted too, or takes no such thing
                if os.path.lexists(path) and path != run:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                PLANTS[what](path, self.canary, run)
        return run

    def commands(self, run: Path) -> Iterator[tuple[str, ...]]:
        """Every command on the run."""
        yield from (("show", str(run)), ("watch", str(run), "--once"), ("compare", str(run), str(self.whole)))
        yield from (("report", str(run)), ("take", str(run), "1"), ("runs", "--runs", str(self.runs)))
        yield ("verify", str(run))
        yield ("measure", str(run / "best" / "model.onnx"), "--config", str(self.config), "--limit", "20 s")
        yield ("compress", str(self.config), "--runs", str(self.runs))
        yield ("resume", str(run))

    def check(self, plants: list[tuple[str, str]], only: tuple[str, ...] = ()) -> list[str]:
        """How each command ended: a code, and what is wrong with it, if anything."""
        ended = []
        run = self.planted(plants)
        for command in self.commands(run):
            if only and command[0] not in only:
                continue
            code, said = called(*command)
            if tree(self.canary) != self.before:
                raise AssertionError(f"{command} changed files of others, {plants}")
            if "Traceback" in said or "This is a fault in boildown" in said:
                raise AssertionError(f"{command} failed, {plants}: {said[-2000:]}")
            ended.append(f"{command[0]} {code}")
        return ended


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def called(*arguments: Any, seconds: int = SECONDS) -> tuple[int, str]:
    """(exit code, what was said) of a command in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _in_time(arguments, seconds):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


@contextmanager
def _in_time(what: tuple[Any, ...], seconds: int) -> Iterator[None]:
    def rung(_number: int, _frame: FrameType | None) -> None:
        raise Hung(f"{what} takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, rung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _socket(path: Path, _canary: Path, _run: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _sparse(path: Path, _canary: Path, _run: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 44)


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
    "view": _view,
    "trigger": _trigger,
    "diary": _diary,
}
