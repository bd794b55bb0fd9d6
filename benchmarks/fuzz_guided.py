"""The same cases guided by coverage: `python -m benchmarks.fuzz_guided --cases 20000`; needs atheris.

Atheris changes the bytes that hypothesis makes a case of, towards code of boildown that no case has reached. Every
kind has a process of its own, which a fault ends. ONNX files and run folders are left to `benchmarks.fuzz`.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import atheris  # type: ignore[import-not-found]
import torch

with atheris.instrument_imports(include=["boildown"]):
    from benchmarks import fuzz

UNGUIDED = ("ONNX", "folders")
_LONGEST = 8192
"""Bytes that hypothesis makes one case of, at most."""
_BEGUN_WITH = 64


class Shared(MutableMapping[str, int]):
    """Counts that a forked process leaves to its parent."""

    def __init__(self) -> None:
        self._names = ("cases", "refused", "child lost", "faults")
        self._numbers = multiprocessing.Array("q", len(self._names))

    def __getitem__(self, name: str) -> int:
        return int(self._numbers[self._names.index(name)])

    def __setitem__(self, name: str, number: int) -> None:
        self._numbers[self._names.index(name)] = number

    def __delitem__(self, name: str) -> None:
        self[name] = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def main() -> int:
    """Print a table as Markdown; faults tell of themselves above it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000, help="tries in all; some bytes make no case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbosity", type=int, default=0, help="1 tells what is newly reached")
    parser.add_argument("--only", default="", help="the kinds whose names hold this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    sys.setrecursionlimit(1000)
    rows, wrong = [], False
    with tempfile.TemporaryDirectory() as folder:
        for name, (share, make) in fuzz.TARGETS.items():
            if name.startswith(UNGUIDED) or given.only not in name:
                continue
            start, counts, tries = time.monotonic(), Shared(), max(1, round(share * given.cases))
            begun_with = corpus(Path(folder) / "corpus", given.seed)
            child = os.fork()
            if not child:
                check = fuzz.checked(name, make(Path(folder)), tries, given.seed, counts, limit=None)
                told = [
                    f"-runs={tries}",
                    f"-seed={given.seed}",
                    f"-max_len={_LONGEST}",
                    f"-artifact_prefix={folder}/",
                    "-timeout=60",
                ]
                told += ["-len_control=0", f"-verbosity={given.verbosity}", str(begun_with)]
                atheris.Setup([sys.argv[0], *told], check.hypothesis.fuzz_one_input)
                atheris.Fuzz()  # ends the process
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                counts["faults"], wrong = 1, True
            seconds = f"{time.monotonic() - start:.0f}"
            rows.append(" | ".join([name, str(tries), *map(str, counts.values()), seconds]))
    print("| what is read | tries | cases | refused | child lost | faults | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(*(f"| {row} |" for row in rows), sep="\n")
    return 1 if wrong else 0


def corpus(folder: Path, seed: int) -> Path:
    """A folder of random bytes to begin with: short ones make no case of what is large."""
    drawn = random.Random(seed)
    folder.mkdir(exist_ok=True)
    for number in range(_BEGUN_WITH):
        (folder / str(number)).write_bytes(drawn.randbytes(_LONGEST >> number % 8))
    return folder


if __name__ == "__main__":
    sys.exit(main())
