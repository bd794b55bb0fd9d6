"""Memory that a file plans: the most that its activations take at once, from its graph.

Called by name in a child process. It is what a device needs beside the weights that runs one operator after the
other, as a compiler for small devices lays them out; what an operator needs while it works is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import helper, inliner, shape_inference

from boildown.errors import AttemptError
from boildown.runtimes import get
from boildown.runtimes.base import Array

_VIEWS = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"})
"""Operators whose output is their first input, seen otherwise: it takes no memory of its own."""
_IN_PLACE = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Elu"}
)
"""Functions of one value each, which are computed where it lies if nobody else reads it."""
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_HALF_BYTE = frozenset({onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1})
_UNSIZED = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)


def planned(path: str | Path, inputs: Sequence[Array]) -> int:
    """Bytes: the most of any moment, of the activations that are alive while the nodes run in the file's order.

    `inputs` are the flat inputs of one call, batch included; shapes follow from theirs by ONNX's shape inference, and
    from a run in ONNX Runtime where an operator is not one of ONNX's own. An input is alive until it is last read, a
    result from the node that makes it until it is last read, an output to the end. Weights and what is computed of
    weights alone do not count. Views (Reshape, ...) share the memory of what they show, a function such as Relu that
    alone reads its input works in place, and between QuantizeLinear and DequantizeLinear values are the integers.
    Raises AttemptError where shapes are not known.
    """
    model = onnx.load(path, load_external_data=False)
    if model.functions:
        model = inliner.inline_local_functions(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    ports = [port for port in model.graph.input if port.name not in constants]
    for port, array in zip(ports, inputs, strict=True):
        port.type.tensor_type.shape.CopyFrom(_shape(array))
    del model.graph.value_info[:]
    for port in model.graph.output:
        port.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = _sizes(graph)
    plan = _Plan(graph, constants)
    if unknown := [name for name in plan.values if name not in sizes]:
        found = get("onnxruntime").inside(Path(path), unknown, inputs, 1)
        sizes |= {name: array.nbytes for name, array in (found[0] if found else {}).items() if hasattr(array, "nbytes")}
    return plan.peak(sizes)


@dataclass
class _Plan:
    """When the values of a graph are alive. constants: names that hold what is known before it runs."""

    graph: onnx.GraphProto
    constants: set[str]
    shown: dict[str, str] = field(default_factory=dict)
    """Of a view, the value whose memory it shares."""

    def __post_init__(self) -> None:
        self.constants = {*self.constants, *(tensor.name for tensor in self.graph.initializer)}
        self.constants |= {tensor.values.name for tensor in self.graph.sparse_initializer}
        reads: dict[str, int] = {}
        for node in self.graph.node:
            for name in _read(node):
                reads[name] = reads.get(name, 0) + 1
        kept = {port.name for port in (*self.graph.input, *self.graph.output)}
        integers = set[str]()
        for node in self.graph.node:
            given = [name for name in _read(node) if name]
            if node.op_type == "Constant" or (given and all(name in self.constants for name in given)):
                self.constants |= set(node.output)
                continue
            source, made = node.input[0] if node.input else "", node.output[0]
            alone = reads.get(source) == 1 and source not in kept and source not in self.constants
            if node.op_type == _DEQUANTIZE and made not in kept:
                self.shown[made] = source
                integers.add(made)
            elif node.op_type in _VIEWS or (node.op_type in _IN_PLACE and alone and source not in integers):
                self.shown[made] = source
                integers |= {made} if source in integers else set()
            elif node.op_type == _QUANTIZE and alone and source not in integers:
                # What comes before writes integers at once.
                self.shown[self._alone(source, reads, kept)] = made

    @property
    def values(self) -> Iterator[str]:
        """The values that take memory of their own."""
        made = (name for node in self.graph.node for name in node.output)
        for name in dict.fromkeys((*(port.name for port in self.graph.input), *made)):
            if name and name not in self.constants and name not in self.shown:
                yield name

    def peak(self, sizes: Mapping[str, int]) -> int:
        """The most bytes at once. Raises AttemptError where a size is not known."""
        if unknown := [name for name in self.values if name not in sizes]:
            raise AttemptError(f"planned memory cannot be told: the shape of {unknown[0]} is not known before it runs")
        last = len(self.graph.node)
        born, dies = dict[str, int](), dict[str, int]()
        for port in self.graph.input:
            born[port.name] = dies[port.name] = 0
        for at, node in enumerate(self.graph.node):
            for name in filter(None, (*_read(node), *node.output)):
                owner = self._owner(name)
                born.setdefault(owner, at)
                dies[owner] = at
        for port in self.graph.output:
            dies[self._owner(port.name)] = last
        changes = [0] * (last + 2)
        for name in self.values:
            changes[born.get(name, 0)] += sizes[name]
            changes[dies.get(name, 0) + 1] -= sizes[name]
        alive, most = 0, 0
        for at, change in enumerate(changes):
            alive += change
            most = max(most, alive + (self._inside(self.graph.node[at]) if at < last else 0))
        return most

    def _owner(self, name: str) -> str:
        """The value whose memory holds a value."""
        while name in self.shown:
            name = self.shown[name]
        return name

    def _alone(self, name: str, reads: Mapping[str, int], kept: Collection[str]) -> str:
        """The value behind one that is changed in place, as far up as nobody else reads it."""
        while name in self.shown and reads[self.shown[name]] == 1 and self.shown[name] not in kept:
            name = self.shown[name]
        return name

    def _inside(self, node: onnx.NodeProto) -> int:
        """What the branches or the body of a node take at most beside what is outside."""
        return max((_Plan(inner, self.constants).peak(_sizes(inner)) for inner in _graphs(node)), default=0)


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, those that its branches or its body take from outside among them."""
    yield from node.input
    for graph in _graphs(node):
        own = {port.name for port in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        yield from (name for inner in graph.node for name in _read(inner) if name not in own)
        yield from (port.name for port in graph.output if port.name not in own)


def _sizes(graph: onnx.GraphProto) -> dict[str, int]:
    """Bytes of the values whose types and shapes are known."""
    found = {}
    for port in (*graph.input, *graph.value_info, *graph.output):
        tensor = port.type.tensor_type
        known = tensor.HasField("shape") and all(side.HasField("dim_value") for side in tensor.shape.dim)
        if known and tensor.elem_type not in _UNSIZED:
            count = math.prod(side.dim_value for side in tensor.shape.dim)
            each = 0.5 if tensor.elem_type in _HALF_BYTE else helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
            found[port.name] = math.ceil(count * each)
    return found


def _shape(array: Array) -> onnx.TensorShapeProto:
    shape = onnx.TensorShapeProto()
    for side in array.shape:
        shape.dim.add().dim_value = side
    return shape
