"""The `quantize-dynamic` rewrite: int8 weights in the file, activations quantized while it runs."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx import ModelProto

from boildown.domain.candidate import Edit
from boildown.errors import ExportError
from boildown.runtimes.onnx import packed_embeddings
from boildown.runtimes.onnx.lean import add_constant, constant

_OPERATORS = ["MatMul", "Gather", "LSTM", "Attention", "EmbedLayerNormalization"]
"""What ONNX Runtime quantizes dynamically to a gain; Gemm is rewritten to MatMul. Its ConvInteger is slower
than float convolution."""
_PORTABLE = 2
"""The first of them become operators of ONNX, the others operators of ONNX Runtime's own."""


def quantize(graph: ir.Model, rewrite: Edit, *, portable: bool = False) -> tuple[ModelProto, dict[str, Any]]:
    """The quantized model and how many operators of each kind became integer; `portable`: operators of ONNX alone.

    `rewrite.args`: `per_channel` (default false: one scale per output costs bytes and, on the
    transformers and LSTMs measured, gained nothing), `reduce_range` (default false; 7-bit weights
    for CPUs whose 8-bit products saturate) and `embeddings` (default 8; bits of embedding tables, 4
    or 8). Raises ExportError if nothing can be quantized so.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    bits = asked(rewrite)
    if bits == 4:
        packed_embeddings.pack(graph)
    for node in graph.graph:  # its weight is transposed where it lies, under everybody who reads it
        if node.op_type == "Gemm" and (weight := node.inputs[1]) is not None and len(weight.uses()) > 1:
            array = constant(weight)
            if array is not None:
                node.replace_input_with(1, add_constant(graph.graph, f"{weight.name}/own {node.name}", array))
    model = ir.to_proto(graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes = [info for info in model.graph.value_info if info.name not in weights]  # it transposes some
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    before = Counter(node.op_type for node in model.graph.node if node.op_type not in _INTEGER)
    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "dynamic.onnx"
        root.setLevel(logging.ERROR)  # it advises on the root logger to preprocess what is already lean
        try:
            quantize_dynamic(
                model,
                result,
                op_types_to_quantize=_OPERATORS[:_PORTABLE] if portable else _OPERATORS,
                per_channel=bool(rewrite.args.get("per_channel", False)),
                reduce_range=bool(rewrite.args.get("reduce_range", False)),
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            root.setLevel(level)
        quantized = onnx.load(result)
    after = Counter(node.op_type for node in quantized.graph.node)
    integer = {kind: count for kind, count in (after - before).items() if kind in _INTEGER}
    if not any(tensor.data_type in _STORED for tensor in quantized.graph.initializer):
        if portable and before["LSTM"]:
            raise ExportError(
                "Nothing in this model but LSTM layers could be quantized dynamically, and int8 ones take an operator "
                "of ONNX Runtime's own.\n  Use form='lean'."
            )
        raise ExportError(
            "Nothing in this model can be quantized dynamically: it has no linear, LSTM, attention or "
            "embedding layer.\n  Quantize it statically."
        )
    return quantized, {"integer_operators": integer}


def asked(rewrite: Edit) -> int:
    """The bits of embedding tables that a rewrite asks for. Raises ExportError for one that is not known here."""
    bits = rewrite.args.get("embeddings", 8)
    unknown = set(rewrite.args) - {"per_channel", "reduce_range", "embeddings"}
    if (rewrite.op, rewrite.version) != ("quantize-dynamic", 1) or unknown or bits not in (4, 8):
        raise ExportError(f"No file can be rewritten by {rewrite.to_json()}.\n  Use 'quantize-dynamic', version 1.")
    return int(bits)


_STORED = {onnx.TensorProto.INT8, onnx.TensorProto.INT4}
_INTEGER = {
    *("MatMulInteger", "DynamicQuantizeLSTM", "QAttention", "QEmbedLayerNormalization", "DequantizeLinear"),
    "GatherBlockQuantized",
}
