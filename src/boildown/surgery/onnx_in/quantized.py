"""Files that are already quantized, made float again: every integer value becomes the float value it stands for.

Quantizers are taken out; one whose grid starts at 0 was fused with a rectifier, which is put back. Weights are
multiplied by their scales. Where a runtime finds grids while it runs, its step is taken for 1, so that what follows,
the product with that step among it, computes in float what it computed in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from boildown.errors import shortened, text_of
from boildown.surgery.onnx_in.file import Body, Constant, Faults, Op, capital
from boildown.surgery.onnx_in.table import CONTRIB, operator
from boildown.surgery.onnx_in.values import Value, tensor

_MOVES = frozenset(
    """
    Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather Split Expand Tile MaxPool Concat Identity DepthToSpace
    SpaceToDepth Resize Upsample GatherElements GatherND Where GlobalMaxPool ReduceMax ReduceMin Max Min
    """.split()  # noqa: SIM905 - a list of strings would be one line each
)
"""What may be done to integers so that the same is done to what they stand for."""

_ORDERS = frozenset({"ArgMax", "ArgMin", "TopK", "Shape", "Size"})
_POSITIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Exp", "Sqrt"})
_CURE = "Give the float file that it was quantized from."


@operator("DequantizeLinear", ignores=("output_dtype",))
@operator("DequantizeLinear", domain=CONTRIB, ignores=("output_dtype",))
def dequantized(x: Value, scale: Value, zero: Value = None, *, axis: int = 1, block_size: int = 0) -> Value:
    """What integers stand for."""
    x, steps = tensor(x), _spread(tensor(scale), tensor(x), axis, block_size)
    if zero is None:
        return x.to(torch.float32) * steps
    return (x.to(torch.float32) - _spread(tensor(zero), x, axis, block_size).to(torch.float32)) * steps


def _spread(part: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point of one value, of each channel, or of each block, as broadcasting takes it."""
    if part.numel() == 1:
        return part.reshape(())
    if block:
        return part.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if part.ndim == 1:
        return part.reshape([-1 if other == axis % x.ndim else 1 for other in range(x.ndim)])
    return part


def _low(zero: Tensor | None) -> float:
    """The smallest integer of a grid."""
    if zero is None or zero.dtype is torch.uint8:
        return 0
    return {torch.int8: -128, torch.int16: -32768}.get(zero.dtype, 0)


class Float:
    """Rewrites one graph, in place; `found` tells whether there was anything to rewrite."""

    def __init__(self, body: Body, faults: Faults) -> None:
        self.body, self.faults, self.found = body, faults, False
        self.steps: dict[str, Tensor | None] = {}
        """Integer values that are float now -> the size of a step, `None` where it is taken for 1."""
        self.positive: set[str] = set()
        self.ops: list[Op] = []
        self.makers: dict[str, str] = {}

    def rewrite(self) -> bool:
        """Do it."""
        for op in self.body.ops:
            handler = _HANDLERS.get((op.domain, op.kind))
            before = len(self.ops)
            if handler is not None:
                try:
                    handler(self, op)
                    self.found = True
                except Exception as error:  # noqa: BLE001 - shapes of others fit together in any way, or not
                    said = text_of(error).partition("\n")[0] or type(error).__name__
                    self.faults.add(f"{capital(op)} cannot be made float again: {shortened(said)}.", _CURE)
                    self.steps.update(dict.fromkeys(op.outputs))
            else:
                self._other(op)
            for made in self.ops[before:]:
                self.makers.update(dict.fromkeys(made.outputs, made.kind))
                if made.kind in _POSITIVE or (made.kind in _MOVES and made.inputs and made.inputs[0] in self.positive):
                    self.positive.update(made.outputs)
        self.body.ops = self.ops
        return self.found

    def _other(self, op: Op) -> None:
        read = [name for name in op.inputs if name in self.steps]
        if read and op.kind in _MOVES:
            self.steps.update(dict.fromkeys(op.outputs, self.steps[read[0]]))
            constants = [name for name in op.inputs if name in self.body.constants and op.kind in ("Concat", "Where")]
            if any(self.body.constants[name].tensor.dtype in (torch.int8, torch.uint8) for name in constants):
                self.faults.add(f"{capital(op)} joins integers whose scale is not told.", _CURE)
        elif read and op.kind == "Pad":
            self._pad(op)
        elif read and op.kind == "Clip":
            self.steps.update(dict.fromkeys(op.outputs, self.steps[read[0]]))
            op.kind, op.inputs = "Identity", op.inputs[:1]
        elif read and op.kind == "Cast" and self.steps[read[0]] is None:
            self.steps[op.outputs[0]] = None  # products in integers, on their way to their step
            op.attributes = {"to": 1}
        elif read and op.kind not in _ORDERS and not (op.kind in ("Mul", "Add") and self.steps[read[0]] is None):
            self.faults.add(f"{capital(op)} computes with integers whose scale is not told.", _CURE)
        self.ops.append(op)

    def _pad(self, op: Op) -> None:
        step = self.steps[op.inputs[0]]
        self.steps[op.outputs[0]] = step
        if len(op.inputs) > 2 and op.inputs[2]:
            op.inputs[2] = ""  # with the zero point, which stands for 0
            while op.inputs and not op.inputs[-1]:
                op.inputs.pop()

    # ---- parts of handlers -----------------------------------------------------------------------

    def constant(self, op: Op, position: int) -> Tensor | None:
        """An input that is a constant; None where it is left out."""
        name = op.inputs[position] if position < len(op.inputs) else ""
        if not name:
            return None
        if name not in self.body.constants:
            raise _UnknownError("its scales, zero points or weights are computed")
        return self.body.constants[name].tensor

    def needed(self, op: Op, position: int) -> Tensor:
        """An input that must be a constant."""
        found = self.constant(op, position)
        if found is None:
            raise _UnknownError("a scale is left out")
        return found

    def add(self, value: Tensor, name: str, learned: bool = True) -> str:
        """A new constant's name."""
        free = name
        while free in self.body.constants or free in self.makers:
            free += "_"
        self.body.constants[free] = Constant(value.contiguous(), learned, free)
        return free

    def emit(self, op: Op, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """A float node in the place of an integer one."""
        self.ops.append(Op(kind, "", op.name, inputs, [output], attributes, op.scope))
        self.makers[output] = kind

    def real(self, op: Op, position: int, scale: int, zero: int) -> str:
        """The name of the float value that an integer input stands for."""
        name = op.inputs[position]
        if name in self.steps:
            step = self.steps[name]
            if step is not None or name not in self.body.constants:
                return name
        if name in self.body.constants:
            made = dequantized(
                self.body.constants[name].tensor, self.needed(op, scale), self.constant(op, zero), axis=0
            )
            return self.add(made, f"{name}/float")
        fresh = f"{name}/float"
        if fresh not in self.makers:  # whole numbers that come from outside
            given = [name, op.inputs[scale], op.inputs[zero] if zero < len(op.inputs) else ""]
            self.emit(op, "DequantizeLinear", given, fresh)
        return fresh

    def end(self, op: Op, made: str, output: str, scale: Tensor | None, zero: Tensor | None) -> None:
        """Put back what a quantizer was fused with: it clips at 0 where its grid starts there."""
        self.steps[output] = scale
        origin = 0.0 if zero is None else float(zero.reshape(-1)[0])
        known = scale is not None and scale.numel() == 1
        starts = origin == _low(zero) and (zero is None or zero.numel() == 1)
        given = made in self.body.inputs
        if not known or not starts or given or made in self.positive:
            self.emit(op, "Identity", [made], output)
            if made in self.positive:
                self.positive.add(output)
            return
        assert scale is not None
        top = 255 * float(scale)
        if abs(top - 6) < 0.03 and (zero is None or zero.dtype in (torch.int8, torch.uint8)):
            low, high = self.add(torch.zeros(()), f"{output}/low"), self.add(torch.tensor(6.0), f"{output}/high")
            self.emit(op, "Clip", [made, low, high], output)
        else:
            self.emit(op, "Relu", [made], output)
        self.positive.add(output)


class _UnknownError(Exception):
    pass


_Handler = Callable[[Float, Op], None]
_HANDLERS: dict[tuple[str, str], _Handler] = {}


def _handles(*kinds: str, domains: tuple[str, ...] = ("",)) -> Callable[[_Handler], _Handler]:
    def add(handler: _Handler) -> _Handler:
        _HANDLERS.update({(domain, kind): handler for kind in kinds for domain in domains})
        return handler

    return add


_EITHER = ("", CONTRIB)


@_handles("QuantizeLinear", domains=_EITHER)
def _quantizer(graph: Float, op: Op) -> None:
    if op.inputs[1] not in graph.body.constants:
        graph.steps[op.outputs[0]] = None
        graph.emit(op, "Identity", op.inputs[:1], op.outputs[0])
        return
    zero = graph.constant(op, 2)
    if zero is None and op.attributes.get("output_dtype"):
        from boildown.surgery.onnx_in.dtypes import dtype_of

        zero = torch.zeros((), dtype=dtype_of(op.attributes["output_dtype"]))
    graph.end(op, op.inputs[0], op.outputs[0], graph.needed(op, 1), zero)


@_handles("DequantizeLinear", domains=_EITHER)
def _dequantizer(graph: Float, op: Op) -> None:
    if op.inputs[0] in graph.steps:
        graph.emit(op, "Identity", op.inputs[:1], op.outputs[0])
        if op.inputs[0] in graph.positive:
            graph.positive.add(op.outputs[0])
    else:
        graph.ops.append(op)


@_handles("DynamicQuantizeLinear")
def _found_while_running(graph: Float, op: Op) -> None:
    graph.steps[op.outputs[0]] = None
    graph.emit(op, "Identity", op.inputs[:1], op.outputs[0])
    for name, value in zip(op.outputs[1:], (torch.ones(()), torch.zeros((), dtype=torch.uint8)), strict=False):
        if name:
            graph.body.constants[name] = Constant(value, False, name)


def _integers(graph: Float, op: Op, weight: int, zero: int, axis: int) -> Tensor:
    """A weight of integers without its zero point, as float."""
    stored, origin = graph.needed(op, weight).float(), graph.constant(op, zero)
    if origin is None:
        return stored
    return stored - _spread(origin.float(), stored, axis, 0)


@_handles("MatMulInteger", "ConvInteger")
def _integer_product(graph: Float, op: Op) -> None:
    name = op.inputs[0]
    product = op.kind == "MatMulInteger"
    if name not in graph.steps:
        raise _UnknownError("it multiplies integers of which no scale is told")
    weight = _integers(graph, op, 1, 3, 1 if product else 0)
    step = graph.steps[name]
    weight = weight if step is None else weight / step.reshape(())
    kept = graph.add(weight, f"{op.inputs[1]}/float")
    graph.emit(op, "MatMul" if product else "Conv", [name, kept], op.outputs[0], **op.attributes)
    graph.steps[op.outputs[0]] = None


@_handles("QLinearConv", domains=_EITHER)
def _convolution(graph: Float, op: Op) -> None:
    if op.attributes.pop("channels_last", 0):
        raise _UnknownError("its channels are last")
    x = graph.real(op, 0, 1, 2)
    weight = dequantized(graph.needed(op, 3), graph.needed(op, 4), graph.constant(op, 5), axis=0)
    inputs = [x, graph.add(weight, f"{op.inputs[3]}/float")]
    if len(op.inputs) > 8 and op.inputs[8]:
        bias = graph.needed(op, 8).float() * (graph.needed(op, 1) * graph.needed(op, 4)).reshape(-1)
        inputs.append(graph.add(bias, f"{op.inputs[8]}/float"))
    made = f"{op.outputs[0]}/float"
    graph.emit(op, "Conv", inputs, made, **op.attributes)
    graph.end(op, made, op.outputs[0], graph.needed(op, 6), graph.constant(op, 7))


def _two(kind: str) -> _Handler:
    def handler(graph: Float, op: Op) -> None:
        inputs = [_matrix(graph, op, first) for first in (0, 3)]
        made = f"{op.outputs[0]}/float"
        graph.emit(op, kind, inputs, made)
        graph.end(op, made, op.outputs[0], graph.needed(op, 6), graph.constant(op, 7))

    return handler


def _matrix(graph: Float, op: Op, first: int) -> str:
    """A factor, whose scales belong to its columns where it is a weight."""
    name = op.inputs[first]
    if name in graph.body.constants and name not in graph.steps:
        made = dequantized(graph.needed(op, first), graph.needed(op, first + 1), graph.constant(op, first + 2), axis=-1)
        return graph.add(made, f"{name}/float")
    return graph.real(op, first, first + 1, first + 2)


_handles("QLinearMatMul", domains=_EITHER)(_two("MatMul"))
_handles("QLinearAdd", domains=(CONTRIB,))(_two("Add"))
_handles("QLinearMul", domains=(CONTRIB,))(_two("Mul"))


def _one(kind: str, **kept: Any) -> _Handler:
    """A function of one value, whose grid comes last; `kept` are attributes that are the float operator's too."""

    def handler(graph: Float, op: Op) -> None:
        if op.attributes.pop("channels_last", 0):
            raise _UnknownError("its channels are last")
        op.attributes.pop("opset", None)
        made = f"{op.outputs[0]}/float"
        graph.emit(op, kind, [graph.real(op, 0, 1, 2)], made, **kept, **op.attributes)
        graph.end(op, made, op.outputs[0], graph.needed(op, 3), graph.constant(op, 4))

    return handler


for _kind, _own in {
    "QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu", "QLinearSoftmax": "Softmax",
    "QLinearAveragePool": "AveragePool", "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearReduceMean": "ReduceMean",
}.items():  # fmt: skip
    _handles(_kind, domains=(CONTRIB,))(_one(_own))


@_handles("QLinearConcat", domains=(CONTRIB,))
def _concatenated(graph: Float, op: Op) -> None:
    inputs = [graph.real(op, first, first + 1, first + 2) for first in range(2, len(op.inputs), 3)]
    made = f"{op.outputs[0]}/float"
    graph.emit(op, "Concat", inputs, made, **op.attributes)
    graph.end(op, made, op.outputs[0], graph.needed(op, 0), graph.constant(op, 1))


@_handles("QGemm", domains=(CONTRIB,))
def _gemm(graph: Float, op: Op) -> None:
    turned = bool(op.attributes.get("transB"))
    weight = dequantized(graph.needed(op, 3), graph.needed(op, 4), graph.constant(op, 5), axis=0 if turned else 1)
    inputs = [graph.real(op, 0, 1, 2), graph.add(weight, f"{op.inputs[3]}/float")]
    if len(op.inputs) > 6 and op.inputs[6]:
        bias = graph.needed(op, 6).float() * (graph.needed(op, 1) * graph.needed(op, 4)).reshape(-1)
        inputs.append(graph.add(bias, f"{op.inputs[6]}/float"))
    made = f"{op.outputs[0]}/float"
    ends = len(op.inputs) > 7 and bool(op.inputs[7])
    graph.emit(op, "Gemm", inputs, made if ends else op.outputs[0], **op.attributes)
    if ends:
        graph.end(op, made, op.outputs[0], graph.needed(op, 7), graph.constant(op, 8))


def _columns(graph: Float, op: Op, weight: int, scale: int, zero: int) -> str:
    made = _integers(graph, op, weight, zero, -1) * graph.needed(op, scale)
    return graph.add(made, f"{op.inputs[weight]}/float")


def _product(graph: Float, op: Op, factor: str, bias: int) -> None:
    """A product, and what is added to it."""
    added = op.inputs[bias] if len(op.inputs) > bias else ""
    made = f"{op.outputs[0]}/float" if added else op.outputs[0]
    graph.emit(op, "MatMul", [op.inputs[0], factor], made)
    if added:
        graph.emit(op, "Add", [made, added], op.outputs[0])


@_handles("DynamicQuantizeMatMul", domains=(CONTRIB,))
def _dynamic_product(graph: Float, op: Op) -> None:
    _product(graph, op, _columns(graph, op, 1, 2, 3), 4)


@_handles("MatMulIntegerToFloat", domains=(CONTRIB,))
def _product_to_float(graph: Float, op: Op) -> None:
    if op.inputs[0] not in graph.steps:
        raise _UnknownError("it multiplies integers of which no scale is told")
    _product(graph, op, _columns(graph, op, 1, 3, 5), 6)


@_handles("DynamicQuantizeLSTM", domains=(CONTRIB,))
def _lstm(graph: Float, op: Op) -> None:
    inputs = [*op.inputs, *[""] * (12 - len(op.inputs))]
    for position, first in ((1, 8), (2, 10)):
        stored, scale = graph.needed(op, position).float(), graph.needed(op, first)
        origin = graph.constant(op, first + 1)
        scale = scale.reshape(len(stored), 1, -1)
        whole = stored if origin is None else stored - origin.float().reshape(len(stored), 1, -1)
        inputs[position] = graph.add((whole * scale).transpose(1, 2), f"{op.inputs[position]}/float")
    inputs = inputs[:8]
    while inputs and not inputs[-1]:
        inputs.pop()
    graph.ops.append(Op("LSTM", "", op.name, inputs, op.outputs, op.attributes, op.scope))


@_handles("MatMulNBits", domains=(CONTRIB,))
def _packed_product(graph: Float, op: Op) -> None:
    told: Mapping[str, Any] = op.attributes
    rows, columns, bits, block = (int(told.get(name, 4)) for name in ("N", "K", "bits", "block_size"))
    if len(op.inputs) > 4 and op.inputs[4]:
        raise _UnknownError("its groups are in another order")
    packed = graph.needed(op, 1)
    count = -(-columns // block)
    if packed.numel() != rows * count * (block * bits // 8) or bits not in (4, 8):
        raise _UnknownError("its weights are packed in another way")
    whole = _unpacked(packed.reshape(rows, -1), bits).reshape(rows, count, block).float()
    origin = graph.constant(op, 3)
    if origin is None:
        zeros: Any = float(2 ** (bits - 1))
    elif origin.is_floating_point():
        zeros = origin.reshape(rows, count, 1)
    else:
        zeros = _unpacked(origin.reshape(rows, -1), bits)[:, :count].reshape(rows, count, 1).float()
    made = (whole - zeros) * graph.needed(op, 2).reshape(rows, count, 1)
    weight = made.reshape(rows, -1)[:, :columns].t()
    _product(graph, op, graph.add(weight, f"{op.inputs[1]}/float"), 5)


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Numbers of 4 bits, two in a byte, the lower first."""
    if bits == 8:
        return packed
    return torch.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
