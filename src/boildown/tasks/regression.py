"""How much."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Unpack

import torch

from boildown.domain.preprocess import Output
from boildown.tasks.checks import READ_AHEAD
from boildown.tasks.data import evenly_spaced, read_targets
from boildown.tasks.general import Options, Task
from boildown.tasks.losses import Loss


class Regression(Task):
    """Numbers (n,), (n, 1) or (n, k) against numbers.

    Divergence is the squared difference in units of the targets' variance, averaged over the outputs:
    a division by each sample's own size would make those near zero decide. The metric is `rmse` where none is
    named. The rest is as in `Task`.
    """

    by_class = False
    usual: ClassVar[tuple[str, ...]] = ("rmse",)

    def __init__(
        self,
        train: Any = None,
        calibration: Any = None,
        validation: Any = None,
        test: Any = None,
        *,
        loss: str | Loss = "mse",
        metrics: Sequence[Any] | Any = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            loss, metrics, train=train, calibration=calibration, validation=validation, test=test,
            divergence=self._scaled_error, **options,
        )  # fmt: skip

    @cached_property
    def variance(self) -> float:
        """The variance of 256 evenly spaced validation targets; 1 where they do not vary."""
        chosen = self.validation.subset(evenly_spaced(len(self.validation), READ_AHEAD))
        targets = read_targets(chosen)
        return (float(targets.var()) if targets is not None else 0.0) or 1.0

    def answer(self) -> Output:
        """A number."""
        return Output("number") if self.takes_output_as_it_is else super().answer()

    def _scaled_error(self, output: Any, reference: Any) -> torch.Tensor:
        outputs = torch.as_tensor(output).float()
        references = torch.as_tensor(reference).to(outputs.device).float()
        gap = (outputs.reshape(len(outputs), -1) - references.reshape(len(outputs), -1)) ** 2
        return gap.mean(1) / self.variance
