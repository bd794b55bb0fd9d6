"""float16 weights in the file, float32 when it runs: half the bytes, at next to no drop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from boildown.domain.candidate import Candidate, Edit
from boildown.domain.task import Task
from boildown.methods.base import Card, Context, Lowers
from boildown.surgery.graph import capture


@dataclass(frozen=True)
class Half:
    """Weights stored as float16; it works on the exported file, whatever its layers are."""

    card: ClassVar[Card] = Card(
        name="half",
        version=1,
        family="quantization",
        summary="float16 weights, made float32 again when the file is loaded; no data, next to no drop",
        when="Half the bytes are enough: any network, also one that others have taken parts out of.",
        when_not="Time or memory is asked for: it computes in float32 as before.",
        source="IEEE 754 binary16; a tensor stays float32 where a number overflows or a slice loses 0.1 % of its norm",
        lowers=("size",),
        minutes=0.05,
        order=5,
        leaves={"size": 0.5},
        terminal=True,
    )

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether there are float32 weights, or other constants, that are not quantized yet."""
        if candidate.plan is not None or candidate.rewrite is not None:
            return "the model is quantized already"
        program = capture(candidate.model, *task.example()).program
        tensors = (*program.state_dict.values(), *program.constants.values())
        if not any(isinstance(tensor, torch.Tensor) and tensor.dtype is torch.float32 for tensor in tensors):
            return "the model has no float32 weights"
        return None

    def outline(self) -> Edit:
        """The rewrite that is asked of the runtime."""
        return Edit("half")

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The same model with a rewrite of its exported file."""
        return candidate.derive(rewrite=self.outline())

    sketch = apply

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """It computes what it did before."""
        return dict.fromkeys(("latency", "memory", "params", "macs"), "")
