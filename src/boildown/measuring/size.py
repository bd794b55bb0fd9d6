"""Bytes of an artifact."""

from __future__ import annotations

from pathlib import Path

from boildown.domain.measurement import Measurement
from boildown.runtimes.onnx.external import external_files


def size_of(path: Path) -> int:
    """Bytes of an artifact: a file with the external data it names, or a folder with all it holds.

    Raises FileNotFoundError if there is none, InputError for an ONNX file that names data elsewhere.
    """
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    named = external_files(path) if path.suffix == ".onnx" and path.is_file() else ()
    data = {path.with_name(path.name + ".data").resolve(), *named}
    return path.stat().st_size + sum(file.stat().st_size for file in data if file.is_file())


def measure_size(candidate: Path, first: Path | None = None, plain: int | None = None) -> Measurement:
    """Size of an artifact, and against `first`, the first model's lean float artifact.

    `plain` is the bytes of the first model's plain export, which carries metadata a deployed file
    does not need; the flattering ratio to it is a note.
    """
    size = size_of(candidate)
    if first is None:
        return Measurement("size", float(size), "B", samples=1)
    reference = size_of(first)
    notes: tuple[str, ...] = ()
    if plain is not None:
        notes = (f"{size / plain:.3g}x of the plain export ({plain:,} B)",)
    return Measurement(
        metric="size",
        value=float(size),
        unit="B",
        first=float(reference),
        drop=float(size - reference),
        ratio=size / reference,
        samples=1,
        notes=notes,
    )
