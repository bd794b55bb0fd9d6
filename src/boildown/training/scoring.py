"""How good a student is on samples held out from training."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from boildown.domain.task import Samples, Task
from boildown.training.choose import Score
from boildown.training.reading import map_tensors


def metric_score(task: Task, samples: Samples, device: str = "cpu") -> Score:
    """The task's first metric on these samples, so that higher is better; the model is not touched."""
    metric = task.metrics[0]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        judged, rows = copy.deepcopy(model).eval().to(device), []
        for inputs, target in samples.batches():
            output = task.run(judged, map_tensors(lambda tensor: tensor.to(device), inputs))
            rows.append(np.asarray(metric.statistic(map_tensors(torch.Tensor.cpu, output), target)))
        value = metric.compute(np.concatenate(rows))
        return value if metric.higher_is_better else -value

    return score
