"""What the engine needs to know of a task, its data and its metrics. Tensors are `Any` here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Runnable = Callable[..., Any]
"""A model, or an artifact in its runtime: called like the model, returns outputs like the model's."""


@runtime_checkable
class Metric(Protocol):
    """A measure of quality.

    `range` is (lowest, highest), either may be infinite. `decomposable` means that `compute` is the
    mean of the statistics over the samples. A sample whose statistic is NaN is left out, where `compute` does so.
    """

    name: str
    higher_is_better: bool
    unit: str
    range: tuple[float, float]
    decomposable: bool

    def statistic(self, output: Any, target: Any) -> Any:
        """For a batch of n samples, an array or tensor whose first axis has length n."""
        ...

    def compute(self, statistics: NDArray[np.float64]) -> float:
        """The metric from the statistics of all samples, shape (n, ...)."""
        ...


class Samples(Protocol):
    """An indexed view of a data set, read in index order."""

    def __len__(self) -> int: ...

    def batches(self, size: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Batches of (inputs, target), collated, in index order."""
        ...

    def subset(self, indices: Sequence[int]) -> Samples:
        """The samples at these indices."""
        ...

    def fingerprint(self, *, every: bool) -> str:
        """Hash of the length and of all items (`every`) or of 256 evenly spaced ones."""
        ...


class Task(Protocol):
    """What the model is for: data, loss, metrics, example input."""

    train: Samples | None
    calibration: Samples | None
    validation: Samples
    test: Samples | None
    metrics: tuple[Metric, ...]

    def example(self) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Positional and keyword arguments for one call of the model, batch of 2, on the CPU."""
        ...

    def run(self, model: Runnable, inputs: Any) -> Any:
        """The task's output (logits, predictions, similarities) for a batch of inputs."""
        ...

    def calls(self, inputs: Any) -> Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]:
        """Every call of the model that `run` makes for these inputs, as (args, kwargs)."""
        ...

    def loss(self, output: Any, target: Any) -> Any:
        """The training loss of a batch: a scalar tensor."""
        ...

    def divergence(self, output: Any, reference: Any) -> Any:
        """How far outputs are from the reference's, per sample, without labels (0 is equal)."""
        ...

    def check(self) -> Sequence[Any]:
        """Every `errors.Mistake` found in the data itself: empty, shapes, labels, NaN, augmentation."""
        ...
