"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from boildown.surgery.onnx_in.arithmetic import leaky_relu
from boildown.surgery.onnx_in.table import CONTRIB, Floats, operator
from boildown.surgery.onnx_in.values import Value, tensor


@operator("MatMul", folds=False)
def product(a: Value, b: Value) -> Value:
    """The product of matrices, or of many of them."""
    return torch.matmul(tensor(a), tensor(b))


@operator("Gemm", folds=False)
def gemm(
    a: Value, b: Value, c: Value = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Value:
    """A scaled product and something added."""
    first, second = tensor(a).t() if transA else tensor(a), tensor(b).t() if transB else tensor(b)
    found = torch.matmul(first, second)
    found = found if alpha == 1 else found * alpha
    if c is None or beta == 0:
        return found
    return found + (tensor(c) if beta == 1 else tensor(c) * beta)


@operator("Einsum", folds=False)
def einsum(*values: Value, equation: str) -> Value:
    """A sum of products, by letters."""
    return torch.einsum(equation, *[tensor(value) for value in values])


@operator("Det", folds=False)
def determinant(x: Value) -> Value:
    """The determinant of matrices."""
    return torch.linalg.det(tensor(x))


@operator("Inverse", domain=CONTRIB, folds=False)
def inverse(x: Value) -> Value:
    """The inverse of matrices."""
    return torch.linalg.inv(tensor(x))


@operator(
    "FusedMatMul", "TransposeMatMul", domain=CONTRIB, folds=False, only={"transBatchA": (0,), "transBatchB": (0,)}
)
def fused_product(
    a: Value, b: Value, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0,
    transBatchB: int = 0,
) -> Value:  # fmt: skip
    """A scaled product of matrices that may be transposed."""
    assert transBatchA == transBatchB == 0

    def turned(x: Tensor, turn: int) -> Tensor:
        return x.transpose(-2, -1) if turn and x.ndim > 1 else x

    found = torch.matmul(turned(tensor(a), transA), turned(tensor(b), transB))
    return found if alpha == 1 else found * alpha


def activated(x: Tensor, activation: str, params: Floats = ()) -> Tensor:
    """ONNX Runtime's fused activation functions. Raises ValueError for one that is not known."""
    if activation in ("", "Relu"):
        return torch.relu(x) if activation else x
    if activation == "Sigmoid":
        return torch.sigmoid(x)
    if activation == "Tanh":
        return torch.tanh(x)
    if activation == "LeakyRelu":
        found: Tensor = leaky_relu(x, alpha=params[0] if params else 0.01)
        return found
    if activation == "Clip" and len(params) == 2:
        return torch.nn.functional.relu6(x) if list(params) == [0, 6] else torch.clamp(x, params[0], params[1])
    if activation == "HardSigmoid" and len(params) == 2:
        return torch.clamp(params[0] * x + params[1], 0, 1)
    raise ValueError(f"an activation {activation!r} is not read")


@operator("FusedGemm", domain=CONTRIB, folds=False)
def fused_gemm(
    a: Value, b: Value, c: Value = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,
    activation: str = "", activation_alpha: float = 0.01,
) -> Value:  # fmt: skip
    """A scaled product, something added, and a function of it."""
    found = gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return activated(found, activation, [activation_alpha])
