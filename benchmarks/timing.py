"""How often a latency is called proven that is not, replayed from block ratios that were recorded once.

    python -m benchmarks.timing [--draws 10000] [--run 32] [--json FILE]
    BOILDOWN_DATA=FOLDER python -m benchmarks.timing --record quiet     # or loaded: other programs at work meanwhile

Every draw strings runs of neighbouring ratios of a recording together, so that what drifts or comes in bursts does so
here, and goes the way of a run's timing: intervals at 8, 16, 32, ... quads, until the bound is outside or the seconds
are spent. The bound is the median of the whole recording, which is the truth here: to call it met is always false.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boildown.domain.measurement import spread
from boildown.measuring.latency import FIRST_PEEK, rank_in_series
from boildown.measuring.statistics import level_at_look, median_rank

Floats = NDArray[np.float64]
Ranks = Callable[[Floats, float], NDArray[np.intp]]

RECORDED = Path(__file__).with_name("block_ratios.json")
NETWORKS = ("resnet20", "dscnn", "mobilenet")
RECORD_SECONDS, SECONDS, GLANCE_SECONDS = 60.0, 30.0, 2.0
CONFIDENCE, PROMISED = 0.95, 0.06
CHOSEN_OF = (2, 8)
RERUNS = 5
RULES = (
    "one look, neighbours independent",
    "one look",
    f"until decided, {RERUNS} at most",
    "looks 1 and 2",
    "timed again",
)
_AT_ONCE = 1000


@dataclass(frozen=True)
class Recording:
    """Block ratios of one file beside the first model's, in order. machine: how busy it was."""

    network: str
    file: str
    machine: str
    cpu: str
    load: float
    seconds: float
    ratios: tuple[float, ...]

    @property
    def name(self) -> str:
        """What a row of the table is called."""
        return f"{self.network}, {self.file}, {self.machine}"

    @property
    def most(self) -> int:
        """How many quads a run's seconds allow."""
        return max(1, round(len(self.ratios) * SECONDS / self.seconds))


# -- recording ---------------------------------------------------------------------------------------


def record(machine: str) -> list[Recording]:
    """Time every network's file beside an equal one, and its int8 file beside it; needs BOILDOWN_DATA."""
    import torch

    from benchmarks.real.models import MODELS
    from benchmarks.real.tasks import TASKS
    from boildown.domain.candidate import Candidate
    from boildown.execution.child import Child
    from boildown.measuring.environment import environment
    from boildown.methods.base import Context, Data
    from boildown.methods.quantize_static import QuantizeStatic
    from boildown.runtimes import get
    from boildown.surgery.graph import capture

    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for network in NETWORKS:
            folder, task, runtime = Path(scratch) / network, TASKS[network](), get("onnxruntime")
            folder.mkdir()
            candidate = Candidate(MODELS[network]())
            few = task.calibration if task.calibration is not None else task.validation.subset(range(64))
            int8 = QuantizeStatic().apply(candidate, task, Context(Data(None, few)))
            exported = folder / "exported.onnx"
            runtime.export(capture(candidate.model, *task.example()).serialize(), exported)
            runtime.write(exported, folder / "first.onnx", None)
            runtime.write(exported, folder / "int8.onnx", int8.plan)
            shutil.copy2(folder / "first.onnx", folder / "equal.onnx")
            inputs = [task.example()[0][0][:1].numpy()]
            for file in ("equal", "int8"):
                with Child() as child:  # with nothing held quiet: the machine is as busy as it is
                    told = child.call(
                        "boildown.measuring.latency:compare", str(folder / "first.onnx"), str(folder / f"{file}.onnx"),
                        inputs, seconds=RECORD_SECONDS, min_seconds=RECORD_SECONDS,
                    )  # fmt: skip
                ratios = tuple(float(f"{ratio:.5g}") for ratio in told["raw"])
                cpu, load = str(environment().get("cpu")), round(os.getloadavg()[0], 1)
                found.append(Recording(network, file, machine, cpu, load, RECORD_SECONDS, ratios))
                print(
                    f"{found[-1].name}: {len(ratios)} quads, median {np.median(ratios):.3f}x, load {load}", flush=True
                )
    return found


def write(found: list[Recording]) -> None:
    """Keep recordings beside those of other machines, a line each."""
    kept = [recording for recording in read() if recording.machine not in {new.machine for new in found}]
    lines = [json.dumps(asdict(recording), separators=(",", ":")) for recording in (*kept, *found)]
    RECORDED.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def read() -> list[Recording]:
    """What has been recorded."""
    if not RECORDED.is_file():
        return []
    told = json.loads(RECORDED.read_text(encoding="utf-8"))
    return [Recording(**{**each, "ratios": tuple(each["ratios"])}) for each in told]


# -- replaying ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What timings of one recording told, one number for every draw: proven, the ratio, how often it was timed."""

    proven: NDArray[np.bool_]
    open: NDArray[np.bool_]
    ratio: Floats


class Replay:
    """Timings of one recording, drawn anew as often as one likes."""

    def __init__(self, recording: Recording, draws: int, run: int, seed: int = 0) -> None:
        self.ratios = np.asarray(recording.ratios)
        self.truth = float(np.median(self.ratios))
        self.most, self.draws, self.run = recording.most, draws, run
        self.glance = max(1, round(len(self.ratios) * GLANCE_SECONDS / recording.seconds))
        self.random = np.random.default_rng(seed)

    def timed(self, look: int | None, ranks: Ranks = rank_in_series) -> Told:
        """One timing each at the level of a look; at the whole confidence for None."""
        level = CONFIDENCE if look is None else level_at_look(CONFIDENCE, look)
        counts = (min(_AT_ONCE, self.draws - done) for done in range(0, self.draws, _AT_ONCE))
        parts = [self._timed(count, level, ranks) for count in counts]
        return Told(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def glances(self) -> Floats:
        """The ratio that a glance at the clock shows, for every draw."""
        return np.median(self.drawn(self.draws, self.glance), axis=1)

    def drawn(self, count: int, quads: int) -> Floats:
        """(count, quads) ratios: runs of neighbours, `run` of them on average (the stationary bootstrap)."""
        at = np.arange(quads)
        begins = self.random.random((count, quads)) < 1 / self.run
        last = np.maximum.accumulate(np.where(begins, at, 0), axis=1)
        start = np.take_along_axis(self.random.integers(0, len(self.ratios), (count, quads)), last, axis=1)
        return self.ratios[(start + at - last) % len(self.ratios)]

    def _timed(self, count: int, level: float, ranks: Ranks) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Floats]:
        series = self.drawn(count, self.most)
        above, below = np.cumsum(series > self.truth, axis=1), np.cumsum(series < self.truth, axis=1)
        left, proven, quads = np.zeros(count, bool), np.zeros(count, bool), np.full(count, self.most)
        for peek, n in enumerate(peeks(self.most), 1):
            rank = ranks(series[:, :n], level_at_look(level, peek))
            now = ~left & ((above[:, n - 1] <= rank) | (below[:, n - 1] <= rank))
            proven |= now & (above[:, n - 1] <= rank)
            left |= now
            quads[now] = n
        ratio = np.array([np.median(row[:n]) for row, n in zip(series, quads, strict=True)])
        return proven, ~left, ratio


def peeks(most: int) -> list[int]:
    """After how many quads the interval is looked at; the last time when the seconds are spent."""
    doubled = (FIRST_PEEK * 2**turn for turn in range(most.bit_length()))
    return [*(n for n in doubled if n < most), most]


def independent(values: Floats, level: float) -> NDArray[np.intp]:
    """The rank as if neighbours had nothing to do with each other."""
    return np.full(values.shape[:-1], median_rank(values.shape[-1], level))


def looked(replay: Replay) -> dict[str, float]:
    """The shares called proven by every rule, and the share that is timed again."""
    once = [replay.timed(None) for _ in range(RERUNS)]
    decided, lucky = np.zeros(replay.draws, bool), np.zeros(replay.draws, bool)
    for told in once:
        lucky |= ~decided & told.proven
        decided |= ~told.open
    first, second = replay.timed(1), replay.timed(2)
    both = first.proven | (first.open & second.proven)
    shares = (replay.timed(None, independent).proven, once[0].proven, lucky, both, first.open)
    return {rule: float(share.mean()) for rule, share in zip(RULES, shares, strict=True)}


def chosen(replay: Replay, of: int) -> tuple[float, float, float, float]:
    """Of equal candidates, as fast as the bound allows, the fastest is handed over.

    The share of runs that call it proven by the timing that chose it, and by one that did not; the median of what its
    glance shows as a share of the truth, and of what a new one does.
    """
    once = [replay.timed(None) for _ in range(of)]
    old = np.any([told.proven for told in once], axis=0)
    met, ratios = [], []
    for _ in range(of):
        first, second = replay.timed(1), replay.timed(2)
        met.append(first.proven | (first.open & second.proven))
        ratios.append(np.where(first.open, second.ratio, first.ratio))
    order = np.argsort(np.where(met, ratios, np.inf), axis=0)
    new = np.zeros(replay.draws, bool)
    for place in range(of):  # where the first of the met does not stand, the next is timed anew, as the next look
        again = replay.timed(place + 1).proven
        new |= again & np.take_along_axis(np.array(met), order, axis=0)[place]
    fastest = np.min([replay.glances() for _ in range(of)], axis=0)
    shown = (float(np.median(ratio) / replay.truth) for ratio in (fastest, replay.glances()))
    return float(old.mean()), float(new.mean()), *shown


def main() -> int:
    """Replay and print the tables, or record; 1 if more is called proven than is promised and chance explains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000, help="timings of every recording; a fifth for the fastest")
    parser.add_argument("--run", type=int, default=32, help="neighbours that are drawn together, on average")
    parser.add_argument("--json", type=Path, help="also write the rates to this file")
    parser.add_argument("--record", metavar="MACHINE", help="record this machine instead, as `quiet` or `loaded`")
    given = parser.parse_args()
    if given.record:
        write(record(given.record))
        return 0
    start, rates = time.perf_counter(), {}
    error = math.sqrt(PROMISED * (1 - PROMISED) / max(1, given.draws // 5))
    replays = {each.name: (each, Replay(each, given.draws, given.run, seed)) for seed, each in enumerate(read())}
    _row("false 'proven', %", "spread", *RULES)
    _row(*["---"] * (2 + len(RULES)))
    for name, (recording, replay) in replays.items():
        rates[name] = looked(replay)
        apart = spread(recording.ratios) or 0.0
        _row(name, f"{apart:.0%}", *(f"{100 * rate:.1f}" for rate in rates[name].values()))
    print()
    _row("fastest of", "proven by the timing that chose it, %", "timed anew, %", "a glance shows", "a new glance shows")
    _row(*["---"] * 5)
    for name, (_, replay) in replays.items():
        replay.draws = max(1, given.draws // 5)
        for of in CHOSEN_OF:
            old, new, glance, anew = chosen(replay, of)
            rates[name] |= {f"fastest of {of}": old, f"fastest of {of}, timed anew": new}
            _row(f"{of}: {name}", f"{100 * old:.1f}", f"{100 * new:.2f}", f"{glance:.3f}", f"{anew:.3f}")
    promised = [
        (name, rule) for name, found in rates.items() for rule, rate in found.items()
        if ("looks" in rule or "anew" in rule) and rate > PROMISED + 2.5 * error
    ]  # fmt: skip
    print(f"\n{given.draws:,} draws; {time.perf_counter() - start:.0f} s")
    print(*(f"TOO MANY: {name}, {rule}" for name, rule in promised), sep="\n")
    if given.json:
        given.json.write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")
    return 1 if promised else 0


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
