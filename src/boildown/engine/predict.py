#!/usr/bin/env python3
"""Predict from pictures, rows, texts or tensors with the model beside this file.

Needs the model's runtime and numpy; for pictures also pillow, for texts also tokenizers.
`preprocess.json` says how raw things become tensors and what outputs say, `ports.json` what the model takes and
gives, and `load.py` runs it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import numpy as np
except ImportError:
    print("numpy is not installed: pip install numpy", file=sys.stderr)
    raise SystemExit(2) from None

Step = Mapping[str, Any]
Call = dict[str, Any]
Table = dict[str, Sequence[str]]

HERE = Path(__file__).resolve().parent
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
PACKAGES = {"PIL": "pillow"}
DEEP = {"I", "I;16", "I;16B", "I;16L"}
DECIMAL_COMMA = re.compile(r"[+-]?(([1-9]\d{0,2}(\.\d{3})+|\d+)(,\d*)?|,\d+)(e[+-]?\d+)?", re.IGNORECASE)
CLOSE = 0.05  # of the largest output: other processors round otherwise


class Refused(Exception):
    """What cannot be taken, in one line."""


def warn(text: object) -> None:
    print(f"note: {text}", file=sys.stderr)


def some(values: Any, most: int = 5) -> str:
    names = [str(value) for value in values]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# -- pictures ------------------------------------------------------------------------------------------------------


def decode(path: Path, step: Step) -> Any:
    """A picture file to pixels, as the model was trained to see them."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(record=True) as told, Image.open(path) as opened:
            warnings.simplefilter("always")
            if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":  # a photo with a small one of itself
                warn(f"{path} has {getattr(opened, 'n_frames', 1)} pictures: the first one is taken")
            if opened.has_transparency_data and opened.convert("RGBA").getchannel("A").getextrema()[0] != 255:
                warn(f"{path} has transparent places: what is stored behind them is taken")
            picture: Any = ImageOps.exif_transpose(opened) if step["upright"] else opened
            if picture.mode == "F" or (picture.mode in DEEP and step["white"] is None):
                warn(f"{path} has numbers of more than 8 bits: cut off at 0 and 255, as in training")
            if picture.mode in DEEP and step["white"] is not None:
                values = np.asarray(picture).astype(np.float64)
                if values.max() > step["white"]:
                    warn(f"{path} is brighter than white in training ({step['white']}): cut off there")
                values = (values * (255 / step["white"])).round().clip(0, 255)
                picture = Image.fromarray(values.astype(np.uint8))
            picture = picture.convert(step["mode"])
    except Exception as error:  # the decoder of a broken file can fail with anything
        raise Refused(f"{path} cannot be read as a picture: {first_line(error)}") from error
    for each in told:
        warn(f"{path}: {first_line(each.message)}")
    return np.asarray(picture).reshape(picture.size[1], picture.size[0], -1)


def resize(pixels: Any, step: Step) -> Any:
    old, shorter = pixels.shape[:2], step["shorter"]
    if step["size"] is not None:
        height, width = step["size"]
    elif step["longer"] == "floor":
        height, width = (shorter * side // min(old) for side in old)
    else:
        scale = shorter / min(old)
        height, width = (max(shorter, round(side * scale)) for side in old)
    if (height, width) == old:
        return pixels
    if step["by"] == "tensor":
        return resize_tensor(pixels, (height, width), step)
    from PIL import Image

    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture = picture.resize((width, height), getattr(Image.Resampling, step["filter"].upper()))
    return np.asarray(picture).reshape(height, width, -1)


def resize_tensor(pixels: Any, size: tuple[int, int], step: Step) -> Any:
    """As torch resamples: antialiased or not, without aligned corners; uint8 in whole numbers, width first."""
    for axis, new in ((1, size[1]), (0, size[0])):
        old = pixels.shape[axis]
        if step["filter"] == "nearest":
            places = (np.arange(new, dtype=np.float32) * np.float32(old / new)).astype(int)
            pixels = np.take(pixels, np.minimum(places, old - 1), axis)
            continue
        share, whole = weights(old, new, step), pixels.dtype == np.uint8
        if whole:
            fits = [0.5 + share.max() * 2.0**bits < 2**15 for bits in range(1, 23)]
            one = 2.0 ** sum(fits)
            share = np.trunc(share * one + np.copysign(0.5, share))
        pixels = np.moveaxis(np.tensordot(share, pixels.astype(np.float64), (1, axis)), 0, axis)
        if whole:
            pixels = np.clip((pixels + one / 2) // one, 0, 255).astype(np.uint8)
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)


def weights(old: int, new: int, step: Step) -> Any:
    """What each of the new pixels takes of each of the old ones, (new, old)."""
    if step["filter"] not in ("bilinear", "bicubic"):
        raise Refused(f"preprocess.json resizes tensors by {step['filter']}, which is not known here")
    scale = old / new
    stretch = max(scale, 1.0) if step["antialias"] else 1.0
    sharp = -0.5 if step["antialias"] else -0.75
    found = np.zeros((new, old))
    for place in range(new):
        centre = (place + 0.5) * scale
        reach = (1 if step["filter"] == "bilinear" else 2) * stretch
        if step["antialias"]:
            taken = np.arange(max(0, int(centre - reach + 0.5)), min(old, int(centre + reach + 0.5)))
        else:
            taken = np.arange(int(np.floor(centre - 0.5)) - 1, int(np.floor(centre - 0.5)) + 3)
        far = np.abs(taken + 0.5 - centre) / stretch
        if step["filter"] == "bilinear":
            share = np.clip(1 - far, 0, None)
        else:
            near = ((sharp + 2) * far - (sharp + 3)) * far * far + 1
            share = np.where(far < 1, near, np.where(far < 2, sharp * (((far - 5) * far + 8) * far - 4), 0))
        np.add.at(found[place], np.clip(taken, 0, old - 1), share / share.sum())
    return found


def crop(pixels: Any, step: Step) -> Any:
    for axis, new in enumerate(step["size"]):
        old = pixels.shape[axis]
        low = max(new - old, 0)
        low = low - low // 2 if step["offset"] == "floor" else low // 2
        sides = [(0, 0)] * 3
        sides[axis] = (low, max(new - old, 0) - low)
        half = max(old - new, 0) / 2
        start = int(half) if step["offset"] == "floor" else round(half)
        pixels = np.take(np.pad(pixels, sides), range(start, start + new), axis)
    return pixels


def pad(pixels: Any, step: Step) -> Any:
    left, top, right, bottom = step["sides"]
    return np.pad(pixels, ((top, bottom), (left, right), (0, 0)), constant_values=step["fill"])


def gray(pixels: Any, step: Step) -> Any:
    if step["by"] == "pillow":
        found = (pixels.astype(np.int64) @ np.array([19595, 38470, 7471]) + (1 << 15)) >> 16
    else:
        found = pixels.astype(np.float32) @ np.array([0.2989, 0.587, 0.114], np.float32)
    return np.repeat(found.astype(pixels.dtype)[:, :, None], step["channels"], 2)


def scale(pixels: Any, step: Step) -> Any:
    return pixels.astype(np.float32) / np.float32(step["divide"])


def normalize(pixels: Any, step: Step) -> Any:
    return (pixels.astype(np.float32) - np.float32(step["mean"])) / np.float32(step["std"])


def layout(pixels: Any, step: Step) -> Any:
    return np.moveaxis(pixels, -1, 0) if step["axes"] == "CHW" else pixels


def cast(values: Any, step: Step) -> Any:
    return values.astype(step["dtype"])


# -- rows ----------------------------------------------------------------------------------------------------------


def read_table(path: Path, step: Step) -> tuple[Table, str]:
    """The columns of a CSV as texts, by name, and its delimiter."""
    try:
        text = path.read_bytes().decode(step["encoding"])
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not in {step['encoding']}: {error}") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {first_line(error)}") from None
    head = text[:50_000].splitlines()[:50]

    def fits(mark: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(head, delimiter=mark) if row]
        return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)

    delimiter = max(step["delimiters"], key=fits)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [row for row in reader if any(row)]
    except csv.Error as error:
        raise Refused(f"{path} cannot be read: {error}; is a quote never closed?") from None
    if len(rows) < 2:
        raise Refused(f"{path} has no rows" if rows else f"{path} is empty")
    header = [name.strip() for name in rows[0]]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise Refused(f"{path} has columns of the same name: {some(twice)}")
    if ragged := [place for place, row in enumerate(rows[1:], 2) if len(row) != len(header)]:
        raise Refused(f"{path} has {len(header)} columns, and another number of values in the rows {some(ragged)}")
    return dict(zip(header, zip(*rows[1:], strict=True), strict=True)), delimiter


def needs(path: Path, table: Table, names: Sequence[str], target: str) -> None:
    if absent := [name for name in names if name not in table]:
        raise Refused(f"{path} lacks the columns {some(absent, 30)}; it has {some(table, 30)}")
    if unused := [name for name in table if name not in names and name != target]:
        warn(f"{path}: columns that are not used: {some(unused, 30)}")


def columns(table: Table, delimiter: str, step: Step, path: Path) -> Any:
    """Rows as numbers, as training encoded them: decimal commas only between semicolons."""
    encoded = [
        column(table[each["name"]], each, step["missing"], each["comma"] and delimiter == ";", path)
        for each in step["columns"]
    ]
    return np.stack(encoded, 1).astype(np.float32)


def column(texts: Sequence[str], each: Step, missing: Sequence[str], comma: bool, path: Path) -> Any:
    values = [text.strip() for text in texts]
    gone = [value.casefold() in missing for value in values]
    name = f"{path}: column {each['name']!r}"
    filled = f"as {each['fill']:g}" if each["kind"] == "number" else "as none of the categories"
    if any(gone) and not each["gaps"]:
        warn(f"{name} lacks {sum(gone)} values, and in training none was missing: taken {filled}")
    if each["kind"] == "category":
        places = {category: float(place) for place, category in enumerate(each["categories"], 1)}
        unknown = {value for value, miss in zip(values, gone, strict=True) if not miss and value not in places}
        if unknown:
            warn(f"{name} has categories that training did not know, or were rare there: {some(sorted(unknown))}")
        return np.array([places.get(value, 0.0) for value in values])
    odd: list[str] = []
    found: list[float] = []
    for value, miss in zip(values, gone, strict=True):
        found.append(number(value, comma, name))
        if not miss and not np.isfinite(found[-1]):
            odd.append(value)
    if odd:
        warn(f"{name} has values that are no numbers, taken {filled}: {some(sorted(set(odd)))}")
    if comma and not any("," in value for value in values) and (thousands := [v for v in values if "." in v]):
        warn(f"{name} has no decimal comma: points are taken to be between thousands, as in training: {thousands[0]}")
    return np.where(np.isfinite(found), found, each["fill"])


def number(text: str, comma: bool, name: str) -> float:
    fits = DECIMAL_COMMA.fullmatch(text) is not None
    try:
        value = float(text.replace(".", "").replace(",", ".") if comma and fits else text)
    except ValueError:
        value = float("nan")
    if not comma and fits and "," in text:
        raise Refused(f"{name} has a decimal comma ({text}), and points are read here: write points")
    if comma and not fits and "." in text and np.isfinite(value):
        raise Refused(f"{name} has a decimal point ({text}), and training's numbers have commas: write commas")
    return value


# -- texts ---------------------------------------------------------------------------------------------------------


def tokenizer_of(step: Step) -> Any:
    try:
        from tokenizers import Tokenizer

        found = Tokenizer.from_file(str(HERE / step["file"]))
    except ImportError:
        raise
    except Exception as error:
        raise Refused(f"{HERE / step['file']} is no tokenizer that can be read: {first_line(error)}") from error
    found.no_truncation()
    found.no_padding()
    if step["truncate"]:
        found.enable_truncation(step["length"])
    if step["pad"] is not None:
        found.enable_padding(
            direction=step["pad"], pad_id=step["pad_id"], pad_type_id=step["pad_type_id"],
            pad_token=step["pad_token"], length=step["length"], pad_to_multiple_of=step["multiple"],
        )  # fmt: skip
    return found


def tokenize(texts: Sequence[str], step: Step, tokenizer: Any) -> list[Any]:
    """A text, or two in one call, to the model's inputs in order."""
    try:
        found = tokenizer.encode(*texts)
    except Exception as error:  # what is no text, such as half of a character
        raise Refused(f"the text {texts[0]!r} cannot be read: {first_line(error)}") from error
    for text in texts:
        if not text.strip():
            warn("a text is empty")
    if found.overflowing:
        warn(f"a text is longer than {step['length']} tokens, and cut there: {texts[0][:40]!r}")
    if not step["truncate"] and len(found.ids) > step["length"]:
        raise Refused(f"a text has {len(found.ids)} tokens, and {step['length']} are the most")
    return [np.array(getattr(found, part), step["dtype"]) for part in step["feeds"].values()]


# -- what is predicted from ----------------------------------------------------------------------------------------


STEPS = {
    "resize": resize, "crop": crop, "pad": pad, "gray": gray, "scale": scale, "normalize": normalize, "layout": layout,
    "cast": cast,
}  # fmt: skip
"""Steps from one array to the next."""


class Model:
    """The model with what comes before it and behind it."""

    def __init__(self) -> None:
        self.said, self.ports = read_json("preprocess.json"), read_json("ports.json")
        if self.said.get("schema") != 1:
            raise Refused(f"preprocess.json has the schema {self.said.get('schema')!r}, and 1 is read here")
        self.raws, self.output = self.said["inputs"], self.said["output"]
        self.kind = "tensor" if len(self.raws) > 1 else self.raws[0]["kind"]
        self.steps = [] if self.kind == "tensor" else self.raws[0]["steps"]
        self.names = [port["name"] for port in self.ports["inputs"]]
        self.tokenizer = tokenizer_of(self.steps[0]) if self.kind.startswith("text") else None
        self.run = self._load()

    def _load(self) -> Callable[[Call], Call]:
        path = there(HERE / "load.py")
        names = runpy.run_path(str(path))
        try:
            run: Callable[[Call], Call] = names["load"]()
        except Exception as error:
            raise Refused(f"the model cannot be loaded: {first_line(error)}") from error
        return run

    def things(self, given: Sequence[str]) -> Iterator[tuple[str, list[Call] | Refused]]:
        """(name, inputs of each call by port) of everything that was given, or a Refused in their place."""
        if self.kind == "picture":
            for path in pictures(given):
                yield str(path), attempt(lambda path: [self.fed([self.picture(path)])], path)
        elif self.kind == "tensor":
            for path in map(Path, given):
                yield from self.tensors(path)
        elif self.kind == "row":
            for path in map(Path, given):
                yield from self.rows(path)
        else:
            yield from self.texts(given)

    def picture(self, path: Path) -> Any:
        value: Any = path
        for step in self.steps:
            value = decode(value, step) if step["do"] == "decode" else STEPS[step["do"]](value, step)
        return value

    def rows(self, path: Path) -> Iterator[tuple[str, list[Call]]]:
        """The rows of a CSV."""
        step = self.steps[0]
        table, delimiter = read_table(there(path), step)
        needs(path, table, [each["name"] for each in step["columns"]], self.output["target"])
        encoded = columns(table, delimiter, step, path)
        for after in self.steps[1:]:
            encoded = STEPS[after["do"]](encoded, after)
        for place, row in enumerate(encoded, 1):
            yield f"{path}:{place}", [self.fed([row])]

    def texts(self, given: Sequence[str]) -> Iterator[tuple[str, list[Call] | Refused]]:
        """Texts as arguments, or in the columns of a CSV."""
        step = self.steps[0]
        asked = len(step["columns"])
        if len(given) == 1 and Path(given[0]).suffix.casefold() == ".csv":
            path = there(Path(given[0]))
            table, _ = read_table(path, {"encoding": "utf-8-sig", "delimiters": ",;\t|"})
            needs(path, table, step["columns"], self.output["target"])
            read = zip(*(table[name] for name in step["columns"]), strict=True)
            named = [(f"{path}:{place}", list(row)) for place, row in enumerate(read, 1)]
        elif asked == 2:
            if len(given) != 2:
                raise Refused(f"give two texts ({', '.join(step['columns'])}), or a CSV with these columns")
            named = [(" | ".join(given), list(given))]
        else:
            named = [(text, [text]) for text in given]
        for name, texts in named:
            sides = [[text] for text in texts] if self.kind == "text pair" else [texts]
            yield name, attempt(lambda its: [self.fed(tokenize(each, step, self.tokenizer)) for each in its], sides)

    def tensors(self, path: Path) -> Iterator[tuple[str, list[Call]]]:
        """The samples of a .npy or .npz file: its arrays are the model's inputs, by name or in order."""
        if path.suffix not in (".npy", ".npz"):
            raise Refused(f"{path} is no .npy or .npz file of tensors: how raw things become tensors is not known")
        try:
            found = np.load(there(path), allow_pickle=False)
            arrays = {name: found[name] for name in found.files} if path.suffix == ".npz" else {"": found}
        except Refused:
            raise
        except Exception as error:
            raise Refused(f"{path} cannot be read: {first_line(error)}") from error
        if set(self.names) <= set(arrays):
            arrays = {name: arrays[name] for name in self.names}
        elif len(arrays) == len(self.names) == 1:
            arrays = dict(zip(self.names, arrays.values(), strict=True))
        else:
            raise Refused(f"{path} holds {some(arrays) or 'nothing'}, and the model takes {some(self.names, 30)}")
        ports = self.ports["inputs"]
        single = all(arrays[port["name"]].ndim == len(port["shape"]) - 1 for port in ports)
        for port in ports:
            array, shape = arrays[port["name"]], port["shape"]
            array = array[None] if single else array
            pairs = zip(shape[1:], array.shape[1:], strict=False)
            fixed = all(not isinstance(wanted, int) or wanted == own for wanted, own in pairs)
            if array.ndim != len(shape) or not fixed or not len(array):
                raise Refused(f"{path}: {port['name']} has the shape {array.shape}, and {tuple(shape)} is taken")
            if not np.can_cast(array.dtype, port["dtype"], "same_kind"):
                raise Refused(f"{path}: {port['name']} is {array.dtype}, and {port['dtype']} is taken")
            arrays[port["name"]] = array.astype(port["dtype"])
        if len({len(array) for array in arrays.values()}) > 1:
            raise Refused(f"{path} holds another number of samples for each input")
        count = len(next(iter(arrays.values())))
        for place in range(count):
            name = str(path) if count == 1 else f"{path}:{place + 1}"
            yield name, [{its: array[place : place + 1] for its, array in arrays.items()}]

    def fed(self, arrays: Sequence[Any]) -> Call:
        """Arrays of one sample as a batch of one, by the names of the model's inputs."""
        names = self.raws[0]["feeds"] or self.names
        if len(names) != len(arrays):
            raise Refused(f"preprocess.json makes {len(arrays)} inputs, and the model takes {some(self.names, 30)}")
        return {name: array[None] for name, array in zip(names, arrays, strict=True)}

    def outputs(self, calls: Sequence[Call]) -> list[Call]:
        """What the model gives for each call, by name."""
        try:
            return [self.run(call) for call in calls]
        except Exception as error:
            raise Refused(f"the model cannot take it: {first_line(error)}") from error

    def answer(self, calls: Sequence[Call]) -> dict[str, Any]:
        """What is predicted, as plain data."""
        return answer(self.said, self.outputs(calls), calls)

    def shown(self, found: Mapping[str, Any], top: int) -> str:
        """An answer for people."""
        unit = f" {self.output['unit']}" if self.output["unit"] else ""
        if "value" in found:
            values = found["value"] if isinstance(found["value"], list) else [found["value"]]
            return "  ".join(f"{value:.6g}{unit}" for value in values)
        if "outputs" in found:
            arrays = found["outputs"].items()
            return "  ".join(f"{name} {array.shape}: {some(array.ravel().tolist(), 8)}" for name, array in arrays)
        scores = sorted(found["scores"].items(), key=lambda each: -each[1])
        if "labels" in found:
            told = ", ".join(f"{name} {score:.4f}" for name, score in scores[:top])
            return f"{', '.join(found['labels']) or 'none'}  ({told})"
        others = [each for each in scores if each[0] != found["label"]]
        return "  ".join(
            f"{name} {score:.4f}" for name, score in [(found["label"], found["scores"][found["label"]]), *others][:top]
        )


# -- answers -------------------------------------------------------------------------------------------------------


def answer(said: Step, outputs: Sequence[Call], calls: Sequence[Call]) -> dict[str, Any]:
    """What the outputs of a sample's calls say by `preprocess.json`, as plain data."""
    meant, kind = said["output"], said["output"]["kind"]
    if kind == "tensor":
        return {"outputs": dict(outputs[0])}
    values = [chosen(meant, each) for each in outputs]
    if any(not np.isfinite(value).all() for value in values):
        raise Refused("the model gives NaN or infinity, which is no answer")
    if kind == "cosine":
        feeds = said["inputs"][0]["steps"][0]["feeds"].values()
        pairs = zip(values, calls, strict=True)
        first, second = (pooled(meant, value, dict(zip(feeds, call.values(), strict=True))) for value, call in pairs)
        return {"value": float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-8))}
    value = values[0].astype(np.float64).reshape(-1)
    if kind == "number":
        numbers = (value * meant["times"] + meant["plus"]).tolist()
        return {"value": numbers[0] if len(numbers) == 1 else numbers}
    return named(meant, value)


def chosen(meant: Step, outputs: Call) -> Any:
    """The output that is meant."""
    name = meant["port"] or ("logits" if "logits" in outputs else next(iter(outputs)))
    if name not in outputs:
        raise Refused(f"preprocess.json speaks of the output {name!r}, and the model gives {some(outputs)}")
    return np.asarray(outputs[name])


def pooled(meant: Step, value: Any, parts: Mapping[str, Any]) -> Any:
    """One vector of a text: the model's own, or made of those of its tokens."""
    value = value[0].astype(np.float64)
    if value.ndim == 1:
        return value
    if meant["pool"] == "first":
        return value[0]
    shown = parts["attention_mask"][0][:, None] if "attention_mask" in parts else np.ones((len(value), 1))
    return (value * shown).sum(0) / max(shown.sum(), 1)


def named(meant: Step, value: Any) -> dict[str, Any]:
    """Scores by the names of the classes, and the label or labels."""
    if meant["apply"] == "softmax":
        value = np.exp(value - value.max())
        value = value / value.sum()
    elif meant["apply"] == "sigmoid":
        value = 1 / (1 + np.exp(-value))
    label = int(value.argmax())
    if meant["kind"] == "classes" and len(value) == 1:  # of two classes the second's score alone
        label = int(value[0] >= meant["threshold"]) if meant["apply"] == "sigmoid" else int(value[0] > 0)
        value = np.array([1 - value[0] if meant["apply"] == "sigmoid" else -value[0], value[0]])
    names = meant["classes"] or [str(place) for place in range(len(value))]
    if len(names) != len(value):
        raise Refused(f"preprocess.json names {len(names)} classes, and the model gives {len(value)} scores")
    scores = {name: float(score) for name, score in zip(names, value, strict=True)}
    if meant["kind"] == "labels":
        return {"labels": [name for name, score in scores.items() if score >= meant["threshold"]], "scores": scores}
    return {"label": names[label], "scores": scores}


def attempt(make: Callable[[Any], list[Call]], of: Any) -> list[Call] | Refused:
    """What is made, or why it cannot be."""
    try:
        return make(of)
    except Refused as refused:
        return refused


def there(path: Path) -> Path:
    if not path.is_file():
        whole = ": copy the folder whole" if path.parent == HERE else ""
        raise Refused(f"there is no file {path}{whole}")
    return path


def pictures(given: Sequence[str]) -> Iterator[Path]:
    """Files as they are named, and the pictures below folders."""
    for path in map(Path, given):
        if path.is_dir():
            below = [each for each in sorted(path.rglob("*")) if each.suffix.casefold() in ENDINGS]
            found = [each for each in below if each.is_file() and not each.name.startswith(".")]
            if not found:
                raise Refused(f"{path} holds no pictures")
            yield from found
        else:
            yield there(path)


def read_json(name: str) -> Any:
    path = there(HERE / name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {first_line(error)}") from None


# -- the samples beside --------------------------------------------------------------------------------------------


def check(model: Model) -> None:
    """Hold raw samples, what is made of them and the model against the answers of the run."""
    told = read_json("samples/answers.json") if (HERE / "samples").is_dir() else []
    if not told:
        raise Refused("there are no samples beside: they were left out")
    given = [str(HERE / "samples" / name) for name in dict.fromkeys(each["file"] for each in told)]
    found = list(model.things(given))
    if len(found) != len(told):
        raise Refused(f"{len(told)} samples are on record, and {len(found)} are there")
    with np.load(HERE / "samples" / "outputs.npz") as kept:
        recorded = {name: kept[name] for name in kept.files}
    wrong = []
    for place, ((name, calls), its) in enumerate(zip(found, told, strict=True)):
        if isinstance(calls, Refused):
            raise calls
        for number, outputs in enumerate(model.outputs(calls)):
            for port, value in outputs.items():
                wanted = recorded.get(f"{place}:{number}:{port}")
                if wanted is not None and not close(value, wanted):
                    wrong.append(f"{name}: the output {port} is not the recorded one")
        if its["answer"]:
            own = model.answer(calls)
            same = all(own.get(key) == its["answer"].get(key) for key in ("label", "labels"))
            if not same or not close(own.get("value", 0.0), its["answer"].get("value", 0.0)):
                wrong.append(f"{name}: {model.shown(own, 1)}, and the run's answer is {model.shown(its['answer'], 1)}")
    if wrong:
        raise Refused("; ".join(dict.fromkeys(wrong)))
    print(f"{len(told)} samples give the answers of the run")


def close(own: Any, wanted: Any) -> bool:
    limit = CLOSE * max(1e-6, float(np.abs(wanted).max(initial=0)))
    return np.shape(own) == np.shape(wanted) and np.allclose(own, wanted, rtol=CLOSE, atol=limit, equal_nan=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="predict.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("input", nargs="*", help="pictures or folders of them; CSV files of rows; texts; .npy or .npz")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each prediction")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="how many scores are shown (3)")
    parser.add_argument("--check", action="store_true", help="hold the samples beside against the run's answers")
    asked = parser.parse_args(arguments)
    if asked.top < 1:
        parser.error("--top is 1 or more")
    if not asked.input and not asked.check:
        parser.error("give something to predict from, or --check")
    for stream in (sys.stdout, sys.stderr):  # the name of a file may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        model = Model()
        if asked.check:
            check(model)
        failed = False
        for name, calls in model.things(asked.input) if asked.input else ():
            try:
                if isinstance(calls, Refused):
                    raise calls
                found = model.answer(calls)
            except Refused as refused:
                print(refused if name in str(refused) else f"{name}: {refused}", file=sys.stderr)
                failed = True
                continue
            unit = {"unit": model.output["unit"]} if model.output["unit"] else {}
            if asked.json:
                print(json.dumps({"input": name, **found, **unit}, ensure_ascii=False, default=np.ndarray.tolist))
            else:
                print(f"{name}\t{model.shown(found, asked.top)}")
        return 2 if failed else 0
    except Refused as refused:
        print(refused, file=sys.stderr)
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        package = PACKAGES.get(name, name)
        print(f"{first_line(error)}: pip install {package}" if package else first_line(error), file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
    return 2


if __name__ == "__main__":
    sys.exit(main())
