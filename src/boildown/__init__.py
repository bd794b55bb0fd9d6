"""Boil a trained PyTorch model down until it meets your targets."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boildown.api import (
        Check,
        Event,
        Quote,
        Result,
        Run,
        Verification,
        compress,
        measure,
        quote,
        resume,
        take,
        verify,
    )
    from boildown.domain.artifact import Artifact
    from boildown.domain.candidate import Candidate, Edit, Plan, Quantizer
    from boildown.domain.deployment import Deployment, Latency
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
    from boildown.tasks.language_model import LanguageModel
    from boildown.tasks.regression import Regression
    from boildown.tasks.segmentation import Segmentation
    from boildown.tasks.token_classification import TokenClassification

try:
    __version__ = version("boildown")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"

_PUBLIC = {
    "boildown.api": (
        *("Check", "Event", "Quote", "Result", "Run", "Verification"),
        *("compress", "measure", "quote", "resume", "take", "verify"),
    ),
    "boildown.domain.artifact": ("Artifact",),
    "boildown.domain.deployment": ("Deployment", "Latency"),
    "boildown.domain.candidate": ("Candidate", "Edit", "Plan", "Quantizer"),
    "boildown.domain.measurement": ("Interval", "Measurement"),
    "boildown.domain.outcome": ("Outcome", "State"),
    "boildown.domain.task": ("Metric",),
    "boildown.domain.verdict": ("Finding", "Status", "Verdict"),
    "boildown.errors": (
        *("AttemptError", "BoildownError", "ConfigError", "DataError"),
        *("InputError", "JournalError", "ModelError", "TargetError"),
    ),
    "boildown.methods.base": ("Card", "Context", "Method", "setting"),
    "boildown.tasks.classification": ("Classification",),
    "boildown.tasks.embedding": ("Embedding",),
    "boildown.tasks.general": ("Task",),
    "boildown.tasks.language_model": ("LanguageModel",),
    "boildown.tasks.regression": ("Regression",),
    "boildown.tasks.segmentation": ("Segmentation",),
    "boildown.tasks.token_classification": ("TokenClassification",),
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "Artifact",
    "AttemptError",
    "BoildownError",
    "Candidate",
    "Card",
    "Check",
    "Classification",
    "ConfigError",
    "Context",
    "DataError",
    "Deployment",
    "Edit",
    "Embedding",
    "Event",
    "Finding",
    "InputError",
    "Interval",
    "JournalError",
    "LanguageModel",
    "Latency",
    "Measurement",
    "Method",
    "Metric",
    "ModelError",
    "Outcome",
    "Plan",
    "Quantizer",
    "Quote",
    "Regression",
    "Result",
    "Run",
    "Segmentation",
    "State",
    "Status",
    "TargetError",
    "Task",
    "TokenClassification",
    "Verdict",
    "Verification",
    "__version__",
    "compress",
    "measure",
    "quote",
    "resume",
    "setting",
    "take",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: a child that times an artifact must not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'boildown' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
