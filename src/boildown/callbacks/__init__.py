"""Callbacks that carry a run into other tools: `compress(..., callbacks=[TensorBoard("logs")])`.

Each needs its tool, which comes as an extra: `pip install "boildown[tensorboard]"`, `"boildown[mlflow]"`.
"""

from boildown.callbacks.mlflow import MLflow
from boildown.callbacks.tensorboard import TensorBoard

__all__ = ["MLflow", "TensorBoard"]
