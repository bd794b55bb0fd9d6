"""Checkpoints and metrics as users may bring them: cases of `benchmarks.fuzz`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import boildown as bd
from benchmarks.made_up import NUMBERS, PLAIN, WORDS, network
from boildown import files
from boildown.domain.grammar import parse_target
from boildown.domain.verdict import judge
from boildown.engine.bench import Bench
from boildown.engine.job import Job
from boildown.engine.prepare import SCORING, _compare_scores, _perfect, named
from boildown.errors import contained
from boildown.measuring.quality import measure_quality
from boildown.surgery.checkpoints import load
from boildown.surgery.weights import refuse_non_finite
from boildown.tasks.metrics import Accuracy
from boildown.tasks.splits import resolve

Case = Callable[[Any], None]
Fuzzed = tuple[st.SearchStrategy[Any], Case]

# -- checkpoints -------------------------------------------------------------------------------------

_OWN = tuple(network().state_dict())
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "ema.", "a.b.", ".", "module._orig_mod.")
_HOLDERS = ("state_dict", "model", "params_ema", "network", "epoch", "optimizer", "")
_VALUES: dict[str, Callable[[], Any]] = {
    "nothing": lambda: torch.empty(0),
    "scalar": lambda: torch.tensor(1.0),
    "half": lambda: torch.ones(4).half(),
    "float8": lambda: torch.ones(4).to(torch.float8_e4m3fn),
    "double": lambda: torch.ones(4).double(),
    "whole": lambda: torch.ones(4).long(),
    "complex": lambda: torch.ones(4, dtype=torch.complex64),
    "truth": lambda: torch.ones(4).bool(),
    "NaN": lambda: torch.full((4,), math.nan),
    "infinite": lambda: torch.full((4, 1, 3, 3), math.inf),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "every other": lambda: torch.arange(8.0)[::2],
    "claims gigabytes": lambda: torch.zeros(1).expand(1 << 31),
    "parameter": lambda: nn.Parameter(torch.ones(4)),
    "without memory": lambda: torch.empty(4, device="meta"),
    "array": lambda: np.ones(4),
    "number": lambda: 1.0,
    "text": lambda: "a",
    "none": lambda: None,
    "list": lambda: [torch.ones(4), 1],
    "dict": lambda: {"weight": torch.ones(4)},
    "itself": lambda: _endless(),
}
_NAMES = (
    st.sampled_from((*_OWN, "0.weight_g", "0.weight_v", "parametrizations.weight.original0", "_extra_state")) | WORDS
)


def _endless() -> list[Any]:
    """A list that holds itself."""
    made: list[Any] = []
    made.append(made)
    return made


@st.composite
def _states(draw: st.DrawFn) -> dict[Any, Any]:
    """A state dict of the network with a few things done to it, in a few containers."""
    state: dict[Any, Any] = dict(network().state_dict())
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(("prefix", "prefix some", "drop", "value", "add", "rename", "turned", "twice")))
        name = draw(st.sampled_from(sorted(state, key=str))) if state else ""
        if kind.startswith("prefix"):
            prefix = draw(st.sampled_from(_PREFIXES) | WORDS)
            places = range(0, len(state), 1 + (kind == "prefix some"))
            state = {f"{prefix}{key}" if at in places else key: state[key] for at, key in enumerate(state)}
        elif kind == "drop":
            state.pop(name, None)
        elif kind == "value":
            state[name] = _VALUES[draw(st.sampled_from(sorted(_VALUES)))]()
        elif kind == "add":
            state[draw(_NAMES | st.integers(-1, 3) | st.none())] = _VALUES[draw(st.sampled_from(sorted(_VALUES)))]()
        elif kind == "rename" and name in state:
            state[draw(_NAMES)] = state.pop(name)
        elif kind == "turned" and isinstance(value := state.get(name), torch.Tensor) and value.numel() < 1 << 20:
            state[name] = value.unsqueeze(0) if value.ndim < 2 else value.transpose(0, 1)
        else:
            state |= {f"{draw(st.sampled_from(_PREFIXES))}{key}": value for key, value in state.items()}
    for _ in range(draw(st.integers(0, 2) | st.sampled_from([40]))):
        beside = draw(st.sampled_from(sorted(_VALUES)))
        state = {draw(st.sampled_from(_HOLDERS) | WORDS): state, "beside": _VALUES[beside]()}
    return state


def checkpoints(folder: Path) -> Fuzzed:
    """Weights files of all forms, of networks that are more or less the model."""
    places = st.sampled_from(["a.safetensors", "../a.safetensors", "/etc/passwd", "b.safetensors", "\0", "a" * 300])
    shards = st.dictionaries(_NAMES, places | PLAIN, max_size=3) | PLAIN
    forms = st.sampled_from([".pt", ".pth", ".ckpt", ".bin", "", ".legacy", ".safetensors"])
    save_file(network().state_dict(), folder / "a.safetensors")

    def case(given: tuple[Any, str]) -> None:
        content, form = given
        path = folder / f"brought{form}"
        try:
            _save(content, form, path)
        except Exception:  # noqa: BLE001 - the form has no word for it: nobody can write this
            return
        model = network()
        with contained():  # as around all that reads weights
            assert all(isinstance(note, str) for note in load(model, path))
            refuse_non_finite(model)

    return st.tuples(_states(), forms) | st.tuples(shards, st.just(".index.json")), case


def _save(content: Any, form: str, path: Path) -> None:
    if form == ".index.json":
        path.write_text(json.dumps({"weight_map": content}), encoding="utf-8")
    elif form == ".safetensors":
        found = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
        if any(value.numel() > 1 << 20 for value in found.values()):
            raise ValueError("it would be written in full")
        save_file({key: value.contiguous() for key, value in found.items()}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != ".legacy")


# -- metrics -----------------------------------------------------------------------------------------

_X = torch.eye(4).repeat(16, 1) + 0.1 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
_LABELS = torch.arange(64) % 4
_Floats = np.ndarray[Any, Any]


class Unsaid(Exception):
    """What went wrong cannot even be asked."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def _raise(error: BaseException) -> Any:
    raise error


_STATISTICS: dict[str, Callable[[_Floats, Any], Any]] = {
    "right": lambda right, _output: right,
    "NaN": lambda right, _output: right * math.nan,
    "NaN here and there": lambda right, _output: np.where(np.arange(len(right)) % 3, right, math.nan),
    "infinite": lambda right, _output: right + math.inf,
    "huge": lambda right, _output: right * 1e308,
    "negative": lambda right, _output: -right,
    "of the batch": lambda right, _output: right / max(right.sum(), 1),
    "random": lambda right, _output: np.random.rand(len(right)),
    "one number": lambda right, _output: right.mean(),
    "too few": lambda right, _output: right[1:],
    "none at all": lambda right, _output: right[:0],
    "rows": lambda right, _output: np.stack([right, 1 - right], 1),
    "cube": lambda right, _output: np.ones((len(right), 2, 3)),
    "words": lambda right, _output: ["yes"] * len(right),
    "objects": lambda right, _output: np.array([object()] * len(right)),
    "tensor": lambda right, _output: torch.as_tensor(right),
    "with a gradient": lambda right, _output: torch.as_tensor(right).requires_grad_(),
    "complex": lambda right, _output: right * 1j,
    "ragged": lambda _right, _output: [[1.0], [1.0, 2.0]],
    "nothing": lambda _right, _output: None,
    "writes into its input": lambda right, output: output.zero_() is None or right,
    "raises": lambda _right, _output: _raise(ValueError("a\x1b[2Jb")),
    "raises without words": lambda _right, _output: _raise(Unsaid()),
    "ends the program": lambda _right, _output: _raise(SystemExit(0)),
    "asserts": lambda _right, _output: _raise(AssertionError()),
    "too deep": lambda _right, _output: _raise(RecursionError("deep")),
}
_COMPUTES: dict[str, Callable[[_Floats], Any]] = {
    "mean": lambda rows: float(np.mean(rows)),
    "the mean of numbers": lambda rows: float(np.nanmean(rows)),
    "sum": lambda rows: float(np.sum(rows)),
    "median": lambda rows: float(np.median(rows)),
    "percent": lambda rows: 100 * float(np.mean(rows)),
    "NaN": lambda _rows: math.nan,
    "infinite": lambda _rows: -math.inf,
    "array": lambda rows: np.mean(rows, axis=0, keepdims=True),
    "rows": lambda rows: rows,
    "tensor": lambda rows: torch.tensor(float(np.mean(rows))),
    "complex": lambda _rows: 1j,
    "whole": lambda _rows: 10**400,
    "text": lambda _rows: "0.5",
    "words": lambda _rows: "much",
    "nothing": lambda _rows: None,
    "the first": lambda rows: float(rows[0]),
    "sorts them": lambda rows: rows.sort() or float(np.mean(rows)),
    "raises": lambda _rows: _raise(ZeroDivisionError("division by zero")),
    "raises without words": lambda _rows: _raise(Unsaid()),
    "ends the program": lambda _rows: _raise(SystemExit("bye")),
}
_SAYS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["mine", "f1", "accuracy", "size", "drop", "a<b", "é"]) | WORDS | PLAIN,
    "unit": st.sampled_from(["fraction", "", "%", "dB"]) | PLAIN,
    "range": st.sampled_from([(0, 1), (0, math.inf), (1, 0), (-math.inf, math.inf), [0.0, 100.0], (0,)]) | PLAIN,
    "higher_is_better": st.booleans() | PLAIN,
    "decomposable": st.booleans() | PLAIN,
    "robust": st.just("mae") | PLAIN,
}


class Brought(Accuracy):
    """A metric of a user's: what it says, and what it does."""

    def __init__(self, says: Mapping[str, Any], statistic: str, compute: str) -> None:
        vars(self).update(says)
        self._statistic, self._compute = _STATISTICS[statistic], _COMPUTES[compute]

    def statistic(self, output: Any, target: Any) -> Any:
        """What the case says."""
        return self._statistic(super().statistic(output, target), output)

    def compute(self, statistics: Any) -> Any:
        """What the case says."""
        return self._compute(statistics)


def metrics(folder: Path) -> Fuzzed:
    """Metrics that are not what they say, judged as those of a run are: of a first model, and of a candidate."""

    def case(given: tuple[Mapping[str, Any], str, str, str, Any]) -> None:
        says, statistic, compute, condition, expected = given
        made = Brought({"name": "mine", **says}, statistic, compute)
        task = bd.Classification(validation=(_X, _LABELS), metrics=[made])
        target = parse_target([condition.replace("mine", str(made.name))], task.metrics)
        job = Job(task, resolve(task, 0), target, expected={} if expected is None else {made.name: expected})
        bench = Bench(job, folder, check=lambda: None, progress=lambda *_: None)
        identity = nn.Identity()
        with named("The first model cannot be scored", SCORING), torch.no_grad():
            rows = [bench.score(identity, job.splits.verdict, "score")]
            told = (*_compare_scores(job, rows, lambda inputs: task.run(identity, inputs)), *_perfect(job, rows))
        with named("The artifact cannot be scored", SCORING):
            other = np.roll(rows[0][made.name], 1, axis=0)
            found = measure_quality(made, other, rows[0][made.name], level=0.9)
        verdict = judge(target, {found.metric: found}, 0.9)
        files.as_json([verdict.to_json(), verdict.sentence(), told, *(each.sentence() for each in verdict.findings)])

    said = st.sampled_from(sorted(_SAYS)).flatmap(lambda name: _SAYS[name].map(lambda value: {name: value}))
    does = st.just("right") | st.sampled_from(sorted(_STATISTICS))
    computes = st.just("mean") | st.sampled_from(sorted(_COMPUTES))
    conditions = st.sampled_from(["mine >= 0.05", "mine <= 100", "mine drop <= 1 pp", "mine drop <= 0.1", "mine <= 2x"])
    return st.tuples(st.just({}) | said, does, computes, conditions, st.none() | NUMBERS), case
