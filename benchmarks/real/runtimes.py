"""Eight networks in both runtimes, float and quantized; and what `runtime="auto"` makes of six targets.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.runtimes [--rows NAME ...] [--quick] [--folder FOLDER] [--json FILE]
    BOILDOWN_DATA=FOLDER python -m benchmarks.real.runtimes --auto [--rows NAME ...] [--quick] [--json FILE]

For every network and runtime `compress` climbs the rungs below and hands over the fastest file within the target. Then
the float and the best file of both runtimes are timed in turns, one thread, each in a process of its own, in three
runs; latencies are medians, and ratios to ONNX Runtime's float file of the same run. Drops are those of the verdict,
from the float file in the same runtime, each end of their interval at 95 %. The last three networks are trained here,
and kept in --folder.

--auto climbs the targets of `AUTO`, three times each, and prints every attempt. --quick takes one run and few rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boildown as bd
from benchmarks.real import small
from benchmarks.real.minilm import CALIBRATING
from benchmarks.real.models import MODELS
from benchmarks.real.sts import SEARCHED, minilm, pairs
from benchmarks.real.tasks import TASKS
from benchmarks.real.turns import take_turns
from boildown.engine.artifact import flatten
from boildown.errors import InputError
from boildown.runtimes import get

RUNTIMES = ("onnxruntime", "openvino")
BATCHES = (1, 8)
RUNGS = ("quantize-static", "quantize-mixed(layers=0)", "quantize-dynamic")
WITHIN = "accuracy drop <= 1 pp"
_TOLD = 3
"""Layers that a table names."""


@dataclass(frozen=True)
class Row:
    """A network, what it is for, and how much of its quality may go."""

    model: Callable[[Path], Any]
    task: Callable[[], Any]
    within: str = WITHIN

    @property
    def metric(self) -> str:
        """The metric of quality."""
        return self.within.split()[0]


def _published(name: str, _folder: Path) -> Any:
    return MODELS[name]()


def sentences() -> bd.Embedding:
    """STS-B for MiniLM: calibrated on training pairs, judged on the development set."""
    training = pairs("train", CALIBRATING + SEARCHED)
    return bd.Embedding(calibration=training[SEARCHED:], validation=training[:SEARCHED], test=pairs("dev"))


ROWS: Mapping[str, Row] = {
    **{name: Row(partial(_published, name), TASKS[name]) for name in MODELS},
    "minilm": Row(lambda _folder: minilm(), sentences, "spearman drop <= 0.01"),
    **{name: Row(partial(small.trained, name), partial(small.task, name)) for name in small.NETWORKS},
}


@dataclass(frozen=True)
class Target:
    """What is asked of `runtime="auto"`."""

    conditions: tuple[str, ...]
    ladder: Any = "auto"
    goal: Any = "first"
    budget: str = "60 min"


AUTO: Mapping[str, Target] = {
    "mobilenet": Target(  # integers alone, then with a float prefix
        (WITHIN, "size <= 0.30x", "latency <= 0.60x"), RUNGS[:2], "fastest"
    ),
    "minilm": Target(("spearman drop <= 0.003", "size <= 0.26x", "latency <= 0.40x")),
    "resnet56": Target((WITHIN, "latency <= 0.36x")),
    "lstm": Target((WITHIN, "size <= 0.28x")),
    "gru": Target((WITHIN, "size <= 0.35x"), budget="6 min"),
    "hardswish": Target((WITHIN, "latency <= 1x"), RUNGS[:2], "fastest"),
}


def main() -> None:
    """Measure the rows asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=list(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--auto", action="store_true", help=f'runtime="auto" on {", ".join(AUTO)}')
    parser.add_argument("--quick", action="store_true", help="one run, few rounds")
    parser.add_argument("--folder", type=Path, help="keep runs and trained networks here")
    parser.add_argument("--json", type=Path, help="also write what was measured to this file")
    given = parser.parse_args()
    names = given.rows or list(AUTO if given.auto else ROWS)
    if wrong := [name for name in names if given.auto and name not in AUTO]:
        parser.error(f"--auto has no row {wrong[0]}: it has {', '.join(AUTO)}")
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        print(*HEAD[given.auto], sep="\n")
        for name in names:
            found.append((automatic if given.auto else measured)(name, folder, quick=given.quick))
            print(*(auto_lines if given.auto else lines)(found[-1]), sep="\n", flush=True)
            if given.json:
                given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


HEAD = {
    False: (
        "| network | runtime | file | size | drop | ms at batch 1 | ms at batch 8 | in float |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ),
    True: (
        "| network | run | attempt | runtime | state | size | drop | latency | in float |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ),
}


def measured(name: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    """The float and the best file of a network in every runtime that is installed."""
    row = ROWS[name]
    model, task = row.model(folder), row.task()
    files: dict[str, tuple[str, Path]] = {}
    facts: dict[str, Any] = {}
    for runtime in filter(_is_installed, RUNTIMES):
        run = bd.compress(
            model, task, [row.within, "size <= 0.5x"], ladder=RUNGS, goal="fastest", runtime=runtime, budget="60 min",
            runs=folder / "runs" / name, fresh=True, verbose=False,
        )  # fmt: skip
        assert run.best is not None
        for kind, attempt in (("float", run.attempt(0)), ("best", run.best)):
            files[f"{runtime} {kind}"] = runtime, attempt.artifact
            facts[f"{runtime} {kind}"] = told(attempt, row.metric)
    first, times = next(iter(files)), {}
    for batch in BATCHES[:1] if quick else BATCHES:
        for _ in range(1 if quick else 3):
            taken = take_turns(files, _inputs(task, batch), rounds=10 if quick else 40)
            for label, blocks in taken.items():
                ratios = [own / base for own, base in zip(blocks, taken[first], strict=True)]
                each = {"ms": 1000 * statistics.median(blocks), "ratio": statistics.median(ratios)}
                times.setdefault(label, {}).setdefault(batch, []).append(each)
    base = facts[first]["bytes"]
    return {
        "name": name,
        "files": {
            label: {**fact, "size": fact["bytes"] / base, "times": times[label]} for label, fact in facts.items()
        },
    }


def automatic(name: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    """What `runtime="auto"` comes to, every attempt of every run."""
    row, asked, runs = ROWS[name], AUTO[name], []
    model, task = row.model(folder), row.task()
    for _ in range(1 if quick else 3):
        run = bd.compress(
            model, task, asked.conditions, ladder=asked.ladder, goal=asked.goal, runtime="auto", budget=asked.budget,
            runs=folder / "auto" / name, fresh=True, verbose=False,
        )  # fmt: skip
        runs.append(
            {
                "outcome": run.outcome.name,
                "best": None if run.best is None else run.best.number,
                "attempts": [told(attempt, row.metric) for attempt in run.candidates],
                "summary": str(run),
            }
        )
    return {"name": name, "target": asked.conditions, "runs": runs}


def told(attempt: bd.Result, metric: str) -> dict[str, Any]:
    """An attempt as plain data."""
    found, artifact, floats = attempt.measurements, attempt.files, attempt.floats
    quality, latency = found.get(metric), found.get("latency")
    interval = None if quality is None else quality.intervals.get("drop")
    ratio = None if latency is None else latency.intervals.get("ratio")
    return {
        "number": attempt.number,
        "rung": attempt.rung,
        "state": attempt.state.value,
        "sentence": attempt.sentence,
        "runtime": None if artifact is None else artifact.runtime,
        "bytes": None if artifact is None else artifact.size,
        "size": found["size"].ratio if "size" in found else None,
        "drop": None if quality is None else quality.drop,
        "drop interval": None if interval is None else [interval.low, interval.high],
        "latency": None if latency is None else latency.ratio,
        "latency interval": None if ratio is None else [ratio.low, ratio.high],
        "floats": None if floats is None else floats.to_json(),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """A row for every file of a network."""
    rows = []
    for label, file in found["files"].items():
        runtime, kind = label.split()
        cells = [found["name"], runtime, kind if kind == "float" else f"`{file['rung']}`"]
        cells += [f"{file['bytes']:,} ({file['size']:.3f}x)", _drop(file), *map(_timed, file["times"].values())]
        rows.append(_row(*cells, *[""] * (5 - len(cells) + 2), _in_float(file["floats"])))
    return rows


def auto_lines(found: Mapping[str, Any]) -> list[str]:
    """A row for every attempt of every run."""
    rows = []
    for number, run in enumerate(found["runs"], 1):
        for each in run["attempts"]:
            mark = ", handed over" if each["number"] == run["best"] else ""
            size = "" if each["size"] is None else f"{each['size']:.3f}x"
            time = "" if each["latency"] is None else f"{each['latency']:.3f}x"
            if each["latency interval"]:
                time += " [{:.3f}, {:.3f}]".format(*each["latency interval"])
            rows.append(
                _row(
                    found["name"], f"{number}: {run['outcome']}", f"`{each['rung']}`", each["runtime"] or "",
                    each["state"] + mark, size, _drop(each), time, _in_float(each["floats"]),
                )
            )  # fmt: skip
    return rows


def _drop(each: Mapping[str, Any]) -> str:
    if each["drop"] is None:
        return ""
    low, high = each["drop interval"] or (each["drop"], each["drop"])
    return f"{100 * each['drop']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def _timed(runs: Sequence[Mapping[str, float]]) -> str:
    """Median of the runs' medians, and the ratio of each run."""
    ratios = ", ".join(f"{run['ratio']:.3f}" for run in runs)
    return f"{statistics.median(run['ms'] for run in runs):.3f} ({ratios})"


def _in_float(floats: Mapping[str, Any] | None) -> str:
    if floats is None:
        return ""
    named = [f"{layer['name']} ({layer['reason']})" for layer in floats["layers"][:_TOLD]]
    return "; ".join((floats["sentence"], *named))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _inputs(task: Any, batch: int) -> list[Any]:
    """The arrays of one call with real samples."""
    inputs, _target = next(iter(task.validation.subset(range(batch)).batches(batch)))
    args, kwargs = task.calls(inputs)[0]
    return flatten(args, kwargs, task.example())


def _is_installed(runtime: str) -> bool:
    try:
        get(runtime)
    except InputError as error:
        print(f"{runtime} is left out: {error}")
        return False
    return True


if __name__ == "__main__":
    main()
