"""Preprocessing of pictures in the file: uint8 pixels of any size go in, by standard ONNX operators alone.

Resize of ONNX antialiases otherwise than Pillow (other weights at the edges, no rounding between the axes). So every
axis is one product with a matrix of weights that the graph works out from the sizes: in whole numbers where the pixels
are uint8, digit by digit of 7 bits, which no processor saturates. That is bit for bit what Pillow and torch do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from boildown.domain import preprocess as described
from boildown.domain.preprocess import Preprocess, Step
from boildown.errors import InputError, Mistake

PICTURE = "picture"
OLDEST = 13
"""The first opset whose operators have the form that is written here."""

_BITS = 22
"""Those behind the point of Pillow's weights."""
_DIGIT = 128
_BY_PILLOW_ONLY = ("box", "hamming", "lanczos")


def preprocessed(
    source: Path, target: Path, description: Preprocess, classes: Sequence[str] | None, said: Mapping[str, str]
) -> None:
    """Write the file `source` with the description's steps in front of its input, as `target`.

    classes and `said` become metadata. Raises InputError with every reason why it cannot be.
    """
    model = onnx.load(source, load_external_data=False)
    if mistakes := refusals(description, model):
        raise InputError(*mistakes)
    steps = description.inputs[0].steps
    fed, port = _port(model)
    batch = fed.type.tensor_type.shape.dim[0]
    writer = _Writer({name for node in model.graph.node for name in (*node.input, *node.output)} | {PICTURE})
    made = _Pictures(writer, newest_pillow=_pillow() >= 13).write(steps, np.dtype(port))
    writer.nodes[-1].output[0] = fed.name
    assert made != fed.name
    inside = model.graph.value_info.add()  # what fuses by shapes still knows it
    inside.CopyFrom(fed)
    channels = 1 if any(isinstance(step, described.Decode) and step.mode == "L" for step in steps) else 3
    shape = [batch.dim_param or batch.dim_value, "height", "width", channels]
    fed.CopyFrom(helper.make_tensor_value_info(PICTURE, TensorProto.UINT8, shape))
    nodes = [*writer.nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(writer.constants())
    model.producer_name = f"{model.producer_name} with preprocessing".strip()  # it is another file than that
    metadata = {entry.key: entry.value for entry in model.metadata_props if entry.key != "content"} | dict(said)
    metadata |= {"classes": json.dumps(list(classes), ensure_ascii=False)} if classes else {}
    helper.set_model_props(model, metadata)
    onnx.save(model, target)
    onnx.checker.check_model(str(target), full_check=True)


def refusals(description: Preprocess | None, model: ModelProto) -> list[Mistake]:
    """Every reason why the preprocessing cannot be in the file."""
    kinds = [] if description is None else [raw.kind for raw in description.inputs]
    if description is None or kinds != ["picture"]:
        kind = kinds[0] if len(kinds) == 1 else "tensor" if not kinds else "several"
        return [Mistake(*_OTHER_KINDS[kind])]
    mistakes = [
        Mistake(f"{lacking} is nothing that ONNX's operators do.", _CURE)
        for lacking in dict.fromkeys(_lacking(description.inputs[0].steps))
    ]
    opset = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST:
        mistakes.append(
            Mistake(f"The file is of opset {opset}.", f"Export the model with opset {OLDEST} or a newer one.")
        )
    if len(_inputs(model)) != 1:
        names = ", ".join(port.name for port in _inputs(model))
        mistakes.append(Mistake(f"The file takes {names}, and one picture is described.", "Describe a single input."))
        return mistakes
    fed, _dtype = _port(model)
    made, taken = (
        described.shape_of(description.inputs[0].steps),
        [dim.dim_value for dim in fed.type.tensor_type.shape.dim],
    )
    fits = len(taken) == 4 and all(
        not dim or side is None or dim == side for dim, side in zip(taken[1:], made, strict=True)
    )
    if not fits:
        mistakes.append(
            Mistake(
                f"The description makes {described.sides(made)} of a picture, and the file takes "
                f"{described.sides(taken[1:])}.",
                "Mend the task's preprocess=, and run anew.",
            )
        )
    return mistakes


_CURE = "Take it without --with-preprocessing: predict.py does it."
_OTHER_KINDS = {
    "row": ("Rows of a table stay outside the file: their categories are texts.", _CURE),
    "text": ("A tokenizer is no standard operator of ONNX, and stays outside the file.", _CURE),
    "text pair": ("A tokenizer is no standard operator of ONNX, and stays outside the file.", _CURE),
    "tensor": (
        "How a raw input becomes a tensor is not known, and so cannot be in the file.",
        "Give the task preprocess=, and run anew.",
    ),
    "several": ("The model takes more than one raw thing.", "Take it without --with-preprocessing."),
}


def _lacking(steps: Sequence[Step]) -> Iterator[str]:
    """What ONNX has no operators for, in words."""
    whole = True
    for step in steps:
        match step:
            case described.Resize() if step.filter in _BY_PILLOW_ONLY:
                yield f"Resampling by {step.filter}"
            case described.Resize(filter="bicubic", by="tensor", antialias=False) if whole:
                yield "Resampling uint8 tensors by bicubic without antialiasing"
            case described.Scale() | described.Normalize():
                whole = False
            case described.Cast():
                whole = step.dtype == "uint8"
            case described.Columns() | described.Tokenize():
                yield f"The step {type(step).__name__.lower()}"
            case _:
                pass


def _inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [port for port in model.graph.input if port.name not in weights]


def _port(model: ModelProto) -> tuple[onnx.ValueInfoProto, np.dtype[Any]]:
    port = _inputs(model)[0]
    return port, helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)


def _pillow() -> int:
    """The Pillow that read the pictures: since 13 some are resampled by height first."""
    try:
        return int(version("pillow").partition(".")[0])
    except (PackageNotFoundError, ValueError):
        return 13


class _Writer:
    """Nodes and constants, with names that the file does not have."""

    def __init__(self, taken: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._taken, self._constants = taken, dict[tuple[str, tuple[int, ...], bytes], tuple[str, Any]]()

    def name(self) -> str:
        """A name that is free."""
        name = next(name for place in range(len(self._taken) + 1) if (name := f"p{place}") not in self._taken)
        self._taken.add(name)
        return name

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        """An initializer; equal ones are one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = (self.name(), array)
        return self._constants[key][0]

    def constants(self) -> list[TensorProto]:
        """All initializers."""
        return [numpy_helper.from_array(array, name) for name, array in self._constants.values()]

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The output of a new node."""
        name = self.name()
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def either(self, condition: str, then: Callable[[], str], otherwise: Callable[[], str]) -> str:
        """What one of two branches makes, of values outside."""
        outside, graphs = self.nodes, []
        for make in (then, otherwise):
            self.nodes = []
            output = helper.make_empty_tensor_value_info(make())
            graphs.append(helper.make_graph(self.nodes, "g", [], [output]))
        self.nodes = outside
        return self("If", condition, then_branch=graphs[0], else_branch=graphs[1])


class _Pictures:
    """The steps as nodes; the values are (batch, channels, height, width), and at the end as the description says."""

    def __init__(self, writer: _Writer, *, newest_pillow: bool) -> None:
        self.op, self.newest_pillow = writer, newest_pillow
        self.value = PICTURE
        self.dtype = np.dtype(np.uint8)

    def write(self, steps: Sequence[Step], wanted: np.dtype[Any]) -> str:
        """All steps; the last value has the type that is wanted."""
        self.value = self.op("Transpose", self.value, perm=[0, 3, 1, 2])
        last = "HWC"
        for step in steps:
            match step:
                case described.Resize():
                    self.resize(step)
                case described.Crop():
                    self.crop(step)
                case described.Pad():
                    self.pad(step)
                case described.Gray():
                    self.gray(step)
                case described.Scale():
                    self.cast(np.float32)
                    self.value = self.op("Div", self.value, self.op.constant(step.divide, np.float32))
                case described.Normalize():
                    self.cast(np.float32)
                    mean, std = (self._per_channel(values, np.float32) for values in (step.mean, step.std))
                    # Not folded: a last bit decides ties of what is then rounded to int8.
                    self.value = self.op("Div", self.op("Sub", self.value, mean), std)
                case described.Cast():
                    self.cast(step.dtype)
                case described.Layout():
                    last = step.axes
                case _:  # decoding is outside
                    pass
        self.cast(wanted)
        if last == "HWC":
            self.value = self.op("Transpose", self.value, perm=[0, 2, 3, 1])
        if self.op.nodes[-1].output[0] != self.value:
            self.value = self.op("Identity", self.value)
        return self.value

    def cast(self, dtype: Any) -> None:
        """The value as another type."""
        if self.dtype != np.dtype(dtype):
            self.dtype = np.dtype(dtype)
            self.value = self._cast(self.value, self.dtype)

    def _cast(self, value: str, dtype: Any) -> str:
        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _per_channel(self, values: Sequence[float], dtype: Any) -> str:
        return self.op.constant(np.reshape(values, (-1, 1, 1)), dtype)

    def _whole(self, value: int) -> str:
        return self.op.constant(value, np.int64)

    def _sides(self) -> tuple[str, str]:
        """Height and width now, scalars."""
        shape = self.op("Shape", self.value)
        height, width = (self.op("Gather", shape, self._whole(axis)) for axis in (2, 3))
        return height, width

    def _new_sides(self, step: described.Resize, old: tuple[str, str]) -> tuple[str, str]:
        op = self.op
        if step.size is not None:
            return self._whole(step.size[0]), self._whole(step.size[1])
        assert step.shorter is not None
        least, shorter = op("Min", *old), self._whole(step.shorter)
        if step.longer == "floor":
            height, width = (op("Div", op("Mul", side, shorter), least) for side in old)
            return height, width
        scale = op("Div", op.constant(float(step.shorter)), self._cast(least, np.float64))
        rounded = (op("Round", op("Mul", self._cast(side, np.float64), scale)) for side in old)
        height, width = (op("Max", shorter, self._cast(side, np.int64)) for side in rounded)
        return height, width

    def resize(self, step: described.Resize) -> None:
        """Both axes, one after the other: the last one first, or the shorter way as Pillow 13 does."""
        op = self.op
        old = self._sides()
        new = self._new_sides(step, old)
        if step.filter == "nearest":
            for axis, sides in enumerate(zip(old, new, strict=True), 2):
                self.value = op("Gather", self.value, self._nearest(step, *sides), axis=axis)
            return
        if step.by == "tensor" and not step.antialias and self.dtype != np.uint8:
            self._interpolate(step, new)
            return
        if not (step.by == "pillow" and self.newest_pillow):
            for axis in (1, 0):
                self.value = self._turned(self._along(step, old[axis], new[axis]))
            return
        saved, saved_width = (op("Sub", was, now) for was, now in zip(old, new, strict=True))
        high = op(
            "And", op("Greater", saved, self._whole(0)), op("Greater", saved, op("Mul", saved_width, self._whole(2)))
        )
        source = self.value
        self.value = op.either(high, lambda: self._turned(source), lambda: op("Identity", source))
        (first, second), (first_new, second_new) = (
            (op("Where", high, height, width), op("Where", high, width, height)) for height, width in (old, new)
        )
        self.value = self._turned(self._along(step, first, first_new))
        made = self._along(step, second, second_new)
        self.value = op.either(high, lambda: op("Identity", made), lambda: self._turned(made))

    def _turned(self, value: str) -> str:
        return self.op("Transpose", value, perm=[0, 1, 3, 2])

    def _along(self, step: described.Resize, old: str, new: str) -> str:
        """The value with its last axis resampled from `old` to `new` pixels."""
        op = self.op
        weights = self._weights(step, old, new)
        if self.dtype != np.uint8:
            return op("MatMul", self.value, self._cast(weights, self.dtype))
        # Fixed points: Pillow's have 22 bits, those of torch as many as 16 bits hold.
        one = op.constant(2.0**_BITS) if step.by == "pillow" else self._most_bits(weights)
        rest = op("Floor", op("Add", op("Mul", op("Abs", weights), one), op.constant(0.5)))
        rest = op("Mul", op("Sign", weights), rest)
        products = []
        for place in range(4):
            digit = rest
            if place < 3:
                rest = op("Floor", op("Div", op("Add", rest, op.constant(_DIGIT / 2)), op.constant(_DIGIT)))
                digit = op("Sub", digit, op("Mul", rest, op.constant(_DIGIT)))
            products.append(op("MatMulInteger", self.value, self._cast(digit, np.int8)))
        total = products.pop()
        while products:
            total = op("Add", op("Mul", total, op.constant(_DIGIT, np.int32)), products.pop())
        whole = self._cast(one, np.int32)
        half = op("Div", whole, op.constant(2, np.int32))
        total = op("Max", op("Add", total, half), op.constant(0, np.int32))
        return self._cast(op("Min", op("Div", total, whole), op.constant(255, np.int32)), np.uint8)

    def _most_bits(self, weights: str) -> str:
        op = self.op
        most = op("ReduceMax", weights, keepdims=0)
        scaled = op("Floor", op("Add", op("Mul", most, op.constant(2.0 ** np.arange(1, 23))), op.constant(0.5)))
        fits = self._cast(op("Less", scaled, op.constant(2.0**15)), np.float64)
        return op("Pow", op.constant(2.0), op("ReduceSum", fits, keepdims=0))

    def _places(self, count: str) -> str:
        return self._cast(self.op("Range", self._whole(0), count, self._whole(1)), np.float64)

    def _weights(self, step: described.Resize, old: str, new: str) -> str:
        """What each new pixel takes of every old one, float64 (old, new)."""
        op, half = self.op, self.op.constant(0.5)
        scale = op("Div", self._cast(old, np.float64), self._cast(new, np.float64))
        centre = op("Mul", op("Add", self._places(new), half), scale)
        column = op("Reshape", self._places(old), op.constant([-1, 1], np.int64))
        if not step.antialias and step.by == "tensor":  # bilinear: both pixels beside, held inside
            last = op("Sub", self._cast(old, np.float64), op.constant(1.0))
            held = op("Min", op("Max", op("Sub", centre, half), op.constant(0.0)), last)
            return op("Max", op("Sub", op.constant(1.0), op("Abs", op("Sub", column, held))), op.constant(0.0))
        stretch = op("Max", scale, op.constant(1.0))
        far = op("Abs", op("Mul", op("Add", op("Sub", column, centre), half), op("Div", op.constant(1.0), stretch)))
        if step.filter == "bilinear":
            share = op("Max", op("Sub", op.constant(1.0), far), op.constant(0.0))
        else:
            share = self._cubic(far)
        return op("Div", share, op("ReduceSum", share, op.constant([0], np.int64)))

    def _cubic(self, far: str) -> str:
        """Keys' kernel with a = -0.5."""
        op = self.op
        near = op("Sub", op("Mul", far, op.constant(1.5)), op.constant(2.5))
        near = op("Add", op("Mul", op("Mul", near, far), far), op.constant(1.0))
        beyond = op("Add", op("Mul", op("Sub", far, op.constant(5.0)), far), op.constant(8.0))
        beyond = op("Mul", op("Sub", op("Mul", beyond, far), op.constant(4.0)), op.constant(-0.5))
        outer = op("Where", op("Less", far, op.constant(2.0)), beyond, op.constant(0.0))
        return op("Where", op("Less", far, op.constant(1.0)), near, outer)

    def _nearest(self, step: described.Resize, old: str, new: str) -> str:
        """The place of each new pixel among the old ones."""
        op = self.op
        if step.by == "tensor":
            scale = op("Div", self._cast(old, np.float32), self._cast(new, np.float32))
            found = op("Mul", self._cast(self._places(new), np.float32), scale)
        else:  # Pillow adds up, and its sums round as these do
            scale = op("Div", self._cast(old, np.float64), self._cast(new, np.float64))
            rest = op("Expand", scale, op("Reshape", op("Sub", new, self._whole(1)), op.constant([1], np.int64)))
            first = op("Reshape", op("Mul", scale, op.constant(0.5)), op.constant([1], np.int64))
            found = op("CumSum", op("Concat", first, rest, axis=0), self._whole(0))
        last = op("Sub", old, self._whole(1))
        return op("Min", self._cast(op("Floor", found), np.int64), last)

    def _interpolate(self, step: described.Resize, new: tuple[str, str]) -> None:
        """Floats without antialiasing: ONNX's own operator is torch's."""
        op, mode = self.op, {"bilinear": "linear", "bicubic": "cubic"}[step.filter]
        shape = op("Shape", self.value)
        front = op("Slice", shape, op.constant([0], np.int64), op.constant([2], np.int64))
        sides = [op("Reshape", side, op.constant([1], np.int64)) for side in new]
        more = {"cubic_coeff_a": -0.75} if mode == "cubic" else {}
        sizes = op("Concat", front, *sides, axis=0)
        self.value = op(
            "Resize", self.value, "", "", sizes, mode=mode, coordinate_transformation_mode="half_pixel", **more
        )

    def crop(self, step: described.Crop) -> None:
        """The middle; where there is less, zeros around it."""
        op = self.op
        one = op.constant([1], np.int64)
        sides = [op("Reshape", side, one) for side in self._sides()]
        low, starts = [], []
        for side, wanted in zip(sides, step.size, strict=True):
            short = op("Max", op("Sub", op.constant([wanted], np.int64), side), op.constant([0], np.int64))
            left = op("Div", short, op.constant([2], np.int64))
            more = op("Max", op("Sub", side, op.constant([wanted], np.int64)), op.constant([0], np.int64))
            if step.offset == "floor":
                left = op("Sub", short, left)
                start = op("Div", more, op.constant([2], np.int64))
            else:
                start = self._cast(op("Round", op("Mul", self._cast(more, np.float64), op.constant(0.5))), np.int64)
            low.append((left, op("Sub", short, left)))
            starts.append(start)
        none = op.constant([0, 0], np.int64)
        pads = op("Concat", none, *(begin for begin, _ in low), none, *(end for _, end in low), axis=0)
        self.value = op("Pad", self.value, pads)
        start = op("Concat", *starts, axis=0)
        end = op("Add", start, op.constant(step.size, np.int64))
        self.value = op("Slice", self.value, start, end, op.constant([2, 3], np.int64))

    def pad(self, step: described.Pad) -> None:
        """A border."""
        left, top, right, bottom = step.sides
        pads = self.op.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
        self.value = self.op("Pad", self.value, pads, self.op.constant(step.fill, self.dtype))

    def gray(self, step: described.Gray) -> None:
        """The brightness of colours, in whole numbers as Pillow has it, or as torchvision's floats."""
        op = self.op
        if step.by == "pillow":
            shares = self._per_channel((19595, 38470, 7471), np.int32)
            total = op("ReduceSum", op("Mul", self._cast(self.value, np.int32), shares), op.constant([1], np.int64))
            gray = op("Div", op("Add", total, op.constant(1 << 15, np.int32)), op.constant(1 << 16, np.int32))
        else:
            shares = self._per_channel((0.2989, 0.587, 0.114), np.float32)
            gray = op("ReduceSum", op("Mul", self._cast(self.value, np.float32), shares), op.constant([1], np.int64))
        gray = self._cast(gray, self.dtype)
        self.value = op("Concat", *[gray] * 3, axis=1) if step.channels == 3 else gray
