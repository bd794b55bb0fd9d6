"""The captured graph of a model: exported once, layers ordinary, batch norm folded, node names stable.

Everything that places quantizers, calibrates or counts works on this graph and names values by its
nodes, so that one plan fits the graph, the simulation and the exported file.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import inspect
import io
import json
import logging
import operator
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection, register_dataclass
from torch.export.graph_signature import OutputKind, TensorArgument
from torch.fx import GraphModule, Node
from torch.fx._pytree import tree_flatten_spec
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_structure, tree_unflatten

from boildown.domain.axes import open_axes, opened
from boildown.domain.candidate import Candidate
from boildown.errors import ExportError, text_of
from boildown.runtimes.port_names import TOLD
from boildown.surgery.activations import recognise
from boildown.surgery.nodes import argument, base_name
from boildown.surgery.nodes import attribute_of as attribute_of
from boildown.surgery.nodes import has_parameter as has_parameter
from boildown.surgery.nodes import set_parameter as set_parameter
from boildown.surgery.ordinary import make_ordinary

aten = torch.ops.aten

LATEST = 3
"""The version of the names of a captured graph's nodes and parameters."""

WRITTEN_OUT = 4
"""The version in which attention is two products and a softmax, so that a plan can name what lies between."""

CONVOLUTIONS = frozenset(
    {
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv3d.default,
        aten.conv3d.padding,
    }
)
TRANSPOSED = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input})
LINEAR = aten.linear.default

_NORMS = frozenset({aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default})
_COPIES = frozenset(
    {
        aten.alias.default,
        aten.clone.default,
        aten.detach.default,
        aten.dropout.default,
        aten.feature_dropout.default,
        aten.alpha_dropout.default,
        aten.slice.Tensor,
    }
)
_TURNS = frozenset(
    {
        aten.transpose.int,
        aten.permute.default,
        aten.view.default,
        aten.reshape.default,
        aten.clone.default,
        aten.alias.default,
    }
)


@dataclass(frozen=True, eq=False)
class Graph:
    """A model as a `torch.export` program without batch norm where it could be folded.

    Values are named by the program's nodes, parameters by their qualified names in
    `program.state_dict`. The tensors are copies: nothing done to the model later changes them.
    """

    program: ExportedProgram

    @cached_property
    def module(self) -> GraphModule:
        """The graph as a module called like the model, with outputs like the model's."""
        module = plain_module(self.program)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return self._named(module)

    def copy(self) -> GraphModule:
        """A module to rewrite: its graph and its tree are its own, its tensors are shared."""
        with _quiet():
            return self._named(GraphModule(self.module, copy.deepcopy(self.module.graph)))

    def _named(self, module: GraphModule) -> GraphModule:
        """The module with its inputs called as in the program: fx avoids the names of builtins."""
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        for node, name in zip(inputs, self.program.graph_signature.user_inputs, strict=True):
            node.name = str(name) if isinstance(name, str) else node.name
        module.recompile()
        return module

    @cached_property
    def static_batch(self) -> bool:
        """Whether the model only accepts the batch size it was captured with."""
        return not any(_symbols(val.shape[0]) for val in self._inputs if val.ndim)

    @property
    def batch(self) -> int:
        """How many samples it takes where the batch is static, else 1."""
        return 1 if not self.static_batch else next((int(val.shape[0]) for val in self._inputs if val.ndim), 1)

    @property
    def _inputs(self) -> list[Tensor]:
        placeholders = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        return [value for node in placeholders if (value := tensor_of(node)) is not None]

    def parameter(self, name: str) -> Tensor:
        """The parameter or buffer with this qualified name."""
        return cast(Tensor, operator.attrgetter(name)(self.module))

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The arguments of one call as the graph's placeholders take them."""
        flat: list[Any] = tree_flatten_spec((args, dict(kwargs)), self.module._in_spec)
        return flat

    def outputs(self, tensors: Sequence[Any]) -> Any:
        """What a file gives in the structure that the model gives it in, with what is no tensor where it was."""
        given = iter(tensors)
        specs = [s.arg for s in self.program.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
        flat = [next(given) if isinstance(arg, TensorArgument) else getattr(arg, "value", None) for arg in specs]
        return tree_unflatten(flat, self.program.call_spec.out_spec)

    def serialize(self, ports: Mapping[str, Any] = MappingProxyType({})) -> bytes:
        """The program as bytes for boildown's own child processes, outputs in plain containers. Raises ExportError.

        ports: what outputs are called, see `runtimes.port_names`.
        """
        buffer = io.BytesIO()
        try:
            with _quiet(), _plain_outputs(self.program):
                torch.export.save(self.program, buffer, extra_files={TOLD: json.dumps(dict(ports))})
        except Exception as error:
            raise ExportError(f"The captured model cannot be serialized: {_first_line(error)}") from error
        return buffer.getvalue()

    @classmethod
    def load(cls, data: bytes) -> Graph:
        """The inverse of `serialize`; only for bytes that boildown itself has just made."""
        with _quiet():
            return cls(torch.export.load(io.BytesIO(data)))

    def code_hash(self) -> str:
        """SHA-256 of what the model computes apart from its tensors' values.

        Operators, their order, literal arguments, parameter names and shapes count; node names do
        not.
        """
        numbers: dict[Node, str] = {}
        lines = []
        for node in self.module.graph.nodes:
            numbers[node] = f"%{len(numbers)}"
            arguments = torch.fx.map_arg((node.args, node.kwargs), lambda n: _Text(numbers[n]))
            target = "" if node.op == "placeholder" else str(node.target)
            shapes = "" if node.op == "output" else _shapes(node.meta.get("val"))
            lines.append(f"{numbers[node]} {node.op} {target} {arguments} {shapes}")
        for name in sorted(self.program.state_dict):
            tensor = self.program.state_dict[name]
            lines.append(f"{name} {tuple(tensor.shape)} {tensor.dtype}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def macs(self) -> int:
        """Multiply-accumulates per sample of convolutions, matrix products, attention, recurrent layers and cells.

        Axes that are open beside the batch count as long as in the example.
        """
        sizes: list[Any] = [size for val in self._inputs for size in val.shape[1:] if _symbols(size)]
        known = {size.node.expr: int(size.node.hint) for size in sizes}

        def dims(node: Any) -> list[int]:
            return _dims(node, known)

        total = sum(macs_of(node, dims) for node in self.module.graph.nodes if node.op == "call_function")
        for node, data in _joining(self.module):  # a product of parameters that makes more of the data, to be summed
            if node.target is aten.mul.Tensor and prod(dims(node)) > max(prod(dims(source)) for source in data):
                total += prod(dims(node))
        return round(total / self.batch)

    def uncounted(self) -> tuple[str, ...]:
        """The operators with parameters that `macs` knows no count of."""
        names = {
            str(node.target)
            for node, _ in _joining(self.module)
            if node.target not in _MACS
            and torch.Tag.pointwise not in getattr(node.target, "tags", ())
            and base_name(node) not in _FREE
        }
        return tuple(sorted(names))


class _Text(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


# ---- capture ---------------------------------------------------------------------------------

_captured: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Graph]] = weakref.WeakKeyDictionary()
_exported: weakref.WeakKeyDictionary[nn.Module, tuple[Any, GraphModule]] = weakref.WeakKeyDictionary()


def capture(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, *, version: int = LATEST
) -> Graph:
    """Capture a model in eval mode, make its layers ordinary ones, fold its batch norms and name its nodes.

    `args` and `kwargs` are one example call; the first axis of their tensors is the batch, which
    becomes dynamic where the model allows it (see `Graph.static_batch`). The keys and values that a
    decoder of transformers returns for its next call are left out. `version` is that of the names, which plans and
    edits speak of: in the first, layers are left as they are written, up to the second activation functions are; see
    `WRITTEN_OUT` for the fourth. The model is left as it was, training flags included. A second capture of the same
    unchanged model with the same input shapes is free. Raises ExportError naming the line that cannot be captured.
    """
    kwargs = dict(kwargs or {})
    key = version, _key(model, args, kwargs)
    if (known := _captured.get(model)) and known[0] == key:
        return known[1]
    with torch.inference_mode(False), _quiet(), _eval_mode(model), _without_cache(model), _plain_blocks():
        args, kwargs = _own(args, kwargs)
        expected = _run(model, *_own(args, kwargs))
        module = plain_module(_decomposed(_export(_nameable(model), args, kwargs)))
        _drop_writes(module)
        _drop_copies(module)
        _compute_once(module)
        module = make_ordinary(module) if version > 1 else module
        if version > 2:
            recognise(module)
        _loosen_views(module)
        if version >= WRITTEN_OUT:
            _write_out_attention(module)
        _fold_norms(module)
        graph = Graph(_export(copy.deepcopy(GraphModule(module, module.graph)), args, kwargs))
        _compare(expected, _run(graph.module, args, kwargs))
    _captured[model] = (key, graph)
    return graph


def exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, version: int = LATEST
) -> GraphModule:
    """The model in eval mode as a graph of the operators it calls, with ordinary layers; see `capture`.

    Its tensors are the model's own, and a second call for the same unchanged model gives the same graph: copy it first.
    """
    key = version, _key(model, args, kwargs)
    if not (known := _exported.get(model)) or known[0] != key:
        with torch.inference_mode(False), _quiet(), _eval_mode(model), _without_cache(model), _plain_blocks():
            module = plain_module(_export(_nameable(model), *_own(args, dict(kwargs))))
            _inline_blocks(module)
            _own_inputs(module)
            known = _exported[model] = key, make_ordinary(module) if version > 1 else module
    return known[1]


def captured(candidate: Candidate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Graph:
    """The graph of a candidate's model with the names that its plan speaks of."""
    return capture(candidate.model, args, kwargs, version=LATEST if candidate.plan is None else candidate.plan.version)


def plain_module(program: ExportedProgram) -> GraphModule:
    """The program as an ordinary module: no input guards, `train` and `eval` allowed."""
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return GraphModule(module, module.graph).eval()


def tensor_of(node: Node) -> Tensor | None:
    """The (fake) tensor a node stands for, or None where it is something else."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


_TAKEN = frozenset(dir(GraphModule)) - frozenset(dir(nn.Module))


class _Inside(nn.Module):
    """A model as a part of another, called by the same names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward = functools.wraps(model.forward)(lambda *args, **kwargs: self.model(*args, **kwargs))


def _nameable(model: nn.Module) -> nn.Module:
    """The model, inside of another where a part of it has a name that a graph needs for itself, such as `code`."""
    parts = (*model.named_children(), *_tensors(model))
    return _Inside(model) if any(name in _TAKEN for name, _ in parts) else model


def _key(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    leaves, spec = tree_flatten((args, kwargs))
    shapes = tuple((tuple(x.shape), x.dtype, open_axes(x)) if isinstance(x, Tensor) else repr(x) for x in leaves)
    state = tuple(
        (name, id(tensor), 0 if tensor.is_inference() else tensor._version) for name, tensor in _tensors(model)
    )
    return str(spec), shapes, state


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _own(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of the arguments. A batch of one is doubled: torch.export takes a size of one for a constant."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    times = 2 if all(x.ndim and len(x) == 1 for x in tensors) else 1

    def own(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        return opened(torch.cat([value.detach()] * times), open_axes(value))

    owned: tuple[tuple[Any, ...], dict[str, Any]] = tree_map(own, (args, kwargs))
    return owned


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The model's outputs; what its forward writes into buffers or the random state is undone."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = torch.func.functional_call(model, buffers, args, kwargs)
    except Exception as error:
        raise ExportError(
            f"The model fails on its example input: {_first_line(error)}{_where(error)}\n"
            "  Give the task an `example` or a `forward` that calls the model as it wants to be called."
        ) from error
    _register(output)
    return output


def _register(output: Any) -> None:
    """Tell PyTorch of the dataclasses that a model returns, at any depth: it captures none that it does not know."""
    for leaf in tree_leaves(output):
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            register_dataclass(type(leaf))
            _register(leaf)


def _compare(expected: Any, captured: Any) -> None:
    """Raise ExportError unless the outputs agree up to the rounding that folding changes."""
    for ours, theirs in zip(tree_flatten(captured)[0], tree_flatten(expected)[0], strict=True):
        if not isinstance(theirs, Tensor) or not theirs.is_floating_point():
            continue
        limit = 1e-3 * float(theirs.abs().nan_to_num().max()) if theirs.numel() else 0.0
        if not torch.allclose(ours, theirs, rtol=0.0, atol=limit + 1e-6, equal_nan=True):
            raise ExportError(
                "The captured model computes something else than the model on the example input.\n"
                "  Its forward must compute with PyTorch operators only and not depend on earlier calls."
            )


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor) and x.ndim]
    batch = len(tensors[0]) if tensors else 0

    def attempt(dim: Any, *, strict: bool) -> ExportedProgram:
        shapes = ShapesCollection()  # type: ignore[no-untyped-call]
        for tensor in tensors:
            axes: dict[int, Any] = dict.fromkeys(open_axes(tensor), Dim.DYNAMIC)
            if len(tensor) == batch:
                axes[0] = dim
            if axes:
                shapes[tensor] = axes
        named = shapes.dynamic_shapes(model, args, kwargs)  # type: ignore[no-untyped-call]
        return torch.export.export(model, args, kwargs, dynamic_shapes=named, strict=strict)

    first: Exception | None = None
    # Only a strict export keeps the batch dynamic through `len(x)`; AUTO may take it for a constant.
    for dim, strict in ((Dim("batch"), False), (Dim("batch"), True), (Dim.AUTO, False)):
        try:
            return attempt(dim, strict=strict)
        except Exception as error:  # noqa: BLE001  torch.export raises whatever the model's code raises
            first = first or error
    assert first is not None
    if scripted := [name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]:
        raise ExportError(
            f"The model cannot be captured: its part {scripted[0]!r} is TorchScript.\n"
            "  Put the module there that it was scripted from, with its weights."
        ) from None
    named = inspect.signature(model.forward).parameters
    unnamed = [parameter for parameter in named.values() if parameter.kind is parameter.VAR_KEYWORD]
    if unnamed and kwargs.keys() - named.keys():
        raise ExportError(
            f"The model cannot be captured: its forward takes {', '.join(map(repr, kwargs))} by {unnamed[0]}, where "
            "torch.export leaves no batch size open.\n"
            f"  Name them in it: def forward(self, {', '.join(kwargs)})."
        ) from None
    raise ExportError(_explain(first)) from None


def _decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program in functional operators."""
    try:
        functional: ExportedProgram = program.run_decompositions({})
    except Exception as error:  # noqa: BLE001  torch raises whatever it finds odd
        raise ExportError(_explain(error)) from None
    return functional


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Let decoders of transformers return no cache: it is no tensor, and one call alone has no use for it."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    caching = [config for config in configs.values() if getattr(config, "use_cache", None) is True]
    try:
        for config in caching:
            config.use_cache = False
        yield
    finally:
        for config in caching:
            config.use_cache = True


@contextmanager
def _plain_blocks() -> Iterator[None]:
    """Let blocks of `autocast` and `inference_mode` inside forward do nothing: a graph is float32, for inference."""
    kinds = (torch.amp.autocast_mode.autocast, torch.autograd.grad_mode.inference_mode)
    methods = [(kind, name, kind.__dict__[name]) for kind in kinds for name in ("__enter__", "__exit__")]
    try:
        for kind, name, _ in methods:
            setattr(kind, name, lambda self, *_: self if not _ else None)
        yield
    finally:
        for kind, name, method in methods:
            setattr(kind, name, method)


@contextmanager
def _plain_outputs(program: ExportedProgram) -> Iterator[None]:
    """The program with its tensors in dicts and tuples: a child need not know the classes of a library, or of a script.

    What is no tensor is left out: a file has no place for it.
    """
    called, signature, end = (
        program.module_call_graph[0].signature,
        program.graph_signature,
        program.graph.output_node(),
    )
    if called is None or called.out_spec is None:
        yield
        return
    made, specs, results, structure = called.outputs, signature.output_specs, end.args, called.out_spec
    every = [isinstance(spec.arg, TensorArgument) for spec in specs]
    of_user = [kept for kept, spec in zip(every, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
    called.outputs = [part for part, kept in zip(made, of_user, strict=False) if kept]
    called.out_spec = _plain(structure, of_user)
    signature.output_specs = [spec for spec, kept in zip(specs, every, strict=True) if kept]
    end.args = (tuple(part for part, kept in zip(cast(tuple[Any, ...], results[0]), every, strict=True) if kept),)
    try:
        yield
    finally:
        called.outputs, signature.output_specs, end.args, called.out_spec = made, specs, results, structure


def _plain(structure: TreeSpec, kept: Sequence[bool]) -> TreeSpec:
    """The leaves that are kept in the same order, in plain containers."""

    def rebuilt(tree: Any) -> Any:
        if isinstance(tree, Mapping):
            return {str(name): rebuilt(branch) for name, branch in tree.items() if held(branch)}
        if isinstance(tree, tuple | list):
            return tuple(rebuilt(branch) for branch in tree if held(branch))
        leaves = tree_leaves(tree)
        return tree if len(leaves) == 1 and leaves[0] is tree else tuple(leaf for leaf in leaves if kept[leaf])

    def held(tree: Any) -> bool:
        return any(kept[leaf] for leaf in tree_leaves(tree))

    return tree_structure(rebuilt(tree_unflatten(range(structure.num_leaves), structure)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's warnings, logs and dumps of graphs: nothing a user of boildown can act on."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.export", "torch._dynamo", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        silence = io.StringIO()
        with warnings.catch_warnings(), redirect_stdout(silence), redirect_stderr(silence):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _explain(error: Exception) -> str:
    """One line with the cause and the line of the model it comes from, one with the cure."""
    return (
        f"The model cannot be captured: {_first_line(error)}{_where(error)}\n"
        "  Rewrite that line so that shapes and branches do not depend on the values of tensors; "
        "`torch.export.export(model, args)` must accept the model."
    )


def _where(error: Exception) -> str:
    """The innermost line of code that is neither torch's nor ours."""
    ours = (str(Path(torch.__file__).parent), __file__, "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}: `{frames[-1].line}`)" if frames else ""


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in text_of(error).splitlines() if line.strip()]
    text = lines[0].partition(" (unhinted")[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


# ---- rewriting -------------------------------------------------------------------------------


def uses(graph: torch.fx.Graph) -> Counter[str]:
    """How many nodes read each parameter or buffer, by qualified name."""
    count: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "get_attr":
            count[str(node.target)] += len(node.users)
    return count


def bias_name(weight: str, taken: Callable[[str], bool]) -> str:
    """A free qualified name for the bias that a layer with this weight does not have yet."""
    stem = weight.removesuffix("weight")
    name = stem + "bias" if stem != weight else weight + "_bias"
    while taken(name):
        name += "_"
    return name


_BLOCKS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Operators that are a block of code, and which of their arguments is its graph."""


def _inline_blocks(module: GraphModule) -> None:
    """Put what a graph computes under `torch.no_grad()` and the like in its place: for inference they mean nothing."""
    for node in list(module.graph.nodes):
        at = _BLOCKS.get(getattr(node.target, "__name__", ""))
        if node.op != "call_function" or at is None:
            continue
        block = cast(Node, node.args[at])
        inner = module.get_submodule(str(block.target))
        assert isinstance(inner, GraphModule)
        _inline_blocks(inner)
        given = iter(node.args[at + 1 :])
        made: dict[Node, Any] = {}
        with module.graph.inserting_before(node):
            for each in inner.graph.nodes:
                if each.op == "placeholder":
                    made[each] = next(given)
                elif each.op != "output":
                    made[each] = module.graph.node_copy(each, made.__getitem__)
        results: Any = torch.fx.map_arg(inner.graph.output_node().args[0], made.__getitem__)
        for user in list(node.users):  # a block gives a tuple
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
        if not block.users:
            module.graph.erase_node(block)
            module.delete_submodule(str(block.target))
    module.recompile()


def _own_inputs(module: GraphModule) -> None:
    """Let a graph that works in place on its inputs, or on views of them, do so on copies."""
    behind: dict[Node, Node] = {}
    written: dict[Node, None] = {}
    for node in module.graph.nodes:
        source = node.args[0] if node.op == "call_function" and node.args else None
        if node.op == "placeholder":
            behind[node] = node
        elif isinstance(source, Node) and source in behind and isinstance(node.target, torch._ops.OpOverload):
            if node.target._schema.is_mutable:
                written[behind[source]] = None
            if node.target._schema.is_mutable or node.target.is_view:
                behind[node] = behind[source]
    for given in written:
        with module.graph.inserting_after(given):
            copied = module.graph.call_function(aten.clone.default, (given,))
        copied.meta = dict(given.meta)
        given.replace_all_uses_with(copied)
        copied.args = (given,)
    module.recompile()


def _drop_writes(module: GraphModule) -> None:
    """Remove what a graph writes back into its inputs at its end: whoever calls it has copies."""
    for node in list(module.graph.nodes):
        target = node.args[0] if node.target is aten.copy_.default else None
        if isinstance(target, Node) and target.op == "placeholder" and not node.users:
            module.graph.erase_node(node)
    module.recompile()


def _drop_copies(module: GraphModule) -> None:
    """Remove nodes that return their input: dropout in eval mode, copies, slices of everything.

    The graph is functional, so a copy can be dropped wherever its strides equal its input's.
    """
    for node in list(module.graph.nodes):
        if node.target not in _COPIES or not isinstance(node.args[0], Node):
            continue
        source = node.args[0]
        before, after = tensor_of(source), tensor_of(node)
        if source.op == "get_attr" or before is None or after is None or _trains(node):
            continue
        same = str(before.shape) == str(after.shape) and str(before.stride()) == str(after.stride())
        if same and before.dtype == after.dtype and not _reverses(node):
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _compute_once(module: GraphModule) -> None:
    """One node for what is computed, or picked, several times from the same: the exported file has one value for it."""
    known: dict[Any, Node] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.is_impure() or _random(node) or not node.all_input_nodes:
            continue
        if all(isinstance(source.meta.get("val"), torch.SymInt) for source in node.all_input_nodes):
            continue  # made, not computed: the two states of a recurrent layer may be cut differently
        first = known.setdefault((node.target, str(node.args), str(node.kwargs)), node)
        if first is not node:
            node.replace_all_uses_with(first)
            module.graph.erase_node(node)
    module.recompile()


def _random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _loosen_views(module: GraphModule) -> None:
    """Reshape the results of attention where a view was traced.

    How they lie in memory depends on whether gradients are asked for, of a learned mask for example.
    """
    for node in module.graph.nodes:
        source = node.args[0] if node.target is aten.view.default else None
        while isinstance(source, Node) and source.target in _TURNS:
            source = source.args[0]
        if isinstance(source, Node) and source.target is aten.scaled_dot_product_attention.default:
            node.target = aten.reshape.default
    module.recompile()


def _write_out_attention(module: GraphModule) -> None:
    """Two products and a softmax in place of attention that is one operator, if it is not causal nor shares keys."""
    call = module.graph.call_function
    for node in list(module.graph.nodes):
        if node.target is not aten.scaled_dot_product_attention.default or any(
            argument(node, name) for name in ("dropout_p", "is_causal", "enable_gqa")
        ):
            continue
        (query, key, value), mask, scale = node.args[:3], argument(node, "attn_mask"), argument(node, "scale")
        with module.graph.inserting_before(node):
            scores = call(aten.matmul.default, (query, call(aten.transpose.int, (key, -2, -1))))
            scores = call(aten.mul.Tensor, (scores, scale or cast(Tensor, tensor_of(query)).shape[-1] ** -0.5))
            if mask is not None and cast(Tensor, tensor_of(mask)).dtype is torch.bool:
                hidden = call(aten.logical_not.default, (mask,))
                scores = call(aten.masked_fill.Scalar, (scores, hidden, torch.finfo(torch.float32).min))
            elif mask is not None:
                scores = call(aten.add.Tensor, (scores, mask))
            mixed = call(aten.matmul.default, (call(aten.softmax.int, (scores, -1)), value))
        node.replace_all_uses_with(mixed)
        module.graph.erase_node(node)
    module.recompile()


def _trains(node: Node) -> bool:
    return "dropout" in str(node.target) and bool(node.args[2])


def _reverses(node: Node) -> bool:
    return node.target is aten.slice.Tensor and len(node.args) > 4 and bool(node.args[4] != 1)


def _fold_norms(module: GraphModule) -> None:
    """Fold each batch norm into the convolution or linear layer that feeds nothing else."""
    count = uses(module.graph)
    for norm in list(module.graph.nodes):
        if norm.target not in _NORMS or not isinstance(norm.args[0], Node):
            continue
        results = _norm_results(norm)
        layer = norm.args[0]
        if results is None or not _foldable(layer, module, count):
            continue
        weight, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
        assert isinstance(weight, Node)
        name = str(weight.target)
        gamma, beta, mean, variance = (attribute_of(arg, module) for arg in norm.args[1:5])
        if mean is None or variance is None:
            continue
        old = attribute_of(bias, module)
        epsilon = norm.args[6 if norm.target is not aten.batch_norm.default else 7]
        scale = (variance.double() + cast(float, epsilon)).rsqrt()
        scale = scale if gamma is None else scale * gamma.double()
        shift = -mean.double() if old is None else old.double() - mean.double()
        shift = shift * scale if beta is None else shift * scale + beta.double()
        tensor = cast(Tensor, attribute_of(weight, module))
        set_parameter(module, name, _scaled(layer, tensor, scale))
        if isinstance(bias, Node):
            set_parameter(module, str(bias.target), shift.to(tensor.dtype))
        else:
            free = bias_name(name, lambda candidate: has_parameter(module, candidate))
            set_parameter(module, free, shift.to(tensor.dtype))
            with module.graph.inserting_before(layer):
                layer.args = (*layer.args[:2], module.graph.get_attr(free), *layer.args[3:])
        for result in results:
            result.replace_all_uses_with(layer)
    module.graph.eliminate_dead_code()
    module.recompile()


def _norm_results(norm: Node) -> list[Node] | None:
    """The nodes that carry the normalized value, or None where the statistics are used too."""
    if norm.target is aten.batch_norm.default:
        return None if norm.args[5] else [norm]
    results = list(norm.users)
    return results if all(r.target is operator.getitem and r.args[1] == 0 for r in results) else None


def _foldable(layer: Node, module: GraphModule, count: Counter[str]) -> bool:
    if layer.target not in CONVOLUTIONS | TRANSPOSED | {LINEAR} or len(layer.users) != 1 or layer.kwargs:
        return False
    tensors = [arg for arg in layer.args[1:3] if arg is not None]
    if any(attribute_of(arg, module) is None or count[str(cast(Node, arg).target)] != 1 for arg in tensors):
        return False
    value = tensor_of(layer)
    # After a linear layer with more axes, batch norm's channels are not the layer's.
    return layer.target is not LINEAR or (value is not None and value.ndim == 2)


def _scaled(layer: Node, weight: Tensor, scale: Tensor) -> Tensor:
    """The layer's weight with each output channel multiplied by its scale."""
    ones = [1] * (weight.ndim - 2)
    if layer.target not in TRANSPOSED:
        return (weight.double() * scale.view(-1, 1, *ones)).to(weight.dtype)
    groups = cast(int, layer.args[6]) if len(layer.args) > 6 else 1
    grouped = weight.double().view(groups, -1, *weight.shape[1:])
    return (grouped * scale.view(groups, 1, -1, *ones)).reshape(weight.shape).to(weight.dtype)


# ---- counting --------------------------------------------------------------------------------


def _symbols(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def _size(size: Any, known: Mapping[Any, int]) -> int:
    """A dimension for one sample: symbols stand for what is known of them, the batch for 1."""
    if not _symbols(size):
        return int(size)
    return int(size.node.expr.subs({symbol: known.get(symbol, 1) for symbol in size.node.expr.free_symbols}))


def _dims(node: Any, known: Mapping[Any, int] = MappingProxyType({})) -> list[int]:
    value = tensor_of(node)
    assert value is not None
    return [_size(size, known) for size in value.shape]


def _shapes(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{['batch' if _symbols(s) else int(s) for s in value.shape]} {value.dtype}"
    return str([_shapes(v) for v in value]) if isinstance(value, list | tuple) else ""


Dims = Callable[[Any], Sequence[int]]
"""The shape of a value for one sample."""

Count = Callable[[Node, Dims], int]
"""The multiply-accumulates of a node of one kind."""


def bytes_per_sample(node: Node) -> int:
    """The size of a node's value for one sample; 0 where it is not a tensor."""
    value = tensor_of(node)
    return 0 if value is None else prod(_dims(node)) * value.element_size()


def macs_of(node: Node, dims: Dims) -> int:
    """Multiply-accumulates of one node; `dims` gives the shape of a value."""
    count = _MACS.get(node.target)
    return 0 if count is None else count(node, dims)


def _filtered(node: Node, dims: Dims) -> int:
    return prod(dims(node)) * prod(dims(node.args[1])[1:])


def _transposed(node: Node, dims: Dims) -> int:
    return prod(dims(node.args[0])) * prod(dims(node.args[1])[1:])


def _convolution(node: Node, dims: Dims) -> int:
    return (_transposed if node.args[6] else _filtered)(node, dims)


def _product(first: int) -> Count:
    """Of a product of matrices or vectors whose first factor is this argument."""
    return lambda node, dims: prod(dims(node)) * dims(node.args[first])[-1]


def _read_through(first: int) -> Count:
    """Of a product in which each number of this argument is used once for each column of the next."""
    return lambda node, dims: prod(dims(node.args[first])) * prod(dims(node.args[first + 1])[2:])


def _contracted(node: Node, dims: Dims) -> int:
    shape = dims(node.args[0])
    return prod(dims(node)) * prod(shape[axis] for axis in cast(Sequence[int], node.args[2]))


def _attention(node: Node, dims: Dims) -> int:
    query, key, value = (dims(arg) for arg in node.args[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(node: Node, dims: Dims) -> int:
    """Of all layers, directions and steps, or of a cell."""
    given = cast("Sequence[Node]", node.args[2] if isinstance(node.args[2], list | tuple) else node.args[2:4])
    return prod(dims(node.args[0])[:-1]) * sum(prod(shape) for each in given if len(shape := dims(each)) == 2)


def _bilinear(node: Node, dims: Dims) -> int:
    return prod(dims(node)[:-1]) * prod(dims(node.args[2]))


_MACS: Mapping[Any, Count] = {
    **dict.fromkeys(CONVOLUTIONS, _filtered),
    **dict.fromkeys(TRANSPOSED, _transposed),
    aten.convolution.default: _convolution,
    LINEAR: lambda node, dims: prod(dims(node)) * dims(node.args[1])[1],
    **dict.fromkeys((aten.mm.default, aten.bmm.default, aten.matmul.default, aten.inner.default), _product(0)),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), _product(1)),
    **dict.fromkeys((aten.mv.default, aten.dot.default, aten.vdot.default), _read_through(0)),
    aten.linalg_vecdot.default: lambda node, dims: max(prod(dims(arg)) for arg in node.args[:2]),
    **dict.fromkeys((aten.addmv.default, aten.addbmm.default), _read_through(1)),
    aten.tensordot.default: _contracted,
    aten.einsum.default: lambda node, dims: _einsum_macs(
        str(node.args[0]), [dims(arg) for arg in cast(tuple[Node, ...], node.args[1])]
    ),
    aten.scaled_dot_product_attention.default: _attention,
    **dict.fromkeys((aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), _recurrent),
    **dict.fromkeys(
        (aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default),
        _recurrent,
    ),
    aten.bilinear.default: _bilinear,
    aten.cdist.default: lambda node, dims: prod(dims(node)) * dims(node.args[0])[-1],
}

_FREE = frozenset(
    {
        *("embedding", "embedding_bag", "index", "index_select", "gather", "take_along_dim", "where", "masked_fill"),
        *("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "instance_norm", "rms_norm"),
        *("batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "prelu", "_prelu_kernel"),
        *("cat", "concat", "stack", "copy", "slice_scatter", "select_scatter", "scatter", "index_put", "index_copy"),
        *("rsub", "multiply", "divide", "true_divide", "type_as", "expand_as", "view_as", "reshape_as", "complex"),
        *("broadcast_tensors", "fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"),
    }
)
"""What takes parameters and multiplies nothing up: it picks, places, norms or works number by number."""


def _joining(module: GraphModule) -> Iterator[tuple[Node, list[Node]]]:
    """The nodes that bring parameters and data together, each with the data it takes."""
    fixed: set[Node] = set()
    learned: set[Node] = set()
    for node in module.graph.nodes:
        if node.op == "get_attr":
            fixed.add(node)
            if isinstance(attribute_of(node, module), nn.Parameter):
                learned.add(node)
        elif node.op == "call_function":
            sources = [
                source for source in node.all_input_nodes if not isinstance(source.meta.get("val"), torch.SymInt)
            ]
            data = [source for source in sources if source not in fixed]
            if sources and not data:
                fixed.add(node)
                learned |= {node} if learned.intersection(sources) else set()
            elif learned.intersection(sources):
                yield node, data


def _einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Of all operands at once: the sizes of all letters; the axes of an ellipsis are those of its largest operand."""
    sizes: dict[str, int] = {}
    rest = 1
    for letters, shape in zip(equation.replace(" ", "").partition("->")[0].split(","), shapes, strict=True):
        front, dots, back = letters.partition("...")
        for letter, size in zip(front + back, [*shape[: len(front)], *shape[len(shape) - len(back) :]], strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
        rest = max(rest, prod(shape[len(front) : len(shape) - len(back)]) if dots else 1)
    return rest * prod(sizes.values()) if len(shapes) > 1 else 0
