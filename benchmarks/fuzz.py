"""Everything that is read from others, with what nobody meant to write: `python -m benchmarks.fuzz --cases 100000`.

Made up by hypothesis, by seed. A case is right when it is read, or refused by an error of the project's own (a cause
and a cure); any other exception is a fault that a user would have seen as a traceback. ONNX files are opened as in a
run, in a child process: a native crash there is counted, and is contained. Exit code 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import sqlite3
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.fx import GraphModule

import boildown as bd
from benchmarks.hostile import PLACES, PLANTS, Ground
from boildown.api.asked import plain_deployment, read
from boildown.api.climbing import _asked, _factories
from boildown.api.verifying import _delivered
from boildown.cli.config import read_config
from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.grammar import parse_target
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import Outcome, State
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import judge
from boildown.engine.budget import parse_time
from boildown.engine.rung import parse_rung
from boildown.errors import BoildownError, WorkerLost
from boildown.execution.child import Child
from boildown.journal import Journal, readable
from boildown.methods.base import Context, Data
from boildown.methods.registry import installed
from boildown.report import facts, write
from boildown.report.text import summary
from boildown.runtimes import get
from boildown.surgery import edits, trainable
from boildown.surgery.checkpoints import load
from boildown.surgery.store import load_candidate, save_candidate
from boildown.tasks.metrics import METRICS, metric
from boildown.training.checkpoint import Checkpoint

Case = Callable[[Any], None]
Fuzzed = tuple[st.SearchStrategy[Any], Case]

# -- what is made up ---------------------------------------------------------------------------------

_WORDS = st.text(max_size=12) | st.sampled_from(
    ["", "nan", "../../etc", "a;DROP TABLE attempts", "<script>", "\0", "$float"]
)
_NUMBERS = st.floats() | st.integers(-(2**70), 2**70) | st.sampled_from([0, -1, 1e308, 2**31, 2**63])
_PLAIN = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=5,
)
_PIECES = st.sampled_from(
    ["accuracy", "size", "latency", "macs", "drop", "<=", ">", "<", "=", "1", "0.25", "1e999", "-3", "x", "pp", "%",
     "MB", "MiB", "ms", "k", " ", "\n", "´", "１"]
)  # fmt: skip
_METRICS = st.sampled_from(["accuracy", "rmse", "spearman", "size", "latency", "memory", "params", "macs"])
_OPERATORS = st.sampled_from(["<=", "<", ">=", ">"])
_UNITS = st.sampled_from(["", "x", "pp", "%", "kB", "MiB", "ms", "us", "M", "G"])
_METHODS = st.sampled_from(["prune", "quantize-static", "distill", "ratio", "bits", "steps", "student"])
_LADDER_PIECES = st.sampled_from(
    ["(", ")", "[", "]", "=", ",", "+", "'", '"', "0.5", "8", "nan", "-1", "true", " ", "9" * 400]
)


@st.composite
def spoiled(draw: st.DrawFn, whole: Any) -> Any:
    """Plain data with up to three places in it replaced or taken out."""
    made = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = made
        while isinstance(at, dict | list) and at:
            key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            inner = at[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 4)):
                at = inner
                continue
            if draw(st.integers(0, 3)):
                at[key] = draw(_PLAIN)
            else:
                del at[key]
            break
    return made


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, head: int = 2048) -> bytes:
    """A file with bytes changed, mostly at its beginning, cut off, or put in."""
    made = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(len(made), draw(st.sampled_from([head, len(whole)]))) - 1)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            del made[at:]
        elif kind == 1:
            made[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == 2:
            made[at : at + 8] = draw(st.sampled_from([b"\xff" * 8, b"\x00" * 8, (2**40).to_bytes(8, "little")]))
        else:
            made[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
    return bytes(made)


# -- what it is given to -----------------------------------------------------------------------------


def network() -> nn.Module:
    """What configurations name, candidates are rebuilt from and weights are read into."""
    made = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    return nn.Sequential(*made, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """32 images and labels."""
    return torch.linspace(-1, 1, 32 * 64).view(32, 1, 8, 8), torch.arange(32) % 10


def task() -> bd.Classification:
    """What configurations name."""
    return bd.Classification(train=samples(), validation=samples())


class Crashed(Exception):
    """A child died of what it read; the run would have gone on."""


def _grammar(_folder: Path) -> Fuzzed:
    metrics = [metric(name) for name in METRICS]
    numbers = st.floats(0, 1e12).map(repr) | st.integers(0, 10**20).map(str) | st.sampled_from(["1", "0.5", "1e-3"])
    parts = (_METRICS, st.sampled_from(["", "", "drop"]), _OPERATORS, numbers, st.sampled_from(["", " "]), _UNITS)
    sentences = st.text(max_size=40) | st.lists(_PIECES, max_size=7).map(" ".join)
    near = st.tuples(*parts).map(lambda parts: f"{parts[0]} {parts[1]} {''.join(parts[2:])}")

    def case(texts: list[str]) -> None:
        for condition in parse_target(texts, metrics).conditions:
            assert parse_target([condition.text], metrics).conditions == (condition,)

    return st.lists(near | sentences, max_size=3) | near.map(lambda text: [text]), case


def _rungs(_folder: Path) -> Fuzzed:
    ladders = st.text(max_size=40) | st.lists(_METHODS | _LADDER_PIECES, max_size=14).map("".join)

    def case(text: Any) -> None:
        found = parse_rung(text)
        assert parse_rung(str(found)) == found

    settings_ = {name: [field.name for field in fields(method)] for name, method in installed().items()}  # type: ignore[arg-type]
    values = _PLAIN | st.sampled_from(
        [0.5, 1, 8, 4, 100, True, "macs", "kd", "mse", "narrower", [0.5, 0.7], "it's", 'a"b']
    )
    near = st.sampled_from(sorted(settings_)).flatmap(
        lambda name: (
            st.dictionaries(st.sampled_from(settings_[name]), values, max_size=2).map(
                lambda given: {"method": name, **given}
            )
            if settings_[name]
            else st.just(name)
        )
    )
    return near | ladders | st.dictionaries(_WORDS | st.just("method"), _PLAIN, max_size=3), case


def _budgets(_folder: Path) -> Fuzzed:
    return st.text(max_size=20) | _PLAIN, lambda value: _ignore(parse_time(value))


def _any_configuration(folder: Path) -> Fuzzed:
    path = folder / "any.toml"

    def case(text: str) -> None:
        path.write_text(text, encoding="utf-8", newline="")
        read_config(path)

    return st.text(), case


def _configurations(folder: Path) -> Fuzzed:
    path = folder / "boildown.toml"
    save_file(network().state_dict(), folder / "w.safetensors")

    def case(tables: dict[str, Any]) -> None:
        path.write_text("\n".join(_toml(name, table) for name, table in tables.items()), encoding="utf-8", newline="")
        found = read_config(path)
        given: dict[str, Any] = {"ladder": "auto", "expected": None, **found.arguments}
        given = {name: value for name, value in given.items() if name not in ("students", "initial_student", "runs")}
        own = _factories("benchmarks.fuzz:network", "benchmarks.fuzz:task", None, given.pop("weights", None), ())
        said = [given.pop(name, None) for name in ("deployment", "runtime", "hardware", "latency")]
        where, wrong = plain_deployment(*said)
        ladder, expected = given.pop("ladder"), given.pop("expected")
        asked = _asked(found.target, ladder, expected, own, **{**_USUAL, **given, "deployment": where})
        read(asked, "benchmarks.fuzz:network", "benchmarks.fuzz:task", wrong=wrong)

    return spoiled(_CONFIG), case


def _candidate_files(folder: Path) -> Fuzzed:
    first, made = _candidates(folder)
    _capture_once()

    def case(data: Any) -> None:
        (folder / "01" / "candidate.json").write_text(json.dumps(data), encoding="utf-8")
        with contextlib.suppress(OSError, ValueError):  # what it is documented to raise; all who call it know
            load_candidate(folder / "01", first)

    return spoiled(made), case


def _journal_cells(folder: Path) -> Fuzzed:
    whole, _rows = _journal(folder / "runs" / "whole")
    anything = st.none() | _NUMBERS | _WORDS | st.binary(max_size=9) | _PLAIN.map(json.dumps)
    anything = anything.filter(lambda value: not isinstance(value, int) or abs(value) < 2**63)
    near = {cell: spoiled(value).map(json.dumps) for cell, value in _cells(folder / "runs" / "whole").items() if value}
    change = st.sampled_from(list(_cells(folder / "runs" / "whole"))).flatmap(
        lambda cell: st.tuples(st.just(cell), near.get(cell, anything) | anything)
    )

    def case(changes: list[tuple[Cell, Any]]) -> None:
        spoilt = _laid(folder, whole)
        with contextlib.closing(sqlite3.connect(spoilt / "journal.db")) as connection:
            for (table, column, row), value in changes:
                with contextlib.suppress(sqlite3.Error):  # a constraint holds: nobody can write this
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
            connection.commit()
        _read_journal(spoilt)

    return st.lists(change, min_size=1, max_size=3), case


def _journal_bytes(folder: Path) -> Fuzzed:
    whole, _rows = _journal(folder / "runs" / "bytes")
    return damaged(whole, 200), lambda data: _read_journal(_laid(folder, data))


def _manifests(folder: Path) -> Fuzzed:
    whole, rows = _journal(folder / "runs" / "manifest")
    there = _laid(folder, whole)

    def case(data: Any) -> None:
        (there / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
        assert any(check.agrees is False for check in _delivered(there, rows[1]))  # nothing was delivered

    return spoiled(_MANIFEST) | _PLAIN, case


def _onnx_files(folder: Path) -> Fuzzed:
    path, child = folder / "given.onnx", Child()

    def case(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(BoildownError):
            Artifact.read("onnxruntime", path, get("onnxruntime").files(path))
        try:
            told = child.call("benchmarks.fuzz_onnx:open_onnx", str(path), deadline=120)
        except WorkerLost as error:
            raise Crashed(str(error)) from error
        if told == "refused":
            raise bd.InputError.of("refused", "")
        assert told == "read", told

    return damaged(_onnx()), case


def _safetensors_files(folder: Path) -> Fuzzed:
    path = folder / "given.safetensors"
    save_file(network().state_dict(), path)

    def case(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(BoildownError):
            Checkpoint.read(path)
        load(network(), path)

    return damaged(path.read_bytes()), case


def _pickled_files(folder: Path) -> Fuzzed:
    path = folder / "given.pt"
    torch.save(network().state_dict(), path)

    def case(data: bytes) -> None:
        path.write_bytes(data)
        load(network(), path)

    return damaged(path.read_bytes(), 1 << 20), case


TARGETS: dict[str, tuple[float, Callable[[Path], Fuzzed]]] = {
    "targets": (0.25, _grammar),
    "rungs": (0.20, _rungs),
    "budgets": (0.08, _budgets),
    "configuration, any text": (0.08, _any_configuration),
    "configuration": (0.05, _configurations),
    "candidates: edits, plan, rewrite": (0.04, _candidate_files),
    "journal, cells": (0.05, _journal_cells),
    "journal, bytes": (0.04, _journal_bytes),
    "manifest": (0.11, _manifests),
    "ONNX": (0.03, _onnx_files),
    "safetensors": (0.04, _safetensors_files),
    ".pt": (0.03, _pickled_files),
}
"""What is read: its share of the cases, and how it is made up and given."""


def _folders(folder: Path) -> Fuzzed:
    """Run folders with things planted in them, under all commands; see `hostile`."""
    ground = Ground(folder / "hostile")
    plants = st.tuples(st.sampled_from(PLACES), st.sampled_from(sorted(PLANTS)))

    def case(planted: list[tuple[str, str]]) -> None:
        ground.check(planted)

    return st.lists(plants, min_size=1, max_size=4), case


SURFACES = {"folders": _folders}
"""What takes seconds a case, and is asked for by name."""


def _capture_once() -> None:
    """Capture the network anew only for a call that is new: capturing is torch's, and takes most of a second."""

    def once(usual: edits.Apply) -> edits.Apply:
        made: dict[str, nn.Module] = {}

        def apply(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
            if isinstance(model, GraphModule):  # no longer the network that every candidate begins with
                return usual(model, args)
            call = json.dumps(args, sort_keys=True)
            if call not in made:
                made[call] = usual(model, args)
            return copy.deepcopy(made[call])

        return apply

    for (op, version), usual in list(edits._applies.items()):
        if op == trainable.OP:
            edits._applies[op, version] = once(usual)


def _ignore(_value: Any) -> None:
    return None


def _toml(name: str, table: Any) -> str:
    """A table as TOML; what it has no word for is left out."""
    if not isinstance(table, dict):
        return f"{json.dumps(name)} = {_value(table)}" if table is not None else ""
    lines = [f"{json.dumps(key)} = {_value(value)}" for key, value in table.items() if value is not None]
    return "\n".join([f"[{json.dumps(name)}]", *lines])


def _value(value: Any) -> str:
    if isinstance(value, float):
        return repr(value).replace("e+", "e")
    if isinstance(value, list):
        return f"[{', '.join(_value(inner) for inner in value if inner is not None)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _candidates(folder: Path) -> tuple[Candidate, Any]:
    """The first candidate, and one that was pruned and quantized, as the plain data it is kept as."""
    methods, first = installed(), Candidate(network())
    given = task()
    context = Context(Data(given.train, given.train))
    pruned = methods["prune"](ratio=0.8, multiple=1, samples=16).apply(first, given, context)  # type: ignore[call-arg]
    planned = methods["quantize-static"](samples=16).apply(pruned, given, context)  # type: ignore[call-arg]
    save_candidate(first, folder / "00-first", first, folder / "00-first")
    save_candidate(planned, folder / "01", first, folder / "00-first")
    return first, json.loads((folder / "01" / "candidate.json").read_text(encoding="utf-8"))


_CONFIG = {
    "model": {"factory": "a:b", "weights": "w.safetensors", "expected": {"accuracy": 0.9}, "students": ["a:b"]},
    "task": {"factory": "a:b"},
    "target": {"conditions": ["accuracy drop <= 1 pp", "size <= 0.25x"], "goal": "first", "confidence": 0.9},
    "budget": {"time": "2 h"},
    "latency": {"batch": 1, "threads": 1},
    "deployment": {"form": "lean", "on": "this machine"},
    "ladder": {"rungs": ["retrain", {"method": "prune", "ratio": 0.5}]},
    "run": {"seed": 0, "batch_size": 3, "hardware": "arm64", "device": "cpu", "runtime": "onnxruntime"},
}
_USUAL = {
    "goal": "first", "budget": None, "confidence": None,
    "device": "cpu", "batch_size": None, "seed": 0, "fresh": False,
}  # fmt: skip
_SIZE = Condition("size", "ratio", "<=", 0.25, "size <= 0.25x")
_VERDICT = judge(Target((_SIZE,)), {"size": Measurement("size", 2e5, "B", first=1e6, ratio=0.2)})
_BODY = _VERDICT.to_json()
_FACTS = {
    "asked": {"factories": {"path": []}}, "target": ["size <= 0.25x"], "goal": "first", "confidence": None, "seed": 0,
    "metrics": {"accuracy": {"unit": "fraction", "higher_is_better": True, "range": [0, 1]}}, "notices": ["one"],
    "data": {"train": 3, "search": 3, "verdict": 3, "calibration": 3, "search labelled": True}, "command": "boildown",
    "model": {"class": "Net", "parameters": 3}, "environment": {"cpu": "one", "packages": {}}, "budget": "1 h",
    "now": {"what": "score", "done": 1, "total": 3, "left": None, "at": 1.0, "since": 0.5},
}  # fmt: skip
_LAYER = {"name": "a", "node": "conv", "kind": "conv", "shape": [4, 1, 3, 3], "bits": 8, "input bits": 8}
_RECORDS: dict[str, dict[str, Any]] = {
    "standing": {"k": 1},
    "curve": {"losses": ["kd"], "of": 10, "lr": 0.01, "points": [[5, 1.0], [10, 0.5]]},
    "survivors": {"scores": {"kd": 0.1, "dist": None}, "step": 10, "losses": ["kd"]},
    "loss": {"round": 1, "loss": "kd"},
    "layers": {"layers": [_LAYER]},
    "sensitivity": {"layers": {"conv": 0.1}},
    "changed": {
        "artifact": "0" * 64, "data": "data", "metric": "accuracy", "of": 3, "worse": 1, "better": 0,
        "classes": [[1, 2, 1.0, 0.5]],
        "samples": [{"index": 1, "before": 1.0, "after": 0.0, "label": 1, "first": 1, "now": 2, "picture": "AAAA"}],
    },
    "probe": {"weights": 0.1, "activations": 0.2},
}  # fmt: skip
"""What the report reads of what else was kept."""
_MANIFEST = {
    "best": 1,
    "attempts": [{"number": 1, "sha256": "0" * 64, "verdict": _BODY}],
    "files": {"best/model.onnx": "0" * 64, "best/load.py": "0" * 64},
}


def _journal(folder: Path) -> tuple[bytes, dict[int, Any]]:
    """The bytes of a journal with something in every table, and its rows."""
    with Journal.create(folder, _FACTS) as journal:
        for number, state in enumerate((State.MISSED, State.MET)):
            journal.begin_attempt(number, "quantize-static", "why", "parent", "key", quote={"minutes": 0.2})
            for measurement in _VERDICT.measurements.values():
                journal.add_measurement("key", number, measurement)
            journal.add_look(number, "data")
            for kind, data in _RECORDS.items():
                journal.record(number, kind, data)
            journal.finish_attempt(
                number, state, "well", verdict=_BODY,
                artifact=Artifact("onnxruntime", folder, "model.onnx", {"model.onnx": "0" * 64}),
                timings={"total": 1.0}, notes=["a note"], candidate={"method": "x", "settings": {}},
            )  # fmt: skip
        journal.finish(Outcome.TARGET_MET, 1, "met", 2.0)
        rows = {row.number: row for row in journal.attempts()}
    return (folder / "journal.db").read_bytes(), rows


Cell = tuple[str, str, int]
"""Table, column, row."""


def _cells(folder: Path) -> dict[Cell, Any]:
    """Every cell of a journal, with what it holds where that is a list or a dict."""
    found: dict[Cell, Any] = {}
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as connection:
        connection.row_factory = sqlite3.Row
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f"SELECT rowid AS at, * FROM {table}"):
                for column in row.keys()[1:]:
                    text = row[column]
                    plain = isinstance(text, str) and text[:1] in ("{", "[")
                    found[table, column, row["at"]] = json.loads(text) if plain else None
    return found


def _laid(folder: Path, journal: bytes) -> Path:
    """A run folder with this journal."""
    there = folder / "runs" / "spoilt"
    there.mkdir(parents=True, exist_ok=True)
    (there / "journal.db").write_bytes(journal)
    return there


def _read_journal(folder: Path) -> None:
    """All that is made of a journal that lies there: what it holds, `show` as text and as JSON, the report."""
    bd.api.show(folder)
    with Journal.open(folder, readonly=True) as journal:
        found = [journal.measurements(row.number) for row in journal.attempts()]
        _ignore((found, journal.looks(), journal.records(), journal.ending, journal.measurement("key")))
        with readable(folder):  # as `show` does
            _ignore(summary(facts(journal)))
    write(folder)


def _onnx() -> bytes:
    """A convolution, an initializer and a constant."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Constant", [], ["k"], value=one),
        helper.make_node("Add", ["c", "k"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", c, 8, 8]) for n, c in (("x", 1), ("y", 2))]
    graph = helper.make_graph(nodes, "graph", ports[:1], ports[1:], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(made.SerializeToString())


_WIDEST = 300

# -- counting ----------------------------------------------------------------------------------------


def checked(name: str, fuzzed: Fuzzed, cases: int, of: int, counts: MutableMapping[str, int]) -> Callable[[], None]:
    """A test of hypothesis that gives so many cases of one kind, from a seed, and counts how they end."""
    strategy, case = fuzzed

    @seed(of)
    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink), print_blob=False,
    )  # fmt: skip
    @given(strategy)
    def check(value: Any) -> None:
        counts["cases"] += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case(value)
        except BoildownError:
            counts["refused"] += 1
        except Crashed:
            counts["child lost"] += 1
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error} from {value!r:.500}") from error

    return check


def fuzz(name: str, fuzzed: Fuzzed, cases: int, of: int) -> tuple[Counter[str], str]:
    """How so many cases of one kind ended, and the smallest fault."""
    counts: Counter[str] = Counter()
    try:
        checked(name, fuzzed, cases, of, counts)()
    except Exception as fault:  # noqa: BLE001 - it is told, and the next kind is tried
        counts["faults"] += 1
        told = "".join(traceback.format_exception(fault)).splitlines()
        return counts, "\n".join(line[:_WIDEST] for line in told[-60:])
    return counts, ""


def main() -> int:
    """Print a table as Markdown, and the smallest fault of every kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="in all; every kind has its share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the kinds whose names hold this")
    parser.add_argument("--surface", choices=sorted(SURFACES), help="this alone, of which a case takes seconds")
    given_ = parser.parse_args()
    targets = TARGETS if given_.surface is None else {given_.surface: (1.0, SURFACES[given_.surface])}
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    sys.setrecursionlimit(1000)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        print(
            "| what is read | cases | refused | child lost | faults | seconds |\n| --- | --- | --- | --- | --- | --- |"
        )
        for name, (share, make) in targets.items():
            if given_.only not in name:
                continue
            start = time.monotonic()
            counts, fault = fuzz(name, make(Path(folder)), max(1, round(share * given_.cases)), given_.seed)
            cells = [counts[key] for key in ("cases", "refused", "child lost", "faults")]
            print(f"| {name} | {' | '.join(map(str, cells))} | {time.monotonic() - start:.0f} |", flush=True)
            if fault:
                wrong.append(fault)
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
