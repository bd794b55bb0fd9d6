"""Where and how a model will run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

HERE = "this machine"
FORMS = ("lean",)


@dataclass(frozen=True)
class Latency:
    """How latency is measured: samples per call and threads."""

    batch: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Deployment:
    """Where and how a model will run.

    form: how its files are written; `lean`, without what only tools read. hardware: the processors that it is made
    for. batch, threads: samples per call and threads that time and memory are measured with. on: the machine that
    they are measured on.
    """

    runtime: str = "onnxruntime"
    form: str = "lean"
    hardware: str = HERE
    batch: int = 1
    threads: int = 1
    on: str = HERE

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the journal and for keys."""
        return asdict(self)
