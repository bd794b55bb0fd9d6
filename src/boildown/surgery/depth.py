"""Whole blocks out: a repeated block whose output looks like its input can be left out of the graph."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx._pytree import tree_flatten_spec

from boildown.domain.candidate import Edit
from boildown.errors import Mistake, ModelError
from boildown.surgery.edits import register
from boildown.surgery.stepping import Call, Reference, sizes_of

OP = "drop-blocks"

_STACK = "nn_module_stack"


@dataclass(frozen=True)
class Block:
    """A module of the model that can be left out: `output` is what comes in at `input`, changed.

    name: the module's path. stage: the path of what holds it and its like.
    """

    name: str
    stage: str
    input: str
    output: str


def find_blocks(module: GraphModule) -> tuple[Block, ...]:
    """The blocks of a trainable graph that can be left out, in the order of the graph.

    A block is an item of a Sequential or ModuleList that holds others of its class, and is made of modules itself;
    all that comes out of it is one value, of the shape of one value that goes in.
    """
    inside: dict[str, set[Node]] = {}
    kinds: dict[str, str] = {}
    for node in module.graph.nodes:
        for path, kind in _modules(node):
            inside.setdefault(path, set()).add(node)
            kinds[path] = kind
    made_of_modules = {path[: dot.start()] for path in inside for dot in re.finditer(r"\.", path)}
    siblings: dict[tuple[str, str], list[str]] = {}
    for path, kind in kinds.items():
        stage, _, index = path.rpartition(".")
        if index.isdigit() and path in made_of_modules:
            siblings.setdefault((stage, kind), []).append(path)
    shapes, _ = sizes_of(module)
    found = []
    for (stage, _kind), paths in siblings.items():
        for path in paths if len(paths) > 1 else ():
            ends = _ends(inside[path], shapes)
            if ends is not None and _holds_layers(inside[path]):
                found.append(Block(path, stage, *(node.name for node in ends)))
    order = {node.name: index for index, node in enumerate(module.graph.nodes)}
    found.sort(key=lambda block: order[block.output])
    outer = [b for b in found if not any(b.name.startswith(f"{other.name}.") for other in found)]
    return tuple(outer)


def drop(module: GraphModule, names: Sequence[str]) -> tuple[GraphModule, Edit]:
    """A copy of a trainable graph without some blocks, and the edit that leaves them out again.

    Raises ModelError for blocks that it does not have.
    """
    known = {block.name: block for block in find_blocks(module)}
    if missing := [name for name in names if name not in known]:
        raise ModelError(
            Mistake(f"The model has no block {', '.join(missing)} to leave out.", "Use the model it was made from.")
        )
    return _without(module, [known[name] for name in names]), Edit(OP, 1, {"blocks": list(names)})


def _without(module: GraphModule, blocks: Sequence[Block]) -> GraphModule:
    """A copy of the graph without some of its blocks."""
    module = copy.deepcopy(module)
    replaced: dict[str, str] = {}
    for block in blocks:
        nodes = {node.name: node for node in module.graph.nodes}
        start = block.input
        while start in replaced:  # it began where a block that is gone ended
            start = replaced[start]
        replaced[block.output] = start
        nodes[block.output].replace_all_uses_with(nodes[start])
        for node in reversed(list(module.graph.nodes)):
            if not node.users and block.name in (path for path, _ in _modules(node)):
                module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


@register(OP, 1)
def _apply(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    assert isinstance(model, GraphModule)
    return drop(model, args["blocks"])[0]


@torch.no_grad()
def errors_without(
    module: GraphModule, blocks: Iterable[Block], calls: Sequence[Call], check: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, float]]:
    """The name of each block, and the relative squared error of the outputs on some calls without it alone."""
    reference = Reference(module, calls)
    flat = [tree_flatten_spec((tuple(args), dict(kwargs)), module._in_spec) for args, kwargs in calls]
    for block in blocks:
        check()
        without = _Without(module, block)
        yield block.name, reference.error([without.run(*inputs, enable_io_processing=False) for inputs in flat])


class _Without(Interpreter):
    """Runs a graph as if a block were not there: what came in goes on."""

    def __init__(self, module: GraphModule, block: Block) -> None:
        super().__init__(module)
        self._block = block
        self._came: Any = None

    def run_node(self, n: Node) -> Any:
        if n.name == self._block.output:
            return self._came
        value = super().run_node(n)
        if n.name == self._block.input:
            self._came = value
        return value


def _modules(node: Node) -> list[tuple[str, str]]:
    """(path, class) of the modules in whose forward a node was made, outermost first."""
    return [(path, str(kind)) for path, kind in (node.meta.get(_STACK) or {}).values() if path]


def _ends(nodes: set[Node], shapes: Mapping[Node, torch.Size]) -> tuple[Node, Node] | None:
    """(what goes in, what comes out) of a block that can be left out."""
    # Sizes, which are no tensors, may be read by other blocks too.
    outputs = [node for node in nodes if node in shapes and any(user not in nodes for user in node.users)]
    if len(outputs) != 1:
        return None
    entries = {arg for node in nodes for arg in node.all_input_nodes if arg not in nodes and arg.op != "get_attr"}
    alike = [node for node in entries if shapes.get(node) == shapes[outputs[0]]]
    return (alike[0], outputs[0]) if len(alike) == 1 else None


def _holds_layers(nodes: set[Node]) -> bool:
    return any(arg.op == "get_attr" for node in nodes for arg in node.all_input_nodes)
