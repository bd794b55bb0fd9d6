"""Fill the matrix of architectures and methods, and print it in Markdown.

    python -m benchmarks.zoo [MODEL ...] [--cells CELL ...] [--results FILE] [--show] [--keep]

Run it from the root of the repository. Every architecture has a process of its own, every cell a time limit. Results
are lines of JSON in a file: what is there for the same code and the same definition is not done again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from pathlib import Path
from typing import Any

from benchmarks.zoo.cells import CELLS, fill_all
from benchmarks.zoo.entry import ZOO, load
from benchmarks.zoo.matrix import Results, markdown

LIMIT = 600.0
"""Seconds a cell may take."""


def main() -> int:
    """Run what is missing, print the matrix; 1 if any cell failed."""
    load()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="all without any")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS), metavar="CELL")
    parser.add_argument("--results", type=Path, default=Path("zoo.jsonl"), help="where results are kept: %(default)s")
    parser.add_argument("--show", action="store_true", help="print what is there, run nothing")
    parser.add_argument(
        "--keep", action="store_true", help="keep cells of other versions of the code that are not failed"
    )
    given = parser.parse_args()
    if unknown := [name for name in given.models if name not in ZOO]:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(ZOO)}")
    names = given.models or list(ZOO)
    results = Results(given.results)
    for name in () if given.show else names:
        run(name, [cell for cell in given.cells if not results.done(ZOO[name], cell, keep=given.keep)], results)
    print(markdown(results, [ZOO[name] for name in names], given.cells))
    return 1 if any(results.state(name, cell) == "failed" for name in names for cell in given.cells) else 0


def run(name: str, cells: list[str], results: Results) -> None:
    """Fill some cells of one architecture in a process of its own; one that dies or takes too long is replaced."""
    left = list(cells)
    while left:
        ours, theirs = _processes.Pipe()
        process = _processes.Process(target=fill_all, args=(name, left, theirs), daemon=True)
        process.start()
        theirs.close()
        while left and process is not None:
            if not ours.poll(LIMIT):
                process.kill()
            try:
                found = ours.recv()
            except EOFError:
                process.join()
                why = f"its process ended with exit code {process.exitcode}, -9 after more than {LIMIT:.0f} s"
                found, process = {"state": "failed", "text": why, "seconds": LIMIT}, None
            results.add(ZOO[name], cell := left.pop(0), found)
            print(f"{name} {cell}: {found['state']}, {found['seconds']:.0f} s", file=sys.stderr, flush=True)
        ours.close()


_forks = "forkserver" in multiprocessing.get_all_start_methods()
_processes: Any = multiprocessing.get_context("forkserver" if _forks else "spawn")
_processes.set_forkserver_preload(["benchmarks.zoo.warm"])


if __name__ == "__main__":
    sys.exit(main())
