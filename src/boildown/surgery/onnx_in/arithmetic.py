"""Operators that work number by number."""

from __future__ import annotations

import math
import operator as op
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from boildown.surgery.onnx_in.dtypes import dtype_of
from boildown.surgery.onnx_in.table import CONTRIB, operator
from boildown.surgery.onnx_in.values import (
    Known,
    Value,
    are_known,
    as_type,
    each,
    number,
    operand,
    sym_float,
    sym_max,
    sym_min,
    tensor,
    truncated,
)

Binary = Callable[[Any, Any], Any]


def _both(a: Value, b: Value, of_numbers: Binary, of_tensors: Binary, dtype: torch.dtype | None = None) -> Value:
    """A function of two values, of numbers where both are known."""
    if isinstance(a, Known) and isinstance(b, Known):
        return Known(each(of_numbers, a.array, b.array), dtype or a.dtype)
    return of_tensors(operand(a, b), operand(b, a))


def _whole(value: Value) -> bool:
    return not value.dtype.is_floating_point


@operator("Add", settles=True)
def add(a: Value, b: Value) -> Value:
    """The sum."""
    return _both(a, b, op.add, op.add)


@operator("Sub", settles=True)
def subtract(a: Value, b: Value) -> Value:
    """The difference."""
    return _both(a, b, op.sub, op.sub)


@operator("Mul", settles=True)
def multiply(a: Value, b: Value) -> Value:
    """The product."""
    return _both(a, b, op.mul, op.mul)


@operator("Div", settles=True)
def divide(a: Value, b: Value) -> Value:
    """The quotient, of whole numbers towards 0."""
    if _whole(a):
        return _both(a, b, truncated, lambda x, y: torch.div(*_tensors(x, y, a.dtype), rounding_mode="trunc"))
    return _both(a, b, _quotient, op.truediv)


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(b, int | float) and b == 0:
        return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


def _tensors(a: Any, b: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    """Two operands of which the first is a tensor."""
    return (a if isinstance(a, Tensor) else torch.tensor(a, dtype=dtype)), b


@operator("Mod", settles=True)
def modulo(a: Value, b: Value, *, fmod: int = 0) -> Value:
    """The remainder, with the sign of the divisor or, `fmod`, of the dividend."""
    if fmod:
        return _both(a, b, math.fmod if not _whole(a) else _c_remainder, lambda x, y: torch.fmod(
            *_tensors(x, y, a.dtype)))  # fmt: skip
    return _both(a, b, op.mod, lambda x, y: torch.remainder(*_tensors(x, y, a.dtype)))


def _c_remainder(a: Any, b: Any) -> Any:
    return a - b * truncated(a, b)


@operator("Pow", settles=True)
def power(a: Value, b: Value) -> Value:
    """The power, of the type of the base."""
    if isinstance(a, Known) and isinstance(b, Known):
        raised = each(lambda x, y: as_type(x**y, a.dtype), a.array, b.array)
        return Known(raised, a.dtype)
    result = torch.pow(operand(a, b), operand(b, a))
    return result if result.dtype is a.dtype else result.to(a.dtype)


def _comparison(name: str, function: Binary) -> None:
    def compare(a: Value, b: Value) -> Value:
        return _both(a, b, function, function, torch.bool)

    operator(name, settles=True)(compare)


for _name, _function in {
    "Equal": op.eq, "Greater": op.gt, "Less": op.lt, "GreaterOrEqual": op.ge, "LessOrEqual": op.le,
}.items():  # fmt: skip
    _comparison(_name, _function)


def _logical(name: str, of_numbers: Binary, of_tensors: Binary) -> None:
    def join(a: Value, b: Value) -> Value:
        if are_known(a, b):
            return Known(each(of_numbers, a.array, b.array), torch.bool)
        return of_tensors(tensor(a), tensor(b))

    operator(name, settles=True)(join)


_logical("And", lambda a, b: a and b, torch.logical_and)
_logical("Or", lambda a, b: a or b, torch.logical_or)
_logical("Xor", lambda a, b: bool(a) != bool(b), torch.logical_xor)


@operator("Not", settles=True)
def invert(x: Value) -> Value:
    """True where it is false."""
    if isinstance(x, Known):
        return Known(each(lambda a: not a, x.array), torch.bool)
    return torch.logical_not(x)


@operator("Where", settles=True)
def where(condition: Value, a: Value, b: Value) -> Value:
    """The first value where the condition holds, else the second."""
    if are_known(condition, a, b):
        return Known(each(lambda c, x, y: x if c else y, condition.array, a.array, b.array), a.dtype)
    return torch.where(tensor(condition), operand(a, b), operand(b, a))


@operator("Neg", settles=True)
def negate(x: Value) -> Value:
    """The opposite."""
    return Known(each(op.neg, x.array), x.dtype) if isinstance(x, Known) else torch.neg(x)


def _unary(name: str, of_tensors: Callable[[Tensor], Tensor], of_numbers: Callable[[Any], Any] | None = None) -> None:
    """Register a function of one value; without one for numbers, they become a tensor."""

    def apply(x: Value) -> Value:
        if of_numbers is not None and isinstance(x, Known):
            return Known(each(of_numbers, x.array), x.dtype)
        return of_tensors(tensor(x))

    operator(name, settles=of_numbers is not None)(apply)


def _floor(x: Any) -> Any:
    return x if isinstance(x, int | torch.SymInt) else sym_float(math.floor(x))


def _ceil(x: Any) -> Any:
    return x if isinstance(x, int | torch.SymInt) else sym_float(math.ceil(x))


def _root(x: Any) -> Any:
    return torch.sym_sqrt(x) if isinstance(x, torch.SymFloat) else math.sqrt(x) if x >= 0 else math.nan


_unary("Abs", torch.abs, abs)
_unary("Floor", torch.floor, _floor)
_unary("Ceil", torch.ceil, _ceil)
_unary("Sqrt", torch.sqrt, _root)
_unary("Reciprocal", torch.reciprocal, lambda x: _quotient(1.0, x))
_unary("Round", torch.round)
_unary("Sign", torch.sign)
_unary("Exp", torch.exp)
_unary("Log", torch.log)
_unary("Erf", torch.erf)
_unary("Sin", torch.sin)
_unary("Cos", torch.cos)
_unary("Tan", torch.tan)
_unary("Asin", torch.asin)
_unary("Acos", torch.acos)
_unary("Atan", torch.atan)
_unary("Sinh", torch.sinh)
_unary("Cosh", torch.cosh)
_unary("Tanh", torch.tanh)
_unary("Asinh", torch.asinh)
_unary("Acosh", torch.acosh)
_unary("Atanh", torch.atanh)
_unary("Sigmoid", torch.sigmoid)
_unary("Relu", F.relu)
_unary("Softsign", F.softsign)
_unary("Softplus", F.softplus)
_unary("Mish", F.mish)
_unary("HardSwish", F.hardswish)
_unary("IsNaN", torch.isnan)
_unary("BitwiseNot", torch.bitwise_not)


@operator("Identity", settles=True, moves=True)
def identity(x: Value) -> Value:
    """The value itself."""
    return x


@operator("Dropout", moves=True, ignores=("ratio", "is_test", "seed"))
def dropout(x: Value, _ratio: Value = None, _training: Value = None, *, outputs: int) -> Value:
    """The value itself: files are run, not trained."""
    return x if outputs == 1 else (x, torch.ones_like(tensor(x), dtype=torch.bool))


@operator("Cast", settles=True, ignores=("saturate", "round_mode"))
def cast(x: Value, *, to: int) -> Value:
    """The value as another type; half and double are computed as float32."""
    dtype = dtype_of(to)
    if isinstance(x, Known):
        return Known(each(lambda item: as_type(item, dtype), x.array), dtype)
    return x if x.dtype is dtype else x.to(dtype)


@operator("CastLike", settles=True, ignores=("saturate", "round_mode"))
def cast_like(x: Value, like: Value) -> Value:
    """The value as the type of another."""
    if isinstance(x, Known):
        return Known(each(lambda item: as_type(item, like.dtype), x.array), like.dtype)
    return x if x.dtype is like.dtype else x.to(like.dtype)


@operator("IsInf")
def is_infinite(x: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    """Whether it is infinity, of one sign or both."""
    found = torch.isinf(tensor(x))
    if not (detect_negative and detect_positive):
        sign = x > 0 if detect_positive else x < 0
        found = found & sign if detect_positive or detect_negative else torch.zeros_like(found)
    return found


@operator("BitwiseAnd")
def bitwise_and(a: Value, b: Value) -> Value:
    """Bit by bit."""
    return torch.bitwise_and(tensor(a), operand(b, a))


@operator("BitwiseOr")
def bitwise_or(a: Value, b: Value) -> Value:
    """Bit by bit."""
    return torch.bitwise_or(tensor(a), operand(b, a))


@operator("BitwiseXor")
def bitwise_xor(a: Value, b: Value) -> Value:
    """Bit by bit."""
    return torch.bitwise_xor(tensor(a), operand(b, a))


@operator("BitShift")
def bit_shift(a: Value, b: Value, *, direction: str) -> Value:
    """Bits to the left or to the right."""
    shift = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    return shift(tensor(a), tensor(b))


# ---- several at once -----------------------------------------------------------------------------


def _all(function: Binary, of_numbers: Binary, values: tuple[Value, ...]) -> Value:
    if not values:
        raise ValueError("it has no inputs")
    found = values[0]
    for value in values[1:]:
        found = _both(found, value, of_numbers, lambda a, b: function(*map(torch.as_tensor, (a, b))))
    return found


@operator("Min", settles=True)
def minimum(*values: Value) -> Value:
    """The smallest."""
    return _all(torch.minimum, sym_min, values)


@operator("Max", settles=True)
def maximum(*values: Value) -> Value:
    """The largest."""
    return _all(torch.maximum, sym_max, values)


@operator("Sum")
def total(*values: Value) -> Value:
    """The sum of all."""
    found = values[0]
    for value in values[1:]:
        found = add(found, value)
    return found


@operator("Mean")
def mean(*values: Value) -> Value:
    """The average of all."""
    return tensor(total(*values)) / len(values)


@operator("Clip", settles=True, plain=(1, 2))
def clip(x: Value, low: Value = None, high: Value = None, *, min: float | None = None, max: float | None = None
         ) -> Value:  # fmt: skip
    """Not below one limit and not above another; before opset 11 they are attributes."""
    low, high = (given if given is not None else limit for given, limit in ((low, min), (high, max)))
    if isinstance(x, Known) and all(not isinstance(limit, Tensor) for limit in (low, high)):
        found = x.array
        if low is not None:
            found = each(lambda a: sym_max(a, _limit(low)), found)
        if high is not None:
            found = each(lambda a: sym_min(a, _limit(high)), found)
        return Known(found, x.dtype)
    x, low, high = tensor(x), _limit(low), _limit(high)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        above = x if low is None else torch.maximum(x, torch.as_tensor(low, dtype=x.dtype))
        return above if high is None else torch.minimum(above, torch.as_tensor(high, dtype=x.dtype))
    if low == 0 and x.is_floating_point() and high in (None, 6):
        return F.relu(x) if high is None else F.relu6(x)
    return x if low is None and high is None else torch.clamp(x, low, high)


def _limit(value: Any) -> Any:
    """A limit as a plain number where it is known; none where it bounds nothing."""
    if isinstance(value, Known):
        value = number(value)
    huge = isinstance(value, float) and abs(value) >= torch.finfo(torch.float32).max
    return None if huge else value


# ---- activation functions ------------------------------------------------------------------------


@operator("LeakyRelu")
def leaky_relu(x: Value, *, alpha: float = 0.01) -> Value:
    """Less steep below 0."""
    return F.leaky_relu(tensor(x), alpha)


@operator("Elu")
def elu(x: Value, *, alpha: float = 1.0) -> Value:
    """An exponential below 0."""
    return F.elu(tensor(x), alpha)


@operator("Celu")
def celu(x: Value, *, alpha: float = 1.0) -> Value:
    """An exponential below 0, smooth for every alpha."""
    return F.celu(tensor(x), alpha)


_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


@operator("Selu")
def selu(x: Value, *, alpha: float = _SELU[0], gamma: float = _SELU[1]) -> Value:
    """A scaled exponential below 0."""
    if math.isclose(alpha, _SELU[0], rel_tol=1e-6) and math.isclose(gamma, _SELU[1], rel_tol=1e-6):
        return F.selu(tensor(x))
    return gamma * F.elu(tensor(x), alpha)


@operator("ThresholdedRelu")
def thresholded_relu(x: Value, *, alpha: float = 1.0) -> Value:
    """0 up to a threshold."""
    return torch.where(x > alpha, tensor(x), torch.zeros_like(tensor(x)))


@operator("HardSigmoid")
def hard_sigmoid(x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    """A straight line between 0 and 1."""
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid(tensor(x))
    return torch.clamp(alpha * tensor(x) + beta, 0, 1)


@operator("Gelu")
def gelu(x: Value, *, approximate: str = "none") -> Value:
    """The Gaussian error linear unit."""
    return F.gelu(tensor(x), approximate=approximate)


@operator("Swish")
def swish(x: Value, *, alpha: float = 1.0) -> Value:
    """The value times its sigmoid."""
    return F.silu(tensor(x)) if alpha == 1 else tensor(x) * torch.sigmoid(alpha * x)


@operator("Shrink")
def shrink(x: Value, *, bias: float = 0.0, lambd: float = 0.5) -> Value:
    """0 around 0, and closer to it elsewhere."""
    zero = torch.zeros_like(tensor(x))
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))


@operator("PRelu")
def prelu(x: Value, slope: Value) -> Value:
    """A slope of its own below 0."""
    return torch.where(x < 0, tensor(x) * tensor(slope), tensor(x))


@operator("Gelu", domain=CONTRIB)
def contrib_gelu(x: Value) -> Value:
    """ONNX Runtime's own."""
    return F.gelu(tensor(x))


@operator("FastGelu", domain=CONTRIB)
def fast_gelu(x: Value, bias: Value = None) -> Value:
    """By a hyperbolic tangent."""
    return F.gelu(tensor(x) if bias is None else tensor(x) + tensor(bias), approximate="tanh")


@operator("BiasGelu", domain=CONTRIB)
def bias_gelu(x: Value, bias: Value) -> Value:
    """Of a sum."""
    return F.gelu(tensor(x) + tensor(bias))


@operator("BiasAdd", domain=CONTRIB)
def bias_add(x: Value, bias: Value, skip: Value) -> Value:
    """The sum of three."""
    return tensor(x) + tensor(bias) + tensor(skip)


@operator("QuickGelu", domain=CONTRIB)
def quick_gelu(x: Value, *, alpha: float = 1.702) -> Value:
    """The value times the sigmoid of a multiple."""
    return F.silu(tensor(x)) if alpha == 1 else tensor(x) * torch.sigmoid(alpha * x)
