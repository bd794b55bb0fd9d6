"""From checked parts to a module of PyTorch's: layers, steps, and blocks where the file tells the model's modules."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from boildown.errors import shortened, text_of
from boildown.surgery.onnx_in.file import Body, Constant, Faults, Op, capital
from boildown.surgery.onnx_in.folding import problems, settings_of
from boildown.surgery.onnx_in.layers import LAYERS
from boildown.surgery.onnx_in.step import Branch, Step, as_tensors
from boildown.surgery.onnx_in.table import OPERATORS

Path = tuple[str, ...]

_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Cast", "Clip", "Neg", "Sqrt", "Pow"})
_MOVES_OF_ZERO = frozenset(
    {"Expand", "Reshape", "Slice", "Unsqueeze", "Squeeze", "Transpose", "Concat", "Split", "Cast", "Tile", "Gather"}
)
_CURES = {
    "Loop": "Unroll it: export the model with fixed numbers of steps.",
    "Scan": "Unroll it: export the model with fixed numbers of steps.",
    "NonMaxSuppression": "Cut the file off before it, with onnx.utils.extract_model: what is behind picks boxes.",
}
_CURE = "Export the model without it, or bring the PyTorch model itself."


@dataclass
class Part:
    """One call: a module, what it reads and gives by name; `path` is where it lies in the whole module."""

    module: nn.Module
    reads: list[str]
    gives: list[str]
    scope: Path
    path: Path


class Building:
    """Builds one file's module; `faults` get what cannot be."""

    def __init__(self, opset: int, faults: Faults) -> None:
        self.opset, self.faults = opset, faults
        self.root = nn.Module()
        self.parameters: dict[Any, nn.Parameter] = {}
        self.named: dict[str, Path] = {}
        """Values that are parameters of the whole -> where they lie in it."""
        self.taken: set[Path] = set()

    # ---- one graph -------------------------------------------------------------------------------

    def build(self, body: Body) -> nn.Module:
        """The module of a file. Raises InputError with all that cannot be built."""
        inputs, outputs = body.inputs, body.outputs
        parts = _Parts(self, body, {}).made()
        places = [body.constants[name].tensor if name in body.constants else Step.GIVEN for name in outputs]
        end = Step("the end of the graph", as_tensors, {}, places, len(places))
        reads = [name for name in outputs if name not in body.constants]
        parts.append(Part(end, reads, ["\0outputs"], (), ("outputs",)))
        self.faults.check()
        self._place(parts)
        return self._assembled(parts, (), list(inputs), ["\0outputs"], self.root)

    def branch(
        self, body: Body, outer: Mapping[str, Constant], settled: Iterable[str], prefix: Path
    ) -> tuple[nn.Module, list[str]]:
        """The module of a branch, and the values from outside that it is called with."""
        parts = _Parts(self, body, outer, settled).made()
        places = [self.constant_of(name, body, outer) for name in body.outputs]
        ends = [Step.GIVEN if place is None else place.tensor for place in places]
        end = Step("the end of a branch", _passed, {}, ends, len(ends))
        reads = [name for name, place in zip(body.outputs, places, strict=True) if place is None]
        parts.append(Part(end, reads, ["\0outputs"], (), ("outputs",)))
        root = nn.Module()
        for part in parts:
            part.scope, part.path = (), (self._free((*prefix, part.path[-1]))[-1],)
            _put(root, part.path, part.module)
        made = {name for part in parts for name in part.gives}
        given = list(dict.fromkeys(name for part in parts for name in part.reads if name not in made))
        return self._assembled(parts, (), given, ["\0outputs"], root, inside=True), given

    @staticmethod
    def constant_of(name: str, body: Body, outer: Mapping[str, Constant]) -> Constant | None:
        """A constant that a graph may read."""
        return body.constants.get(name) or outer.get(name)

    # ---- parameters ------------------------------------------------------------------------------

    def share(self, value: Tensor) -> nn.Parameter:
        """A parameter for these bytes; the same one for the same bytes in the same order."""
        key = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if key not in self.parameters or not value.numel():
            held = nn.Parameter(value.contiguous())
            self.parameters[key] = held
            self.parameters["kept", key] = value  # type: ignore[assignment]  # while it lives, no other has its place
        return self.parameters[key]

    def name_parameter(self, name: str, constant: Constant) -> str:
        """Let the whole have a parameter, and give the name of its value."""
        key = f"\0{constant.name}\0{tuple(constant.tensor.shape)}\0{constant.tensor.stride()}"
        if key not in self.named:
            self.named[key] = ()
            self.parameters["of", key] = self.share(constant.tensor)
        return key

    def _free(self, path: Path) -> Path:
        """A path that nothing has yet."""
        number, free = 0, path
        while free in self.taken:
            number += 1
            free = (*path[:-1], f"{path[-1]}_{number}")
        self.taken.add(free)
        return free

    def _place(self, parts: Sequence[Part]) -> None:
        """Give every part a path of its own, and put modules and parameters there."""
        alone = Counter(part.scope[:depth] for part in parts for depth in range(1, len(part.scope) + 1))
        scopes = set(alone)
        for part in parts:
            if part.scope and part.path[: len(part.scope)] != part.scope and part.path[:-1] == part.scope[:-1]:
                part.scope = part.scope[:-1]
            if part.scope and alone[part.scope] == 1 and part.path in (part.scope, (*part.scope, part.path[-1])):
                part.path, part.scope = part.scope, part.scope[:-1]
            if part.scope and part.path[: len(part.scope)] != part.scope:
                part.path = (*part.scope, part.path[-1])
            if part.path in scopes and alone[part.path] > 1:
                part.path = (*part.path, type(part.module).__name__)
            if part.scope and len(part.path) <= len(part.scope):
                part.path = (*part.scope, part.path[-1])
        prefixes = {part.path[:depth] for part in parts for depth in range(1, len(part.path))}
        for part in parts:
            while part.path in prefixes:
                part.path = (*part.path[:-1], f"{part.path[-1]}_")
            part.path = self._free(part.path)
            _put(self.root, part.path, part.module)
        for key in self.named:
            name = key.split("\0")[1]
            path = path_of(name)
            while path in self.taken or path in prefixes or _is_module(self.root, path):
                path = (*path[:-1], f"{path[-1]}_")
            for depth in range(1, len(path)):  # below a parameter there is nothing
                if _is_parameter(self.root, path[:depth]):
                    path = self._free(("_".join(path),))
                    break
            self.taken.add(path)
            self.named[key] = path

    # ---- modules ---------------------------------------------------------------------------------

    def _assembled(
        self, parts: Sequence[Part], prefix: Path, inputs: Sequence[str], outputs: Sequence[str], root: nn.Module, *,
        inside: bool = False,
    ) -> nn.Module:  # fmt: skip
        """The parts as a graph that calls them, and blocks of them, in order."""
        graph, values = Graph(), dict[str, Any]()
        if not prefix and not inside:
            names = distinct_words(inputs)
            for name, word in zip(inputs, names, strict=True):
                values[name] = graph.placeholder(word)
            for key, path in self.named.items():
                values[key] = graph.get_attr(".".join(path))
        else:
            for number, name in enumerate(inputs):
                values[name] = graph.placeholder(f"x{number}")
        runs = _blocks(parts, len(prefix))
        asked = _asked(parts, outputs)
        for run in runs:
            if isinstance(run, Part):
                target, reads, gives = run.path[len(prefix) :], run.reads, run.gives
            else:
                (block, members) = run
                made = {name for part in members for name in part.gives if name}
                reads = list(dict.fromkeys(name for p in members for name in p.reads if name not in made))
                gives = [name for name in dict.fromkeys(n for p in members for n in p.gives if n)
                         if asked[name] > sum(p.reads.count(name) for p in members)]  # fmt: skip
                target = block[len(prefix) :]
                inner = root.get_submodule(".".join(target))
                _put(root, target, self._assembled(members, block, reads, gives, inner))
            called = graph.call_module(".".join(target), tuple(values[name] for name in reads))
            if len(gives) == 1:
                values[gives[0]] = called
            else:
                for position, name in enumerate(gives):
                    if name and asked[name]:
                        values[name] = graph.call_function(getitem, (called, position))
        results = tuple(values[name] for name in outputs)
        graph.output(results[0] if len(results) == 1 else results)
        for key, path in self.named.items() if not prefix and not inside else ():
            _put(root, path, self.parameters["of", key])
        network = GraphModule(root, graph, "Network").eval()
        return Block(network) if prefix else network


def refuse_unknown(body: Body, faults: Faults) -> None:
    """Note every node of an operator that is not known, or that is not as its operator wants it."""
    for op in body.ops:
        known = OPERATORS.get((op.domain, op.kind))
        if op.kind == "If" and not op.domain:
            for inner in op.attributes.values():
                if isinstance(inner, Body):
                    refuse_unknown(inner, faults)
        elif known is None:
            where = f" of {shortened(op.domain)}" if op.domain else ""
            cause = f"{capital(op)} cannot be read: the operator {shortened(op.kind)}{where} is not known."
            faults.add(cause, _CURES.get(op.kind, _CURE))
        elif wrong := problems(op, known):
            faults.add(f"{capital(op)} cannot be read: {'; '.join(wrong)}.", "Export the model again.")


def _asked(parts: Sequence[Part], outputs: Sequence[str]) -> Counter[str]:
    return Counter([*(name for part in parts for name in part.reads), *outputs])


def _blocks(parts: Sequence[Part], depth: int) -> list[Part | tuple[Path, list[Part]]]:
    """The parts in order, those that follow each other in one module together."""
    runs: Counter[Path] = Counter()
    last: Path = ()
    for part in parts:
        scope = part.scope
        for size in range(depth + 1, len(scope) + 1):
            if last[:size] != scope[:size]:
                runs[scope[:size]] += 1
        last = scope
    found: list[Part | tuple[Path, list[Part]]] = []
    for part in parts:
        whole = next((part.scope[:size] for size in range(depth + 1, len(part.scope) + 1)
                      if runs[part.scope[:size]] == 1), None)  # fmt: skip
        previous = found[-1] if found else None
        if whole is None:
            found.append(part)
        elif isinstance(previous, tuple) and previous[0] == whole:
            previous[1].append(part)
        else:
            found.append((whole, [part]))
    return [run[1][0] if isinstance(run, tuple) and len(run[1]) == 1 else run for run in found]


class Block(nn.Module):
    """A part of the whole that the file names as a module; of a GraphModule, `torch.export` would not tell calls."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        for name, child in graph.named_children():
            self.add_module(name, child)
        self._compute = type(graph).forward
        self.eval()

    def forward(self, *values: Any) -> Any:
        """What the nodes of the block give."""
        return self._compute(self, *values)


class _Parts:
    """The parts of one graph."""

    def __init__(
        self, building: Building, body: Body, outer: Mapping[str, Constant], settled: Iterable[str] = ()
    ) -> None:
        self.building, self.body, self.outer = building, body, outer
        self.faults = building.faults
        self.parts: list[Part] = []
        self.readers: dict[str, list[Op]] = {}
        for op in body.ops:
            for name in op.inputs:
                self.readers.setdefault(name, []).append(op)
        self.kept = {*body.outputs, *(name for op in body.ops for name in _inner_reads(op))}
        self.raw = set(body.inputs)
        self.settled = set(settled)
        self.zeros: set[str] = set()
        self.given: set[str] = set()

    def made(self) -> list[Part]:
        """All of them, in order."""
        for op in self.body.ops:
            if not op.outputs:  # it is a part of what is before it
                continue
            if op.kind == "If" and not op.domain:
                self._branches(op)
                continue
            try:
                self._part(op)
            except Exception as error:  # noqa: BLE001 - what others wrote fits together in any way, or not
                said = text_of(error).partition("\n")[0] or type(error).__name__
                self.faults.add(f"{capital(op)} cannot be read: {shortened(said)}.", _CURE)
        return self.parts

    def _part(self, op: Op) -> None:
        layer = LAYERS.get(op.kind) if not op.domain else None
        made = layer(op, self) if layer is not None else None
        if made is not None:
            module, reads, weights = made
            self._add(op, module, reads, self._path(op, weights))
            return
        known = OPERATORS[op.domain, op.kind]
        places: list[Any] = []
        reads = []
        data = [name for name in op.inputs if name and self.constant(name) is None]
        raw = bool(data) and op.kind in _ARITHMETIC and all(name in self.raw for name in data)
        for position, name in enumerate(op.inputs):
            constant = self.constant(name) if name else None
            if not name:
                places.append(None)
            elif constant is None:
                places.append(Step.GIVEN)
                reads.append(name)
            elif position not in known.plain and not raw and _trains(constant):
                places.append(Step.GIVEN)
                reads.append(self.building.name_parameter(name, constant))
            else:
                places.append(constant.tensor)
        step = Step(_words(op), known.function, settings_of(op, known, self.building.opset), places, len(op.outputs))
        self._add(op, step, reads, self._path(op, []))
        if raw or (op.kind in _MOVES_OF_ZERO and data and all(name in self.raw for name in data)):
            self.raw.update(op.outputs)
        if known.settles and (op.kind in ("Shape", "Size") or all(name in self.settled for name in data)):
            self.settled.update(op.outputs)
        self._note_zeros(op)

    def _note_zeros(self, op: Op) -> None:
        value = op.attributes.get("value")
        nothing = op.kind == "ConstantOfShape" and (value is None or not bool(value.any()))
        if nothing or (op.kind in _MOVES_OF_ZERO and op.inputs and self._zero_parts(op)):
            self.zeros.update(op.outputs)

    def _zero_parts(self, op: Op) -> bool:
        names = op.inputs if op.kind == "Concat" else op.inputs[:1]
        return all(self.is_zero(name) for name in names)

    def _add(self, op: Op, module: nn.Module, reads: list[str], path: Path) -> None:
        self.parts.append(Part(module, [self._value(op, name) for name in reads], list(op.outputs), _scope(op), path))

    def _value(self, op: Op, name: str) -> str:
        """The name of a value; that of a step that gives a constant, where a layer reads one."""
        constant = self.constant(name)
        if constant is None:
            return name
        key = f"\0{name}/value"
        if key not in self.given:
            self.given.add(key)
            step = Step(f"the constant {shortened(name)!r}", as_tensors, {}, [constant.tensor])
            self.parts.append(Part(step, [], [key], _scope(op), (*self._path(op, [])[:-1], "constant")))
        return key

    def _branches(self, op: Op) -> None:
        """A choice by sizes, made whenever the graph is run."""
        bodies = [op.attributes.get(name) for name in ("then_branch", "else_branch")]
        condition = op.inputs[0] if op.inputs else ""
        if condition not in self.settled or not all(isinstance(each, Body) for each in bodies):
            self.faults.add(
                f"{capital(op)} cannot be read: which branch it takes depends on data.",
                "Fix the input that it depends on (onnxruntime.tools.make_dynamic_shape_fixed, or onnxsim with a value "
                "for it), or export the model for one case.",
            )
            return
        outer = {**self.outer, **self.body.constants}
        path = self._path(op, [])
        made = [self.building.branch(body, outer, self.settled, path) for body in bodies if isinstance(body, Body)]
        reads = list(dict.fromkeys(name for _, given in made for name in given))
        modules = [_Adapted(module, [reads.index(name) for name in given]) for module, given in made]
        self._add(op, Branch(_words(op), *modules), [condition, *reads], path)

    def _path(self, op: Op, weights: Iterable[str]) -> Path:
        """Where a node's module lies: as its weight says, as its name says."""
        scope = _scope(op)
        for name in weights:
            constant = self.constant(name)
            path = path_of(constant.name) if constant is not None and constant.name else ()
            if len(path) > 1 and path[-1] in _LEAVES and path[: max(0, len(scope) - 1)] == scope[:-1]:
                return path[:-1]  # a norm that is folded into a layer beside it gives the layer its name
        if scope:
            return (*scope, component(op.kind))
        for name in weights:
            constant = self.constant(name)
            if constant is not None and constant.name:
                return path_of(constant.name)
        return (component(re.sub(r"^[/.]+", "", op.name) or op.kind),)

    # ---- what layers are made with ---------------------------------------------------------------

    def constant(self, name: str) -> Constant | None:
        """The constant of this name."""
        return self.body.constants.get(name) or self.outer.get(name)

    def parameter(self, value: Tensor) -> nn.Parameter:
        """A parameter; equal places in memory are one."""
        return self.building.share(value)

    def is_zero(self, name: str) -> bool:
        """Whether a value is 0 everywhere."""
        constant = self.constant(name) if name else None
        return name in self.zeros or (constant is not None and not bool(constant.tensor.any()))

    def before(self, op: Op, function: Callable[..., Any], settings: Mapping[str, Any]) -> str:
        """Put a function in front of a node's first input; the name of what it gives."""
        name = f"\0{op.outputs[0]}/before"
        value = self._value(op, op.inputs[0])
        path = (*self._path(op, [])[:-1], component(f"{op.kind}_pad"))
        step = Step(f"the padding of {_words(op)}", function, settings, [Step.GIVEN])
        self.parts.append(Part(step, [value], [name], _scope(op), path))
        return name

    def add_behind(self, op: Op) -> Op | None:
        """The sum that alone reads what a node gives."""
        readers = self.readers.get(op.outputs[0], [])
        alone = len(readers) == 1 and op.outputs[0] not in self.kept and len(readers[0].inputs) == 2
        return readers[0] if alone and readers[0].kind == "Add" and not readers[0].domain else None


class _Adapted(nn.Module):
    """A branch that is called with what both read, and takes its own."""

    def __init__(self, inner: nn.Module, places: Sequence[int]) -> None:
        super().__init__()
        self.inner, self.places = inner, list(places)

    def forward(self, *values: Any) -> Any:
        """What the branch gives."""
        return self.inner(*(values[place] for place in self.places))


def _passed(*values: Any) -> Any:
    return values if len(values) > 1 else values[0]


_LEAVES = frozenset({"weight", "bias", "weight_quantized", "kernel", "gamma", "beta", "scale", "running_mean",
                     "running_var", "weight_ih_l0", "weight_hh_l0"})  # fmt: skip
"""What weights are called inside of their layers."""


def _inner_reads(op: Op) -> set[str]:
    found: set[str] = set()
    for attribute in op.attributes.values():
        if isinstance(attribute, Body):
            found |= {name for each in attribute.ops for name in (*each.inputs, *_inner_reads(each))}
            found |= {*attribute.outputs}
    return found


def _trains(constant: Constant) -> bool:
    """Whether a constant that is only an operand is a weight."""
    value = constant.tensor
    usual = constant.learned and value.is_floating_point() and value.numel() > 1
    return usual and bool(torch.isfinite(value).all())


def _words(op: Op) -> str:
    return f"{op.kind} {shortened(op.name)!r}"


# ---- names ---------------------------------------------------------------------------------------

_OWN = frozenset(dir(GraphModule)) | frozenset(vars(nn.Module()))


def component(text: str) -> str:
    """A part of a path of modules."""
    word = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")[:80] or "_"
    return f"{word}_" if word in _OWN or keyword.iskeyword(word) else word


def path_of(name: str) -> Path:
    """The name of a weight as a path."""
    parts = [part for part in re.split(r"[./]+", name.replace("::", "_")[:400]) if part]
    return tuple(component(part) for part in parts[-12:]) or ("constant",)


def _scope(op: Op) -> Path:
    return tuple(component(part) for part in op.scope[:12])


def distinct_words(names: Sequence[str]) -> list[str]:
    """Names of inputs as arguments of a function."""
    found: list[str] = []
    for name in names:
        word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:80] or "x"
        word = f"x_{word}" if word[0].isdigit() else f"{word}_" if keyword.iskeyword(word) or word == "self" else word
        number, free = 0, word
        while free in found:
            number += 1
            free = f"{word}_{number}"
        found.append(free)
    return found


def _put(root: nn.Module, path: Path, value: nn.Module | nn.Parameter) -> None:
    """Put a module or a parameter at a path, in modules that hold nothing else where there are none."""
    at = root
    for part in path[:-1]:
        inner = at._modules.get(part)
        if inner is None:
            inner = nn.Module()
            at.add_module(part, inner)
        at = inner
    if isinstance(value, nn.Module):
        at.add_module(path[-1], value)
    else:
        at.register_parameter(path[-1], value)


def _is_module(root: nn.Module, path: Path) -> bool:
    at: Any = root
    for part in path:
        at = at._modules.get(part) if isinstance(at, nn.Module) else None
    return at is not None


def _is_parameter(root: nn.Module, path: Path) -> bool:
    at: Any = root
    for part in path[:-1]:
        at = at._modules.get(part) if at is not None else None
    return at is not None and (path[-1] in at._parameters or path[-1] in at._buffers)
