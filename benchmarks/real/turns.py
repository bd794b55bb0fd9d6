"""Files of several runtimes timed in turns, each in a process of its own and all of them on one core."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from boildown.execution.child import Child
from boildown.execution.quiet import quiet
from boildown.runtimes import get
from boildown.runtimes.base import Array

_BLOCK_SECONDS = 0.02
_loaded: list[Callable[[], object]] = []


def take_turns(
    files: Mapping[str, tuple[str, Path]], inputs: Sequence[Array], rounds: int = 40
) -> dict[str, list[float]]:
    """Seconds per call of every file, (runtime, path) by name, in each round; in a round their order is drawn."""
    order, draw = list(files), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in files}
    with ExitStack() as stack:
        children = {name: stack.enter_context(Child()) for name in files}
        calls = {
            name: children[name].call("benchmarks.real.turns:load", runtime, str(path), inputs)
            for name, (runtime, path) in files.items()
        }
        stack.enter_context(quiet())
        for _ in range(rounds):
            draw.shuffle(order)
            for name in order:
                times[name].append(children[name].call("benchmarks.real.turns:block", calls[name]))
    return times


def load(runtime: str, path: str, inputs: Sequence[Array]) -> int:
    """Load a file in this process, with one thread on the last core; how many calls a block has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    session = get(runtime).open(Path(path), 1, trust=True)
    _loaded[:] = [lambda: session.run(inputs)]
    for _ in range(3):
        _loaded[0]()
    return max(1, round(_BLOCK_SECONDS / block(5)))


def block(calls: int) -> float:
    """Seconds per call, after one that fills the caches."""
    _loaded[0]()
    start = time.perf_counter()
    for _ in range(calls):
        _loaded[0]()
    return (time.perf_counter() - start) / calls
