"""How alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from boildown.domain.task import Metric, Runnable, Samples
from boildown.errors import DataError, Mistake
from boildown.tasks.data import evenly_spaced, read_targets
from boildown.tasks.general import Call, Options, Task, as_call, first_call, fresh, unwrap
from boildown.tasks.losses import Loss, as_loss

_SCALE_ITEMS = 1024


class Embedding(Task):
    """A model that maps each of two inputs to a vector; the cosine of the two is held against a score.

    Items are `((a, b), score)`. The output of a batch is both embeddings, shape (n, 2, d); metrics and
    losses see their cosine, shape (n,). For the loss scores are divided by `scale`, by default the
    largest score if it is above 1 (STS: 5). Divergence compares directions: the squared distance of the
    normalised embeddings, averaged over both sides; where dimensions differ, the squared difference of
    the cosines. `forward(model, side)` embeds one side. The metric is `spearman` where none is named. The rest is as in
    `Task`.
    """

    by_class = False
    usual: ClassVar[tuple[str, ...]] = ("spearman",)

    def __init__(
        self,
        train: Any = None,
        calibration: Any = None,
        validation: Any = None,
        test: Any = None,
        *,
        loss: str | Loss = "mse",
        metrics: Sequence[Any] | Any = None,
        scale: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            loss, metrics, train=train, calibration=calibration, validation=validation, test=test,
            divergence=direction_error, **options,
        )  # fmt: skip
        self._of_cosine = as_loss(loss)
        self._scale = scale
        self.metrics = tuple(OfCosine(metric) for metric in self.metrics)

    @cached_property
    def scale(self) -> float:
        """What scores are divided by for the loss."""
        if self._scale is not None:
            return self._scale
        samples = self.train or self.validation
        targets = read_targets(samples.subset(evenly_spaced(len(samples), _SCALE_ITEMS)))
        return max(1.0, float(np.abs(targets).max())) if targets is not None else 1.0

    def example(self) -> Call:
        """Arguments to embed one side, batch of 2, on the CPU; a given `example` is one side."""
        return super().example() if self._example is None else self.opened(self._side_call(self._example))

    def run(self, model: Runnable, inputs: Any) -> torch.Tensor:
        """Both embeddings, shape (n, 2, d). Raises DataError where the model returns no vectors."""
        return torch.stack([self._embed(model, side) for side in _sides(fresh(inputs))], 1)

    def calls(self, inputs: Any) -> Sequence[Call]:
        """One call for each side."""
        return [self._side_call(side) for side in _sides(inputs)]

    def loss(self, output: Any, target: Any) -> Any:
        """The loss of the cosines against the scaled scores."""
        return self._of_cosine(cosine(output), target / self.scale)

    def check_targets(self, name: str, samples: Samples) -> list[Mistake]:
        """Inputs that are no pairs."""
        inputs, _target = next(samples.subset([0]).batches(1))
        try:
            _sides(inputs)
        except DataError as error:
            return [Mistake(f"{name}: {m.cause}", m.cure) for m in error.mistakes]
        return []

    def _side_call(self, side: Any) -> Call:
        return as_call(side) if self._forward is None else first_call(self._forward, side)

    def _embed(self, model: Runnable, side: Any) -> torch.Tensor:
        if self._forward is not None:
            vectors = unwrap(self._forward(model, side))
        else:
            args, kwargs = as_call(side)
            vectors = unwrap(model(*args, **kwargs))
        if getattr(vectors, "ndim", None) != 2:
            shape = f"shape {tuple(vectors.shape)}" if hasattr(vectors, "shape") else type(vectors).__name__
            raise DataError(
                Mistake(
                    f"An embedding is one vector per input, (n, d); the model returns {shape}.",
                    "Pool tokens to one vector in forward=.",
                )
            )
        return torch.as_tensor(vectors)


class OfCosine:
    """A metric of the cosine of two embeddings, shape (n, 2, d), against a score."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.name: str = metric.name
        self.higher_is_better: bool = metric.higher_is_better
        self.unit: str = metric.unit
        self.range: tuple[float, float] = metric.range
        self.decomposable: bool = metric.decomposable

    def statistic(self, output: Any, target: Any) -> Any:
        """The metric's statistic of the cosines."""
        return self.metric.statistic(cosine(output), target)

    def compute(self, statistics: NDArray[np.float64]) -> float:
        """The metric of the statistics."""
        return self.metric.compute(statistics)


def cosine(pairs: Any) -> torch.Tensor:
    """The cosine of the two embeddings of each pair: (n, 2, d) to (n,)."""
    both = torch.as_tensor(pairs).float()
    return functional.cosine_similarity(both[:, 0], both[:, 1], dim=-1)


def direction_error(output: Any, reference: Any) -> torch.Tensor:
    """Squared distance of normalised embeddings (n, 2, d), averaged over the pair; (n,), 0 to 4."""
    outputs = torch.as_tensor(output).float()
    references = torch.as_tensor(reference).to(outputs.device).float()
    if outputs.shape != references.shape:
        return (cosine(outputs) - cosine(references)) ** 2
    gap = functional.normalize(outputs, dim=-1) - functional.normalize(references, dim=-1)
    return (gap**2).sum(-1).mean(-1)


def _sides(inputs: Any) -> tuple[Any, Any]:
    if isinstance(inputs, tuple | list) and len(inputs) == 2:
        return inputs[0], inputs[1]
    what = f"{len(inputs)} parts" if isinstance(inputs, tuple | list) else type(inputs).__name__
    raise DataError(Mistake(f"The inputs are {what}, not a pair.", "Let items be ((a, b), score)."))
