"""What a runtime is: it exports a captured program once, writes artifacts from it, and runs them.

Every method here may crash natively and is called in a child process; arguments are therefore
paths, bytes and plain data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from boildown.domain.candidate import Edit, Plan

Array = NDArray[Any]


@dataclass(frozen=True)
class Port:
    """One input or output of an artifact; a dimension is a name where it is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Written:
    """What the writer made: bytes on disk, the form chosen, and facts worth telling."""

    size: int
    form: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """A loaded artifact."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Flat inputs in port order to flat outputs in port order."""
        ...


class Runtime(Protocol):
    """What executes an artifact."""

    name: str
    suffix: str

    def version(self) -> str:
        """Name and version, for keys and environments."""
        ...

    def export(self, program: bytes, path: Path) -> None:
        """Export a serialized, batch-norm-folded `torch.export` program to a float file at `path`.

        Values of the file carry the names of the program's graph nodes, so that a plan can be
        applied to it. Raises ExportError naming the operator that cannot be exported.
        """
        ...

    def write(self, exported: Path, path: Path, plan: Plan | None = None, rewrite: Edit | None = None) -> Written:
        """Write the deployable artifact from an exported float file and a plan or a rewrite.

        Without either it is the float artifact, written as leanly as the others.
        """
        ...

    def open(self, path: Path, threads: int = 1, *, trust: bool = False) -> Session:
        """Load an artifact with `threads` intra-op threads, spinning off.

        `trust` vouches for the file's origin. Raises UntrustedFileError where a format could execute
        code and is not trusted.
        """
        ...
