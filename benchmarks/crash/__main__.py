"""Kill real runs and count what is lost: `python -m benchmarks.crash --kills 100 --runs 20`.

Every sitting is forked from this process, which has everything imported, so that kills fall on the work; odd runs
are of the command line and climb in child processes. What is counted is kept run by run in a file, and a later call
goes on from there. Exit code 1 if anything was lost, corrupted or different.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

import boildown
from benchmarks.crash import work
from boildown.domain.artifact import file_hash
from boildown.domain.outcome import State
from boildown.journal import AttemptRow, Journal, run_folders

_REACH = 0.6
"""The first kill comes anywhere in the processor time that an undisturbed run takes, later ones within this share."""
_POLL = 0.02
_MOST_SECONDS = 3600

Files = dict[str, tuple[str, str | None]]
"""Rung to (state, sha256 of the artifact), and `best` to its own."""


@dataclass
class Disturbed:
    """What was counted in one run; `lost`, `damaged` and `different` are sentences about what must not be.

    code: hash of the source it was a run of. at_stake: finished attempts that were there at a kill, over all kills.
    """

    code: str
    number: int
    seed: int
    kills: int = 0
    at_stake: int = 0
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    where: dict[str, int] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """Everything that must not be."""
        return [*self.lost, *self.damaged, *self.different]


def table(runs: Sequence[Disturbed]) -> str:
    """All counts as Markdown."""
    numbers = [(1, run.kills, run.at_stake, len(run.lost), len(run.damaged), len(run.different)) for run in runs] or [
        (0,) * 6
    ]
    counts = [sum(column) for column in zip(*numbers, strict=True)]
    where = sum((Counter(run.where) for run in runs), Counter[str]())
    return "\n".join(
        [
            "| runs | kills | finished attempts at stake | lost | journals damaged | ends that differ |",
            "| --- | --- | --- | --- | --- | --- |",
            f"| {' | '.join(map(str, counts))} |",
            "",
            "| killed while | kills |",
            "| --- | --- |",
            *(f"| {place} | {count} |" for place, count in sorted(where.items())),
        ]
    )


def counted(path: Path | None, code: str) -> list[Disturbed]:
    """The runs of this very code that earlier calls have kept."""
    if path is None or not path.exists():
        return []
    kept = [Disturbed(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return [run for run in kept if run.code == code]


def code_hash() -> str:
    """Of boildown's source and of what is run."""
    whole = hashlib.sha256()
    for path in [*sorted(Path(boildown.__file__).parent.rglob("*.py")), Path(work.__file__)]:
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


class Sitting:
    """One process at work on the run in a folder."""

    def __init__(self, folder: Path, weights: Path, seed: int, *, by_name: bool) -> None:
        self.code: int | None = None
        self.born = folder / work.BORN
        self.born.unlink(missing_ok=True)
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

    def wait(self, work: float = math.inf) -> bool:
        """Whether it has ended before it and its children spent so many seconds of processor time.

        Not of wall time, which tells nothing about how far a run is where other programs compute as well.
        """
        end = time.monotonic() + _MOST_SECONDS
        while not self.ended() and time.monotonic() < end:
            if work < math.inf and self.spent() >= work:
                break
            time.sleep(_POLL)
        return self.ended()

    def spent(self) -> float:
        """Seconds of processor time of it and its children, the ended ones as well."""
        ticks = sum(_ticks(self.pid))
        if self.born.exists():
            ticks += sum(sum(_ticks(int(pid))[:2]) for pid in self.born.read_text(encoding="utf-8").split())
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """SIGKILL; its children go with it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _ticks(pid: int) -> list[int]:
    """User and system time of a process, and of its ended children; zeros if it has ended itself."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(encoding="utf-8")
    except OSError:
        return [0] * 4
    return [int(field) for field in text.rpartition(")")[2].split()[11:15]]


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
    running = [row.rung.partition("(")[0] + (" + ..." if "+" in row.rung else "") for row in rows_of(folder)
               if row.state is State.RUNNING]  # fmt: skip
    return f"attempt at {running[-1]}" if running else "a run is resumed, between attempts, or handed over"


def files_of(folder: Path) -> Files:
    """What a finished run has made."""
    found: Files = {}
    (run,) = run_folders(folder / "runs")
    for row in rows_of(folder):
        artifact = row.artifact
        found[row.rung] = (row.state.value, None if artifact is None else artifact.digest)
        if artifact is not None and artifact.changed():
            found[row.rung] = ("changed on disk", None)
    (best,) = (run / "best").glob("model.*")
    return {**found, "best": ("delivered", file_hash(best))}


def undisturbed(folder: Path, weights: Path, seed: int) -> tuple[Files, float]:
    """What a run that nobody disturbs makes, and the seconds of processor time that it takes."""
    folder.mkdir()
    before = os.times()
    whole = Sitting(folder, weights, seed, by_name=False)
    if not whole.wait() or whole.code != 0:
        raise SystemExit("\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("[fs]*.txt"))))
    after = os.times()
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return files_of(folder), work


def disturb(folder: Path, weights: Path, found: Disturbed, kills: int, whole: float, chance: random.Random) -> None:
    """One run: killed up to so often, then let finish; what is counted goes to `found`."""
    folder.mkdir()
    known: dict[int, AttemptRow] = {}
    while True:
        sitting = Sitting(folder, weights, found.seed, by_name=found.number % 2 == 1)
        reach = whole if found.kills == 0 else _REACH * whole
        if sitting.wait(chance.uniform(0, reach) if found.kills < kills else math.inf):
            break
        sitting.kill()
        found.kills += 1
        where = place(folder)
        found.where[where] = found.where.get(where, 0) + 1
        if said := damage(folder):
            found.damaged.append(f"{folder.name}: {said}")
        now = {row.number: row for row in rows_of(folder) if row.state is not State.RUNNING}
        found.lost += [
            f"{folder.name}: attempt {n} at kill {found.kills}" for n, row in known.items() if now.get(n) != row
        ]
        found.at_stake += len(now)
        known |= now
    after = {row.number: row for row in rows_of(folder)}
    found.lost += [f"{folder.name}: attempt {n} at the end" for n, row in known.items() if after.get(n) != row]
    if sitting.code != 0:
        found.different.append(f"{folder.name}: ended with code {sitting.code}")


def main() -> int:
    """Run, print the tables and what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="in all, those of earlier calls too")
    parser.add_argument("--runs", type=int, default=20, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="of the instants; runs have the seeds from it on")
    parser.add_argument("--seeds", type=int, default=2, help="different seeds of runs, each run once undisturbed")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further run after so long")
    parser.add_argument("--kept", type=Path, help="a file of what was counted, to go on from and to add to")
    given = parser.parse_args()
    torch.set_num_threads(1)
    code, start = code_hash(), time.monotonic()
    runs = counted(given.kept, code)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        os.environ["TMPDIR"], tempfile.tempdir = root, None  # waits for the timing of no other run
        weights = Path(root, work.WEIGHTS)
        save_file(work.trained().state_dict(), weights)
        whole: dict[int, tuple[Files, float]] = {}
        while len(runs) < given.runs or sum(run.kills for run in runs) < given.kills:
            if time.monotonic() - start > given.minutes * 60:
                break
            found = Disturbed(code, len(runs), given.seed + len(runs) % given.seeds)
            if found.seed not in whole:
                whole[found.seed] = undisturbed(Path(root, f"whole-{found.seed}"), weights, found.seed)
                print(f"undisturbed, seed {found.seed}: {whole[found.seed][1]:.1f} s of processor time", flush=True)
            expected, seconds = whole[found.seed]
            folder = Path(root, f"run-{found.number}")
            kills = -(-(given.kills - sum(run.kills for run in runs)) // max(1, given.runs - len(runs)))
            disturb(folder, weights, found, kills, seconds, random.Random(f"{given.seed} {found.number}"))
            if (made := files_of(folder)) != expected:
                found.different.append(f"{folder.name}: made {made}, undisturbed {expected}")
            runs.append(found)
            if given.kept is not None:
                with given.kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(found)) + "\n")
            print(f"\n{(time.monotonic() - start) / 60:.0f} minutes\n\n{table(runs)}", flush=True)
            if found.wrong:
                print("\n".join([*found.wrong, (folder / "said.txt").read_text(encoding="utf-8")[-2000:]]), flush=True)
    print(f"\nof code {code}:\n\n{table(runs)}")
    return 1 if any(run.wrong for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
