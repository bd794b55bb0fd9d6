"""A first model that stays a file: nothing is known of its layers, and ONNX Runtime runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boildown.domain.candidate import Edit
from boildown.engine.rung import Rung
from boildown.errors import AttemptError, Mistake
from boildown.execution.child import Child
from boildown.methods.base import Quantizing
from boildown.surgery.onnx_file import File


class Unread(nn.Module):
    """A file in the place of a network: called as it is, it is run in a process of its own.

    why: it cannot be read, every reason with its cure.
    """

    def __init__(self, file: File, why: Sequence[Mistake]) -> None:
        super().__init__()
        self.file, self.why = file, tuple(why)
        self._child = Child()
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs for inputs in the file's order."""
        arrays = [value.detach().cpu().numpy() for value in inputs]
        found = self._child.call("boildown.runtimes.calls:run", "onnxruntime", str(self.file.path), 1, arrays)
        return _outputs([torch.from_numpy(array) for array in found])

    @property
    def reason(self) -> str:
        """Why it is not read, in one sentence."""
        return "; ".join(mistake.cause.rstrip(".") for mistake in self.why)

    def __deepcopy__(self, memo: dict[int, Any]) -> Unread:
        """The same: there is nothing in it that could be changed."""
        return self


@dataclass(frozen=True)
class FileGraph:
    """What stands in the place of the graph of such a file."""

    model: Unread
    static_batch = False

    def code_hash(self) -> str:
        """The file's digest."""
        return self.model.file.sha256

    def uncounted(self) -> tuple[str, ...]:
        """Nothing is counted."""
        return ()

    def outputs(self, tensors: Sequence[Any]) -> Any:
        """What the file gives, as calling it does."""
        return _outputs(tensors)

    def __getattr__(self, name: str) -> Any:
        raise AttemptError(f"The file stays a file, and has no {name}: {self.model.reason}")


def beyond(model: nn.Module, rung: Rung) -> str | None:
    """Why a rung is out of reach of a model that stays a file, in words; None where it is not."""
    if not isinstance(model, Unread):
        return None
    for method in rung.methods:
        if not (isinstance(method, Quantizing) and isinstance(method.outline(), Edit)):
            return f"{method.card.name} changes the network, and the file stays a file: {model.reason}"
    return None


def _outputs(tensors: Sequence[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
