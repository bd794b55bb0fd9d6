"""Let real runs fill a disk up, wherever in them that is: `python -m benchmarks.crash.full_disk --sizes 24`.

Needs the right to mount. A run begins on a file system that is too small, by one size after the other from nothing
to what it needs; it has to end by telling so. With room made it is resumed, and has to end as an undisturbed one.
Exit code 1 if one told nothing, lost a finished attempt, damaged the journal or ended otherwise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.crash import work
from benchmarks.crash.__main__ import Sitting, damage, files_of, place, rows_of, undisturbed
from boildown.domain.outcome import State

_PAGE = 4096
_ROOM = 64 << 20
_TOLD = ("disk is full", "free space on the disk", "No space left on device")


def used(folder: Path) -> int:
    """Bytes that a run takes, in whole pages."""
    return sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in folder.rglob("*"))


def mount(folder: Path, size: int, *options: str) -> None:
    """A file system of this many bytes in the folder; with `remount` another size for the one that is there."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "none", folder], check=True)


def fill(folder: Path, weights: Path, size: int, expected: object, *, by_name: bool) -> tuple[str, list[str]]:
    """(where the disk was full, what is wrong) of one run on a disk of this size."""
    runs = folder / "runs"
    runs.mkdir(parents=True)
    mount(runs, size)
    try:
        sitting = Sitting(folder, weights, 0, by_name=by_name)
        sitting.wait()
        if sitting.code == 0:
            return "nowhere", []
        where, wrong = place(folder), []
        said = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("[fs]*.txt")))
        last = [line for line in said.splitlines() if line.strip()][-1:]
        if not any(words in said for words in _TOLD) or not (by_name or "boildown.errors." in said):
            wrong.append(f"{size} bytes, code {sitting.code}, told: {last}")
        if by_name and "Traceback" in said:
            wrong.append(f"{size} bytes: a traceback")
        if broken := damage(folder):
            wrong.append(f"{size} bytes: {broken}")
        before = {row.number: row for row in rows_of(folder) if row.state is not State.RUNNING}
        mount(runs, _ROOM, "remount")
        sitting = Sitting(folder, weights, 0, by_name=by_name)
        sitting.wait()
        after = {row.number: row for row in rows_of(folder)}
        wrong += [f"{size} bytes: lost attempt {n}" for n, row in before.items() if after.get(n) != row]
        if sitting.code != 0 or (made := files_of(folder)) != expected:
            wrong.append(
                f"{size} bytes: ended with code {sitting.code}" if sitting.code else f"{size} bytes: made {made}"
            )
        return where, wrong
    finally:
        subprocess.run(["umount", "-l", runs], check=True)


def main() -> int:
    """Run, print the table and what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, default=24, help="how many sizes, evenly spaced")
    given = parser.parse_args()
    torch.set_num_threads(1)
    places, wrong = Counter[str](), list[str]()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        os.environ["TMPDIR"], tempfile.tempdir = root, None
        weights = Path(root, work.WEIGHTS)
        save_file(work.trained().state_dict(), weights)
        expected, _seconds = undisturbed(Path(root, "whole"), weights, 0)
        most = used(Path(root, "whole", "runs"))
        for number in range(given.sizes):
            size = (number + 1) * most // given.sizes // _PAGE * _PAGE
            where, found = fill(Path(root, f"disk-{number}"), weights, size, expected, by_name=number % 2 == 1)
            places[where] += 1
            wrong += found
            print(f"{size:>9,} bytes: full while {where}", flush=True)
            for sentence in found:
                print(f"  WRONG {sentence}", flush=True)
    print("\n| disk full while | runs |\n| --- | --- |")
    print("\n".join(f"| {where} | {count} |" for where, count in sorted(places.items())))
    print(f"\n{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
