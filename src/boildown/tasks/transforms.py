"""Transforms of torchvision, processors of transformers and timm's data configuration, read as data.

They are told by their names and attributes: none of the three is imported. What cannot be read is named.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch

from boildown.domain.axes import open_axes
from boildown.domain.preprocess import (
    SCHEMA,
    TENSORS,
    Cast,
    Crop,
    Decode,
    Filter,
    Gray,
    Layout,
    Normalize,
    Output,
    Pad,
    Part,
    Preprocess,
    Raw,
    Resize,
    Scale,
    Step,
    Tokenize,
)
from boildown.errors import InputError, Mistake, in_words

_TENSORS = "predict.py takes tensors"
_LIBRARIES = ("torchvision", "timm")
_TO_TENSOR = frozenset({
    "ToTensor", "PILToTensor", "ToImage", "ToImageTensor", "MaybeToTensor", "MaybePILToTensor",
    "ImageClassification", "SemanticSegmentation",
})  # fmt: skip
_BY_NUMBER: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers of its filters."""
_PARTS: dict[str, Part] = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_MOST_TOKENS, _LONG = 10**6, 100


@dataclass(frozen=True)
class Described:
    """What was read of `preprocess=`: the description where all could be, and what a person should know.

    beside: files that steps name. called: what makes the tensor of a picture, where that can be called.
    """

    preprocess: Preprocess | None = None
    notes: tuple[str, ...] = ()
    beside: Mapping[str, Path] = field(default_factory=dict)
    called: Callable[[Any], Any] | None = None


def refuse_no_description(given: Any) -> None:
    """Raise InputError for what can be no description of preprocessing, and no transform either."""
    if isinstance(given, str | Path | Mapping):
        _as_written(given)
    elif not (given is None or callable(given) or isinstance(given, Preprocess | Raw)):
        raise InputError.of(f"preprocess is a {type(given).__name__}.", _CURE)


def describe(given: Any, example: Sequence[Any], keywords: Mapping[str, Any], output: Output) -> Described:
    """A description, or what is read of a transform. example, keywords: one call of the model for two samples."""
    if isinstance(given, str | Path | Mapping):
        given = _as_written(given, output)
    if isinstance(given, Preprocess):
        return Described(given)
    if isinstance(given, Raw):
        return Described(Preprocess((given,), output))
    if hasattr(given, "backend_tokenizer") or hasattr(given, "encode_batch"):
        return _tokenizer(given, keywords, output)
    tensors = [leaf for leaf in (*example, *keywords.values()) if isinstance(leaf, torch.Tensor)]
    channels = tensors[0].shape[1] if len(tensors) == 1 and tensors[0].ndim == 4 else 3
    dtype = str(tensors[0].dtype).removeprefix("torch.") if tensors else "float32"
    reading, called = _Reading(channels), given
    if isinstance(given, Mapping):
        reading.timm(given)
        called = None
    elif hasattr(given, "do_normalize") and hasattr(given, "image_mean"):
        if not reading._reads(reading.processor, given):
            reading.unread.append(type(given).__name__)
        called = _called_processor(given)
    else:
        reading.torchvision(given)
    if reading.unread:
        names = ", ".join(dict.fromkeys(reading.unread))
        return Described(None, (f"preprocessing: {names} cannot be read as data, so {_TENSORS}",))
    steps = (*reading.steps(), *((Cast(dtype),) if dtype in ("float16", "float64") else ()))  # type: ignore[arg-type]
    return Described(Preprocess((Raw("picture", steps),), output), called=called)


def transform_of(source: Any) -> Any:
    """What a data set applies to its pictures, where it says so as those of torchvision do; else None."""
    found = getattr(source, "transform", None)
    is_known = any(_library(part) is not None for part in _flat(found))
    return found if is_known and getattr(source, "target_transform", None) is None else None


def raw_of(source: Any) -> Callable[[int], Any] | None:
    """The raw picture of an item: its path, or its pixels, where a data set keeps them as those of torchvision do."""
    listed = getattr(source, "samples", None) or getattr(source, "imgs", None)
    if isinstance(listed, list) and len(listed) == len(source) and isinstance(listed[0], tuple | list):
        return (lambda place: Path(listed[place][0])) if isinstance(listed[0][0], str | Path) else None
    data: Any = getattr(source, "data", None)
    if str(getattr(data, "dtype", "")) not in ("uint8", "torch.uint8") or len(data) != len(source):
        return None
    return (lambda place: np.asarray(data[place])) if data.ndim == 3 or data.shape[-1:] in ((1,), (3,)) else None


_CURE = (
    "Give a description, the path of its JSON, a composition of torchvision, a processor or tokenizer of transformers, "
    "or timm's data configuration."
)


def _as_written(given: str | Path | Mapping[str, Any], output: Output = TENSORS.output) -> Any:
    """A description in JSON or as plain data; timm's configuration as it is. Raises InputError with every mistake.

    It may be that of one raw thing, or lack what the output says, which is `output` then.
    """
    if not isinstance(given, Mapping):
        try:
            read = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError.of(f"preprocess = {str(given)!r} cannot be read: {in_words(error)}.", _CURE) from None
        given = read if isinstance(read, dict) else {}
    if "input_size" in given:
        return given
    said = {"inputs": [given]} if "kind" in given else given
    if "inputs" not in said:
        raise InputError.of(f"preprocess is a dict of {', '.join(map(str, given)) or 'nothing'}.", _CURE)
    try:
        return Preprocess.load(json.dumps({"schema": SCHEMA, "output": asdict(output), **said}))
    except InputError as error:
        raise InputError(*(Mistake(mistake.cause, _STEPS) for mistake in error.mistakes)) from None
    except (TypeError, ValueError) as error:
        raise InputError.of(f"preprocess is no plain data: {in_words(error)}.", _STEPS) from None


_STEPS = "docs/preprocess.schema.json lists the steps and what each takes."


def _library(of: Any) -> str | None:
    """The library whose own class this is of."""
    root = type(of).__module__.partition(".")[0]
    return root if root in _LIBRARIES else None


def _name(of: Any) -> str:
    """What a transform is called in messages."""
    if (inner := getattr(of, "lambd", None)) is not None:
        return f"{type(of).__name__}({getattr(inner, '__name__', type(inner).__name__)})"
    if _library(of) is not None and len(shown := repr(of)) < _LONG and "\n" not in shown:
        return shown
    return str(getattr(of, "__name__", type(of).__name__))


class _Reading:
    """The steps read so far, and what could not be. Pixels are Pillow's until something makes a tensor of them."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.mode = Decode("L" if channels == 1 else "RGB", upright=False)
        self.tensor = self.floats = False
        self.unread: list[str] = []
        self._steps: list[Step] = []

    def steps(self) -> tuple[Step, ...]:
        """All of them, from the file to the tensor."""
        return (self.mode, *self._steps, Layout("CHW"))

    def add(self, *steps: Step) -> None:
        """More steps."""
        self._steps += steps

    # -- torchvision, and timm's own transforms

    def torchvision(self, given: Any) -> None:
        """A transform, or a composition of them."""
        parts = list(_flat(given))
        self.tensor = not any(type(part).__name__ in _TO_TENSOR for part in parts)
        grays = [part for part in parts if type(part).__name__ == "Grayscale"]
        if grays and self.channels == 1:
            self.mode = Decode("RGB", upright=False)
        for part in parts:
            read = getattr(self, f"_{type(part).__name__.lower()}", None) if _library(part) else None
            if read is None or not self._reads(read, part):
                self.unread.append(_name(part))

    def _reads(self, read: Callable[[Any], bool | None], part: Any) -> bool:
        try:
            return read(part) is not False
        except (AttributeError, TypeError, ValueError, KeyError):  # of a version that has other attributes
            return False

    def _resize(self, part: Any) -> bool | None:
        old = type(part).__module__ == "torchvision.transforms.transforms"
        if old and self.tensor and not self.floats and _filter(part.interpolation) != "nearest":
            return False  # it makes floats of uint8, and rounds them
        return self._resized(part.size, part.interpolation, part.antialias, getattr(part, "max_size", None))

    def _resized(self, size: Any, interpolation: Any, antialias: Any, most: Any = None) -> bool | None:
        if most is not None:
            return False
        kind = _filter(interpolation)
        exact = kind == "nearest-exact"
        if self.tensor and kind not in ("nearest", "bilinear", "bicubic"):
            return False
        filter = cast(Filter, "nearest" if exact else kind)
        if filter not in get_args(Filter):
            return False
        smooth = antialias is True or not self.tensor
        if filter == "nearest":
            smooth = True
        sides = [int(size)] if isinstance(size, int) else [int(side) for side in size]
        where: dict[str, Any] = {"size": (sides[0], sides[1])} if len(sides) == 2 else {"shorter": sides[0]}
        by = "tensor" if self.tensor else "pillow"
        self.add(Resize(**where, filter=filter, longer="floor", by=by, antialias=smooth))  # type: ignore[arg-type]
        return None

    def _centercrop(self, part: Any) -> None:
        self.add(Crop(_pair(part.size), "round"))

    def _pad(self, part: Any) -> bool | None:
        padding = part.padding
        sides = [padding] if isinstance(padding, int) else list(padding)
        left, top, right, bottom = sides * (4 // len(sides))
        fills = part.fill
        if isinstance(fills, Mapping):
            fills = next(iter(fills.values())) if len(set(fills.values())) == 1 else ()
        fills = {float(fill) for fill in (fills if isinstance(fills, Iterable) else [fills or 0])}
        if str(getattr(part, "padding_mode", "constant")) != "constant" or len(fills) != 1:
            return False
        self.add(Pad((left, top, right, bottom), fills.pop()))
        return None

    def _grayscale(self, part: Any) -> bool | None:
        if self.floats:
            return False
        self.add(Gray(part.num_output_channels, "tensor" if self.tensor else "pillow"))
        return None

    def _rgb(self, _part: Any) -> None:
        """Pictures are made RGB when they are opened."""

    _identity = _rgb

    def _totensor(self, part: Any) -> bool | None:
        if _library(part) == "timm":  # numbers as they are
            self.tensor = True
            return self._cast(part.dtype)
        self._maybetotensor(part)
        return None

    def _maybetotensor(self, _part: Any) -> None:
        if not self.tensor:
            self.tensor = self.floats = True
            self.add(Scale())

    def _piltotensor(self, _part: Any) -> None:
        self.tensor = True

    _toimage = _toimagetensor = _maybepiltotensor = _piltotensor

    def _todtype(self, part: Any) -> bool | None:
        return self._cast(part.dtype, scale=bool(getattr(part, "scale", False)))

    def _convertimagedtype(self, part: Any) -> bool | None:
        return self._cast(part.dtype, scale=True)

    _convertdtype = _convertimagedtype

    def _cast(self, dtype: Any, *, scale: bool = False) -> bool | None:
        if isinstance(dtype, Mapping) or not self.tensor:
            return False
        name = str(dtype).removeprefix("torch.")
        if name == "uint8" and not self.floats:
            return None
        if not name.startswith("float") or (self.floats and name != "float32"):
            return False
        if not self.floats:
            self.add(Scale() if scale else Cast("float32"))
            self.floats = True
            if name != "float32":
                self.add(Cast(name))  # type: ignore[arg-type]
        return None

    def _normalize(self, part: Any) -> None:
        self.add(Normalize(self._per_channel(part.mean), self._per_channel(part.std)))

    def _imageclassification(self, part: Any) -> bool | None:
        """What the weights of torchvision come with."""
        if self._resized(part.resize_size, part.interpolation, part.antialias) is False:
            return False
        self._centercrop(_Sized(part.crop_size))
        self._maybetotensor(part)
        self._normalize(part)
        return None

    def _semanticsegmentation(self, part: Any) -> bool | None:
        if (
            part.resize_size is not None
            and self._resized(part.resize_size, part.interpolation, part.antialias) is False
        ):
            return False
        self._maybetotensor(part)
        self._normalize(part)
        return None

    def _per_channel(self, values: Any) -> tuple[float, ...]:
        given = values.tolist() if hasattr(values, "tolist") else values
        numbers = tuple(float(value) for value in (given if isinstance(given, Sequence) else [given]))
        return numbers * self.channels if len(numbers) == 1 else numbers

    # -- timm

    def timm(self, config: Mapping[str, Any]) -> None:
        """The way to an input that timm's data configuration names, for evaluation."""
        _channels, height, width = config["input_size"]
        share, mode = config.get("crop_pct") or 0.875, config.get("crop_mode") or "center"
        sides = tuple(math.floor(side / share) for side in (height, width))
        if mode not in ("center", "squash") or (mode == "center" and height != width):
            self.unread.append(f"crop_mode={mode!r} of {height} x {width}")
            return
        size = list(sides) if mode == "squash" else sides[0]
        if self._resized(size, config.get("interpolation", "bilinear"), None) is False:
            self.unread.append(f"interpolation={config['interpolation']!r}")
        self._centercrop(_Sized([height, width]))
        self._maybetotensor(None)
        self.add(Normalize(self._per_channel(config["mean"]), self._per_channel(config["std"])))

    # -- transformers

    def processor(self, of: Any) -> None:
        """An image processor, by its settings."""
        kinds = [kind.__name__ for kind in type(of).__mro__]
        fast = "TorchvisionBackend" in kinds or "BaseImageProcessorFast" in kinds
        name = type(of).__name__
        lays_on_white = getattr(of, "do_convert_rgb", False) and hasattr(type(of), "backend")
        self.mode = Decode(self.mode.mode, upright=False, alpha="white" if lays_on_white else "dropped")
        self.tensor = fast
        if of.do_resize and not self._reads(self._processor_resizes, of):
            self.unread.append(f"size={getattr(of, 'size', None)} of {name}")
        if getattr(of, "do_center_crop", False):
            self.add(Crop(_pair(of.crop_size), "floor"))
        factor, rescales = float(getattr(of, "rescale_factor", 1 / 255)), getattr(of, "do_rescale", True)
        if of.do_normalize:
            mean, std = self._per_channel(of.image_mean), self._per_channel(of.image_std)
            if rescales and fast:  # in one, and in float32: a last bit decides ties of what is then rounded to int8
                mean, std = (tuple((torch.tensor(each) * (1.0 / factor)).tolist()) for each in (mean, std))
                self.add(Cast("float32"))
            elif rescales:
                self.add(Scale(1 / factor))
            self.add(Normalize(mean, std))
        elif rescales:
            self.add(Scale(1 / factor))

    def _processor_resizes(self, of: Any) -> bool | None:
        size = (
            of.size
            if isinstance(of.size, int)
            else {key: value for key in _SIDES if (value := _get(of.size, key)) is not None}
        )
        edge = size if isinstance(size, int) else size.get("shortest_edge")
        share = getattr(of, "crop_pct", None)
        if share is not None and edge is not None:  # as ConvNext does
            if edge >= 384:
                return self._resized([edge, edge], of.resample, True)
            if self._resized(int(edge / share), of.resample, True) is False:
                return False
            self.add(Crop((edge, edge), "floor"))
            return None
        if isinstance(size, int):
            return self._resized([size, size], of.resample, True)
        if set(size) == {"shortest_edge"}:
            return self._resized(edge, of.resample, True)
        return self._resized([size["height"], size["width"]], of.resample, True) if len(size) == 2 else False


@dataclass(frozen=True)
class _Sized:
    size: Any


_SIDES = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")


def _get(size: Any, key: str) -> Any:
    return size.get(key) if isinstance(size, Mapping) else getattr(size, key, None)


def _flat(given: Any) -> Iterable[Any]:
    """The transforms of nested compositions, in order."""
    inner = getattr(given, "transforms", None) if type(given).__name__ in ("Compose", "Sequential") else None
    if isinstance(given, torch.nn.Sequential):
        inner = list(given)
    if inner is None:
        yield given
    else:
        for each in inner:
            yield from _flat(each)


def _filter(interpolation: Any) -> str:
    value = getattr(interpolation, "value", interpolation)
    return _BY_NUMBER[value] if isinstance(value, int) else str(value)


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if _get(size, "height") is not None:
        return int(_get(size, "height")), int(_get(size, "width"))
    sides = [int(side) for side in size]
    return sides[0], sides[-1]


def _called_processor(of: Any) -> Callable[[Any], Any]:
    return lambda picture: of(picture, return_tensors="pt")["pixel_values"][0]


def _tokenizer(given: Any, keywords: Mapping[str, Any], output: Output) -> Described:
    """A fast tokenizer of transformers, or one of tokenizers; the length is that of the task's texts."""
    fast = getattr(given, "backend_tokenizer", given)
    texts = {name: leaf for name, leaf in keywords.items() if name in _PARTS and isinstance(leaf, torch.Tensor)}
    if set(texts) != set(keywords) or "input_ids" not in texts:
        named = ", ".join(keywords) or "no input by name"
        return Described(
            None, (f"preprocessing: a tokenizer gives {', '.join(_PARTS)}, and the model takes {named}, so {_TENSORS}",)
        )
    side = getattr(given, "truncation_side", "right")
    if side != "right":
        return Described(None, (f"preprocessing: the tokenizer cuts texts on the {side}, so {_TENSORS}",))
    ids = texts["input_ids"]
    open_length = 1 in open_axes(ids)
    most = getattr(given, "model_max_length", None) or _MOST_TOKENS
    length = int(min(most, _MOST_TOKENS)) if open_length else ids.shape[1]
    padding = fast.padding or {}
    pad_id = getattr(given, "pad_token_id", None)
    step = Tokenize(
        length,
        {name: _PARTS[name] for name in texts},
        pad=None if open_length else getattr(given, "padding_side", padding.get("direction", "right")),
        pad_id=padding.get("pad_id", 0) if pad_id is None else pad_id,
        pad_type_id=getattr(given, "pad_token_type_id", padding.get("pad_type_id", 0)),
        pad_token=str(getattr(given, "pad_token", None) or padding.get("pad_token", "[PAD]")),
        dtype="int32" if ids.dtype == torch.int32 else "int64",
    )
    file = Path(tempfile.mkdtemp(prefix="boildown-")) / step.file
    file.write_text(fast.to_str(), encoding="utf-8")
    return Described(Preprocess((Raw("text", (step,)),), output), beside={step.file: file})
