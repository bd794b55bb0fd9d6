"""ONNX files as models: `read` turns one into a module that `torch.export` captures.

A node that is a layer of PyTorch's becomes one, under the names of the file, so that everything that works on a model
works on it. Shapes are computed from the inputs' at every call, so that open axes stay open. What is not known is
refused before any work, node by node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from boildown.surgery.onnx_in import (  # noqa: F401  each fills the table of operators
    arithmetic,
    composites,
    convolution,
    linear,
    picking,
    quantized,
    recurrent,
    reductions,
    resize,
    shapes,
)
from boildown.surgery.onnx_in.building import Building, refuse_unknown
from boildown.surgery.onnx_in.file import NEWEST, OLDEST, Body, Faults, Port, load
from boildown.surgery.onnx_in.folding import Folding, drop_unread
from boildown.surgery.onnx_in.patterns import Patterns
from boildown.surgery.onnx_in.quantized import Float


@dataclass(frozen=True)
class Read:
    """A file as a model.

    module: takes the file's inputs as positional arguments in the file's order; gives a tensor, or a tuple in the
    file's order. quantized: it held quantized layers or integer weights that were made float again. notes: what was
    changed, in words.
    """

    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    quantized: bool
    notes: tuple[str, ...]


@torch.no_grad()
def read(path: Path) -> Read:
    """Read an ONNX file. Raises InputError naming every node that cannot be read, with its operator and the cure."""
    source, faults = load(path), Faults()
    body, notes, folding = source.body, list(source.notes), Folding(source.opset, faults)
    drop_unread(body)
    notes += _told(body)
    folding.fold(body)
    faults.check()
    float_again = Float(body, faults)
    names = list(body.outputs)
    rewritten = float_again.rewrite()
    faults.check()
    if rewritten:
        folding.fold(body)
    if was_quantized := rewritten or folding.integers:
        notes.append("the file is quantized: its weights and values were made float again")
    drop_unread(body)
    refuse_unknown(body, faults)
    faults.check()
    Patterns(body).replace()
    module = Building(source.opset, faults).build(body)
    outputs = [
        replace(port, dtype=torch.float32) if name in float_again.steps else port
        for port, name in zip(source.outputs, names, strict=True)
    ]
    return Read(module, source.inputs, tuple(outputs), source.opset, was_quantized, tuple(notes))


def _told(body: Body) -> list[str]:
    """What is computed otherwise than the file says: as for inference."""
    trains = any((op.kind == "Dropout" and len(op.inputs) > 2) or op.attributes.get("training_mode") for op in body.ops)
    return ["dropout and batch norm are computed as for inference, whatever mode the file names"] if trains else []


__all__ = ["NEWEST", "OLDEST", "Port", "Read", "read"]
