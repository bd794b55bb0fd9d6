"""What ONNX Runtime ends up running of a file: the nodes that it makes of it, timed by its own profiler.

A session leaves the graph that it optimized the file to; that graph is run as it stands, its nodes numbered, so that
every time has its node. A node is led back to the file's by the name that it was given there, else by its weights or by
what it gives: of what the optimizer makes anew it keeps one of these.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto

from boildown.runtimes.base import Array, Executed

_SECONDS = 0.2
_MOST_CALLS = 50
_USUAL = 0.8
"""The share of the calls that a mean is of, the shortest ones."""
_PROVIDERS = ["CPUExecutionProvider"]
_MARKED = re.compile(r"<([^<>]+)>")
_INSIDE = {"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "QAttention", "QEmbedLayerNormalization"}
"""What takes and gives floats, and computes on integers."""
_BETWEEN = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_TYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16",
    **dict.fromkeys(("int8", "uint8", "int4", "uint4"), "int8"),
}  # fmt: skip
"""Types of tensors by ONNX Runtime's names; any other only counts, points or decides."""


def executed(
    path: Path, inputs: Sequence[Array], options: Callable[[], onnxruntime.SessionOptions]
) -> tuple[Executed, ...]:
    """The nodes that ONNX Runtime runs of a file, in order; `options` makes those that it is deployed with."""
    file = onnx.load(path)
    for node in file.graph.node:
        node.name = f"<{_given(node)}>"
    with tempfile.TemporaryDirectory() as folder:
        optimized = _optimized(file, Path(folder), options())
        before, after = _Constants(file), _Constants(optimized)
        sources = [_source(node, before, after) for node in optimized.graph.node]
        timed = _timed(optimized, inputs, Path(folder), options())
    found, waiting = [], defaultdict[str, float](float)
    for node, source, (seconds, types) in zip(optimized.graph.node, sources, timed, strict=True):
        seconds += sum(waiting.pop(value, 0.0) for value in node.input)
        if _given(node) in after.behind:  # weights that are made ready at every call belong to who reads them
            waiting[_given(node)] += seconds
            continue
        weights = after.weights(node)
        stored = (before.weights(source) if weights and source is not None else []) or weights
        largest = max(stored, key=_count, default=None)
        found.append(
            Executed(
                name=_given(source or node) if largest is None else largest.name,
                kind=node.op_type,
                precision=_precision(node.op_type, types),
                seconds=seconds,
                weights=sum(map(_count, stored)),
                stored="" if largest is None else _stored(largest),
            )
        )
    return tuple(found)


class _Constants:
    """The nodes of a model by what they give, and what of it is the same at every call."""

    def __init__(self, model: ModelProto) -> None:
        self.makers = {value: node for node in model.graph.node for value in node.output if value}
        self._places = {_given(node): place for place, node in enumerate(model.graph.node)}
        self.behind = {tensor.name: [tensor] for tensor in model.graph.initializer}
        """Constant values -> the initializers that they are made of."""
        self.readers: dict[str, NodeProto] = {}
        """Initializers, and constants made of them -> the first node that reads them for what is no constant."""
        for node in model.graph.node:
            given = [value for value in node.input if value]
            if node.op_type == "Constant" or (given and all(value in self.behind for value in given)):
                made_of = [tensor for value in given for tensor in self.behind[value]]
                self.behind |= dict.fromkeys(node.output, made_of)
                continue
            for value in given:
                for name in (value, *(tensor.name for tensor in self.behind.get(value, ()))):
                    self.readers.setdefault(name, node)

    def place(self, node: NodeProto) -> int:
        """Where a node stands among all."""
        return self._places[_given(node)]

    def weights(self, node: NodeProto) -> list[TensorProto]:
        """The initializers of two or more axes that a node reads, perhaps behind others."""
        found = {t.name: t for value in node.input for t in self.behind.get(value, ()) if len(t.dims) > 1}
        return list(found.values())


def _source(node: NodeProto, before: _Constants, after: _Constants) -> NodeProto | None:
    """The node of the file that one of the optimized graph comes from; one with weights where that has any."""
    names = [*_MARKED.findall(node.name), node.name.partition("_nchwc")[0], *node.output]
    found = [before.makers.get(name) for name in names]
    found += [before.readers.get(tensor.name) for tensor in after.weights(node)]
    there = [each for each in found if each is not None]
    source = next((each for each in there if before.weights(each)), there[0] if there else None)
    while source is not None and after.weights(node) and not before.weights(source):  # an activation, or a sum, of it
        source = max((before.makers[v] for v in source.input if v in before.makers), key=before.place, default=None)
    return source


def _optimized(file: ModelProto, folder: Path, options: onnxruntime.SessionOptions) -> ModelProto:
    """The graph that a session runs of a file."""
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(file.SerializeToString(), options, providers=_PROVIDERS)
    return onnx.load(folder / "optimized.onnx")


def _timed(
    model: ModelProto, inputs: Sequence[Array], folder: Path, options: onnxruntime.SessionOptions
) -> list[tuple[float, list[str]]]:
    """Mean seconds of every node in a call, and the types of what it takes and gives.

    The first call warms up, and of the others those that something else held up are left out."""
    for number, node in enumerate(model.graph.node):
        node.name = str(number)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=_PROVIDERS)
    given = dict(zip([port.name for port in session.get_inputs()], inputs, strict=True))
    calls, start = 0, time.perf_counter()
    while calls < 2 or (calls < _MOST_CALLS and time.perf_counter() - start < _SECONDS):
        session.run(None, given)
        calls += 1
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    by_node: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        name, _, what = event.get("name", "").partition("_")
        if what == "kernel_time":
            by_node[name].append(event)
    found = []
    for node in model.graph.node:
        own = by_node[node.name]
        durations = sorted(event["dur"] for event in own[1:])[: math.ceil(_USUAL * (calls - 1))]
        seconds = sum(durations) / len(durations) / 1e6 if durations else 0.0
        found.append((seconds, _types(own[0]["args"]) if own else []))
    return found


def _types(args: dict[str, Any]) -> list[str]:
    shown = (*args.get("input_type_shape", ()), *args.get("output_type_shape", ()))
    return [kind for each in shown for kind in each]


def _precision(kind: str, types: Sequence[str]) -> str:
    if kind in _INSIDE:
        return "int8"
    if kind in _BETWEEN:
        return "float32"
    return next((_TYPES[each] for each in types if each in _TYPES), types[0] if types else "")


def _given(node: NodeProto) -> str:
    """The first value that a node gives."""
    value: str = next(filter(None, node.output))
    return value


def _stored(tensor: TensorProto) -> str:
    name: str = TensorProto.DataType.Name(tensor.data_type).lower()
    return _TYPES.get(name, name) if "float" in name or name == "double" else name


def _count(tensor: TensorProto) -> int:
    return prod(tensor.dims)
