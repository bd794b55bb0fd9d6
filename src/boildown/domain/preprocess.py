"""How a raw picture, row or text becomes the tensors a model takes, and its output a name or a number: as data.

`preprocess.json` is this description. Steps are plain dataclasses, told apart by `STEPS`; who adds a kind adds a
dataclass there, and a function of the same name to `predict.py`.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from boildown.errors import InputError, Mistake

SCHEMA = 1
Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Part = Literal["ids", "attention_mask", "type_ids"]
Kind = Literal["picture", "row", "text", "text pair", "tensor"]


@dataclass(frozen=True)
class Decode:
    """A picture file becomes pixels, uint8 (height, width, channels): its first frame, in `mode`.

    upright: turned as its EXIF says. white: what is white in grey pictures of 16 bits, which are scaled to 8;
    None cuts them off at 255, as Pillow does. alpha: what lies behind transparent pixels is kept as it is stored, or
    the picture is laid on white.
    """

    mode: Literal["RGB", "L"] = "RGB"
    upright: bool = True
    white: int | None = None
    alpha: Literal["dropped", "white"] = "dropped"


@dataclass(frozen=True)
class Resize:
    """Pixels of another size: `size` (height, width), or the shorter side `shorter` and the longer in proportion.

    longer: how that is made whole; never below `shorter`. by: `pillow` resamples uint8 and antialiases always;
    `tensor` resamples as `torch.nn.functional.interpolate` does, antialiased or not: uint8 by weights of 16 bits.
    """

    size: tuple[int, int] | None = None
    shorter: int | None = None
    filter: Filter = "bilinear"
    longer: Literal["round", "floor"] = "round"
    by: Literal["pillow", "tensor"] = "pillow"
    antialias: bool = True


@dataclass(frozen=True)
class Crop:
    """The middle of the pixels, (height, width); zeros around where there are less. offset: how half of an odd rest is
    made whole."""

    size: tuple[int, int]
    offset: Literal["floor", "round"] = "floor"


@dataclass(frozen=True)
class Pad:
    """A border of `fill` around the pixels: left, top, right, bottom."""

    sides: tuple[int, int, int, int]
    fill: float = 0.0


@dataclass(frozen=True)
class Gray:
    """The brightness of colours, in one channel or alike in three. by: the whole numbers of `pillow`, or `tensor`:
    floats that are cut off, as torchvision does."""

    channels: Literal[1, 3] = 1
    by: Literal["pillow", "tensor"] = "pillow"


@dataclass(frozen=True)
class Scale:
    """Every number divided, as float32."""

    divide: float = 255.0


@dataclass(frozen=True)
class Normalize:
    """The mean of each channel taken off, then divided by its deviation; the channels are the last axis."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Layout:
    """The order of the axes, of height, width and channel."""

    axes: Literal["CHW", "HWC"] = "CHW"


@dataclass(frozen=True)
class Cast:
    """The type of the numbers."""

    dtype: Literal["float32", "float16", "float64", "uint8", "int8", "int32", "int64"] = "float32"


@dataclass(frozen=True)
class ColumnOf:
    """One column as a number.

    number: as it is; what is missing, infinite or no number becomes `fill`. category: its place in `categories`,
    counted from 1; 0 is a missing one, or one that is not listed. comma: its numbers were written with decimal commas,
    and points between thousands. gaps: some were missing in training.
    """

    name: str
    kind: Literal["number", "category"]
    fill: float = 0.0
    categories: tuple[str, ...] = ()
    comma: bool = False
    gaps: bool = True


@dataclass(frozen=True)
class Columns:
    """The columns of a row as float32 numbers, in this order.

    missing: texts, in lower case, that stand for a missing value. delimiters: what may part the values of a CSV in
    `encoding`; the first that gives most lines as many values as the header, and more than one.
    """

    columns: tuple[ColumnOf, ...]
    missing: tuple[str, ...] = ("",)
    delimiters: str = ","
    encoding: str = "utf-8-sig"


@dataclass(frozen=True)
class Tokenize:
    """A text, or the texts of `columns` together, as tokens of the tokenizer in `file`, which lies beside.

    length: tokens to which every text is cut, from its end, and padded: by `pad_token` of `pad_id`, on the side `pad`,
    to a multiple of `multiple`. truncate: what is longer is cut, and of two texts the longer one first. feeds: for
    each keyword of the model, in order, what it takes: `ids`, `attention_mask` or `type_ids`. dtype: of all of them.
    columns: the names of the texts in a table, one or two; those of a text pair are encoded one by one.
    """

    length: int
    feeds: Mapping[str, Part]
    file: str = "tokenizer.json"
    truncate: bool = True
    pad: Literal["right", "left"] | None = "right"
    pad_id: int = 0
    pad_type_id: int = 0
    pad_token: str = "[PAD]"
    multiple: int | None = None
    dtype: Literal["int64", "int32"] = "int64"
    columns: tuple[str, ...] = ("text",)


Step = Decode | Resize | Crop | Pad | Gray | Scale | Normalize | Layout | Cast | Columns | Tokenize
STEPS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in get_args(Step)}
"""The kinds of steps, by their name in JSON (`do`)."""


@dataclass(frozen=True)
class Raw:
    """One raw thing that a prediction begins with, and the steps from it to one or more inputs of the model.

    feeds: the model's inputs by name, in order; empty for all that there are. tensor: the arrays themselves, no step.
    A text pair is two texts, each of them given to the model alone.
    """

    kind: Kind
    steps: tuple[Step, ...] = ()
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """What the model's output says.

    classes: one of `classes`, by the largest after `apply`. labels: each of `classes` by itself, where it is
    `threshold` or more after `apply`. number: in `unit`, after `times` and `plus`. cosine: of the vectors of a text
    pair. tensor: the arrays themselves. target: the name of what is predicted. port: which of the model's outputs,
    by name; None for the only or first one. pool: how vectors of tokens become one before the cosine.
    """

    kind: Literal["classes", "labels", "number", "cosine", "tensor"]
    classes: tuple[str, ...] = ()
    apply: Literal["softmax", "sigmoid", "none"] = "none"
    threshold: float = 0.5
    target: str = ""
    unit: str = ""
    times: float = 1.0
    plus: float = 0.0
    pool: Literal["mean", "first"] | None = None
    port: str | None = None


@dataclass(frozen=True)
class Preprocess:
    """The whole way: raw things to inputs, output to an answer. samples: whether raw samples may be handed over."""

    inputs: tuple[Raw, ...]
    output: Output
    samples: bool = True

    def dump(self) -> str:
        """All of it as JSON."""
        return json.dumps({"schema": SCHEMA, **_plain(self)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, text: str) -> Preprocess:
        """The inverse of `dump`. Raises InputError with every mistake."""
        mistakes: list[Mistake] = []
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError.of(f"preprocess.json is no JSON: {error}.", _CURE) from None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise InputError.of(f"preprocess.json has the schema {found!r}, and {SCHEMA} is read here.", _CURE)
        read = _read(cls, {name: value for name, value in data.items() if name != "schema"}, "preprocess", mistakes)
        if mistakes:
            raise InputError(*mistakes)
        assert isinstance(read, cls)
        return read


TENSORS = Preprocess((Raw("tensor"),), Output("tensor"))
"""Of a task that says nothing: the arrays that the model takes and gives."""

_CURE = "Take it from a copy, or from the run again."


def schema() -> dict[str, Any]:
    """The JSON Schema of `preprocess.json`."""
    found = _schema(Preprocess)
    found["properties"] = {"schema": {"const": SCHEMA}, **found["properties"]}
    found["required"] = ["schema", *found["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "preprocess.json of boildown",
        "description": _said(Preprocess),
        **found,
    }


def missing(description: Preprocess | None) -> str | None:
    """What a description does not say that a prediction from a raw thing needs, in a line; None where all is said."""
    if description is None or [raw.kind for raw in description.inputs] in ([], ["tensor"]):
        return "How a raw input becomes a tensor is not known: predict.py takes tensors. Give the task preprocess=."
    if len(description.inputs) > 1:
        return "The model takes more than one raw thing: predict.py takes their tensors."
    if description.output.kind == "tensor":
        return "What the output says is not known: predict.py shows its numbers. Say it in the task's preprocess=."
    return None


def shape_of(steps: Sequence[Step]) -> list[int | None]:
    """The shape that the steps make of one picture; None where it differs from picture to picture."""
    height: int | None = None
    width: int | None = None
    channels, first = 3, False
    for step in steps:
        match step:
            case Decode():
                channels = 1 if step.mode == "L" else 3
            case Gray():
                channels = step.channels
            case Resize():
                height, width = step.size or (None, None)
            case Crop():
                height, width = step.size
            case Pad():
                left, top, right, bottom = step.sides
                height = None if height is None else height + top + bottom
                width = None if width is None else width + left + right
            case Layout():
                first = step.axes == "CHW"
    return [channels, height, width] if first else [height, width, channels]


def sides(shape: Sequence[int | None]) -> str:
    """A shape for people."""
    return " x ".join(str(side or "any") for side in shape)


def _plain(value: Any) -> Any:
    """A description as JSON has it; a step says what it does first."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = {"do": type(value).__name__.lower()} if type(value) in STEPS.values() else {}
        return kind | {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value


def _read(kind: Any, value: Any, at: str, mistakes: list[Mistake]) -> Any:
    """A value of JSON as what a field holds; what does not fit is added to the mistakes."""
    options, of = get_args(kind), get_origin(kind)
    if of is Literal:
        if value not in options or isinstance(value, bool):
            mistakes.append(Mistake(f"{at} is {value!r}, and none of {', '.join(map(repr, options))}.", _CURE))
        return value
    if of in (Union, types.UnionType):
        if all(option in STEPS.values() for option in options):
            return _read_step(value, at, mistakes)
        return None if value is None else _read(options[0], value, at, mistakes)
    if of is tuple and isinstance(value, list):
        kinds = [options[0]] * len(value) if options[-1] is ... else list(options)
        if len(kinds) == len(value):
            return tuple(_read(*each, f"{at}[{place}]", mistakes) for place, each in enumerate(zip(kinds, value)))  # noqa: B905
    elif of is not None and issubclass(of, Mapping) and isinstance(value, dict):
        return {name: _read(options[1], each, f"{at}.{name}", mistakes) for name, each in value.items()}
    elif dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return _read_fields(kind, value, at, mistakes)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif of is None and type(value) is kind:
        return value
    mistakes.append(Mistake(f"{at} cannot be {value!r}.", _CURE))
    return value


def _read_step(value: Any, at: str, mistakes: list[Mistake]) -> Any:
    kind = STEPS.get(str(value.get("do"))) if isinstance(value, dict) else None
    if kind is None:
        mistakes.append(Mistake(f"{at} is no step that is known: {value!r}.", _CURE))
        return value
    return _read_fields(kind, {name: each for name, each in value.items() if name != "do"}, at, mistakes)


def _read_fields(kind: type[Any], value: Mapping[str, Any], at: str, mistakes: list[Mistake]) -> Any:
    fields, hints = {field.name: field for field in dataclasses.fields(kind)}, get_type_hints(kind)
    unknown = [name for name in value if name not in fields]
    absent = [name for name, field in fields.items() if name not in value and _is_required(field)]
    if unknown or absent:
        told = [f"has {', '.join(unknown)}"] * bool(unknown) + [f"lacks {', '.join(absent)}"] * bool(absent)
        mistakes.append(Mistake(f"{at} {' and '.join(told)}.", _CURE))
    read = {name: _read(hints[name], each, f"{at}.{name}", mistakes) for name, each in value.items() if name in fields}
    return None if unknown or absent else kind(**read)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING


def _schema(kind: Any) -> dict[str, Any]:
    options, of = get_args(kind), get_origin(kind)
    if of is Literal:
        return {"enum": list(options)}
    if of in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if option is type(None) else _schema(option) for option in options]}
    if of is tuple:
        if options[-1] is ...:
            return {"type": "array", "items": _schema(options[0])}
        return {"type": "array", "prefixItems": list(map(_schema, options)), "minItems": len(options), "items": False}
    if of is not None:
        return {"type": "object", "additionalProperties": _schema(options[1])}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints, fields = get_type_hints(kind), dataclasses.fields(kind)
        required = [field.name for field in fields if _is_required(field)]
        properties = {field.name: _schema(hints[field.name]) for field in fields}
        if kind in STEPS.values():
            required, properties = ["do", *required], {"do": {"const": kind.__name__.lower()}, **properties}
        return {
            "type": "object", "description": _said(kind), "properties": properties, "required": required,
            "additionalProperties": False,
        }  # fmt: skip
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[kind]}


def _said(kind: type[Any]) -> str:
    return " ".join((kind.__doc__ or "").split())
