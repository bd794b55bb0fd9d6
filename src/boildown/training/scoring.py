"""How good a student is on samples held out from training."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from boildown.domain.rows import as_rows, stacked
from boildown.domain.task import Samples, Task
from boildown.training.choose import Score
from boildown.training.reading import map_tensors


def metric_score(task: Task, samples: Samples, device: str = "cpu") -> Score:
    """The task's first metric on these samples, so that higher is better, or its loss where it has none.

    The model is not touched.
    """
    metric = task.metrics[0] if task.metrics else None

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        judged, rows = copy.deepcopy(model).eval().to(device), []
        for inputs, target in samples.batches():
            output = task.run(judged, map_tensors(lambda tensor: tensor.to(device), inputs))
            output = map_tensors(torch.Tensor.cpu, output)
            if metric is None:
                rows.append(np.asarray([float(task.loss(output, target))]))
            else:
                rows.append(as_rows(metric.statistic(output, target)))
        if metric is None:
            return -float(np.concatenate(rows).mean())
        value = metric.compute(stacked(rows))
        return value if metric.higher_is_better else -value

    return score
