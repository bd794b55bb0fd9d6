"""What the child process of `benchmarks.fuzz` does with a stranger's ONNX file; it starts without torch."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np

from boildown.errors import BoildownError
from boildown.runtimes import get

_MOST = 8 << 30
"""Bytes of memory: huge declared tensors are to be refused, not swapped."""


def open_onnx(path: str) -> str:
    """Open a file and run it once: 'read', 'refused', or the error that is no refusal."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST, _MOST))
    try:
        session = get("onnxruntime").open(Path(path))
        shapes = [[size if isinstance(size, int) and 0 < size < 100 else 1 for size in p.shape] for p in session.inputs]
        session.run([np.zeros(shape, np.float32) for shape in shapes])
    except BoildownError:
        return "refused"
    except Exception as error:  # noqa: BLE001 - it is what is looked for
        return f"{type(error).__name__}: {error}"
    return "read"
