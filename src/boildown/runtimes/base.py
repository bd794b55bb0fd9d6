"""What a runtime is: it exports a captured program once, writes artifacts from it, and runs them.

`export`, `write` and `open` may crash natively and are called in a child process; arguments are therefore
paths, bytes and plain data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Edit, Plan
from boildown.domain.deployment import LEAN
from boildown.domain.preprocess import Preprocess
from boildown.domain.rules import Rules
from boildown.errors import InputError

Array = NDArray[Any]
CHECK = """
if __name__ == "__main__":
    run, sample = load(), np.load(here / "sample.npz")
    outputs = run({{name[6:]: sample[name] for name in sample.files if name.startswith("input:")}})
    for name, output in outputs.items():
        np.testing.assert_allclose(output, sample["output:" + name], rtol=0.05, atol=0.05 * np.abs(output).max())
    print("{file} runs and gives the recorded outputs")
"""
"""The end of a loader of `{file}`: run as a script it holds `load()` against the sample beside it."""


@dataclass(frozen=True)
class Port:
    """One input or output of an artifact; a dimension is a name where it is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Written:
    """What the writer made: bytes on disk, the form chosen, facts for the journal, and notes for a person.

    names: values of the captured graph, and what they are called in the artifact where one can look `inside` of it: on
    the integers of their grid where the plan has one, else in float.
    """

    size: int
    form: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Executed:
    """One step of what a runtime ends up running of an artifact.

    name: of its weight, or of the value that it gives, as in the file. kind: the operator. precision: of what it
    computes: int8, float32, bfloat16 and so on. seconds: mean per call; 0 where that is not known. weights: how many
    numbers its constants hold. stored: the type that the file has for them; empty where that is not known.
    """

    name: str
    kind: str
    precision: str
    seconds: float = 0.0
    weights: int = 0
    stored: str = ""


class Session(Protocol):
    """A loaded artifact."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Flat inputs in port order to flat outputs in port order."""
        ...


class Runtime(Protocol):
    """What executes an artifact.

    `path` of `export` and of `write` lies in a new folder: every file that is left there belongs to what was
    exported, or to the artifact. A plug-in may leave out what `Usual` has.
    """

    name: str
    suffix: str
    rules: Rules
    """What it quantizes, and how."""
    forms: tuple[str, ...]
    """The forms in which it writes files; where it is one, `refuses` and `write` are not asked for any."""
    exporter: str
    """The runtime whose exports `write` takes, which is asked to `export` in its place; empty for its own."""

    def version(self) -> str:
        """Name and version, for keys and environments: a new one measures anew."""
        ...

    def refuses(self, plan: Plan | None, rewrite: Edit | None, form: str = LEAN) -> str | None:
        """Why it cannot write a candidate with such a plan or rewrite in such a form, in words; None where it may.

        Asked before a method is applied, with a plan that is empty: nothing is calibrated for a runtime in vain.
        """
        ...

    def load_exporter(self) -> None:
        """Import what `export` needs, where that takes long: it is called beforehand, in the child that will export."""
        ...

    def export(self, program: bytes, path: Path) -> None:
        """Export a serialized, batch-norm-folded `torch.export` program to a float file at `path`.

        Values of the file carry the names of the program's graph nodes, so that a plan can be
        applied to it. Raises ExportError naming the operator that cannot be exported.
        """
        ...

    def write(
        self, exported: Path, path: Path, plan: Plan | None = None, rewrite: Edit | None = None, form: str = LEAN
    ) -> Written:
        """Write the deployable artifact from an exported float file and a plan or a rewrite.

        Without either it is the float artifact, written as leanly as the others. form: see `Deployment`.
        """
        ...

    def open(self, path: Path, threads: int = 1, *, trust: bool = False) -> Session:
        """Load the artifact at `path` with `threads` intra-op threads, spinning off.

        `trust` vouches for the file's origin. Raises UntrustedFileError where a format could execute
        code and is not trusted.
        """
        ...

    def executed(self, path: Path, inputs: Sequence[Array], threads: int = 1) -> tuple[Executed, ...]:
        """What it ends up running of the artifact at `path` for these flat inputs, in order; empty where it cannot say.

        The artifact is run for a fraction of a second, and once at least.
        """
        ...

    def inside(
        self, path: Path, names: Sequence[str], arrays: Sequence[Array], threads: int = 1
    ) -> tuple[dict[str, Array], list[Array]] | None:
        """Values inside of the artifact at `path` by their names in it, and its outputs, for flat inputs.

        Names that it does not have are left out; None where it does not let itself be looked into.
        """
        ...

    def stamp(self, path: Path, identity: Mapping[str, str]) -> bool:
        """Write into the artifact at `path` who made it, of what and how; whether its format has a place for that.

        What it computes stays the same, to the byte.
        """
        ...

    def about(self, path: Path) -> dict[str, Any]:
        """What a file says of itself without being run: its `identity`, and what it `needs` of a runtime, in words.

        Raises InputError where it is not the file that its identity was written into.
        """
        ...

    def files(self, path: Path) -> tuple[Path, ...]:
        """The other files that belong to an artifact of which `path` is loaded, in the same folder or below."""
        ...

    def loader(self, artifact: Artifact) -> str:
        """A Python script that loads the artifact beside it and holds it against `sample.npz`; empty for none.

        Where it has a function `load()`, which gives a function from arrays by the names of inputs to those of
        outputs, and checks as `__main__` alone, `predict.py` runs the artifact by it.
        """
        ...

    def with_preprocessing(
        self, path: Path, target: Path, description: Preprocess, classes: Sequence[str] | None, said: Mapping[str, str]
    ) -> None:
        """Write the artifact at `path` with the steps of a description in front, as `target`: it takes raw pictures.

        classes and `said` are written into it. Raises InputError with every reason why it cannot be.
        """
        ...


class Usual:
    """What a runtime has that says nothing of its own: ONNX Runtime's rules, one form, one file without a stamp."""

    rules = Rules()
    forms: tuple[str, ...] = (LEAN,)
    exporter = ""

    def refuses(self, plan: Plan | None, rewrite: Edit | None, form: str = LEAN) -> str | None:
        """Nothing is refused beforehand."""
        return None

    def load_exporter(self) -> None:
        """Nothing takes long."""

    def executed(self, path: Path, inputs: Sequence[Array], threads: int = 1) -> tuple[Executed, ...]:
        """It does not say."""
        return ()

    def inside(
        self, path: Path, names: Sequence[str], arrays: Sequence[Array], threads: int = 1
    ) -> tuple[dict[str, Array], list[Array]] | None:
        """Nobody can look."""
        return None

    def stamp(self, path: Path, identity: Mapping[str, str]) -> bool:
        """Its format has no place for that."""
        return False

    def about(self, path: Path) -> dict[str, Any]:
        """Nothing is said."""
        return {"identity": {}, "needs": ""}

    def files(self, path: Path) -> tuple[Path, ...]:
        """What is loaded is all there is."""
        return ()

    def loader(self, artifact: Artifact) -> str:
        """No script is known."""
        return ""

    def with_preprocessing(
        self, path: Path, target: Path, description: Preprocess, classes: Sequence[str] | None, said: Mapping[str, str]
    ) -> None:
        """Nothing goes in front."""
        raise InputError.of(
            f"{path.suffix or 'The'} files have no place for preprocessing.", "Take it without --with-preprocessing."
        )
