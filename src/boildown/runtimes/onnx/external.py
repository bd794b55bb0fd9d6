"""What an ONNX file keeps outside of itself: weights in other files, named by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boildown.errors import InputError
from boildown.files import real

_WORD = b"location"
"""Every reference to external data contains it; a file without it needs no parsing."""
MOST = 1 << 31
"""No file of protobuf is larger."""


def external_files(path: Path) -> tuple[Path, ...]:
    """The files that hold weights of an ONNX file, which may not exist.

    Raises InputError if the ONNX file is missing or none, or names a file outside its own folder.
    """
    if not path.is_file():
        raise InputError.of(f"there is no file {path}", "check the path")
    if path.stat().st_size > MOST:
        raise InputError.of(f"{path} is larger than an ONNX file can be", "Export it again.")
    if not _contains(path, _WORD):
        return ()
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError.of(f"{path} is not an ONNX file: {said[0]}", "Export it again.") from error
    folder, found = real(path).parent, dict[Path, None]()
    for name in _locations(model):
        file = _inside(folder, name)
        if file is None:
            raise InputError.of(
                f"{path} reads {name!r}, which lies outside its folder",
                "keep the weights inside the ONNX file or next to it",
            )
        found[file] = None
    return tuple(found)


def _inside(folder: Path, name: str) -> Path | None:
    """The file of this name, links followed, if it lies in the folder."""
    try:
        file = real(folder / name)
    except (OSError, ValueError, RuntimeError):  # a null byte, or links in a circle
        return None
    return file if file.is_relative_to(folder) else None


def _locations(message: Any) -> Iterator[str]:
    """Where every tensor of a message lies, however deep: subgraphs, functions, sparse tensors."""
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        for inner in value if field.is_repeated else (value,):
            if field.name == "external_data":
                if inner.key == "location":
                    yield inner.value
            else:
                yield from _locations(inner)


def _contains(path: Path, word: bytes, block: int = 1 << 20) -> bool:
    """Whether the file contains `word`, read block by block so that memory stays small."""
    tail = b""
    with path.open("rb") as file:
        while chunk := file.read(block):
            if word in tail + chunk:
                return True
            tail = chunk[-len(word) + 1 :]
    return False
