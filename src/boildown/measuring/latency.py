"""Time of one call, candidate against first model, in turns.

Called by name in a fresh child process: arguments and results are plain data. Both artifacts are
timed in turns on the same cores, so that whatever slows the machine slows both: in one process where
they have the same runtime, else in a process each, of which one sleeps while the other is timed.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import multiprocessing
import os
import random
import statistics as numbers
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from boildown.domain.measurement import NOISY, Form, Interval, Measurement, spread
from boildown.errors import AttemptError, BoildownError, WorkerLost, in_words
from boildown.measuring.environment import environment
from boildown.measuring.statistics import between, level_at_look, median_rank
from boildown.runtimes import get
from boildown.runtimes.base import Array

BLOCK_SECONDS = 0.01
"""A block is as many calls as take about this long: far above the clock's grain and its cost."""

FIRST_PEEK = 8
"""Quads before the interval is looked at; then at every doubling."""

_TOLD = 0.1
"""Above this spread of the block ratios (alone: of the block times) it is told; from `NOISY` on it is marked, too."""

_STRETCHES = 6  # of neighbours, that are held against each other
_ENOUGH = 32  # values to do so
_WARM_UP_SECONDS = 0.25
_WARM_UP_CALLS = 3
_LOADING = 0.2  # share of the time that loading anew may take
_ENDING = 2.0  # seconds that a process has to end by itself

_ORDERS = (("first", "candidate"), ("candidate", "first"))

Call = Callable[[], object]
Floats = NDArray[np.float64]


def compare(
    first: str | Path,
    candidate: str | Path,
    inputs: Sequence[Array],
    runtime: str = "onnxruntime",
    threads: int = 1,
    bound: float | None = None,
    level: float = 0.95,
    seconds: float = 30.0,
    min_seconds: float = 2.0,
    value_bound: float | None = None,
    trust: bool = False,
    first_runtime: str | None = None,
) -> dict[str, Any]:
    """Latency of the candidate beside the first model's, as `Measurement.to_json`.

    `inputs` are the flat inputs of one call, batch included. Blocks of calls alternate first,
    candidate, candidate, first (a drift of the clock rate cancels) or the other way round; each
    such quad gives one ratio, kept in `raw`. The ratio is their median. With `bound` (on the ratio)
    or `value_bound` (seconds), sampling goes on until the intervals leave them or `seconds` are
    spent; without, for `min_seconds`. Peeks come at 8, 16, 32, ... quads and share the error
    (`level_at_look`), so that peeking often proves nothing by luck. `value` and `first` are medians
    over blocks, in seconds. `trust` vouches for both files, see `Runtime.open`. `first_runtime`: of the first
    model's, where it is another.
    """
    asked = bound is not None or value_bound is not None
    until = seconds if asked else min(min_seconds, seconds)
    of_first: list[float] = []
    of_candidate: list[float] = []
    ratios: list[float] = []
    peek = 0
    how = inputs, threads, trust
    base = first_runtime or runtime
    with settled(threads) as pinned, sides((first, base, *how), (candidate, runtime, *how)) as both:
        pair = Pair(*both)
        while True:
            block_first, block_candidate = pair.quad()
            of_first += block_first
            of_candidate += block_candidate
            ratios.append(sum(block_candidate) / sum(block_first))
            last = pair.spent >= until
            if asked and (last or len(ratios) == FIRST_PEEK * 2**peek):
                peek += 1
                intervals = _intervals(ratios, of_candidate, level, peek)
                if last or _left(intervals, bound, value_bound):
                    break
            elif last:
                intervals = _intervals(ratios, of_candidate, level)
                break
        versions = [str(side.ask("version")) for side in both]
    value, reference = numbers.median(of_candidate), numbers.median(of_first)
    measurement = Measurement(
        metric="latency",
        value=value,
        unit="s",
        first=reference,
        drop=value - reference,
        ratio=numbers.median(ratios),
        intervals=intervals,
        samples=len(ratios),
        raw=tuple(ratios),
        environment=environment_of(versions, threads, pinned),
        notes=(*noise(ratios, "ratios"), *unpinned(pinned)),
    )
    return measurement.to_json()


def alone(
    path: str | Path,
    inputs: Sequence[Array],
    runtime: str = "onnxruntime",
    threads: int = 1,
    level: float = 0.95,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Latency of one artifact by itself, as `Measurement.to_json`; block times in seconds in `raw`."""
    with settled(threads) as pinned:
        run = _opened(path, inputs, runtime, threads)
        calls = _calibrated(run)
        times: list[float] = []
        start = time.perf_counter()
        while not times or time.perf_counter() - start < seconds:
            times.append(_block(run, calls))
    measurement = Measurement(
        metric="latency",
        value=numbers.median(times),
        unit="s",
        intervals={"value": _interval(times, level)},
        samples=len(times),
        raw=tuple(times),
        environment=environment_of([get(runtime).version()] * 2, threads, pinned),
        notes=(*noise(times, "times"), *unpinned(pinned)),
    )
    return measurement.to_json()


How = tuple[str | Path, str, Sequence[Array], int, bool]
"""An artifact, its runtime, the flat inputs of a call, threads, and whether its origin is vouched for."""


class _Side(Protocol):
    """One of the two artifacts, where it is timed."""

    def ask(self, what: str) -> Any:
        """What `_Here` does under this name."""
        ...


class _Here:
    """An artifact in this process."""

    def __init__(self, how: How) -> None:
        self._how = how
        self._run: Call | None = None
        self._calls = 0

    def ask(self, what: str) -> Any:
        """Do it, by its name."""
        return getattr(self, what)()

    def version(self) -> str:
        """Of its runtime."""
        return get(self._how[1]).version()

    def drop(self) -> None:
        """Give back what was loaded."""
        self._run = None

    def load(self) -> None:
        """Load it anew."""
        path, runtime, inputs, threads, trust = self._how
        self._run = _opened(path, inputs, runtime, threads, trust)

    def warm(self) -> None:
        """Call it, after it was loaded."""
        for _ in range(_WARM_UP_CALLS):
            self._loaded()

    def calibrate(self) -> None:
        """Find how many calls a block has."""
        self._calls = _calibrated(self._loaded)

    def block(self) -> float:
        """Seconds per call over a block."""
        return _block(self._loaded, self._calls)

    def each(self) -> list[float]:
        """Seconds of each call of a block."""
        run, clock, ends = self._loaded, time.perf_counter_ns, [time.perf_counter_ns()]
        for _ in range(self._calls):
            run()
            ends.append(clock())
        return [(end - start) / 1e9 for start, end in itertools.pairwise(ends)]

    @property
    def _loaded(self) -> Call:
        assert self._run is not None
        return self._run


class _There:
    """An artifact in a process of its own, which sleeps while nothing is asked of it.

    Two runtimes in one process would disturb each other by the threads that each keeps ready.
    """

    def __init__(self, how: How) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, how), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._pipe.close()  # which ends it
        self._process.join(_ENDING)
        self._process.kill()

    def ask(self, what: str) -> Any:
        """What the other process gives for it. Raises what was raised there, WorkerLost where it died."""
        try:
            self._pipe.send(what)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(_ENDING)
            raise WorkerLost(f"the process of timing ended with exit code {self._process.exitcode}.") from error
        if isinstance(answer, BoildownError):
            raise answer
        return answer


def _serve(pipe: Connection, how: How) -> None:
    """Time an artifact in this process as the other end of the pipe asks, until that is closed."""
    here = _Here(how)
    with settled(how[3]), contextlib.suppress(EOFError, OSError):
        while True:
            what = pipe.recv()
            try:
                answer = here.ask(what)
            except BoildownError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - raised by who asks
                answer = AttemptError(in_words(error))
            pipe.send(answer)


@contextlib.contextmanager
def sides(first: How, candidate: How) -> Iterator[tuple[_Side, _Side]]:
    """Both artifacts, in this process where they have one runtime."""
    if first[1] == candidate[1]:
        yield _Here(first), _Here(candidate)
        return
    with _There(candidate) as there:
        yield _Here(first), there


class Pair:
    """Both artifacts, ready to be timed in turns.

    They are loaded anew now and then: where a session happens to lie in memory shifts its time by
    up to 1 %, and of equal files the one loaded later won more often. Which is loaded and timed
    first is drawn (always the same draws), since taking turns can fall into step with the reloading.
    """

    def __init__(self, first: _Side, candidate: _Side) -> None:
        self._sides = {"first": first, "candidate": candidate}
        self._random = random.Random(0)
        self._quads = 0
        self._loading = 0.0
        self._load()
        for side in self._sides.values():
            side.ask("calibrate")
        self._start = time.perf_counter()
        self._loading = 0.0

    @property
    def spent(self) -> float:
        """Seconds since both were warm."""
        return time.perf_counter() - self._start

    def quad(self) -> tuple[list[float], list[float]]:
        """Seconds per call of two blocks each, in the order A B B A: (first, candidate)."""
        return self._turns("block")

    def each(self) -> tuple[list[float], list[float]]:
        """Seconds of each call of two blocks each, in the same order: (first, candidate)."""
        first, candidate = (list(itertools.chain(*blocks)) for blocks in self._turns("each"))
        return first, candidate

    def _turns(self, what: str) -> tuple[list[Any], list[Any]]:
        """What two blocks each give, in the order A B B A."""
        if self._quads and self._loading <= _LOADING * self.spent:
            self._load()
        one, other = self._random.choice(_ORDERS)
        times: dict[str, list[Any]] = {one: [], other: []}
        for name in (one, other, other, one):
            times[name].append(self._sides[name].ask(what))
        self._quads += 1
        return times["first"], times["candidate"]

    def _load(self) -> None:
        start = time.perf_counter()
        for side in self._sides.values():
            side.ask("drop")
        for name in self._random.choice(_ORDERS):
            self._sides[name].ask("load")
        for side in self._sides.values():
            side.ask("warm")
        self._loading += time.perf_counter() - start


def _opened(path: str | Path, inputs: Sequence[Array], runtime: str, threads: int, trust: bool = False) -> Call:
    session = get(runtime).open(Path(path), threads, trust=trust)
    arrays = [np.ascontiguousarray(array) for array in inputs]
    return lambda: session.run(arrays)


def _calibrated(run: Call) -> int:
    """Calls per block, after warming up."""
    start, calls = time.perf_counter(), 0
    while calls < _WARM_UP_CALLS or time.perf_counter() - start < _WARM_UP_SECONDS:
        run()
        calls += 1
    return max(1, round(BLOCK_SECONDS / max(_block(run, max(1, calls // 10)), 1e-9)))


def _block(run: Call, calls: int) -> float:
    """Seconds per call over a block."""
    start = time.perf_counter_ns()
    for _ in range(calls):
        run()
    return (time.perf_counter_ns() - start) / calls / 1e9


def _intervals(ratios: Sequence[float], times: Sequence[float], level: float, peek: int = 0) -> dict[Form, Interval]:
    """Intervals at `level`; with `peek`, wide enough that all peeks together keep it."""
    strict = level_at_look(level, peek) if peek else level
    intervals: dict[Form, Interval] = {}
    samples: dict[Form, Sequence[float]] = {"value": times, "ratio": ratios}
    for form, values in samples.items():
        found = _interval(values, strict)
        method = f"{found.method}, peek {peek}" if peek else found.method
        intervals[form] = Interval(found.low, found.high, level, method)
    return intervals


def _interval(values: Sequence[float], level: float) -> Interval:
    taken = np.asarray(values, np.float64)
    return between(taken, int(rank_in_series(taken, level)), level)


def rank_in_series(values: Floats, level: float) -> NDArray[np.intp]:
    """How many values lie beyond either end of the interval for their median at `level`; -1 where it is infinite.

    values: (..., n) in the order they were taken; the result is of shape (...). Independent values would have the
    rank of order statistics. But load comes and goes, and neighbours are alike: if the shares of six stretches that
    lie above the median differ by more than chance, fewer values are left out, as for a mean by batches (Student's t
    over the stretches). Without it recordings under load prove 17 % of bounds that do not hold (benchmarks.timing).
    """
    n = values.shape[-1]
    independent = np.full(values.shape[:-1], median_rank(n, level))
    if n < _ENOUGH:
        return independent
    above = (1 + np.sign(values - np.median(values, axis=-1, keepdims=True))) / 2
    bounds = np.linspace(0, n, _STRETCHES + 1).astype(np.intp)
    shares = np.add.reduceat(above, bounds[:-1], axis=-1) / np.diff(bounds)
    error = shares.std(axis=-1, ddof=1) / math.sqrt(_STRETCHES)
    reach = n * special.stdtrit(_STRETCHES - 1, level) * error
    found: NDArray[np.intp] = np.clip(np.floor(n / 2 - reach), -1, independent).astype(np.intp)
    return found


def _left(intervals: dict[Form, Interval], bound: float | None, value_bound: float | None) -> bool:
    """Whether every bound lies outside its interval."""
    return (bound is None or bound not in intervals["ratio"]) and (
        value_bound is None or value_bound not in intervals["value"]
    )


def noise(values: Sequence[float], what: str) -> tuple[str, ...]:
    """What to tell of values that lie far apart."""
    found = spread(values) or 0.0
    if found <= _TOLD:
        return ()
    noisy = "noisy: " if found > NOISY else ""
    return (f"{noisy}block {what} spread by {found:.0%} (IQR / median); stop other programs and repeat",)


def unpinned(pinned: Sequence[int]) -> tuple[str, ...]:
    """What to tell where nothing could be pinned."""
    return () if pinned else ("not pinned to cores: this system does not allow it",)


def environment_of(versions: Sequence[str], threads: int, pinned: Sequence[int]) -> dict[str, Any]:
    """Where both were timed; versions: of the first model's runtime and of the candidate's, told where they differ."""
    first, candidate = versions
    other = {} if first == candidate else {"first runtime": first}
    return {**environment(), "runtime": candidate, "threads": threads, "pinned": list(pinned), **other}


@contextlib.contextmanager
def settled(threads: int) -> Iterator[tuple[int, ...]]:
    """Pin this thread, and those it starts, to `threads` cores; hold the garbage collector still.

    Gives the cores, none where pinning is not possible.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    before, cores = _pin(threads)
    try:
        yield cores
    finally:
        if cores:
            os.sched_setaffinity(0, before)
        if collecting:
            gc.enable()


def _pin(threads: int) -> tuple[set[int], tuple[int, ...]]:
    if not hasattr(os, "sched_setaffinity"):
        return set(), ()
    allowed = os.sched_getaffinity(0)
    # The highest first, because interrupts favour the lowest; hyperthreads of one core come last.
    order = sorted(allowed, key=lambda core: (_sibling_rank(core), -core))
    cores = tuple(order[: max(1, threads)])
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        return allowed, ()
    return allowed, cores


def _sibling_rank(core: int) -> int:
    """0 for the first hyperthread of a physical core, 1 for the second, ..."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        listed = path.read_text().strip()
    except OSError:
        return 0
    siblings: list[int] = []
    for part in listed.split(","):
        low, _, high = part.partition("-")
        siblings += range(int(low), int(high or low) + 1)
    return siblings.index(core) if core in siblings else 0
