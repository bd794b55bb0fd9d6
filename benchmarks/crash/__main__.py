"""Kill real runs and count what is lost: `python -m benchmarks.crash --kills 100 --runs 20`.

Every sitting is forked from this process, which has everything imported, so that kills fall on the work; odd runs
are of the command line and climb in child processes. Exit code 1 if anything was lost, corrupted or different.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.crash import work
from boildown.domain.outcome import State
from boildown.journal import AttemptRow, Journal, run_folders
from boildown.journal.keys import file_hash
from boildown.testing import digits

_REACH = 0.6
"""The first kill comes anywhere in the time that an undisturbed run takes, later ones within this share of it."""
_POLL = 0.02

Files = dict[str, tuple[str, str | None]]
"""Rung to (state, sha256 of the artifact), and `best` to its own."""


@dataclass
class Found:
    """What has been counted so far; `lost`, `damaged` and `different` are sentences about what must not be.

    at_stake: finished attempts that were there at a kill, over all kills.
    """

    kills: int = 0
    runs: int = 0
    at_stake: int = 0
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    where: Counter[str] = field(default_factory=Counter)

    @property
    def wrong(self) -> list[str]:
        """Everything that must not be."""
        return [*self.lost, *self.damaged, *self.different]

    def table(self) -> str:
        """All counts as Markdown."""
        counts = (self.runs, self.kills, self.at_stake, len(self.lost), len(self.damaged), len(self.different))
        return "\n".join(
            [
                "| runs | kills | finished attempts at stake | lost | journals damaged | ends that differ |",
                "| --- | --- | --- | --- | --- | --- |",
                f"| {' | '.join(map(str, counts))} |",
                "",
                "| killed while | kills |",
                "| --- | --- |",
                *(f"| {where} | {count} |" for where, count in sorted(self.where.items())),
            ]
        )


class Sitting:
    """One process at work on the run in a folder."""

    def __init__(self, folder: Path, weights: Path, seed: int, *, by_name: bool) -> None:
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                with (folder / "said.txt").open("a", buffering=1) as said:
                    os.dup2(said.fileno(), 1)
                    os.dup2(said.fileno(), 2)
                    code = work.sit(folder, weights, seed, by_name=by_name)
            except BaseException:  # noqa: BLE001 - it is told, and the parent sees the code
                (folder / "fault.txt").write_text(traceback.format_exc(), encoding="utf-8")
            finally:
                os._exit(code)

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        if self.code is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.code = os.waitstatus_to_exitcode(found[1])
        return self.code is not None

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        end = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < end:
            time.sleep(_POLL)
        return self.ended()

    def kill(self) -> None:
        """SIGKILL; its children go with it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def rows_of(folder: Path) -> list[AttemptRow]:
    """The attempts of the one run in a folder; none before it has begun."""
    for run in run_folders(folder / "runs"):
        with Journal.open(run, readonly=True) as journal:
            return journal.attempts()
    return []


def damage(folder: Path) -> str:
    """What SQLite finds wrong with the journal."""
    for run in run_folders(folder / "runs"):
        with contextlib.closing(sqlite3.connect(run / "journal.db")) as connection:
            said = [text for (text,) in connection.execute("PRAGMA integrity_check")]
        return "" if said == ["ok"] else "; ".join(said)
    return ""


def place(folder: Path) -> str:
    """Where in a run it was killed."""
    runs = run_folders(folder / "runs")
    if not runs:
        return "a run is prepared"
    running = [row.rung.partition("(")[0] + ("+" if "+" in row.rung else "") for row in rows_of(folder)
               if row.state is State.RUNNING]  # fmt: skip
    return f"attempt at {running[-1]}" if running else "a run is resumed, between attempts, or handed over"


def files_of(folder: Path) -> Files:
    """What a finished run has made."""
    found: Files = {row.rung: (row.state.value, row.sha256) for row in rows_of(folder)}
    (run,) = run_folders(folder / "runs")
    for row in rows_of(folder):
        path = run / row.artifact if row.artifact else None
        if path is not None and file_hash(path) != row.sha256:
            found[row.rung] = ("changed on disk", None)
    (best,) = (run / "best").glob("model.*")
    return {**found, "best": ("delivered", file_hash(best))}


def disturb(
    folder: Path, weights: Path, seed: int, kills: int, whole: float, found: Found, chance: random.Random
) -> None:
    """One run: killed up to so often, then let finish; what is wrong goes to `found`."""
    by_name = found.runs % 2 == 1
    known: dict[int, AttemptRow] = {}
    killed = 0
    while True:
        sitting = Sitting(folder, weights, seed, by_name=by_name)
        reach = whole if killed == 0 else _REACH * whole
        if sitting.wait(chance.uniform(0, reach) if killed < kills else 3600):
            break
        sitting.kill()
        killed += 1
        found.kills += 1
        found.where[place(folder)] += 1
        if said := damage(folder):
            found.damaged.append(f"{folder.name}: {said}")
        now = {row.number: row for row in rows_of(folder) if row.state is not State.RUNNING}
        found.lost += [f"{folder.name}: attempt {n} at kill {killed}" for n, row in known.items() if now.get(n) != row]
        found.at_stake += len(now)
        known |= now
    after = {row.number: row for row in rows_of(folder)}
    found.lost += [f"{folder.name}: attempt {n} at the end" for n, row in known.items() if after.get(n) != row]
    if sitting.code != 0:
        found.different.append(f"{folder.name}: ended with code {sitting.code}")


def main() -> int:
    """Run, print the tables and what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the instants; runs have the seeds from it on")
    parser.add_argument("--seeds", type=int, default=2, help="different seeds of runs, each run once undisturbed")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further run after so long")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chance, found, start = random.Random(given.seed), Found(), time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        os.environ["TMPDIR"], tempfile.tempdir = root, None  # waits for the timing of no other run
        weights = Path(root, work.WEIGHTS)
        save_file(digits.trained_network(width=16, epochs=6).state_dict(), weights)
        undisturbed: dict[int, tuple[Files, float]] = {}
        while found.runs < given.runs or found.kills < given.kills:
            if time.monotonic() - start > given.minutes * 60:
                break
            seed = given.seed + found.runs % given.seeds
            if seed not in undisturbed:
                folder = Path(root, f"whole-{seed}")
                folder.mkdir()
                began = time.monotonic()
                whole = Sitting(folder, weights, seed, by_name=False)
                if not whole.wait(3600) or whole.code != 0:
                    print((folder / "fault.txt").read_text(encoding="utf-8"))
                    return 2
                undisturbed[seed] = files_of(folder), time.monotonic() - began
                print(f"undisturbed, seed {seed}: {undisturbed[seed][1]:.0f} s", flush=True)
            expected, seconds = undisturbed[seed]
            folder = Path(root, f"run-{found.runs}")
            folder.mkdir()
            left = max(1, given.runs - found.runs)
            kills = -(-(given.kills - found.kills) // left)
            disturb(folder, weights, seed, kills, seconds, found, chance)
            if (made := files_of(folder)) != expected:
                found.different.append(f"{folder.name}: made {made}, undisturbed {expected}")
            found.runs += 1
            print(f"\n{(time.monotonic() - start) / 60:.0f} minutes\n\n{found.table()}", flush=True)
            if found.wrong:
                print("\n".join([*found.wrong, (folder / "said.txt").read_text(encoding="utf-8")[-2000:]]), flush=True)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
