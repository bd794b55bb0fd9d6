"""What lies beside a file that is handed over so that anybody can tell whether the folder is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from boildown import files
from boildown.errors import InputError, in_words
from boildown.runtimes import get
from boildown.runtimes.base import Port, Session

SAMPLE = "sample.npz"
CARD, README, MANIFEST = "card.json", "README.md", "manifest.json"
_MOST_BYTES = 1 << 20
_MOST_FILES = 10_000
_MOST_SAMPLE = 1 << 30
_CURE = "Take the folder from a copy, or from its run again."


def seal(folder: Path, runtime: str, name: str, identity: Mapping[str, str]) -> None:
    """Write the manifest of a folder: the file to load, who made it, and the sha256 of every other file."""
    told = {"runtime": runtime, "artifact": name, "made": dict(identity), "files": hashes(folder)}
    (folder / MANIFEST).write_text(files.as_json(told), encoding="utf-8")


def handed_over(folder: Path) -> bool:
    """Whether a folder looks like one that was handed over, whole or not."""
    return any(os.path.lexists(folder / name) for name in (MANIFEST, CARD, SAMPLE))


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a folder. Raises ValueError in words for what is none."""
    try:
        data = json.loads(files.read_text(folder / MANIFEST, folder, _MOST_BYTES))
    except RecursionError:
        raise ValueError("its manifest.json is nested too deeply") from None
    except OSError as error:
        raise ValueError(f"its manifest.json cannot be read: {in_words(error)}") from None
    except ValueError as error:
        raise ValueError(f"its manifest.json is no manifest: {str(error)[:200]}") from None
    texts = (
        all(isinstance(data.get(name), str) for name in ("runtime", "artifact")) if isinstance(data, dict) else False
    )
    maps = texts and all(_maps(data.get(name)) for name in ("made", "files"))
    if not maps or data.keys() != {"runtime", "artifact", "made", "files"} or not _lies_in(data):
        raise ValueError("its manifest.json does not say runtime, artifact, made and files")
    return dict(data)


def _lies_in(data: Mapping[str, Any]) -> bool:
    """Whether what is loaded is a file of the folder, or a folder in it."""
    return any(name == data["artifact"] or name.startswith(f"{data['artifact']}/") for name in data["files"])


def _maps(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(inner, str) for inner in value.values())


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder but its manifest; empty for what is no file: a link, a pipe, a device.

    Raises ValueError where there are too many.
    """
    found: dict[str, str] = {}
    left = [folder]
    while left:
        for entry in sorted(os.scandir(left.pop()), key=lambda entry: entry.name):
            path, name = Path(entry.path), Path(entry.path).relative_to(folder).as_posix()
            if entry.is_dir(follow_symlinks=False):
                left.append(path)
            elif name != MANIFEST:
                found[name] = ""
                with contextlib.suppress(OSError), files.opened(path, folder) as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
            if len(found) + len(left) > _MOST_FILES:
                raise ValueError(f"it holds more than {_MOST_FILES:,} files")
    return found


def reproduced(runtime: str, path: str, sample: str, *, trust: bool) -> float:
    """How far the outputs of an artifact for the sample beside it lie from those recorded, in parts of the largest.

    For a child process: both files are anybody's. Raises InputError where they do not fit each other.
    """
    with zipfile.ZipFile(sample) as packed:
        if sum(part.file_size for part in packed.infolist()) > _MOST_SAMPLE:
            raise InputError.of(f"{SAMPLE} unpacks to more than {_MOST_SAMPLE:,} bytes.", _CURE)
    session = get(runtime).open(Path(path), 1, trust=trust)
    with np.load(sample, allow_pickle=False) as saved:
        sides = [[f"{side}:{port.name}" for port in ports] for side, ports in _sides(session)]
        if {*saved.files} != {name for names in sides for name in names}:
            raise InputError.of(f"{SAMPLE} does not hold what the file takes and gives.", _CURE)
        given, expected = ([saved[name] for name in names] for names in sides)
    far = 0.0
    for output, value in zip(session.run(given), expected, strict=True):
        if output.shape != value.shape:
            return float("inf")
        with np.errstate(all="ignore"):
            apart = np.abs(output.astype(np.float64) - value.astype(np.float64))
            apart[np.isnan(output) & np.isnan(value) if output.dtype.kind == "f" else np.zeros(output.shape, bool)] = 0
            scale = np.abs(value.astype(np.float64)).max(initial=0.0) or 1.0
        far = max(far, float(np.nan_to_num(apart / scale, nan=np.inf).max(initial=0.0)))
    return far


def _sides(session: Session) -> tuple[tuple[str, tuple[Port, ...]], ...]:
    return ("input", session.inputs), ("output", session.outputs)
