"""Whether int8 is fast on this machine, found by timing and not by reading the processor's name.

`time_int8` is called by name in a fresh child process, as everything that is timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from boildown.measuring.environment import VNNI

_DOT_PRODUCTS = frozenset({"neon_dotprod", "neon_i8mm"})
_FASTER, _SLOW = 1.5, 1.2
_CHANNELS, _PIXELS, _LAYERS = 64, 16, 6


def time_int8(seconds: float = 1.0) -> dict[str, Any]:
    """Time a chain of 3x3 convolutions in int8 beside the same chain in float, batch 1, one thread.

    Returns `speedup` (float time / int8 time; above 1 int8 is faster), `float_ms`, `int8_ms` and
    `notes` on how well it could be measured. Takes about `seconds` and one for loading and warming up.
    """
    from boildown.domain.measurement import Measurement
    from boildown.measuring.latency import compare

    image = np.random.default_rng(0).random((1, _CHANNELS, _PIXELS, _PIXELS), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        first, candidate = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        first.write_bytes(network(quantized=False))
        candidate.write_bytes(network(quantized=True))
        found = Measurement.from_json(compare(first, candidate, [image], min_seconds=seconds))
    assert found.ratio is not None
    assert found.first is not None
    return {
        "speedup": 1 / found.ratio,
        "float_ms": 1e3 * found.first,
        "int8_ms": 1e3 * found.value,
        "notes": list(found.notes),
    }


def network(*, quantized: bool) -> bytes:
    """An ONNX file of convolutions with ReLU, shape (1, 64, 16, 16) in and out.

    Quantized it has uint8 activations and int8 weights per channel as Q/DQ, the way artifacts are
    written.
    """
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, (_LAYERS, _CHANNELS, _CHANNELS, 3, 3)).astype(np.int8)
    step = np.full(_CHANNELS, 1e-3, np.float32)
    constants = {"scale": np.float32(0.02), "zero": np.uint8(0), "step": step}
    nodes, value = [], "x"

    def rounded(name: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_dq"]))
        return f"{name}_dq"

    value = rounded(value) if quantized else value
    for number, weight in enumerate(weights):
        name = f"weight{number}"
        constants[name] = weight if quantized else weight * step[:, None, None, None]
        if quantized:
            nodes.append(helper.make_node("DequantizeLinear", [name, "step"], [f"{name}_dq"], axis=0))
            name = f"{name}_dq"
        nodes.append(helper.make_node("Conv", [value, name], [f"conv{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"]))
        value = rounded(f"relu{number}") if quantized else f"relu{number}"
    shape = [1, _CHANNELS, _PIXELS, _PIXELS]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def promises(flags: Collection[str]) -> bool:
    """Whether the processor's flags promise fast int8."""
    return bool((VNNI | _DOT_PRODUCTS) & set(flags))


def contradiction(flags: Collection[str], speedup: float) -> str | None:
    """What is odd about a measured speed-up, given the processor's flags; None if they agree."""
    if promises(flags) and speedup < _SLOW:
        return (
            "the processor has instructions for int8, but ONNX Runtime gains little from them: the machine may be "
            "busy, emulated, or the runtime too old; close other programs and ask again"
        )
    if not promises(flags) and speedup > _FASTER:
        return (
            "the processor does not tell of instructions for int8, but seems to have them: a virtual machine may hide "
            "them; trust the measurement"
        )
    return None
