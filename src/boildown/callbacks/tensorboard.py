"""A run in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boildown.api.sitting import Event
from boildown.callbacks.figures import figures, named
from boildown.errors import InputError, install


class TensorBoard:
    """Writes a run's figures as scalars by the number of the attempt, and its training curves by step.

    folder: of the logs; `tensorboard --logdir FOLDER` shows them. Every verdict is also told as text. Raises
    InputError where tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError.of(
                "The callback TensorBoard needs tensorboard, which is not installed.",
                install("tensorboard"),
            ) from None
        self._writer: Any = SummaryWriter(str(folder))
        self._curves: dict[int | None, int] = {}

    def __call__(self, event: Event) -> None:
        """Hear of an event of the run."""
        if event.kind == "verdict":
            attempt = event.data["attempt"]
            for name, value in figures(attempt).items():
                self._writer.add_scalar(name, value, attempt.number)
            told = f"{attempt.rung}: {attempt.state.value}. {attempt.sentence}"
            self._writer.add_text("attempts", told, attempt.number)
            self._writer.flush()
        elif event.kind == "record" and event.data["kind"] == "curve":
            attempt, curve = event.data["attempt"], event.data["data"]
            count = self._curves[attempt] = self._curves.get(attempt, 0) + 1
            tag = named(f"training/attempt {attempt} {count} {'+'.join(curve['losses']) or 'task'}")
            for step, loss in curve["points"]:
                self._writer.add_scalar(tag, loss, step)
        elif event.kind == "outcome":
            self._writer.add_text("outcome", event.data["outcome"].name)
            self._writer.close()
