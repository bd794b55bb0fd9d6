"""Where and how a model will run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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

    runtime: one, or several that are rivals: the float file in the first is what everything is held against. form: how
    its files are written; `lean` is the smallest that its runtime reads, `portable` has no operator that only one
    runtime has. hardware: the processors that it is made for. batch, threads: samples per call and threads that time
    and memory are measured with. on: the machine that they are measured on.
    """

    runtime: str | Sequence[str] = "onnxruntime"
    form: str = LEAN
    hardware: str = HERE
    batch: int = 1
    threads: int = 1
    on: str = HERE

    def __post_init__(self) -> None:
        """A list becomes a tuple, and one of one name that name: equal deployments are equal, and can be keys."""
        named: Any = self.runtime
        if isinstance(named, list | tuple):
            named = tuple(map(str, named)) if len(named) != 1 else named[0]
        object.__setattr__(self, "runtime", named if isinstance(named, tuple) else str(named))

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The names of the runtimes in order."""
        return (self.runtime,) if isinstance(self.runtime, str) else tuple(self.runtime)

    @property
    def first(self) -> str:
        """The runtime of the first model's artifact."""
        return self.runtimes[0]

    def beside_first(self, runtime: str) -> Deployment:
        """The part that concerns artifacts for one runtime: that one and the first; empty for the first alone."""
        return replace(self, runtime=tuple(dict.fromkeys((self.first, runtime or self.first))))

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the journal and for keys."""
        return {**asdict(self), "runtime": self.runtime if isinstance(self.runtime, str) else list(self.runtime)}


def written_form(form: str, runtime: str | Sequence[str]) -> str:
    """The form that files are written in: what was asked for, or `portable` where several runtimes are named."""
    return form if isinstance(runtime, str) or len(runtime) == 1 else PORTABLE
