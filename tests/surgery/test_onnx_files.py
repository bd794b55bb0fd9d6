"""Files of strangers: refused with cause and cure before any work, all mistakes at once, and never much memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import both, by_runtime, called, model, numbers, whole, written
from torch import nn

from boildown.errors import InputError
from boildown.surgery.onnx_in import NEWEST, read

X = {"x": numbers(3, 4)}


def made(nodes, inputs=None, weights=None, **more) -> onnx.ModelProto:
    found = model(nodes, inputs or X, weights or {}, **more)
    for port in found.graph.output:
        if not port.type.WhichOneof("value"):
            port.CopyFrom(helper.make_tensor_value_info(port.name, TensorProto.FLOAT, None))
    return found


def refused(found: onnx.ModelProto | bytes, folder: Path) -> str:
    path = folder / "model.onnx"
    path.write_bytes(found if isinstance(found, bytes) else found.SerializeToString())
    with pytest.raises(InputError) as caught:
        read(path)
    assert all(mistake.cause and mistake.cure for mistake in caught.value.mistakes)
    return str(caught.value)


def test_every_node_that_is_not_known_is_named_at_once(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Loop", ["", "", "a"], ["b"], name="around", body=helper.make_graph([], "l", [], [])),
        helper.make_node("Own", ["a"], ["c"], name="mine", domain="com.acme"),
        helper.make_node("NonMaxSuppression", ["b", "c"], ["y"]),
    ]
    said = refused(made(nodes), tmp_path)
    for told in ("'around' (Loop)", "'mine' (com.acme.Own)", "'y' (NonMaxSuppression)", "com.acme", "Unroll"):
        assert told in said


def test_a_circle_is_refused(tmp_path):
    said = refused(made("a = Add (x, b); b = Relu (a); y = Relu (b)"), tmp_path)
    assert "runs in a circle" in said


def test_what_nothing_makes_is_refused_with_who_reads_it(tmp_path):
    said = refused(made("a = Add (x, b); y = Add (a, c)"), tmp_path)
    assert "'b', which nothing makes" in said
    assert "'c', which nothing makes" in said


def test_an_output_that_nothing_makes_is_refused(tmp_path):
    assert "made by no node" in refused(made("a = Relu (x)"), tmp_path)


def test_names_that_are_given_twice_are_refused(tmp_path):
    assert "'a' is given to 2 values" in refused(made("a = Relu (x); a = Abs (x); y = Neg (a)"), tmp_path)


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (helper.make_node("Flatten", ["x"], ["y"], axis="one"), "'axis' is no INT"),
        (helper.make_node("Flatten", ["x"], ["y"], axis=1.5), "'axis' is no INT"),
        (helper.make_node("Relu", ["x"], ["y"], slope=0.5), "'slope' is not known"),
        (helper.make_node("Cast", ["x"], ["y"]), "'to' is missing"),
        (helper.make_node("Relu", ["x", "x"], ["y"]), "2 inputs"),
        (helper.make_node("MatMul", ["x"], ["y"]), "1 inputs"),
    ],
)
def test_attributes_and_inputs_that_do_not_fit_are_refused(node, told, tmp_path):
    assert told in refused(made([node]), tmp_path)


def test_an_operator_set_from_the_future_is_refused(tmp_path):
    said = refused(made("y = Relu (x)", opset=NEWEST + 1), tmp_path)
    assert f"version {NEWEST + 1}" in said
    assert "opset_version" in said


def test_a_file_that_is_cut_off_or_none_is_refused(tmp_path):
    data = made("y = Mul (x, w)", weights={"w": numbers(3, 4)}).SerializeToString()
    assert "not an ONNX file" in refused(data[:-10], tmp_path)
    assert "not an ONNX file" in refused(b"", tmp_path)
    assert "not an ONNX file" in refused(b"\x80\x05no pickle is read", tmp_path)
    assert "no UTF-8" in refused(data.replace(b"Mul", b"\xff\xffl"), tmp_path)
    with pytest.raises(InputError, match="There is no file"):
        read(tmp_path / "absent.onnx")


def test_a_weight_whose_bytes_do_not_fit_its_shape_is_refused(tmp_path):
    found = made("y = Mul (x, w)", weights={"w": numbers(3, 4)})
    found.graph.initializer[0].dims[0] = 1 << 40
    assert "2 GB" in refused(found, tmp_path)
    found.graph.initializer[0].dims[0] = 30
    assert "48 bytes where its shape takes 480" in refused(found, tmp_path)


@pytest.mark.parametrize("nodes", [
    "a = ConstantOfShape (s); b = ReduceSum (a); y = Add (x, b)",
    "a = Expand (o, s); b = ReduceSum (a); y = Add (x, b)",
    "a = Tile (o, s); b = ReduceSum (a); y = Add (x, b)",
    "z = Constant <value_int = 0> (); i = Constant <value_int = 1> (); n = Constant <value_int = 17179869184> (); "
    "a = Range (z, n, i); b = Cast <to = 1> (a); c = ReduceSum (b); y = Add (x, c)",
])  # fmt: skip
def test_a_constant_of_many_gigabytes_in_a_small_file_is_refused(nodes, tmp_path):
    weights = {"s": np.array([1 << 17, 1 << 17]), "o": numbers(1, 1)}
    weights = {name: array for name, array in weights.items() if f"{name})" in nodes or f"{name}," in nodes}
    assert "GB" in refused(made(nodes, weights=weights), tmp_path)


def test_a_choice_by_data_is_refused_and_one_that_is_always_the_same_is_taken(tmp_path):
    branches = "then_branch = t () => (float[n] a) { a = Relu (x) }, else_branch = e () => (float[n] b) { b = Neg (x) }"
    said = refused(made(f"s = ReduceSum (x); c = Greater (s, z); y = If (c) <{branches}>", weights={"z": numbers(1)}),
                   tmp_path)  # fmt: skip
    assert "depends on data" in said
    found, (wanted,), (given,) = both(f"y = If (c) <{branches}>", X, {"c": np.array(False)}, tmp_path)
    np.testing.assert_array_equal(given, wanted)
    assert found.inputs[0].shape == ("n", 4)


# ---- weights outside -----------------------------------------------------------------------------


def beside(location: str, folder: Path, **more: int) -> onnx.ModelProto:
    found = made("y = Mul (x, w)", weights={"w": numbers(3, 4)})
    tensor = found.graph.initializer[0]
    (folder / "weights.bin").write_bytes(b"\0" * 8 + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 8, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return found


def test_weights_beside_the_file_are_read(tmp_path):
    path = written(beside("weights.bin", tmp_path), tmp_path)
    (given,) = called(read(path), X.values())
    np.testing.assert_array_equal(given, by_runtime(path, X)[0])


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin", "inner/secret.bin", "", "a\0b"])
def test_weights_outside_the_folder_or_behind_a_link_are_refused(location, tmp_path):
    folder = tmp_path / "given"
    (folder).mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\1" * 100)
    if os.name != "nt":
        (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
        (folder / "inner").symlink_to(tmp_path)
    said = refused(beside(location, folder), folder)
    assert "'w' cannot be read" in said
    assert "same folder" in said


@pytest.mark.parametrize("more", [{"offset": 1 << 40}, {"length": 1 << 40}, {"offset": -8}, {"offset": "x"}])
def test_a_place_that_is_not_in_the_file_beside_is_refused(more, tmp_path):
    assert "'w' cannot be read" in refused(beside("weights.bin", tmp_path, **more), tmp_path)


# ---- half, functions, quantized ------------------------------------------------------------------


def test_half_is_computed_as_float32_and_told(tmp_path):
    weights = {"w": numbers(4, 3).astype(np.float16)}
    found = made("y = MatMul (x, w)", {"x": numbers(3, 4).astype(np.float16)}, weights)
    found.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    path = written(found, tmp_path)
    given = read(path)
    assert given.inputs[0].dtype is torch.float32
    assert "float16" in given.notes[0]
    (ours,) = called(given, X.values())
    np.testing.assert_allclose(ours, X["x"].astype(np.float16) @ weights["w"], atol=2e-2)


def test_functions_of_the_file_are_written_out_and_circles_of_them_refused(tmp_path):
    def function(name: str, *kinds: str) -> onnx.FunctionProto:
        names = ["x", *(f"v{number}" for number in range(1, len(kinds))), "y"]
        nodes = [helper.make_node(kind, [names[at]], [names[at + 1]], domain="own" if kind in ("f", "g") else "")
                 for at, kind in enumerate(kinds)]  # fmt: skip
        return helper.make_function("own", name, ["x"], ["y"], nodes,
                                    [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)])  # fmt: skip

    found = made([helper.make_node("f", ["x"], ["y"], domain="own")])
    found.functions.extend([function("f", "Relu", "g"), function("g", "Neg")])
    (given,) = called(read(written(found, tmp_path)), X.values())
    np.testing.assert_array_equal(given, -np.maximum(X["x"], 0))
    del found.functions[:]
    found.functions.extend([function("f", "g"), function("g", "f")])
    assert "in a circle" in refused(found, tmp_path)


SCALES = {"s": np.float32(0.05), "z": np.uint8(0), "t": np.float32(0.04), "o": np.uint8(100)}
STEPS = {"v": numbers(3, low=0.01, high=0.02), "i": np.zeros(3, np.int8)}
QUANTIZED = {
    "Q/DQ": (
        "a = QuantizeLinear (x, t, o); b = DequantizeLinear (a, t, o); w = DequantizeLinear <axis = 0> (q, v, i); "
        "c = Conv (b, w); d = QuantizeLinear (c, s, z); y = DequantizeLinear (d, s, z)",
        {"q": whole(3, 4, 3, 3, below=9).astype(np.int8), **STEPS},
    ),
    "QOperator": (
        "a = QuantizeLinear (x, t, o); c = QLinearConv (a, t, o, q, v, i, s, z, b); y = DequantizeLinear (c, s, z)",
        {"q": whole(3, 4, 3, 3, below=9).astype(np.int8), "b": whole(3, below=99).astype(np.int32), **STEPS},
    ),
    "ranges found while it runs": (
        "f = Flatten (x); a, m, n = DynamicQuantizeLinear (f); c = MatMulInteger (a, q, n, k); d = Cast <to = 1> (c); "
        "e = Mul (m, r); g = Mul (d, e); y = Add (g, b)",
        {"q": whole(168, 3, below=200).astype(np.uint8), "k": np.uint8(100), "r": np.float32(0.01), "b": numbers(3)},
    ),
    "dynamic product": (
        "f = Flatten (x); y = com.microsoft.DynamicQuantizeMatMul (f, q, v, i, b)",
        {"q": whole(168, 3, below=9).astype(np.int8), "b": numbers(3), **STEPS},
    ),
    "packed weights": (
        "f = Flatten (x); y = com.microsoft.MatMulNBits <K = 168, N = 3, bits = 4, block_size = 32> (f, q, v)",
        {"q": whole(3, 6, 16, below=256).astype(np.uint8), "v": numbers(18, low=0.01, high=0.02)},
    ),
    "sums in integers": (
        "a = QuantizeLinear (x, t, o); c = com.microsoft.QLinearAdd (a, t, o, a, t, o, s, z); "
        "y = DequantizeLinear (c, s, z)", {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_was_quantized_is_float_again_with_the_rectifiers_that_it_was_fused_with(name, tmp_path):
    nodes, weights = QUANTIZED[name]
    weights = {**{name: value for name, value in SCALES.items() if f" {name}," in nodes or f" {name})" in nodes},
               **weights}  # fmt: skip
    found, (wanted,), (given,) = both(nodes, {"x": numbers(2, 4, 7, 6)}, weights, tmp_path, opset=17)
    assert found.quantized
    assert any("quantized" in note for note in found.notes)
    noise = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - given).sum())
    assert noise > 25, noise
    if "s" in weights:
        assert given.min() == 0


def test_integers_without_a_scale_are_refused(tmp_path):
    nodes = "a = QuantizeLinear (x, t, o); b = Cast <to = 6> (a); c = Add (b, b); y = Cast <to = 1> (c)"
    weights = {name: SCALES[name] for name in "to"}
    assert "whose scale is not told" in refused(made(nodes, weights=weights), tmp_path)


# ---- what they are called ------------------------------------------------------------------------


def test_layers_are_pytorchs_own_under_the_names_of_the_file(tmp_path):
    weights = {
        "net.conv.weight": numbers(3, 4, 3, 3), "net.norm.weight": numbers(3), "net.norm.bias": numbers(3),
        "net.norm.running_mean": numbers(3), "net.norm.running_var": numbers(3, low=0.5), "shift": numbers(3, 1, 1),
        "onnx::MatMul_7": numbers(4, 2), "import.bias": numbers(2),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "net.conv.weight"], ["a"]),
        helper.make_node("BatchNormalization", ["a", *list(weights)[1:5]], ["b"]),
        helper.make_node("Add", ["b", "shift"], ["c"]),
        helper.make_node("MatMul", ["c", "onnx::MatMul_7"], ["d"]),
        helper.make_node("Add", ["d", "import.bias"], ["y"]),
    ]
    inputs = {"x": numbers(2, 4, 7, 6)}
    found = made(nodes, inputs, weights)
    (wanted,), module = by_runtime(found, inputs), read(written(found, tmp_path)).module
    np.testing.assert_allclose(module(torch.from_numpy(inputs["x"])).detach(), wanted, rtol=1e-5, atol=1e-5)
    assert isinstance(module.net.conv, nn.Conv2d)
    assert isinstance(module.net.norm, nn.modules.batchnorm._BatchNorm)
    assert isinstance(module.get_submodule("import_"), nn.Linear)
    assert {name for name, _ in module.named_parameters()} == {
        "net.conv.weight", "net.norm.weight", "net.norm.bias", "shift", "import_.weight", "import_.bias",
    }  # fmt: skip
    module.train()(torch.randn(8, 4, 7, 6)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_what_is_added_to_the_input_is_no_weight(tmp_path):
    weights = {"mean": numbers(4), "w": numbers(4, 2)}
    found = made("a = Sub (x, mean); y = MatMul (a, w)", X, weights)
    names = [name for name, _ in read(written(found, tmp_path)).module.named_parameters()]
    assert names == ["w.weight"]


def test_one_matrix_that_is_read_twice_is_one_parameter(tmp_path):
    weights = {"table": numbers(5, 4)}
    found = made("a = Gather (table, x); b = Transpose (table); y = MatMul (a, b)", {"x": whole(3, 2)}, weights)
    module = read(written(found, tmp_path)).module
    assert len(list(module.parameters())) == 1
    assert len(list(module.named_parameters(remove_duplicate=False))) == 2


def test_a_graph_in_another_order_is_read(tmp_path):
    found = made("a = Relu (x); y = Neg (a)")
    first, second = found.graph.node
    del found.graph.node[:]
    found.graph.node.extend([second, first])
    (given,) = called(read(written(found, tmp_path)), X.values())
    np.testing.assert_array_equal(given, -np.maximum(X["x"], 0))


def test_ports_are_told_as_in_the_file(tmp_path):
    found = made("y = Add (input, k)", {"input": numbers(3, 4)}, {"k": numbers(4)})
    found.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [4]))
    given = read(written(found, tmp_path))
    assert [(port.name, port.shape, port.dtype) for port in given.inputs] == [("input", ("n", 4), torch.float32)]
    assert [port.name for port in given.outputs] == ["y"]
    assert given.opset == 17
    assert numpy_helper.to_array(found.graph.initializer[0]).shape == (4,)


def test_texts_that_nothing_reads_are_no_hindrance(tmp_path):
    found = made("y = Relu (x)")
    found.graph.initializer.append(helper.make_tensor("labels", TensorProto.STRING, [2], [b"cat", b"dog"]))
    path = tmp_path / "model.onnx"
    onnx.save(found, path)
    given = torch.randn(3, 4)
    assert torch.equal(read(path).module(given), given.relu())


def test_texts_that_are_read_are_refused_with_what_to_keep(tmp_path):
    found = made("n = ArgMax <axis=1, keepdims=0> (x); y = Gather (labels, n)")
    found.graph.initializer.append(helper.make_tensor("labels", TensorProto.STRING, [2], [b"cat", b"dog"]))
    said = refused(found, tmp_path)
    assert "'labels' holds texts" in said
    assert "extract_model" in said
