"""Small ONNX files from a line of text per node, run by ONNX Runtime and by what is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper, parser

from boildown.surgery.onnx_in import Read, read

SEED = 7


def numbers(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Numbers between two limits, the same at every call of the same shape."""
    generator = np.random.default_rng([SEED, *shape])
    return generator.uniform(low, high, shape).astype(np.float32)


def whole(*shape: int, below: int = 5) -> np.ndarray:
    return np.random.default_rng([SEED, *shape]).integers(0, below, shape)


def model(
    nodes: str | Sequence[onnx.NodeProto], inputs: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray],
    outputs: Sequence[Any] = ("y",), opset: int = 17, open_axis: bool = True,
) -> onnx.ModelProto:  # fmt: skip
    """A model; `nodes` are lines of ONNX's text form, the first axis of its inputs is open."""
    parsed = [parser.parse_node(line.strip()) for line in nodes.split(";")] if isinstance(nodes, str) else list(nodes)
    ports = []
    for name, array in inputs.items():
        shape = ["n" if axis == 0 and open_axis else size for axis, size in enumerate(array.shape)]
        ports.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    ends = [onnx.ValueInfoProto(name=name) if isinstance(name, str) else name for name in outputs]
    kept = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(parsed, "g", ports, ends, kept)
    domains = {node.domain for node in parsed} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset > 20 else 8)


def by_runtime(made: onnx.ModelProto | Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime gives."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    given = str(made) if isinstance(made, Path) else made.SerializeToString()
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def written(made: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path


def both(
    nodes: str, inputs: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], folder: Path, **more: Any
) -> tuple[Read, list[np.ndarray], list[np.ndarray]]:
    """(what was read, what ONNX Runtime gives, what the module gives)."""
    made = model(nodes, inputs, weights, **more)
    wanted = by_runtime(made, inputs)
    for port, array in zip(made.graph.output, wanted, strict=True):
        code = helper.np_dtype_to_tensor_dtype(array.dtype)
        port.CopyFrom(helper.make_tensor_value_info(port.name, code, [None] * array.ndim))
    found = read(written(made, folder))
    return found, wanted, called(found, inputs.values())


def called(found: Read, arrays: Any) -> list[np.ndarray]:
    """What the module gives."""
    tensors = [torch.from_numpy(np.asarray(array)) for array in arrays]
    tensors = [tensor.float() if tensor.dtype in (torch.float16, torch.float64) else tensor for tensor in tensors]
    with torch.no_grad():
        given = found.module(*tensors)
    return [tensor.detach().numpy() for tensor in (given if isinstance(given, tuple) else (given,))]
