"""What a model is for: the shipped tasks, their metrics, and the data they are judged on."""

from boildown.tasks.classification import Classification
from boildown.tasks.data import IndexedSamples, samples_from
from boildown.tasks.embedding import Embedding
from boildown.tasks.general import Task
from boildown.tasks.metrics import metric
from boildown.tasks.regression import Regression
from boildown.tasks.splits import Splits, resolve

__all__ = [
    "Classification",
    "Embedding",
    "IndexedSamples",
    "Regression",
    "Splits",
    "Task",
    "metric",
    "resolve",
    "samples_from",
]
