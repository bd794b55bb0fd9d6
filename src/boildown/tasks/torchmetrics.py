"""torchmetrics objects as metrics (the `torchmetrics` extra)."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boildown.domain.grammar import FRACTION
from boildown.errors import DataError, InputError, Mistake

_HEADER = 3


class Adapted:
    """A torchmetrics metric: every sample's output and target are kept, and computed on together.

    Rows are self-describing, so that they can be resampled, stored and computed on in another process:
    width of the output (0: a scalar), width of the target, 1 if targets are whole numbers, then both.
    Raises InputError if the metric does not say which direction is better.
    """

    decomposable: bool = False

    def __init__(self, metric: Any, name: str | None = None) -> None:
        kind = type(metric).__name__
        if metric.higher_is_better is None:
            raise InputError.of(
                f"torchmetrics' {kind} does not say whether higher is better.",
                "Set metric.higher_is_better, or wrap it in a Metric of your own.",
            )
        self.metric = copy.deepcopy(metric)
        short = re.sub("^(Binary|Multiclass|Multilabel)", "", kind) or kind
        self.name: str = name or re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", short).lower()
        self.higher_is_better: bool = bool(metric.higher_is_better)
        low, high = getattr(metric, "plot_lower_bound", None), getattr(metric, "plot_upper_bound", None)
        self.range: tuple[float, float] = (
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
        )
        self.unit: str = FRACTION if self.range == (0.0, 1.0) else ""

    def statistic(self, output: Any, target: Any) -> NDArray[np.float64]:
        """Self-describing rows, shape (n, 3 + output width + target width). Raises DataError for images."""
        outputs, targets = torch.as_tensor(output).detach().cpu(), torch.as_tensor(target).detach().cpu()
        if outputs.ndim > 2 or targets.ndim > 2:
            raise DataError(
                Mistake(
                    f"{self.name} would keep outputs of shape {tuple(outputs.shape)} for every sample.",
                    "Write a Metric whose statistic is smaller, such as per-sample confusion counts.",
                )
            )
        widths = [0 if t.ndim == 1 else t.shape[1] for t in (outputs, targets)]
        header = torch.tensor([*widths, int(not targets.is_floating_point())], dtype=torch.float64)
        columns = [
            header.expand(len(outputs), _HEADER),
            *(t.double().reshape(len(t), -1) for t in (outputs, targets)),
        ]
        return np.asarray(torch.cat(columns, 1).numpy(), dtype=np.float64)

    def compute(self, statistics: NDArray[np.float64]) -> float:
        """The metric of all rows together."""
        output_width, target_width, whole = (int(number) for number in statistics[0, :_HEADER])
        rows = torch.from_numpy(np.ascontiguousarray(statistics[:, _HEADER:]))
        outputs, targets = rows[:, : max(output_width, 1)], rows[:, max(output_width, 1) :]
        outputs = outputs.float() if output_width else outputs[:, 0].float()
        targets = targets if target_width else targets[:, 0]
        self.metric.reset()
        self.metric.update(outputs, targets.long() if whole else targets.float())
        value = float(self.metric.compute())
        self.metric.reset()
        return value
