"""compress(), quote(), resume(), measure(), verify(): the one place that picks real parts and defaults."""

from __future__ import annotations

from boildown.api.climbing import compress, quote, resume
from boildown.api.measuring import measure
from boildown.api.run import Result, Run, show, take
from boildown.api.sitting import Callback, Event
from boildown.api.verifying import Check, Verification, verify
from boildown.domain.deployment import Deployment, Latency
from boildown.engine.quote import Quote

__all__ = [
    "Callback",
    "Check",
    "Deployment",
    "Event",
    "Latency",
    "Quote",
    "Result",
    "Run",
    "Verification",
    "compress",
    "measure",
    "quote",
    "resume",
    "show",
    "take",
    "verify",
]
