"""Boil a trained PyTorch model down until it meets your targets."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("boildown")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"

from boildown.api import Event, Latency, Result, Run, compress, measure, resume, take
from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.domain.measurement import Interval, Measurement
from boildown.domain.outcome import Outcome, State
from boildown.domain.task import Metric
from boildown.domain.verdict import Finding, Status, Verdict
from boildown.errors import (
    AttemptError,
    BoildownError,
    ConfigError,
    DataError,
    InputError,
    JournalError,
    ModelError,
    TargetError,
)
from boildown.methods.base import Card, Context, Method, setting
from boildown.tasks.classification import Classification
from boildown.tasks.embedding import Embedding
from boildown.tasks.general import Task
from boildown.tasks.regression import Regression

__all__ = [
    "AttemptError",
    "BoildownError",
    "Candidate",
    "Card",
    "Classification",
    "ConfigError",
    "Context",
    "DataError",
    "Edit",
    "Embedding",
    "Event",
    "Finding",
    "InputError",
    "Interval",
    "JournalError",
    "Latency",
    "Measurement",
    "Method",
    "Metric",
    "ModelError",
    "Outcome",
    "Plan",
    "Regression",
    "Result",
    "Run",
    "State",
    "Status",
    "TargetError",
    "Task",
    "Verdict",
    "__version__",
    "compress",
    "measure",
    "resume",
    "setting",
    "take",
]
