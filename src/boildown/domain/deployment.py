"""Where and how a model will run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

HERE = "this machine"
LEAN, PORTABLE = "lean", "portable"
FORMS = (LEAN, PORTABLE)


@dataclass(frozen=True)
class Latency:
    """How latency is measured: samples per call and threads."""

    batch: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Deployment:
    """Where and how a model will run.

    form: how its files are written; `lean` is the smallest that its runtime reads, `portable` has no operator that only
    one runtime has. hardware: the processors that it is made for. batch, threads: samples per call and threads that
    time and memory are measured with. on: the machine that they are measured on.
    """

    runtime: str = "onnxruntime"
    form: str = LEAN
    hardware: str = HERE
    batch: int = 1
    threads: int = 1
    on: str = HERE

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the journal and for keys."""
        return asdict(self)


def written_form(form: str, runtime: str | Sequence[str]) -> str:
    """The form that files are written in: what was asked for, or `portable` where several runtimes are named."""
    return form if isinstance(runtime, str) or len(runtime) == 1 else PORTABLE
