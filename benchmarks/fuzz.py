"""Everything that is read from others, with what nobody meant to write: `python -m benchmarks.fuzz --cases 100000`.

Made up by hypothesis, by seed. A case is right when it is read, or refused by an error of the project's own (a cause
and a cure); any other exception is a fault that a user would have seen as a traceback. ONNX files are opened as in a
run, in a child process: a native crash there is counted, and is contained. Exit code 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import io
import json
import logging
import resource
import sqlite3
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
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
from benchmarks import fuzz_brought, fuzz_read
from benchmarks.hostile import PLACES, PLANTS, READING, SECONDS, Ground, Hung, in_time
from benchmarks.made_up import LONG, MARKUP, NUMBERS, PLAIN, WORDS, damaged, network, spoiled, task
from boildown.api.asked import plain_deployment, read
from boildown.api.climbing import _asked, _factories
from boildown.api.verifying import _delivered
from boildown.cli.config import read_config
from boildown.cli.exit import CANCELLED, OTHER, WRONG_INPUT, code_of, explain
from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.grammar import parse_target
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import Outcome, State
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import judge
from boildown.engine.budget import parse_time
from boildown.engine.rung import parse_rung
from boildown.errors import BoildownError, InputError, WorkerLost, text_of
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

# -- what is given, and to what -----------------------------------------------------------------------

_PIECES = st.sampled_from(
    ["accuracy", "size", "latency", "macs", "drop", "<=", ">", "<", "=", "1", "0.25", "1e999", "-3", "x", "pp", "%",
     "MB", "MiB", "ms", "k", " ", "\n", "´", "１", "worst", "class", "[", "]", "'", '"', "\\"]
)  # fmt: skip
_METRICS = st.sampled_from(["accuracy", "rmse", "spearman", "size", "latency", "memory", "params", "macs"])
_OPERATORS = st.sampled_from(["<=", "<", ">=", ">"])
_UNITS = st.sampled_from(["", "x", "pp", "%", "kB", "MiB", "ms", "us", "M", "G"])
_METHODS = st.sampled_from(["prune", "quantize-static", "distill", "ratio", "bits", "steps", "student"])
_LADDER_PIECES = st.sampled_from(
    ["(", ")", "[", "]", "=", ",", "+", "'", '"', "0.5", "8", "nan", "-1", "true", " ", "9" * 400]
)


class Crashed(Exception):
    """A child died of what it read; the run would have gone on."""


def _grammar(_folder: Path) -> Fuzzed:
    metrics = [metric(name) for name in METRICS]
    numbers = st.floats(0, 1e12).map(repr) | st.integers(0, 10**20).map(str) | st.sampled_from(["1", "0.5", "1e-3"])
    parts = (_METRICS, st.sampled_from(["", "", "drop"]), _OPERATORS, numbers, st.sampled_from(["", " "]), _UNITS)
    sentences = LONG | st.text(max_size=40) | st.lists(_PIECES, max_size=7).map(" ".join)
    near = st.tuples(*parts).map(lambda parts: f"{parts[0]} {parts[1]} {''.join(parts[2:])}")

    def case(texts: list[str]) -> None:
        for condition in parse_target(texts, metrics).conditions:
            assert parse_target([condition.text], metrics).conditions == (condition,)

    return st.lists(near | sentences, max_size=3) | near.map(lambda text: [text]), case


def _rungs(_folder: Path) -> Fuzzed:
    ladders = LONG | st.text(max_size=40) | st.lists(_METHODS | _LADDER_PIECES, max_size=14).map("".join)

    def case(text: Any) -> None:
        found = parse_rung(text)
        assert parse_rung(str(found)) == found

    settings_ = {name: [field.name for field in fields(method)] for name, method in installed().items()}  # type: ignore[arg-type]
    values = PLAIN | st.sampled_from(
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
    return near | ladders | st.dictionaries(WORDS | st.just("method"), PLAIN, max_size=3), case


def _budgets(_folder: Path) -> Fuzzed:
    return LONG | st.text(max_size=20) | PLAIN, lambda value: _ignore(parse_time(value))


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
        own = _factories("benchmarks.made_up:network", "benchmarks.made_up:task", None, given.pop("weights", None), ())
        said = [given.pop(name, None) for name in ("deployment", "runtime", "hardware", "latency")]
        where, wrong = plain_deployment(*said)
        ladder, expected = given.pop("ladder"), given.pop("expected")
        asked = _asked(found.target, ladder, expected, own, **{**_USUAL, **given, "deployment": where})
        read(asked, "benchmarks.made_up:network", "benchmarks.made_up:task", wrong=wrong)

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
    anything = st.none() | NUMBERS | WORDS | st.binary(max_size=9) | PLAIN.map(json.dumps)
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

    return spoiled(_MANIFEST) | PLAIN, case


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
            raise bd.InputError.of("It is refused.", "The child tells why.")
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


@functools.cache
def ground(folder: Path) -> Ground:
    """A finished run to plant things in, made once."""
    return Ground(folder / "hostile")


def folders(on: Ground, only: Sequence[str] = (), seconds: float = SECONDS) -> Fuzzed:
    """Run folders with things planted in them, under all commands or some, each of which has so long; see `hostile`."""
    whats = st.sampled_from(sorted(PLANTS))
    inner = [place for place in PLACES if not place.startswith(("journal", "."))]  # without which all is read
    few = st.lists(st.tuples(st.sampled_from(PLACES), whats), min_size=1, max_size=4)
    many = st.tuples(st.lists(st.sampled_from(inner), min_size=1, max_size=12, unique=True), whats)

    def case(planted: list[tuple[str, str]]) -> None:
        on.check(planted, only, seconds)

    return few | many.map(lambda two: [(place, two[1]) for place in two[0]]), case


TARGETS: dict[str, tuple[float, Callable[[Path], Fuzzed]]] = {
    "targets": (0.19, _grammar),
    "rungs": (0.17, _rungs),
    "budgets": (0.08, _budgets),
    "configuration, any text": (0.06, _any_configuration),
    "configuration": (0.04, _configurations),
    "candidates: edits, plan, rewrite": (0.03, _candidate_files),
    "journal, cells": (0.04, _journal_cells),
    "journal, bytes": (0.04, _journal_bytes),
    "manifest": (0.10, _manifests),
    "ONNX": (0.02, _onnx_files),
    "ONNX, read": (0.02, fuzz_read.files),
    "safetensors": (0.03, _safetensors_files),
    ".pt": (0.03, _pickled_files),
    "checkpoints": (0.08, fuzz_brought.checkpoints),
    "metrics": (0.06, fuzz_brought.metrics),
    "folders, commands that read": (0.0095, lambda folder: folders(ground(folder), READING)),
    "folders, all commands": (0.0005, lambda folder: folders(ground(folder))),
}
"""What is read: its share of the cases, and how it is made up and given."""


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
    "metrics": {"accuracy": {"unit": "fraction", "higher_is_better": True, "range": [0, 1]}},
    "notices": ["one", MARKUP],
    "data": {"train": 3, "search": 3, "verdict": 3, "calibration": 3, "search labelled": True}, "command": "boildown",
    "model": {"class": MARKUP, "parameters": 3}, "environment": {"cpu": "one", "packages": {}}, "budget": "1 h",
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
    page = write(folder).read_text(encoding="utf-8")
    assert MARKUP not in page, "a name stands in the report as markup"


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

LIMIT = 60.0
"""Seconds after which a case hangs; commands on folders have limits of their own."""


def checked(
    name: str, fuzzed: Fuzzed, cases: int, of: int, counts: MutableMapping[str, int], limit: float | None = LIMIT,
    phases: Collection[Phase] = (Phase.generate, Phase.shrink),
) -> Callable[[], None]:  # fmt: skip
    """A test of hypothesis that gives so many cases of one kind, from a seed, and counts how they end.

    limit: of one case in seconds; None for none.
    """
    strategy, case = fuzzed

    @seed(of)
    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=phases,
        print_blob=False,
    )  # fmt: skip
    @given(strategy)
    def check(value: Any) -> None:
        counts["cases"] += 1
        try:
            with warnings.catch_warnings(), contextlib.nullcontext() if limit is None else in_time(value, limit):
                warnings.simplefilter("ignore")
                try:
                    case(value)
                except BoildownError as error:
                    _hold(error)
                    counts["refused"] += 1
        except Crashed:
            counts["child lost"] += 1
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {text_of(error)} from {value!r:.500}") from error

    return check


def _hold(error: BoildownError) -> None:
    """Hold a refusal against what every one must be: a cause and a cure, told on a terminal that nothing steers."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        explain(error)
    told = said.getvalue()
    assert code_of(error) in (WRONG_INPUT, OTHER, CANCELLED), code_of(error)
    assert not {c for c in told if not c.isprintable() and c != "\n"}, repr(told)
    assert told.startswith("error: "), told
    assert "Traceback" not in told, told
    if isinstance(error, InputError):
        assert error.mistakes, told
        assert all(each.cause.strip() and each.cure.strip() for each in error.mistakes), told


def fuzz(name: str, fuzzed: Fuzzed, cases: int, of: int, **how: Any) -> tuple[Counter[str], str]:
    """How so many cases of one kind ended, and the smallest fault; `how` as for `checked`."""
    counts: Counter[str] = Counter()
    try:
        checked(name, fuzzed, cases, of, counts, **how)()
    except (Exception, Hung) as fault:  # noqa: BLE001 - it is told, and the next kind is tried
        counts["faults"] += 1
        told = "".join(traceback.format_exception(fault)).splitlines()
        return counts, "\n".join(line[:_WIDEST] for line in told[-60:])
    return counts, ""


def worked() -> float:
    """Seconds that processors have worked for this process and its children that ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> int:
    """Print a table as Markdown, and the smallest fault of every kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000, help="in all; every kind has its share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the kinds whose names hold this")
    parser.add_argument("--planted", action="store_true", help="plant bugs, each of which must be found")
    given_ = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    sys.setrecursionlimit(1000)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        if given_.planted:
            from benchmarks.planted import find_all

            return find_all(Path(folder), given_.seed)
        print("| what is read | seed | cases | refused | child lost | faults | processor s |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, (share, make) in TARGETS.items():
            if given_.only not in name:
                continue
            fuzzed, start = make(Path(folder)), worked()
            counts, fault = fuzz(name, fuzzed, max(1, round(share * given_.cases)), given_.seed)
            cells = [given_.seed, *(counts[key] for key in ("cases", "refused", "child lost", "faults"))]
            print(f"| {name} | {' | '.join(map(str, cells))} | {worked() - start:.1f} |", flush=True)
            if fault:
                wrong.append(fault)
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
