"""The teacher's side of distillation: its outputs, kept where they can be, and its layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boildown.domain.task import Samples, Task
from boildown.training.checkpoint import Checkpoint, state_of
from boildown.training.features import Tap, Taps
from boildown.training.reading import map_tensors

MOST_BYTES = 2 * 10**9
"""What kept outputs may take; above it float16, then none."""

KEPT = "teacher.safetensors"
"""The file of kept outputs in a training's folder."""


class Teacher:
    """A frozen model in eval mode; the given module is never touched.

    model: a copy on the device. arrange: moves inputs there.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        arrange: Callable[[Any], Any],
        precision: Callable[[], AbstractContextManager[Any]],
        taps: Sequence[Tap] = (),
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.task = task
        self.arrange = arrange
        self.precision = precision
        self.kept: Tensor | None = None
        self.taps = Taps(self.model, taps)

    @torch.no_grad()
    def run(self, inputs: Any) -> Any:
        """The output for inputs on the device."""
        self.taps.clear()
        with self.precision():
            return map_tensors(_as_float, self.task.run(self.model, inputs))

    def look_up(self, indices: NDArray[Any]) -> Tensor:
        """The outputs kept for samples by their indices, on the device."""
        assert self.kept is not None
        device = next(iter(state_of(self.model).values())).device
        return self.kept[torch.as_tensor(indices)].to(device, non_blocking=True).float()

    def keep(self, samples: Samples, size: int, check: Callable[[], None], folder: Path | None) -> bool:
        """Compute the outputs of all samples once, in index order, or read them from `folder`.

        False where they are no tensors, or larger than 2 GB even in float16.
        """
        path = None if folder is None else folder / KEPT
        # The size of the batches changes the last bits of what is computed.
        key = None if path is None else [digest(self.model), samples.fingerprint(every=False), size]
        saved = None if path is None else Checkpoint.read(path)
        if saved is not None and saved.facts.get("key") == key:
            self.kept = saved.tensors["outputs"]
            return True
        parts: list[Tensor] = []
        kind = torch.float32
        for inputs, _target in samples.batches(size):
            check()
            output = self.run(self.arrange(inputs))
            if not isinstance(output, Tensor) or output.ndim == 0:
                return False
            if not parts:
                count = output[0].numel() * len(samples)
                if count * 2 > MOST_BYTES:
                    return False
                kind = torch.float32 if count * 4 <= MOST_BYTES else torch.float16
            parts.append(output.to("cpu", kind))
        self.kept = torch.cat(parts)
        if path is not None:
            Checkpoint({"outputs": self.kept}, {"key": key}).write(path)
        return True


def digest(module: nn.Module) -> str:
    """A hash of a module's parameters and buffers, by name."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in state_of(module).items():
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _as_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
