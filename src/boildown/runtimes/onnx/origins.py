"""Which of the captured program's values and weights the names of a written file stand for.

A file has the shortest names there are, and an operator of the program may be several nodes of it. What runs is told to
people by the layers of their model, and so the writer tells whose every name is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx_ir as ir
from onnx import ModelProto

_UNNAMED = re.compile(r"_\d+")
_ENDING = re.compile(r"(\^\w+|/[\w ]+|_quantized)+$")
"""What the writers put behind a name of the program's; before it may stand several, with spaces between them."""


def known(model: ir.Model) -> frozenset[str]:
    """The names of the program's values and weights in an exported file, before anything in it is rewritten.

    Only weights with a path are told from constants of the exporter's.
    """
    values = [value.name or "" for node in model.graph for value in node.outputs]
    weights = [name for name in model.graph.initializers if "." in name]
    return frozenset(_plain(name) for name in (*values, *weights) if not _UNNAMED.fullmatch(name))


def origins(model: ModelProto, names: Mapping[str, str], known: frozenset[str]) -> dict[str, str]:
    """Names of a written file -> names of the program: of what nodes give, and of weights of two or more axes.

    names: those that the file has in place of earlier ones. What has none in the program is of the first that reads it.
    """
    earlier = {name: old for old, name in names.items()}
    plain = {name: _plain(earlier.get(name, name)) for name in _names(model)}
    found: dict[str, str] = {}
    for node in reversed(model.graph.node):
        own = [plain[value] for value in node.output if plain[value] in known]
        read = [found[value] for value in node.output if value in found]
        owner = next(iter((*own, *read)), None)
        if owner is not None:
            found |= dict.fromkeys((*node.input, *node.output), owner)
    weights = [tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1]
    found |= {name: plain[name] for name in weights if "." in plain[name] and plain[name] in known}
    made = [value for node in model.graph.node for value in node.output]
    return {name: found[name] for name in (*made, *weights) if name in found}


def _names(model: ModelProto) -> set[str]:
    inner = {value for node in model.graph.node for value in (*node.input, *node.output)}
    return inner | {tensor.name for tensor in model.graph.initializer}


def _plain(name: str) -> str:
    return _ENDING.sub("", name).partition(" ")[0]
