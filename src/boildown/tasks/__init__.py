"""What a model is for: the shipped tasks, their metrics, and the data they are judged on."""

from boildown.tasks.classification import Classification
from boildown.tasks.data import IndexedSamples, samples_from
from boildown.tasks.embedding import Embedding
from boildown.tasks.general import Task
from boildown.tasks.language_model import LanguageModel
from boildown.tasks.metrics import metric
from boildown.tasks.regression import Regression
from boildown.tasks.segmentation import Segmentation
from boildown.tasks.splits import Splits, resolve
from boildown.tasks.token_classification import TokenClassification

__all__ = [
    "Classification",
    "Embedding",
    "IndexedSamples",
    "LanguageModel",
    "Regression",
    "Segmentation",
    "Splits",
    "Task",
    "TokenClassification",
    "metric",
    "resolve",
    "samples_from",
]
