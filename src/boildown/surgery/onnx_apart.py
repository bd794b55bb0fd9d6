"""Where the network that was read from a file computes something else than the file: the first node, by halving."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, ValueInfoProto
from torch.utils import _pytree as pytree

from boildown.runtimes.base import Array
from boildown.runtimes.onnx.runtime import OnnxSession
from boildown.surgery.onnx_file import fixed_batch, input_shapes
from boildown.surgery.onnx_in import read

_LEAST = 1e-6
"""Of a value's power, what may differ: 60 dB."""


@torch.no_grad()
def first_apart(path: str, arrays: Sequence[Array]) -> str | None:
    """The first node whose value differs, in words; None where none does. For a child process.

    Every part of the file from its inputs to a node is a file of its own, which is read and run. Among values that
    agree and values that do not, one is looked for where the two meet.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    if (batch := fixed_batch(input_shapes(Path(path)))) is not None:
        arrays = [array[:batch] for array in arrays]
    typed = {info.name: info for info in (*model.graph.value_info, *model.graph.output)}
    places = [
        place
        for place, node in enumerate(model.graph.node)
        if node.output and node.output[0] in typed and node.op_type != "Constant"
    ]
    nodes = model.graph.node
    low, high = 0, len(places) - 1
    if high < 0 or not _differs(model, places[high], typed, arrays):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _differs(model, places[middle], typed, arrays) else (middle + 1, high)
    return _called(nodes[places[low]])


def _called(node: NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type}), which makes {node.output[0]!r}"


def _differs(model: ModelProto, place: int, typed: dict[str, ValueInfoProto], arrays: Sequence[Array]) -> bool:
    """Whether the value that a node makes is another in what is read of the file up to it."""
    part = ModelProto()
    part.CopyFrom(model)
    del part.graph.node[place + 1 :]
    del part.graph.output[:]
    del part.graph.value_info[:]
    part.graph.output.append(typed[model.graph.node[place].output[0]])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        onnx.save(part, path)
        (theirs,) = OnnxSession(path).run(arrays)
        network = read(path).module.eval()
        given = [torch.from_numpy(array) for array in arrays]
        found = network(*(value.float() if value.is_floating_point() else value for value in given))
    (ours,) = (leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor))
    if tuple(ours.shape) != theirs.shape:
        return True
    wanted, other = theirs.astype(np.float64), ours.double().numpy()
    return not float(np.square(wanted - other).sum()) <= _LEAST * max(float(np.square(wanted).sum()), 1e-30)
