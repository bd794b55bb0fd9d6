"""Bytes of an artifact."""

from __future__ import annotations

from boildown.domain.artifact import Artifact
from boildown.domain.measurement import Measurement


def measure_size(
    candidate: Artifact, first: Artifact | None = None, plain: int | None = None, what: str = "the plain export"
) -> Measurement:
    """Size of an artifact, and against `first`, the first model's lean float artifact.

    `plain` is the bytes of the first model's plain export, which carries metadata a deployed file
    does not need; the flattering ratio to it is a note. what: is so large, where it is something else.
    """
    size = candidate.size
    if first is None:
        return Measurement("size", float(size), "B", samples=1)
    reference = first.size
    notes: tuple[str, ...] = ()
    if plain is not None:
        notes = (f"{size / plain:.3g}x of {what} ({plain:,} B)",)
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
