"""The plan of a file's memory: counted by hand on small graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from boildown.errors import AttemptError
from boildown.measuring.planned import planned

HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'


def plan(folder: Path, text: str, *shapes: tuple[int, ...]) -> int:
    model = parser.parse_model(HEAD + text)
    onnx.save(model, folder / "model.onnx")
    return planned(folder / "model.onnx", [np.zeros(shape, np.float32) for shape in shapes])


def test_a_chain_takes_its_largest_neighbours(tmp_path: Path) -> None:
    text = """g (float[N, 4] x) => (float[N, 2] y)
    <float[4, 16] a = {WIDE}, float[16, 2] b = {NARROW}>
    { h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }"""
    text = text.replace("WIDE", ", ".join(["1"] * 64)).replace("NARROW", ", ".join(["1"] * 32))
    assert plan(tmp_path, text, (1, 4)) == 4 * (4 + 16)  # x and h, in whose place r is
    assert plan(tmp_path, text, (3, 4)) == 3 * 4 * (4 + 16)  # by the batch, not by the weights


def test_what_is_read_again_lives_until_then(tmp_path: Path) -> None:
    residual = "g (float[N, 8] x) => (float[N, 8] y) { a = Exp(x) b = Neg(a) c = Exp(b) y = Add(c, x) }"
    assert plan(tmp_path, residual, (1, 8)) == 4 * 8 * 3  # x is kept beside two others
    straight = "g (float[N, 8] x) => (float[N, 8] y) { a = Exp(x) b = Neg(a) c = Exp(b) y = Add(c, c) }"
    assert plan(tmp_path, straight, (1, 8)) == 4 * 8 * 2
    both = "g (float[N, 8] x) => (float[N, 8] a, float[N, 8] y) { a = Exp(x) b = Neg(a) y = Exp(b) }"
    assert plan(tmp_path, both, (1, 8)) == 4 * 8 * 3  # an output lives to the end
    in_place = "g (float[N, 8] x) => (float[N, 8] y) { a = Exp(x) b = Relu(a) c = Sigmoid(b) y = Add(c, b) }"
    assert plan(tmp_path, in_place, (1, 8)) == 4 * 8 * 3  # b is read again and has to stay


def test_views_and_what_follows_from_weights_alone_take_nothing(tmp_path: Path) -> None:
    text = """g (float[N, 2, 4] x) => (float[N, 8] y)
    <int64[2] shape = {0, 8}, float[8] w = {1, 1, 1, 1, 1, 1, 1, 1}>
    { flat = Reshape(x, shape) v = Exp(w) y = Mul(flat, v) }"""
    assert plan(tmp_path, text, (1, 2, 4)) == 4 * 8 * 2


def test_between_quantize_and_dequantize_values_are_integers(tmp_path: Path) -> None:
    text = """g (float[N, 8] x) => (float[N, 8] y)
    <float s = {0.1}, uint8 z = {0}>
    {
        xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
        a = Relu(xd) aq = QuantizeLinear(a, s, z) ad = DequantizeLinear(aq, s, z)
        b = Sigmoid(ad) bq = QuantizeLinear(b, s, z) y = DequantizeLinear(bq, s, z)
    }"""
    assert plan(tmp_path, text, (1, 8)) == 4 * 8 + 8  # the input itself and its integers; then two of 8 bytes


def test_operators_that_are_not_of_onnx_are_run(tmp_path: Path) -> None:
    text = "g (float[N, 8] x) => (float[N, 8] y) { a = com.microsoft.Gelu(x) b = com.microsoft.Gelu(a) y = Exp(b) }"
    assert plan(tmp_path, text, (2, 8)) == 2 * 4 * 8 * 2


def test_the_larger_branch_counts_where_it_is_taken(tmp_path: Path) -> None:
    text = """g (float[2, 8] x, bool c) => (float[2, 8] y)
    {
        y = If (c) <
            then_branch = t () => (float[2, 8] p) { q = Concat<axis = 0>(x, x) r = Exp(q) p = Slice(r, start, stop) },
            else_branch = e () => (float[2, 8] o) { o = Relu(x) }
        >
    }"""
    text = text.replace("(float[2, 8] y)\n", "(float[2, 8] y)\n<int64[1] start = {0}, int64[1] stop = {2}>\n", 1)
    model = parser.parse_model(HEAD + text)
    onnx.save(model, tmp_path / "model.onnx")
    found = planned(tmp_path / "model.onnx", [np.zeros((2, 8), np.float32), np.array(True)])
    assert found == 64 + 1 + 64 + 2 * 128  # x, c, y, and q beside r


def test_a_shape_that_only_the_values_know_is_refused_inside_of_a_branch(tmp_path: Path) -> None:
    text = """g (float[N] x, bool c) => (float[M] y)
    {
        y = If (c) <
            then_branch = t () => (float[K] p) { n = NonZero(x) m = Squeeze(n) v = Gather(x, m) p = Relu(v) },
            else_branch = e () => (float[L] o) { o = Relu(x) }
        >
    }"""
    model = parser.parse_model(HEAD + text)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(AttemptError, match="shape of"):
        planned(tmp_path / "model.onnx", [np.ones(4, np.float32), np.array(True)])
