"""Memory that an artifact needs to run, measured in processes of its own."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics as numbers
import sys
from collections.abc import Sequence
from pathlib import Path

from boildown.domain.measurement import Measurement
from boildown.errors import AttemptError
from boildown.runtimes import get
from boildown.runtimes.base import Array

INFERENCES = 10
SMALLEST = 2_000_000
"""Bytes below which a ratio is refused: allocators and pages move a process by about a tenth of it."""

_STATUS = Path("/proc/self/status")


def peak(
    path: str | Path, inputs: Sequence[Array], runtime: str = "onnxruntime", threads: int = 1, trust: bool = False
) -> int:
    """Bytes: peak resident memory after 10 inferences, less what was resident before the session.

    To be called once in a fresh process, since memory freed earlier would be used again unseen.
    On Linux the peak is the kernel's own; elsewhere it is that of the whole process so far.
    Raises AttemptError where the operating system does not tell.
    """
    chosen = get(runtime)
    chosen.version()  # loads the runtime's library, which is no part of the artifact
    gc.collect()
    _return_free_memory()
    reset = _reset_peak()
    before, peak_before = _resident()
    session = chosen.open(Path(path), threads, trust=trust)
    seen = before
    for _ in range(INFERENCES):
        session.run(inputs)
        seen = max(seen, _resident()[0])
    highest = _resident()[1]
    # A peak that could not be reset and has not moved belongs to the start of the process.
    if reset or highest > peak_before:
        seen = max(seen, highest)
    return max(0, seen - before)


def summarise(first: Sequence[int], candidate: Sequence[int]) -> Measurement:
    """Medians of repeated `peak`s of both artifacts, in bytes; the candidate's stay in `raw`.

    The ratio is refused, with a note, if either is below 2 MB.
    """
    value, reference = float(numbers.median(candidate)), float(numbers.median(first))
    refused = min(value, reference) < SMALLEST
    notes = (
        f"no ratio: {min(value, reference) / 1e6:.2f} MB is below {SMALLEST / 1e6:.0f} MB, where the process "
        "itself varies as much",
    )
    return Measurement(
        metric="memory",
        value=value,
        unit="B",
        first=reference,
        drop=value - reference,
        ratio=None if refused else value / reference,
        samples=len(candidate),
        raw=tuple(float(sample) for sample in candidate),
        notes=notes if refused else (),
    )


def _resident() -> tuple[int, int]:
    """Resident bytes now and at the peak."""
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    if sys.platform == "win32":
        raise AttemptError("memory cannot be measured on Windows: leave the condition on memory out")
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    highest *= 1 if sys.platform == "darwin" else 1024
    return highest, highest


def _reset_peak() -> bool:
    """Let the kernel's peak start again from what is resident now, where it allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _return_free_memory() -> None:
    """Give freed pages back, so that the session cannot fill them unseen (glibc only)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
