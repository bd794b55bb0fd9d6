"""Rewrites that ONNX Runtime runs faster: they apply, change no output, and keep guards that are needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from runtime_networks import Encoder, batch, exported, run, sqnr
from torch import Tensor, nn
from torch.nn import functional as F

from boildown.domain.candidate import Edit
from boildown.runtimes import get
from boildown.runtimes.onnx import lean
from boildown.runtimes.onnx.packed_embeddings import BLOCK, pack, quantized
from boildown.runtimes.onnx.tune import tune
from boildown.surgery.graph import capture


class Masked(Encoder):
    """An encoder whose attention is masked, by truths or by numbers."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        x = self.embed(ids)
        batch, length, width = x.shape
        q, k, v = (f(x).view(batch, length, 4, width // 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        return self.head(self.norm(x + self.o(mixed.transpose(1, 2).reshape(batch, length, width))).mean(1))


def written(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """The exported model as it is, then tuned, and the outputs of both."""
    path = folder / "exported.onnx"
    get("onnxruntime").export(capture(model.eval(), inputs).serialize(), path)
    made = ir.load(path)
    lean.clean(made)
    outputs = [_outputs(ir.to_proto(made), inputs)]
    tune(made)
    proto = ir.to_proto(made)
    return proto, [*outputs, _outputs(proto, inputs)]


def _outputs(proto: onnx.ModelProto, inputs: tuple[Tensor, ...]) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))[0]


def test_attention_loses_its_guards_and_layer_norms_their_slow_fusion(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids, mask = batch("encoder", 3), torch.rand(3, 12) < 0.6
    mask[0] = False  # a row of nothing but padding
    proto, (before, after) = written(Masked(), (ids, mask), tmp_path)
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert kinds["IsNaN"] == kinds["Slice"] == 0
    assert kinds["Sum"] == kinds["LayerNormalization"] == 1
    assert sqnr(before, after) > 120
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert "SkipLayerNormalization" not in {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}


@pytest.mark.parametrize(("mask", "kept"), [("none", False), ("finite", False), ("infinite", True), ("input", True)])
def test_a_guard_stays_where_a_mask_may_be_infinite(mask: str, kept: bool) -> None:
    low = np.float32(-np.inf if mask == "infinite" else -1e30)
    scores, masked = ["scores"], []
    if mask != "none":
        scores = ["masked"]
        masked = [
            helper.make_node("Where", ["shown", "zero", "low"], ["chosen"]),
            helper.make_node("Add", ["scores", "given" if mask == "input" else "chosen"], ["masked"]),
        ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        *masked,
        helper.make_node("Softmax", scores, ["share"]),
        helper.make_node("IsNaN", ["share"], ["none"]),
        helper.make_node("Where", ["none", "zero", "share"], ["guarded"]),
        helper.make_node("MatMul", ["guarded", "w"], ["y"]),
    ]
    floats, truths = TensorProto.FLOAT, TensorProto.BOOL
    inputs = [("x", floats), ("given", floats), ("shown", truths)]
    ports = [helper.make_tensor_value_info(name, kind, [3, 3]) for name, kind in inputs]
    arrays = {"w": np.eye(3, dtype=np.float32), "zero": np.float32(0), "low": low}
    graph = helper.make_graph(
        nodes, "g", ports, [helper.make_tensor_value_info("y", floats, [3, 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    tune(model)
    assert ("IsNaN" in {node.op_type for node in model.graph}) == kept


@pytest.mark.parametrize("columns", [BLOCK, 100, 7])
def test_tables_of_four_bits_keep_to_their_steps(columns: int) -> None:
    table = np.random.default_rng(0).normal(size=(50, columns)).astype(np.float32)
    integers, scale = quantized(table)
    assert (integers.shape, scale.shape) == (table.shape, (50, -(-columns // BLOCK)))
    assert np.abs(integers).max() <= 7
    restored = integers * np.repeat(scale, BLOCK, 1)[:, :columns]
    plain = np.abs(table).max() / 7
    assert sqnr(table, restored) > sqnr(table, np.rint(table / plain) * plain) > 10


def test_embeddings_take_half_the_bytes_and_outputs_stay_close(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(2000, 48), nn.Linear(48, 5)).eval()
    ids = torch.randint(0, 2000, (4, 9))
    runtime = get("onnxruntime")
    runtime.export(capture(model, (ids,)).serialize(), tmp_path / "exported.onnx")
    sizes, outputs = {}, {}
    for name, rewrite in (("float", None), *((b, Edit("quantize-dynamic", 1, {"embeddings": b})) for b in (8, 4))):
        made = runtime.write(tmp_path / "exported.onnx", tmp_path / f"{name}.onnx", rewrite=rewrite)
        sizes[name], outputs[name] = made.size, run(tmp_path / f"{name}.onnx", ids)
    assert sizes[4] < 0.6 * sizes[8] < 0.2 * sizes["float"]
    assert sqnr(outputs["float"], outputs[8]) > 30
    assert 15 < sqnr(outputs["float"], outputs[4]) < 30
    assert made.facts["integer_operators"]["GatherBlockQuantized"] == 1


def test_small_tables_stay_as_they_are() -> None:
    assert pack(ir.load(exported("encoder").path)) == 0
