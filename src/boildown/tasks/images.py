"""A folder of images as a task: a folder for every class, perhaps below train/ and val/."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from boildown.domain.artifact import file_hash
from boildown.domain.preprocess import Cast, Crop, Decode, Layout, Normalize, Preprocess, Raw, Resize, Scale
from boildown.errors import DataError, Mistake, in_words, install
from boildown.tasks.classification import Classification
from boildown.tasks.columns import some
from boildown.tasks.table import fractions

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation by which networks from ImageNet expect their inputs to be normalized."""

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    "test": "test",
}
_DEEP = frozenset({"I", "I;16", "I;16B", "I;16L"})
"""Pillow's modes of grey images with more than 8 bits, which it cuts off at 255 where it converts them."""

_KEPT_BYTES = 256e6
_LARGEST, _OWN_SIZE = 64, 96
FOLDER = "folder"
"""Groups of images are the folders below those of the classes."""


@dataclass(frozen=True)
class Look:
    """How an image becomes a tensor: turned upright, resized, cut to a square, scaled to 0..1, normalized.

    size: pixels of a side. crop: the share of the resized shorter side that is kept. mean, std: of each channel.
    white: the value that is white in grey images of 16 bits.
    """

    size: int
    channels: int = 3
    crop: float = 1.0
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    white: int = 2**16 - 1

    def read(self, path: Path) -> NDArrayOfBytes:
        """The pixels of one image, uint8 (size, size, channels). Raises DataError where it cannot be read."""
        image = _pillow()
        from PIL import ImageOps

        try:
            with image.open(path) as opened:
                picture = ImageOps.exif_transpose(opened)
                if picture.mode in _DEEP:
                    scaled = np.asarray(picture).astype(np.float64) * (255 / self.white)
                    picture = image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
                picture = picture.convert("L" if self.channels == 1 else "RGB")
        except Exception as error:  # the decoder of a broken file can fail with anything
            raise DataError.of(
                f"The image {path} cannot be read: {in_words(error)}.", "Mend it, or leave it out."
            ) from error
        shorter = round(self.size / self.crop)
        scale = shorter / min(picture.size)
        if scale != 1:
            width, height = (max(shorter, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), image.Resampling.BILINEAR)
        left, top = ((side - self.size) // 2 for side in picture.size)
        picture = picture.crop((left, top, left + self.size, top + self.size))
        return np.asarray(picture).reshape(self.size, self.size, self.channels)

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (..., size, size, channels) to float32 (..., channels, size, size)."""
        scaled = pixels.movedim(-1, -3).float() / 255
        mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return (scaled - mean) / std

    def steps(self) -> Raw:
        """All of it as data, from the file to the tensor."""
        mean, std = _per_channel(self.mean, self.channels), _per_channel(self.std, self.channels)
        return Raw(
            "picture",
            (
                Decode("L" if self.channels == 1 else "RGB", white=self.white),
                Resize(shorter=round(self.size / self.crop)),
                Crop((self.size, self.size)),
                *(Scale(), Normalize(mean, std), Layout(), Cast()),
            ),
        )


NDArrayOfBytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class Images(Dataset[tuple[Tensor, int]]):
    """Image files with their labels; pixels stay in memory where all of them fit into 256 MB."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], look: Look) -> None:
        self.paths, self.targets, self.look = list(paths), list(labels), look
        shape = (len(self.paths), look.size, look.size, look.channels)
        self._kept = torch.empty(shape, dtype=torch.uint8) if np.prod(shape) <= _KEPT_BYTES else None
        self._read = np.zeros(len(self.paths), bool)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.look.normalize(self._pixels(index)), self.targets[index]

    def _pixels(self, index: int) -> Tensor:
        if self._kept is None:
            return torch.from_numpy(self.look.read(self.paths[index]).copy())
        if not self._read[index]:
            self._kept[index] = torch.from_numpy(self.look.read(self.paths[index]).copy())
            self._read[index] = True
        return self._kept[index]


@dataclass(frozen=True)
class ImageFolder:
    """The images below a folder: their classes by name, and for each its part (or none), path and class."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[str | None, str, int], ...]

    @classmethod
    def find(cls, root: Path, leave_out: Collection[str] = ()) -> tuple[ImageFolder, list[str]]:
        """Every image below the folder, and what a person should know of it, in sentences.

        leave_out: images by their path below the folder, with slashes. Raises DataError with every mistake: no classes,
        too few images, classes that only some parts have.
        """
        _pillow()
        if not root.is_dir():
            raise DataError.of(f"There is no folder {root}.", "Name one with a folder of images for every class.")
        parts, beside = _parts(root)
        found: list[tuple[str | None, Path, str]] = []
        others: list[str] = []
        for part, folder in parts:
            others += [path.name for path in folder.iterdir() if path.is_file() and path.suffix.casefold() in ENDINGS]
            for of_class in _folders(folder):
                paths = sorted(path for path in of_class.rglob("*") if path.is_file() and not path.name.startswith("."))
                images = [path for path in paths if path.suffix.casefold() in ENDINGS]
                images = [path for path in images if path.relative_to(root).as_posix() not in leave_out]
                others += [path.name for path in paths if path.suffix.casefold() not in ENDINGS]
                found += [(part, path, of_class.name) for path in images]
        classes = tuple(sorted({name for _part, _path, name in found}))
        if mistakes := _mistakes(root, found, classes, parts):
            raise DataError(*mistakes)
        places = {name: place for place, name in enumerate(classes)}
        files = tuple((part, path.relative_to(root).as_posix(), places[name]) for part, path, name in found)
        told = [f"{len(others):,} files are no images in the folder of a class: {some(others, 3)}."] if others else []
        if beside:
            told.append(f"Folders beside those of the parts are left out: {some(beside)}.")
        return cls(root, classes, files), told

    def broken(self) -> tuple[str, ...]:
        """The images that cannot be read to their end, by their path below the folder."""
        image, found = _pillow(), []
        for _part, name, _class in self.files:
            try:
                with image.open(self.root / name) as opened:
                    opened.load()
            except Exception:  # noqa: BLE001 - the decoder of a broken file can fail with anything
                found.append(name)
        return tuple(found)

    def look(self) -> Look:
        """How to read the images for a network of no fixed size: as they are where they are small and alike.

        Reads the beginning of every file, and all of those with 16 bits: the brightest tells how many of the bits
        are used. Raises DataError naming those that are no images.
        """
        image, sizes, modes, broken, brightest = _pillow(), set(), set(), [], 0
        for _part, name, _class in self.files:
            try:
                with image.open(self.root / name) as opened:
                    sizes.add(opened.size)
                    modes.add(opened.mode)
                    if opened.mode in _DEEP:
                        brightest = max(brightest, int(np.asarray(opened).max()))
            except (OSError, ValueError, SyntaxError, image.DecompressionBombError):
                broken.append(name)
        if broken:
            raise DataError.of(
                f"{len(broken)} files cannot be read as images: {some(broken)}.",
                "Mend them, or leave them out: boildown init --skip-broken, leave_out= of image_folder.",
            )
        side = min(min(size) for size in sizes)
        size = side if side <= _OWN_SIZE and len(sizes) == 1 else _LARGEST
        look = Look(size, channels=1 if modes <= {"L", "1", *_DEEP} else 3)
        bits = max(8, brightest.bit_length())
        return replace(look, white=2**bits - 1) if modes & _DEEP else look

    def task(self, look: Look, *, validation: float = 0.2, seed: int = 0, groups: str = "") -> Classification:
        """The task. Where the folder has no part for validation, a file's name and the seed decide where it goes.

        Equal files go where the first of them goes, and of every class something stays to be learned. validation: the
        share of images that is judged on, where they are not parted already. groups: `folder` where images of one
        folder below their class belong together, or a pattern (a regular expression) for paths below the root: what
        its brackets hold, or all of it without any, is the name of the group. Groups stay whole.
        Raises DataError for images that have none.
        """
        look = replace(look, mean=_per_channel(look.mean, look.channels), std=_per_channel(look.std, look.channels))
        parts, ids = [part for part, _name, _class in self.files], self.groups(groups)
        if "validation" not in parts:
            judged = self._judged(validation, seed, ids)
            parts = [
                part if part == "test" else "validation" if held else "train"
                for part, held in zip(parts, judged, strict=True)
            ]
        data, of_parts = dict[str, Any](), dict[str, list[str]]()
        for part in ("train", "validation", "test"):
            chosen = [file for file, its in zip(self.files, parts, strict=True) if its == part]
            if chosen:
                data[part] = Images([self.root / name for _, name, _ in chosen], [label for *_, label in chosen], look)
                of_parts[part] = [own for own, its in zip(ids, parts, strict=True) if its == part] if ids else []
        task = Classification(**data, classes=self.classes, groups=of_parts if ids else None)
        judged_on = data["validation"]
        task.preprocess = Preprocess((look.steps(),), task.answer())
        task.raw = lambda place: judged_on.paths[place]
        task.reads = lambda other: self.other(other, look)
        return task

    def groups(self, pattern: str) -> list[str]:
        """The name of every file's group, see `task`; empty without a pattern. Raises DataError for files without."""
        if not pattern:
            return []
        found = [_group(name, pattern, below=1 if part is None else 2) for part, name, _class in self.files]
        if lost := [name for (_part, name, _class), own in zip(self.files, found, strict=True) if not own]:
            raise DataError.of(
                f"{len(lost):,} of {len(found):,} images are in no group by {pattern!r}: {some(lost, 3)}.",
                "Give a pattern that every path holds, such as (subject\\d+), or folder for those below its class.",
            )
        return found

    def other(self, root: Path, look: Look) -> Images:
        """Every image of another folder with folders of these classes; of its parts, those not to train on.

        Raises DataError where there are none, or some of other classes.
        """
        if not root.is_dir():
            raise DataError.of(f"There is no folder {root}.", "Name one with a folder of images for every class.")
        parts = [folder for part, folder in _parts(root)[0] if part != "train"] or [root]
        found = [
            (path, of_class.name)
            for folder in parts
            for of_class in _folders(folder)
            for path in sorted(of_class.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and path.suffix.casefold() in ENDINGS
        ]
        places, named = {name: place for place, name in enumerate(self.classes)}, {name for _path, name in found}
        if unknown := sorted(named - places.keys()):
            raise DataError.of(
                f"{root} has classes that were not there: {some(unknown)}.", f"The classes are {some(self.classes)}."
            )
        if not found:
            raise DataError.of(
                f"{root} holds no images in folders of classes.", f"Give a folder for each of {some(self.classes)}."
            )
        return Images([path for path, _name in found], [places[name] for _path, name in found], look)

    def _judged(self, validation: float, seed: int, ids: Sequence[str]) -> list[bool]:
        """Which of the files are judged on."""
        first = dict[str, int]()
        alike = [first.setdefault(own, place) for place, own in enumerate(ids)] or self._alike()
        where = fractions([ids[place] if ids else self.files[place][1] for place in alike], seed)
        if ids:  # two groups are judged on at least
            validation = max(validation, float(np.nextafter(np.unique(where)[:2].max(), 1.0)))
        for label in range(len(self.classes)):
            own = [p for p, (part, _name, its) in enumerate(self.files) if its == label and part != "test"]
            if own and all(where[p] < validation for p in own):  # nothing could be learned of it
                kept = alike[max(own, key=lambda p: where[p])]
                where[[place == kept for place in alike]] = 1.0
        return [bool(share < validation) for share in where]

    def _alike(self) -> list[int]:
        """For each file the place of the first one that is equal to it, byte for byte."""
        paths = [self.root / name for _part, name, _class in self.files]
        sizes = [path.stat().st_size if path.is_file() else -1 for path in paths]
        shared = {size for size, count in Counter(sizes).items() if count > 1 and size >= 0}
        first: dict[str, int] = {}
        return [
            place if size not in shared else first.setdefault(file_hash(path), place)
            for place, (path, size) in enumerate(zip(paths, sizes, strict=True))
        ]


def image_folder(
    root: Path | str,
    *,
    validation: float = 0.2,
    seed: int = 0,
    leave_out: Collection[str] = (),
    groups: str = "",
    **look: Any,
) -> Classification:
    """The task of a folder of images, see `ImageFolder` and `Look`. Raises DataError with every mistake."""
    found, _told = ImageFolder.find(Path(root), leave_out)
    return found.task(Look(**look), validation=validation, seed=seed, groups=groups)


def _group(name: str, pattern: str, below: int) -> str:
    """The name of a file's group, by its path; empty without one. below: how many folders lead down to its class."""
    if pattern == FOLDER:
        inner = name.split("/")[below:-1]
        return inner[0] if inner else ""
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise DataError.of(
            f"groups = {pattern!r} is no pattern: {error}.", "Give a regular expression, or folder."
        ) from None
    return "" if found is None else "/".join(part or "" for part in found.groups()) or found.group()


def written(look: Look) -> str:
    """A look as the arguments of `image_folder`."""
    return ", ".join(f"{name}={value!r}" for name, value in asdict(look).items())


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))


def _parts(root: Path) -> tuple[list[tuple[str | None, Path]], list[str]]:
    """The folders of the parts, and the names of those beside them; the root alone where its folders are classes."""
    below = _folders(root)
    parts: list[tuple[str | None, Path]] = [
        (_PARTS[folder.name.casefold()], folder) for folder in below if folder.name.casefold() in _PARTS
    ]
    beside = [folder.name for folder in below if folder.name.casefold() not in _PARTS]
    train = [folder for part, folder in parts if part == "train"]
    # A class may be called train: alone among others it is a part where it holds folders.
    if parts and (not beside or (train and (len(parts) > len(train) or any(map(_folders, train))))):
        return parts, beside
    return [(None, root)], []


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return tuple(values) * channels if len(values) == 1 else tuple(values)[:channels]


def _mistakes(
    root: Path,
    found: Sequence[tuple[str | None, Path, str]],
    classes: Sequence[str],
    folders: Sequence[tuple[str | None, Path]],
) -> list[Mistake]:
    parts = {part for part, _folder in folders}
    if not classes:
        loose = [path for path in root.iterdir() if path.suffix.casefold() in ENDINGS]
        cause = f"{root} holds {len(loose)} images, and no folders of them." if loose else f"{root} holds no images."
        return [Mistake(cause, "Put the images of each class into a folder of its own: cats/1.png, dogs/1.png.")]
    mistakes = []
    for part in sorted(map(str, parts)):
        names = [folder.name for its, folder in folders if its == part]
        if len(names) > 1:
            mistakes.append(Mistake(f"{root} has {' and '.join(names)}, all for {part}.", "Keep one, or join them."))
    if len(classes) == 1:
        mistakes.append(
            Mistake(f"{root} has one class only: {classes[0]}.", "A folder for each of at least two classes is needed.")
        )
    few = [name for name in classes if sum(name == its for *_, its in found) < 2]
    if few:
        mistakes.append(Mistake(f"Classes with one image only: {some(few)}.", "Add to them, or leave them out."))
    if None not in parts and "train" not in parts:
        mistakes.append(Mistake(f"{root} has folders for {', '.join(map(str, parts))}, and none for train.", "Add it."))
    if "train" in parts:
        trained = {name for part, _path, name in found if part == "train"}
        unknown = sorted({name for part, _path, name in found if part != "train"} - trained)
        if unknown and trained:
            mistakes.append(Mistake(f"Classes that train lacks: {some(unknown)}.", "Give them the same folders."))
    return mistakes


def _pillow() -> Any:
    """Pillow's `Image`. Raises DataError where it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError.of("Images are read with Pillow, which is not installed.", install("images")) from None
    return Image
