"""A file as plain parts: nodes in the order in which they can be run, constants, ports. It is checked here.

Files of others are hostile: no link is followed on the way to weights outside, sizes are held against what is there
before anything is made of them, and a graph that runs in a circle is no graph.
"""

from __future__ import annotations

import graphlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.inliner import inline_local_functions
from torch import Tensor

from boildown.errors import InputError, Mistake, StrangeFileError, shortened, text_of
from boildown.files import opened
from boildown.surgery.onnx_in.dtypes import HALF, as_tensor, dtype_of

OLDEST, NEWEST = 7, 25
"""The versions of the operator set that are read."""
MOST_BYTES = 1 << 31
MOST_NODES = 200_000
_DOMAINS = ("", "ai.onnx")
_EXPORT = "Export the model again, or bring the file back from a copy."

Shape = tuple[int | str | None, ...]


@dataclass
class Constant:
    """A tensor of the file. learned: it is one of its weights, or one that was only moved or stored in integers."""

    tensor: Tensor
    learned: bool = True
    name: str = ""


@dataclass(eq=False)
class Op:
    """One node: what it is called, what it reads and gives by name (an empty one for what is left out)."""

    kind: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    scope: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind = self.kind if not self.domain else f"{self.domain}.{self.kind}"
        return f"the node {shortened(self.name)!r} ({kind})"


@dataclass(frozen=True)
class Port:
    """An input or an output: `None` for an axis that is open and has no name.

    dtype: as the read module takes or gives it; half and double are float32.
    """

    name: str
    shape: Shape
    dtype: torch.dtype


@dataclass
class Body:
    """A graph: that of the file, or a branch in it, which also reads what is around it."""

    ops: list[Op]
    constants: dict[str, Constant]
    inputs: list[str]
    outputs: list[str]


@dataclass
class Source:
    """A file that was checked."""

    path: Path
    body: Body
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    notes: list[str] = field(default_factory=list)


class Faults:
    """What is wrong with a file, each with its cure: all of it is told at once."""

    MOST = 50

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def add(self, cause: str, cure: str) -> None:
        """Keep a mistake."""
        self.found.setdefault(cause, cure)

    def check(self) -> None:
        """Raise InputError where there is any."""
        if self.found:
            mistakes = [Mistake(cause, cure) for cause, cure in list(self.found.items())[: self.MOST]]
            if len(self.found) > self.MOST:
                mistakes.append(Mistake(f"There are {len(self.found) - self.MOST} more.", "Mend these first."))
            raise InputError(*mistakes)


def load(path: Path) -> Source:
    """The parts of a file. Raises InputError with all that is wrong with it."""
    model = _parsed(path)
    faults = Faults()
    opset = _opset(model, path, faults)
    faults.check()
    model = _without_functions(model, path)
    notes: list[str] = []
    loader = _Loader(path, faults, Counter())
    if not model.graph.output:
        faults.add(f"{path} has no outputs.", _EXPORT)
    faults.check()
    body = loader.body(model.graph, set())
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(loader.port(value) for value in model.graph.input if value.name not in given)
    outputs = tuple(loader.port(value) for value in model.graph.output)
    body.inputs = [port.name for port in inputs]
    if loader.halves:
        kinds = " and ".join(sorted(loader.halves))
        notes.append(f"{kinds} numbers of the file are computed as float32")
    faults.check()
    return Source(path, body, inputs, outputs, opset, notes)


def _parsed(path: Path) -> ModelProto:
    if not path.is_file():
        raise InputError.of(f"There is no file {path}.", "Check the path.")
    if path.stat().st_size > MOST_BYTES:
        raise InputError.of(
            f"{path} is larger than 2 GB, which an ONNX file cannot be.", "Export a smaller model, or one in half."
        )
    with opened(path) as file:
        data = file.read(MOST_BYTES + 1)
    try:
        model: ModelProto = ModelProto.FromString(data)
    except Exception as error:
        raise InputError.of(
            f"{path} is not an ONNX file, or only a part of one: {_line(error)}", "Bring it back from a copy."
        ) from error
    if not model.HasField("graph"):
        raise InputError.of(f"{path} is not an ONNX file: it holds no graph.", "Check the path, or export again.")
    if _no_text(model):
        raise InputError.of(f"{path} holds a name that is no UTF-8 text.", "Bring it back from a copy.")
    return model


def _no_text(message: Any) -> bool:
    """Whether a name anywhere in a message is not UTF-8: protobuf gives it as bytes."""
    for kind, value in message.ListFields():
        if kind.type not in (kind.TYPE_STRING, kind.TYPE_MESSAGE):
            continue
        for inner in value if kind.is_repeated else (value,):
            if isinstance(inner, bytes) or (kind.type == kind.TYPE_MESSAGE and _no_text(inner)):
                return True
    return False


def _line(error: BaseException) -> str:
    """The first line of what an error says."""
    lines = [line.strip() for line in text_of(error).splitlines() if line.strip()]
    return shortened(lines[0] if lines else type(error).__name__)


def _opset(model: ModelProto, path: Path, faults: Faults) -> int:
    versions = [each.version for each in model.opset_import if each.domain in _DOMAINS]
    if not versions:
        faults.add(f"{path} does not say which version of ONNX's operators it uses.", _EXPORT)
    elif len(set(versions)) > 1:
        faults.add(f"{path} names several versions of ONNX's operators: {versions}.", _EXPORT)
    elif versions[0] > NEWEST:
        faults.add(
            f"{path} uses version {versions[0]} of ONNX's operators; {OLDEST} to {NEWEST} are read.",
            f"Export it with opset_version={NEWEST} or less, or convert it with onnx.version_converter.",
        )
    elif versions[0] < OLDEST:
        faults.add(
            f"{path} uses version {versions[0]} of ONNX's operators; {OLDEST} to {NEWEST} are read.",
            "Convert it: `onnx.version_converter.convert_version(onnx.load(path), 17)`.",
        )
    return versions[0] if versions else 0


# ---- functions -----------------------------------------------------------------------------------


def _without_functions(model: ModelProto, path: Path) -> ModelProto:
    """The model with the functions that it defines written out where they are called."""
    if not model.functions:
        _count(len(model.graph.node), path)
        return model
    bodies = {(function.domain, function.name): function for function in model.functions}
    calls = {
        key: [called for node in function.node if (called := (node.domain, node.op_type)) in bodies]
        for key, function in bodies.items()
    }
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        raise InputError.of(
            f"{path} defines functions that call each other in a circle: {error.args[1][0][1]}.", _EXPORT
        ) from error
    sizes: dict[tuple[str, str], int] = {}
    for key in order:
        if key in bodies:
            sizes[key] = len(bodies[key].node) + sum(sizes[called] for called in calls[key])
            _count(sizes[key], path)
    _count(sum(sizes.get((node.domain, node.op_type), 1) for node in model.graph.node), path)
    try:
        found: ModelProto = inline_local_functions(model)
    except Exception as error:
        raise InputError.of(f"The functions that {path} defines cannot be written out: {_line(error)}", _EXPORT) from (
            error
        )
    return found


def _count(nodes: int, path: Path) -> None:
    if nodes > MOST_NODES:
        raise InputError.of(
            f"{path} has more than {MOST_NODES:,} nodes.", "Let the exporter simplify it, or export a smaller part."
        )


# ---- graphs --------------------------------------------------------------------------------------


class _Loader:
    def __init__(self, path: Path, faults: Faults, names: Counter[str]) -> None:
        self.path, self.faults, self.names = path, faults, names
        self.folder = path.parent
        self.halves: set[str] = set()
        self.bytes = 0

    def body(self, graph: GraphProto, around: set[str], depth: int = 0) -> Body:
        """A graph's parts; `around` are the names that it may read from outside."""
        constants = self._constants(graph)
        inputs = [value.name for value in graph.input if value.name not in constants]
        ops = [op for node in graph.node if (op := self._op(node)) is not None]
        made = [*constants, *inputs, *(name for op in ops for name in op.outputs if name)]
        for name, count in Counter(made).items():
            if count > 1:
                self.faults.add(f"The name {shortened(name)!r} is given to {count} values of {self.path}.", _EXPORT)
        self.faults.check()
        ops = self._sorted(ops, {*constants, *inputs}, around)
        known = {*made, *around}
        for value in graph.output:
            if value.name not in known:
                self.faults.add(f"The output {shortened(value.name)!r} of {self.path} is made by no node.", _EXPORT)
        self.faults.check()
        if depth > 20:
            self.faults.add(f"{self.path} has branches in branches, more than 20 deep.", _EXPORT)
            self.faults.check()
        for op in ops:
            for name, attribute in op.attributes.items():
                if isinstance(attribute, GraphProto) and op.kind == "If":
                    op.attributes[name] = self.body(attribute, known, depth + 1)
        return Body(ops, constants, inputs, [value.name for value in graph.output])

    def _sorted(self, ops: list[Op], given: set[str], around: set[str]) -> list[Op]:
        """The nodes, each behind those that make what it reads."""
        makers = {name: op for op in ops for name in op.outputs if name}
        needs: dict[Op, list[Op]] = {}
        for op in ops:
            needs[op] = []
            for name in (*op.inputs, *_read_inside(op)):
                if name in makers:
                    needs[op].append(makers[name])
                elif name and name not in given and name not in around and name in op.inputs:
                    self.faults.add(f"{capital(op)} reads {shortened(name)!r}, which nothing makes.", _EXPORT)
        self.faults.check()
        seen: set[str] = {*given, *around, ""}
        for op in ops:  # as exporters write it
            if not all(name in seen or name not in makers for name in (*op.inputs, *_read_inside(op))):
                break
            seen.update(op.outputs)
        else:
            return ops
        try:
            return list(graphlib.TopologicalSorter(needs).static_order())
        except graphlib.CycleError as error:
            circle = error.args[1]
            named = ", ".join(shortened(op.name) for op in circle[:6])
            raise InputError.of(
                f"The graph of {self.path} runs in a circle: {named}{', ...' if len(circle) > 6 else ''}.", _EXPORT
            ) from error

    def _op(self, node: NodeProto) -> Op | None:
        domain = "" if node.domain in _DOMAINS else node.domain
        outputs = list(node.output)
        while outputs and not outputs[-1]:
            outputs.pop()
        inputs = list(node.input)
        while inputs and not inputs[-1]:
            inputs.pop()
        first = next((name for name in outputs if name), "")
        op = Op(node.op_type, domain, node.name or first, inputs, outputs, {}, _scope(node))
        for attribute in node.attribute:
            try:
                if attribute.name in op.attributes:
                    raise ValueError("it is given twice")
                op.attributes[attribute.name] = self._attribute(attribute)
            except ValueError as error:
                self.faults.add(
                    f"The attribute {shortened(attribute.name)!r} of {op} cannot be read: {_line(error)}.", _EXPORT
                )
        return op if outputs else None

    def _attribute(self, attribute: AttributeProto) -> Any:
        if attribute.ref_attr_name:
            raise ValueError("it refers to a function's")
        kind = AttributeProto.AttributeType.Name(attribute.type)
        if kind in ("INT", "FLOAT"):
            return attribute.i if kind == "INT" else attribute.f
        if kind == "STRING":
            return attribute.s.decode("utf-8", "replace")
        if kind in ("INTS", "FLOATS"):
            return list(attribute.ints if kind == "INTS" else attribute.floats)
        if kind == "STRINGS":
            return [each.decode("utf-8", "replace") for each in attribute.strings]
        if kind == "TENSOR":
            return self._tensor(attribute.t)
        if kind == "GRAPH":
            return attribute.g
        raise ValueError(f"its type {kind} is not read")

    # ---- tensors ---------------------------------------------------------------------------------

    def _constants(self, graph: GraphProto) -> dict[str, Constant]:
        found: dict[str, Constant] = {}
        read = _read_names(graph)
        for proto in graph.initializer:
            name = proto.name
            if proto.data_type == TensorProto.STRING:
                if name in read:
                    self.faults.add(f"The initializer {shortened(name)!r} holds texts, which are not read.", _NUMBERS)
                continue
            try:
                if name in found:
                    raise ValueError("there are two of this name")
                found[name] = Constant(self._tensor(proto), name=name)
            except (ValueError, TypeError) as error:
                self.faults.add(f"The initializer {shortened(name)!r} cannot be read: {_line(error)}.", _EXPORT)
            except (InputError, OSError) as error:
                self.faults.add(f"The initializer {shortened(name)!r} cannot be read: {_line(error)}", _BESIDE)
            proto.ClearField("raw_data")
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            self.faults.add(f"The initializer {shortened(name)!r} is sparse, which is not read.", "Store it dense.")
        return found

    def _tensor(self, proto: TensorProto) -> Tensor:
        if proto.data_type in HALF:
            self.halves.add(HALF[proto.data_type])
        dtype = dtype_of(proto.data_type)
        if any(size < 0 for size in proto.dims):
            raise ValueError(f"its shape is {list(proto.dims)}")
        count = prod(proto.dims)
        self.bytes += count * dtype.itemsize
        if self.bytes > MOST_BYTES:
            self.faults.add(
                f"The weights of {self.path} take more than 2 GB as float32; an ONNX file that boildown writes holds "
                "2 GB.",
                "Give a smaller model.",
            )
            self.faults.check()
        bits = _BITS.get(proto.data_type) or torch.empty((), dtype=_STORED.get(proto.data_type, dtype)).itemsize * 8
        size = -(-count * bits // 8)
        if proto.data_location == TensorProto.EXTERNAL:
            proto = self._outside(proto, size)
        elif proto.HasField("raw_data"):
            if len(proto.raw_data) != size:
                raise ValueError(f"it has {len(proto.raw_data):,} bytes where its shape takes {size:,}")
        else:
            stored = max(len(getattr(proto, name)) for name in _FIELDS)
            if stored != (count if bits >= 8 else size):
                raise ValueError(f"it has {stored:,} numbers where its shape takes {count:,}")
        return as_tensor(proto)

    def _outside(self, proto: TensorProto, size: int) -> TensorProto:
        """The tensor with the bytes of its file, which lies in the model's folder."""
        told = {entry.key: entry.value for entry in proto.external_data}
        location = told.get("location", "")
        if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
            raise InputError.of(f"its file {shortened(location)!r} lies outside the model's folder.", _BESIDE)
        try:
            offset, length = int(told.get("offset") or 0), int(told.get("length") or size)
        except ValueError:
            raise ValueError("its place in the file is no number") from None
        if offset < 0 or length != size:
            raise ValueError(f"it has {length:,} bytes outside where its shape takes {size:,}")
        path = self.folder / location
        try:
            with opened(path, self.folder) as file:
                file.seek(offset)
                data = file.read(size)
        except StrangeFileError as error:
            raise InputError.of(_line(error), _BESIDE) from error
        except OSError as error:
            raise InputError.of(f"{shortened(location)!r}: {error.strerror or error}", _BESIDE) from error
        if len(data) != size:
            raise ValueError(f"{shortened(location)!r} ends before it")
        return TensorProto(dims=proto.dims, data_type=proto.data_type, raw_data=data)

    def port(self, value: onnx.ValueInfoProto) -> Port:
        """A port of the model."""
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            self.faults.add(f"The port {shortened(value.name)!r} of {self.path} is no tensor.", _NUMBERS)
            return Port(value.name, (), torch.float32)
        told = value.type.tensor_type
        if told.elem_type in HALF:
            self.halves.add(HALF[told.elem_type])
        try:
            dtype = dtype_of(told.elem_type) if told.elem_type else torch.float32
        except ValueError as error:
            self.faults.add(f"The port {shortened(value.name)!r} of {self.path} cannot be read: {error}.", _NUMBERS)
            dtype = torch.float32
        sizes = [
            each.dim_value if each.WhichOneof("value") == "dim_value" and each.dim_value > 0 else each.dim_param or None
            for each in told.shape.dim
        ]
        return Port(value.name, tuple(sizes), dtype)


_NUMBERS = "Keep the part whose inputs and outputs are tensors of numbers: onnx.utils.extract_model."
_BESIDE = "Keep the weights inside the ONNX file, or as a file (no link) in the same folder."
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_BITS: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4}
_STORED: dict[int, torch.dtype] = {
    TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16, TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT16: torch.int16, TensorProto.UINT32: torch.int32, TensorProto.UINT64: torch.int64,
}  # fmt: skip
"""Types that take another number of bytes in a file than what they are computed as."""


def capital(op: Op) -> str:
    said = str(op)
    return said[0].upper() + said[1:]


def _read_inside(op: Op) -> Iterator[str]:
    """The names that the branches of a node read from around them."""
    for attribute in op.attributes.values():
        if isinstance(attribute, GraphProto):
            yield from _outer_names(attribute)


def _outer_names(graph: GraphProto) -> set[str]:
    own = {each.name for each in (*graph.input, *graph.initializer)} | {n for node in graph.node for n in node.output}
    return _read_names(graph) - own - {""}


def _read_names(graph: GraphProto) -> set[str]:
    """What a graph's nodes, and the branches in it, and its outputs read."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                read |= _outer_names(attribute.g)
    return read


_NAME_SCOPES = "pkg.torch.onnx.name_scopes"


def _scope(node: NodeProto) -> tuple[str, ...]:
    """The path of the module in whose forward a node was made, as PyTorch's exporters tell it."""
    for entry in node.metadata_props:
        if entry.key == _NAME_SCOPES:
            names = re.findall(r"'([^']*)'", entry.value[:4000])
            return _parts(names[-2]) if len(names) > 1 else ()
    if not node.name.startswith("/") or len(node.name) > 1000:
        return ()
    *steps, _own = node.name[1:].split("/")
    path: list[str] = []
    last = ""
    for step in steps:
        inner = step.removeprefix(f"{last}.") if last else step
        path += inner.split(".")
        last = step
    return tuple(filter(None, path))


def _parts(path: str) -> tuple[str, ...]:
    return tuple(filter(None, path.split(".")))


__all__ = ["NEWEST", "OLDEST", "Body", "Constant", "Faults", "Op", "Port", "Source", "capital", "load"]
