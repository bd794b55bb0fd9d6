"""What a method is: a function, and a card that says what, when, when not, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite, log2
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeGuard, runtime_checkable

from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.domain.deployment import HERE
from boildown.domain.rules import Rules
from boildown.domain.task import Samples, Task

Lowers = Literal["size", "latency", "memory", "params", "macs"]
Family = Literal["quantization", "pruning", "distillation", "training", "factorization"]


FEW = 8
"""Calibration samples for a sketch: its ranges need not be good."""

OVERHEAD = "overhead"
"""The journal's record of a search that ended where latency falls no longer."""

_NOISE = 0.05
"""What a latency has to fall by, at least, where what is left of a network halves."""

INITIAL = "initial"
"""The name, among the students of a run, of the one that rounds of pruning and distillation begin with."""


def setting(
    default: Any,
    summary: str,
    *,
    choices: tuple[Any, ...] = (),
    least: float | None = None,
    most: float | None = None,
    later: bool = False,
) -> Any:
    """A dataclass field that is a setting of a method: its default, what it does, what it admits.

    least, most: bounds of a number, both admitted. later: candidates of versions that did not have it are those of its
    default, and keep their keys.
    """
    metadata = {"summary": summary, "choices": choices, "least": least, "most": most, "later": later}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Card:
    """What a person, the docs, the report and the diagnosis read about a method.

    minutes: rough wall time for a small vision model on two cores, as a number.
    order: place in the `auto` ladder; cheaper and less invasive methods come first.
    strength: how hard the method compresses within its family; a diagnosis of 'compress harder'
        goes up, 'recover quality' looks at `recovers`.
    """

    name: str
    version: int
    family: Family
    summary: str
    when: str
    when_not: str
    source: str
    lowers: tuple[Lowers, ...]
    costs: tuple[Literal["quality", "latency"], ...] = ("quality",)
    needs: tuple[Literal["calibration", "train"], ...] = ()
    trains: bool = False
    minutes: float = 0.1
    order: int = 100
    recovers: tuple[str, ...] = ()
    """Methods in whose place it loses less, at the same compression."""
    mends: tuple[Literal["weights", "activations"], ...] = ()
    """Whose quantization it makes lose less than the methods in `recovers` do."""
    continues: tuple[str, ...] = ()
    """Methods whose candidates it wins quality back for, put behind them in a chain."""
    harder: Mapping[str, Any] = field(default_factory=dict)
    """Settings with which it compresses harder: climbed by `auto` after a miss of a cost."""
    sketched: tuple[Lowers, ...] = ("size", "latency", "memory", "params", "macs")
    """What its sketch tells the truth about, if it makes one."""
    weak: tuple[Lowers, ...] = ()
    """What it lowers by little, or not on every network: `auto` looks elsewhere first where that is missed."""
    leaves: Mapping[str, float] = field(default_factory=dict)
    """The share of a cost that it leaves at least, on any network: `auto` climbs it where more may be left, and nothing
    else is asked than what it lowers."""
    shape: tuple[str, ...] = ()
    """The settings that say how small its candidates are: carried over to a method in its place."""
    terminal: bool = False
    """Nothing may follow it in a chain (it works on the exported file)."""


@dataclass(frozen=True)
class Data:
    """The data a method may look at; never the samples a verdict is based on."""

    train: Samples | None
    calibration: Samples | None


@dataclass(frozen=True)
class Context:
    """What a method gets besides the candidate and the task, and nothing else."""

    data: Data
    seed: int = 0
    steps: int | None = None
    device: str = "cpu"
    hardware: str = HERE
    rules: Rules = Rules()
    """What the runtime quantizes and how; for a method that does not quantize always what ONNX Runtime does."""
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None
    """`progress(what, done, total)`: show how far a long step is."""
    check: Callable[[], None] = lambda: None
    """Raises at a deadline or when the user asked to stop; call it between steps."""
    record: Callable[[str, Mapping[str, Any]], None] = lambda _kind, _data: None
    """Journal a standing of this method: a short kind and plain data."""
    folder: Path | None = None
    """Where to keep what a long work goes on from after it was killed; kept until the attempt is finished.

    It belongs to the candidate that is made: the same call finds what it left there."""
    first: Candidate | None = None
    """The first model, who is the teacher; None for the candidate that `apply` is given."""
    keep: Callable[[str, Candidate], None] = lambda _name, _candidate: None
    """Keep a candidate on the way to the last one: it is saved, exported and measured under this name."""
    students: Mapping[str, Any] = field(default_factory=dict)
    """The user's own networks, never to be changed: named `0`, `1`, ..., `initial`, or by their factories."""

    @property
    def initial_student(self) -> Any:
        """The user's network to begin rounds of pruning and distillation with; None for the teacher's copy."""
        return self.students.get(INITIAL)


@dataclass(frozen=True)
class Standing:
    """What the engine measured of one variant's exported file, for a method that searches its settings.

    size, latency: ratios to the first model's artifact. divergence: mean divergence of the outputs
    from the first model's on search samples, no labels (0 is equal); infinite where it was not looked
    at, for the costs are too high or the search is by costs. excess: the largest excess of the target's
    conditions on costs; all hold at 0 or below. accepted: whether the search samples' labels meet the
    conditions on quality; None where search has no labels, or the divergence is infinite.
    """

    size: float
    latency: float
    divergence: float
    excess: float
    accepted: bool | None = None


Search = Generator["Method", Standing, "Method"]
"""Yields variants of a method to be made and measured, and returns the one of them to keep."""


class Method(Protocol):
    """One way to lighten a model: a frozen dataclass whose fields are its settings."""

    card: ClassVar[Card]

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """`None` for yes, or in words the reason why not."""
        ...

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """A new candidate; the given one and its model are never touched."""
        ...


@runtime_checkable
class Sketching(Method, Protocol):
    """A method that can show the shape of what it makes before it is made."""

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """A candidate as small as the one that `apply` makes, without the work that goes into its quality.

        It is exported and measured for size, operations and latency, and thrown away. Raises what `apply` raises.
        """
        ...


@runtime_checkable
class Alike(Method, Protocol):
    """A method whose candidates cost what those of others do: what is known of those needs no sketch."""

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """The costs that it shares, each with the method, as a rung; empty text for the candidate that it is given.

        A method that may cost more names the other too, one that may cost less does not. behind: whether another
        link of its chain comes before it.
        """
        ...


@dataclass(frozen=True)
class Pace:
    """What a method needs to know to say how long it takes.

    forward: seconds in which the first model computes one sample here, without gradients. share: multiply-accumulates
    of the candidate that is made, by the first model's. train, calibration: how many samples there are.
    """

    forward: float
    share: float = 1.0
    train: int = 0
    calibration: int = 0

    def calibrating(self, count: float, samples: int) -> float:
        """Seconds in which the first model computes so many calibration samples so many times, and starts to."""
        return 1.0 + count * min(samples, self.calibration) * self.forward


@runtime_checkable
class Timed(Method, Protocol):
    """A method that knows better than its card how long it takes."""

    def duration(self, pace: Pace) -> float:
        """About how many seconds `apply` takes."""
        ...


@runtime_checkable
class Quantizing(Method, Protocol):
    """A method that says beforehand what the runtime will be asked to write: one that refuses it is not kept busy."""

    def outline(self) -> Plan | Edit:
        """A plan that may be empty, or the rewrite of the exported file."""
        ...


def quantizes(method: Method) -> bool:
    """Whether what it makes depends on what a runtime quantizes: anything else is made once for all runtimes."""
    return isinstance(method, Quantizing) or method.card.family == "quantization"


@runtime_checkable
class Searching(Method, Protocol):
    """A method that chooses some of its settings by measurement of the exported file.

    With `by_costs` its search looks at nothing but costs, and may be driven by sketches.
    """

    def search(self, candidate: Candidate, task: Task, context: Context) -> Search:
        """Yield variants of this method with their settings fixed, receive each one's Standing.

        A variant whose settings are fixed searches no more: `search` returns it at once.
        """
        ...


def searches(method: Method) -> TypeGuard[Searching]:
    """Whether a method has settings to find by measurement: not where its `fixed` says that all are given."""
    return isinstance(method, Searching) and not getattr(method, "fixed", False)


def by_costs(method: Method) -> bool:
    """Whether what the method searches can be found on sketches."""
    return searches(method) and getattr(method, "by_costs", False)


def levels(before: float, after: float, times: float) -> bool:
    """Whether a cost falls no longer where so many times less of a network is left: by less than noise a halving."""
    return isfinite(before) and isfinite(after) and after > before * (1 - _NOISE) ** log2(times)


def settings_of(method: Method) -> dict[str, Any]:
    """The settings of a method as plain data, for the journal and the page of its card."""
    return {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]


def keyed_settings(method: Method) -> dict[str, Any]:
    """The settings that a candidate's key holds: all but those that came later and are at their defaults."""
    later = {f.name: f.default for f in fields(method) if f.metadata.get("later")}  # type: ignore[arg-type]
    return {name: value for name, value in settings_of(method).items() if name not in later or value != later[name]}
