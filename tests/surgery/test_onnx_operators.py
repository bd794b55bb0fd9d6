"""Operator by operator: what is read computes what ONNX Runtime does, and is captured with its first axis open."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_graphs import both, numbers, whole

X = {"x": numbers(3, 4)}
IMAGE = {"x": numbers(2, 4, 7, 6)}
LINE = {"x": numbers(2, 4, 9)}
CHANNELS = {"s": numbers(4, low=0.5, high=1.5), "b": numbers(4), "m": numbers(4), "v": numbers(4, low=0.5, high=2)}
POSITIVE = {"x": numbers(3, 4, low=0.1, high=0.9)}
IDS = {"x": whole(3, 5)}
I64 = np.int64


def ints(*values: int) -> np.ndarray:
    return np.array(values, I64)


ONE_VALUE = """
    Abs Neg Exp Floor Ceil Round Sign Erf Sin Cos Tan Atan Sinh Cosh Tanh Asinh Sigmoid Relu Softsign Softplus Elu Selu
    Celu LeakyRelu ThresholdedRelu HardSigmoid HardSwish Identity Softmax LogSoftmax Hardmax Flatten Transpose Squeeze
    ReduceMax Shrink GlobalAveragePool GlobalMaxPool LpNormalization
""".split()  # noqa: SIM905 - a list of strings would be one line each
FRACTIONS = ["Log", "Sqrt", "Reciprocal", "Asin", "Acos", "Atanh"]
TWO_VALUES = ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "PRelu"]
COMPARISONS = ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"]

CASES: dict[str, tuple] = {
    **{name: (f"y = {name} (x)", IMAGE if name.startswith("Global") else X, {}) for name in ONE_VALUE},
    **{name: (f"y = {name} (x)", POSITIVE, {}) for name in FRACTIONS},
    **{name: (f"y = {name} (x, w)", POSITIVE, {"w": numbers(4, low=0.5)}) for name in TWO_VALUES},
    **{f"{name} of two inputs": (f"y = {name} (x, z)", {**POSITIVE, "z": numbers(3, 4, low=0.5)}, {})
       for name in TWO_VALUES if name != "PRelu"},
    **{name: (f"y = {name} (x, w)", X, {"w": numbers(3, 4)}) for name in COMPARISONS},
    **{name: (f"a = Greater (x, z); b = Less (x, z); y = {name} (a, b)", X, {"z": numbers(1)})
       for name in ("And", "Or", "Xor")},
    "Gelu": ("y = Gelu (x)", X, {}, 20), "Gelu by tanh": ('y = Gelu <approximate = "tanh"> (x)', X, {}, 20),
    "Mish": ("y = Mish (x)", X, {}, 18), "IsNaN": ("y = IsNaN (x)", X, {}), "IsInf": ("y = IsInf (x)", X, {}),
    "Not": ("a = Greater (x, z); y = Not (a)", X, {"z": numbers(1)}),
    "Where": ("a = Greater (x, z); y = Where (a, x, z)", X, {"z": numbers(1)}),
    "Mod": ("y = Mod (x, w)", IDS, {"w": ints(3)}),
    "Mod of floats": ("y = Mod <fmod = 1> (x, w)", X, {"w": numbers(1)}),
    "Div of whole numbers": ("a = Sub (x, w); y = Div (a, v)", IDS, {"w": ints(3), "v": ints(2)}),
    "BitShift": ('y = BitShift <direction = "LEFT"> (x, w)', {"x": whole(3, 4).astype(np.uint8)},
                 {"w": np.array([2], np.uint8)}),
    "BitwiseAnd": ("y = BitwiseAnd (x, w)", IDS, {"w": ints(3)}, 18),
    "Clip": ("y = Clip (x, a, b)", X, {"a": np.float32(-1), "b": np.float32(0.5)}),
    "Clip above": ("y = Clip (x, , b)", X, {"b": np.float32(0.5)}),
    "Clip at 6": ("y = Clip (x, a, b)", {"x": numbers(3, 4, high=9)}, {"a": np.float32(0), "b": np.float32(6)}, 11),
    "Clip, attributes": ("y = Clip <min = -1.0, max = 0.5> (x)", X, {}, 10),
    "Cast": ("y = Cast <to = 7> (x)", X, {}), "Cast to bool": ("y = Cast <to = 9> (x)", IDS, {}),
    "CastLike": ("y = CastLike (x, w)", X, {"w": ints(1)}), "Dropout": ("y = Dropout (x)", X, {}, 13),
    "Softmax before 13": ("y = Softmax (x)", IMAGE, {}, 11),
    "PRelu of channels": ("y = PRelu (x, w)", IMAGE, {"w": numbers(4, 1, 1)}),
    "PRelu of one": ("y = PRelu (x, w)", IMAGE, {"w": numbers(1)}),
    # shapes
    "Reshape": ("y = Reshape (x, s)", IMAGE, {"s": ints(0, -1, 6)}),
    "Reshape by a shape": ("a = Shape (x); b = Gather (a, z); c = Unsqueeze (b, z); d = Concat <axis = 0> (c, s); "
                           "y = Reshape (x, d)", IMAGE, {"z": np.array(0), "s": ints(-1)}, 17),
    "Shape of some axes": ("y = Shape <start = 1, end = -1> (x)", IMAGE, {}), "Size": ("y = Size (x)", X, {}),
    "Flatten at 2": ("y = Flatten <axis = 2> (x)", IMAGE, {}),
    "Transpose of four": ("y = Transpose <perm = [0, 2, 3, 1]> (x)", IMAGE, {}),
    "Unsqueeze 13": ("y = Unsqueeze (x, a)", X, {"a": ints(0, -1)}),
    "Unsqueeze 11": ("y = Unsqueeze <axes = [1]> (x)", X, {}, 11),
    "Squeeze 13": ("y = Squeeze (x, a)", {"x": numbers(3, 1, 4)}, {"a": ints(1)}),
    "Squeeze 11": ("y = Squeeze <axes = [1]> (x)", {"x": numbers(3, 1, 4)}, {}, 11),
    "Concat": ("y = Concat <axis = 1> (x, x, x)", IMAGE, {}),
    "Slice": ("y = Slice (x, a, b, c)", IMAGE, {"a": ints(1, -4), "b": ints(3, 9), "c": ints(1, 3)}),
    "Slice by steps": ("y = Slice (x, a, b, c, d)", IMAGE,
                       {"a": ints(0, -1), "b": ints(99, -99), "c": ints(2, 3), "d": ints(2, -1)}),
    "Slice 9": ("y = Slice <starts = [1], ends = [3], axes = [1]> (x)", IMAGE, {}, 9),
    "Gather": ("y = Gather <axis = 1> (x, i)", IMAGE, {"i": np.array([[0, -1], [2, 1]])}),
    "Gather one": ("y = Gather <axis = 1> (x, i)", IMAGE, {"i": np.array(-2)}),
    "Gather from a table": ("y = Gather (w, x)", IDS, {"w": numbers(5, 3)}),
    "GatherElements": ("y = GatherElements <axis = 1> (x, i)", X, {"i": np.array([[0, -1], [1, 3], [2, 2]])}),
    "GatherND": ("y = GatherND <batch_dims = 1> (x, i)", IMAGE, {"i": np.array([[[0, 1]], [[3, 2]]])}),
    "ScatterND": ("y = ScatterND (x, i, w)", X, {"i": np.array([[0], [2]]), "w": numbers(2, 4)}),
    "ScatterElements": ("y = ScatterElements <axis = 1> (x, i, w)", X,
                        {"i": np.array([[1], [0], [-1]]), "w": numbers(3, 1)}),
    "ScatterElements added": ('y = ScatterElements <axis = 1, reduction = "add"> (x, i, w)', X,
                              {"i": np.array([[1, 1], [0, 2], [3, 3]]), "w": numbers(3, 2)}, 18),
    "Expand": ("y = Expand (x, s)", X, {"s": ints(2, 1, 4)}), "Tile": ("y = Tile (x, s)", X, {"s": ints(1, 3)}),
    "Expand to a shape": ("s = Shape (x); y = Expand (w, s)", X, {"w": numbers(4)}),
    "ConstantOfShape": ("s = Shape (x); a = ConstantOfShape (s); y = Add (a, x)", X, {}),
    "Range": ("s = Shape (x); n = Gather (s, i); a = Range (z, n, o); y = Add (x, a)", IDS,
              {"i": np.array(1), "z": np.array(0), "o": np.array(1)}),
    "EyeLike": ("y = EyeLike <k = 1> (x)", X, {}), "Trilu": ("y = Trilu <upper = 0> (x)", IMAGE, {}),
    "OneHot": ("y = OneHot <axis = 1> (x, d, v)", IDS, {"d": np.array(5), "v": numbers(2)}),
    "NonZero": ("a = Greater (x, z); y = NonZero (a)", X, {"z": numbers(1)}),
    "Compress": ("y = Compress <axis = 1> (x, c)", X, {"c": np.array([True, False, True, True])}),
    "Pad": ("y = Pad (x, p, v)", IMAGE, {"p": ints(0, 1, 0, 2, 0, 0, 3, -1), "v": np.float32(0.5)}),
    "Pad some axes": ("y = Pad (x, p, , a)", IMAGE, {"p": ints(1, 2), "a": ints(3)}, 18),
    "Pad, reflected": ('y = Pad <mode = "reflect"> (x, p)', IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 3, 1)}),
    "Pad, edge": ('y = Pad <mode = "edge"> (x, p)', LINE, {"p": ints(0, 0, 1, 0, 0, 2)}),
    "Pad 10": ("y = Pad <pads = [0, 1, 0, 2]> (x)", X, {}, 10),
    "DepthToSpace": ("y = DepthToSpace <blocksize = 2> (x)", IMAGE, {}),
    "DepthToSpace, columns": ('y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', IMAGE, {}),
    "SpaceToDepth": ("y = SpaceToDepth <blocksize = 2> (x)", {"x": numbers(2, 4, 4, 6)}, {}),
    "ReverseSequence": ("y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, n)", X, {"n": ints(2, 4, 1)}),
    "SplitToSequence": ("a = SplitToSequence <axis = 1, keepdims = 0> (x); y = SequenceAt (a, i)", X,
                        {"i": np.array(-1)}),
    "ConcatFromSequence": ("a = SequenceConstruct (x, x); y = ConcatFromSequence <axis = 1> (a)", X, {}),
    "If by a shape": ("s = Shape (x); n = Gather (s, i); c = Equal (n, o); "
                      "y = If (c) <then_branch = t () => (float[n] a) { a = Squeeze (x, one) }, "
                      "else_branch = e () => (float[n] b) { b = Relu (x) }>", {"x": numbers(3, 1)},
                      {"i": np.array(1), "o": np.array(1), "one": ints(1)}),
    # reductions
    **{f"{name} along": (f"y = {name} <axes = [1, -1], keepdims = 0> (x)", IMAGE, {}, 11) for name in
       ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
        "ReduceLogSumExp")},
    "ReduceLogSum": ("y = ReduceLogSum <axes = [1]> (x)", POSITIVE, {}, 13),
    "ReduceSum 13": ("y = ReduceSum (x, a)", IMAGE, {"a": ints(2)}),
    "ReduceMean 18": ("y = ReduceMean <keepdims = 0> (x, a)", IMAGE, {"a": ints(-1, -2)}, 18),
    "ReduceSum of nothing": ("y = ReduceSum <noop_with_empty_axes = 1> (x)", IMAGE, {}),
    "ArgMax": ("y = ArgMax <axis = 1, keepdims = 0> (x)", IMAGE, {}), "ArgMin": ("y = ArgMin <axis = -1> (x)", X, {}),
    "TopK": ("y, z = TopK <axis = 1> (x, k)", X, {"k": ints(2)}, 17, ("y", "z")),
    "CumSum": ("y = CumSum <exclusive = 1, reverse = 1> (x, a)", X, {"a": np.array(1)}),
    "Split 13": ("y, z = Split <axis = 1> (x, s)", IMAGE, {"s": ints(1, 3)}, 17, ("y", "z")),
    "Split 18": ("y, z = Split <axis = 2, num_outputs = 2> (x)", IMAGE, {}, 18, ("y", "z")),
    "Split 11": ("y, z = Split <axis = 1> (x)", IMAGE, {}, 11, ("y", "z")),
    # products
    "MatMul": ("y = MatMul (x, w)", LINE, {"w": numbers(9, 3)}),
    "MatMul and Add": ("a = MatMul (x, w); y = Add (b, a)", LINE, {"w": numbers(9, 3), "b": numbers(3)}),
    "MatMul from the left": ("y = MatMul (w, x)", LINE, {"w": numbers(5, 4)}),
    "MatMul of values": ("a = Transpose <perm = [0, 2, 1]> (x); y = MatMul (x, a)", LINE, {}),
    "Gemm": ("y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)", X, {"w": numbers(3, 4), "b": numbers(3)}),
    "Gemm with one number": ("y = Gemm (x, w, b)", X, {"w": numbers(4, 3), "b": numbers(1)}),
    "Gemm transposed": ("y = Gemm <transA = 1> (x, w)", X, {"w": numbers(3, 2)}),
    "Einsum": ('y = Einsum <equation = "bij,jk->bik"> (x, w)', LINE, {"w": numbers(9, 2)}),
    # convolutions
    "Conv": ("y = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (x, w, b)", IMAGE,
             {"w": numbers(3, 4, 3, 3), "b": numbers(3)}),
    "Conv, uneven": ("y = Conv <pads = [0, 1, 2, 1]> (x, w)", IMAGE, {"w": numbers(3, 4, 3, 3)}),
    "Conv, grouped and spread": ("y = Conv <group = 2, dilations = [2, 1]> (x, w)", IMAGE, {"w": numbers(6, 2, 2, 3)}),
    "Conv, same": ('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)', IMAGE, {"w": numbers(3, 4, 3, 3)}),
    "Conv, same lower": ('y = Conv <auto_pad = "SAME_LOWER"> (x, w)', IMAGE, {"w": numbers(3, 4, 2, 2)}),
    "Conv 1-D": ("y = Conv <pads = [2, 2]> (x, w)", LINE, {"w": numbers(3, 4, 5)}),
    "Conv of a computed weight": ("v = Mul (x, x); y = Conv (x, v)", {"x": numbers(2, 2, 3, 3)}, {}),
    "ConvTranspose": ("y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 0]> (x, w, b)",
                      IMAGE, {"w": numbers(4, 3, 3, 3), "b": numbers(3)}),
    "ConvTranspose, uneven": ("y = ConvTranspose <strides = [2, 2], pads = [0, 1, 1, 0]> (x, w)", IMAGE,
                              {"w": numbers(4, 3, 3, 3)}),
    "ConvTranspose, same": ('y = ConvTranspose <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)', IMAGE,
                            {"w": numbers(4, 3, 3, 3)}),
    "MaxPool": ("y = MaxPool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1], ceil_mode = 1> (x)", IMAGE,
                {}),
    "MaxPool, same": ('y = MaxPool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER"> (x)', IMAGE, {}),
    "AveragePool": ("y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", IMAGE, {}),
    "AveragePool, uneven": ("y = AveragePool <kernel_shape = [3, 3], pads = [0, 1, 2, 1]> (x)", IMAGE, {}),
    "AveragePool of pads": ("y = AveragePool <kernel_shape = [3, 3], pads = [0, 1, 2, 1], count_include_pad = 1> (x)",
                            IMAGE, {}),
    "LpPool": ("y = LpPool <kernel_shape = [2, 2]> (x)", IMAGE, {}),
    "BatchNormalization": ("y = BatchNormalization (x, s, b, m, v)", IMAGE, CHANNELS),
    "BatchNormalization of rows": ("y = BatchNormalization (x, s, b, m, v)", X, CHANNELS),
    "InstanceNormalization": ("y = InstanceNormalization (x, s, b)", IMAGE, CHANNELS),
    "LayerNormalization": ("y = LayerNormalization (x, s, b)", X, CHANNELS),
    "GroupNormalization": ("y = GroupNormalization <num_groups = 2> (x, s, b)", IMAGE, CHANNELS, 21),
    "LRN": ("y = LRN <size = 3, alpha = 0.1> (x)", IMAGE, {}),
    **{f"Resize, {name}": (f"y = Resize <{settings}> (x, , s)", IMAGE, {"s": np.array(scales, np.float32)})
       for name, settings, scales in (
           ("nearest", 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
            [1, 1, 2, 3]),
           ("nearest as by default", 'mode = "nearest"', [1, 1, 2, 2]),
           ("nearest, smaller", 'mode = "nearest"', [1, 1, 0.6, 0.7]),
           ("linear", 'mode = "linear"', [1, 1, 2, 1.5]),
           ("linear to corners", 'mode = "linear", coordinate_transformation_mode = "align_corners"', [1, 1, 2, 2]),
           ("linear asymmetric", 'mode = "linear", coordinate_transformation_mode = "asymmetric"', [1, 1, 2, 1.5]),
           ("cubic", 'mode = "cubic"', [1, 1, 2, 2]))},
    "Resize to a size": ('y = Resize <mode = "linear"> (x, , , s)', IMAGE, {"s": ints(2, 4, 9, 5)}),
    "Upsample": ("y = Upsample (x, s)", IMAGE, {"s": np.array([1, 1, 2, 2], np.float32)}, 9),
    "GridSample": ("y = GridSample (x, g)", IMAGE, {"g": numbers(2, 3, 3, 2, low=-1, high=1)}, 16),
    # ONNX Runtime's own
    "FusedConv": ('y = com.microsoft.FusedConv <activation = "Relu"> (x, w)', IMAGE, {"w": numbers(3, 4, 3, 3)}),
    "FusedMatMul": ("y = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (x, w)", LINE, {"w": numbers(2, 3, 9)}),
    "com.microsoft.Gelu": ("y = com.microsoft.Gelu (x)", X, {}), "FastGelu": ("y = com.microsoft.FastGelu (x)", X, {}),
    "QuickGelu": ("y = com.microsoft.QuickGelu (x)", X, {}),
    "BiasGelu": ("y = com.microsoft.BiasGelu (x, b)", X, {"b": numbers(4)}),
    "SkipLayerNormalization": ("y = com.microsoft.SkipLayerNormalization (x, z, s, b)",
                               {"x": numbers(2, 3, 4), "z": numbers(2, 3, 4)}, CHANNELS),
    "com.microsoft.Attention": ("y = com.microsoft.Attention <num_heads = 2> (x, w, b)", {"x": numbers(2, 3, 4)},
                                {"w": numbers(4, 12), "b": numbers(12)}),
}  # fmt: skip

UNCAPTURED = {
    "NonZero": "its shape depends on data",
    "Compress": "its shape depends on data",
}


def run(case, tmp_path):
    nodes, inputs, weights, *more = case
    used = {name: array for name, array in weights.items() if name in nodes.replace("(", " ").replace(")", " ")
            .replace(",", " ").split()}  # fmt: skip
    opset, outputs = more[0] if more else 17, more[1] if len(more) > 1 else ("y",)
    return both(nodes, inputs, used, tmp_path, opset=opset, outputs=outputs)


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_computes_what_the_runtime_does(name, tmp_path):
    found, wanted, given = run(CASES[name], tmp_path)
    assert len(given) == len(wanted)
    for ours, theirs in zip(given, wanted, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not found.quantized


STATIC = {"NonZero", "Compress", "GatherND", "ScatterElements", "ScatterElements added", "GatherElements", "ScatterND",
          "ReverseSequence", "Gemm transposed", "Conv of a computed weight", "Expand", "FusedMatMul", "GridSample",
          "EyeLike", "Resize to a size", *COMPARISONS}  # fmt: skip
"""Those whose weights fit one batch alone, or that depend on data."""


@pytest.mark.parametrize("name", [name for number, name in enumerate(CASES) if name not in STATIC and number % 3 == 0])
def test_what_is_read_is_captured_with_its_batch_open(name, tmp_path):
    found, _, _ = run(CASES[name], tmp_path)
    given = tuple(torch.from_numpy(np.concatenate([array] * 2)) for array in CASES[name][1].values())
    batch = torch.export.Dim("batch")
    program = torch.export.export(found.module, given, dynamic_shapes=_open(found.module, given, batch), strict=False)
    more = tuple(torch.cat([tensor] * 2)[:7] for tensor in given)
    ours, theirs = (module(*more) for module in (program.module(), found.module))
    for one, other in zip(*(value if isinstance(value, tuple) else (value,) for value in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)


def _open(module, given, batch):
    import inspect

    return {name: {0: batch} for name in list(inspect.signature(module.forward).parameters)[: len(given)]}
