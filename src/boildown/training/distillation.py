"""A teacher, the losses that compare a student with it, and what each of them counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from boildown.domain.task import Task
from boildown.training.balance import Balance
from boildown.training.checkpoint import copied, restore, state_of, under
from boildown.training.failures import MismatchError
from boildown.training.features import Taps, find_pairs
from boildown.training.losses.base import DistillationLoss, Probe
from boildown.training.teaching import Teacher


def probe(student: nn.Module, teacher: nn.Module, task: Task, inputs: Any, target: Any) -> Probe:
    """What both give for a few samples, and which of their layers match; both are left in eval mode."""
    student.eval()
    teacher.eval()
    with torch.no_grad():
        ours, theirs = task.run(student, inputs), task.run(teacher, inputs)
    return Probe(ours, theirs, target, find_pairs(student, teacher, lambda model: task.run(model, inputs)))


class Distillation:
    """The distillation losses of one training; copies of what is given, on the student's device.

    probed: what both models give for a few samples. Raises MismatchError with the reason of every loss
    that cannot compare them.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        task: Task,
        losses: Sequence[DistillationLoss],
        probed: Probe,
        arrange: Callable[[Any], Any],
        precision: Callable[[], AbstractContextManager[Any]],
        device: torch.device,
    ) -> None:
        reasons = [(loss.name, loss.refuses(probed)) for loss in losses]
        if any(reason for _name, reason in reasons):
            told = "; ".join(f"{name}: {reason}" for name, reason in reasons if reason)
            raise MismatchError(f"Student and teacher cannot be compared: {told}. Choose another loss or student.")
        self.losses = [copy.deepcopy(loss) for loss in losses]
        for loss in self.losses:
            if loss.kind == "feature":
                loss.match(probed.pairs)
            loss.to(device).train()
        self.balances = [Balance(loss.coefficient, device, inside=loss.kind == "feature") for loss in self.losses]
        pairs = list(dict.fromkeys(pair for loss in self.losses for pair in loss.pairs))
        self.looks_inside = bool(pairs)
        self.taps = Taps(student, [pair.student for pair in pairs])
        self.teacher = Teacher(teacher, task, arrange, precision, [pair.teacher for pair in pairs])
        self.device = device

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the losses learn themselves."""
        return (parameter for loss in self.losses for parameter in loss.parameters())

    def add(
        self,
        task_loss: Tensor | None,
        output: Any,
        at: Sequence[Tensor],
        inputs: Any,
        target: Any,
        taught: Any = None,
        measured: int | None = None,
    ) -> Tensor:
        """The task loss plus every distillation loss by its weight, or these alone by their coefficients.

        at: the tensors in the student's output. taught: the teacher's output, where it is known.
        measured: the step, if gradients may be measured on these samples.
        """
        taught = self.teacher.run(inputs) if taught is None else taught
        ours = self.taps.take() if self.looks_inside else {}
        theirs = self.teacher.taps.take() if self.looks_inside else {}
        total = task_loss
        for loss, balance in zip(self.losses, self.balances, strict=True):
            if loss.kind == "feature":
                value = loss(
                    [_joined(ours[pair.student]) for pair in loss.pairs],
                    [_joined(theirs[pair.teacher]) for pair in loss.pairs],
                    target,
                )
                where: Sequence[Tensor] = [tensor for pair in loss.pairs for tensor in ours[pair.student]]
            else:
                value, where = loss(output, taught, target), at
            if task_loss is not None and measured is not None and balance.due(measured):
                balance.measure(task_loss, value, where)
            term = (loss.coefficient if task_loss is None else balance.weight()) * value
            total = term if total is None else total + term
        assert total is not None  # there is a loss at least
        return total

    def state(self) -> dict[str, Tensor]:
        """What the losses have learned, and the norms of the gradients, copied."""
        kept = copied("norms", {str(number): balance.norms for number, balance in enumerate(self.balances)})
        for number, loss in enumerate(self.losses):
            kept |= copied(f"loss/{number}", state_of(loss))
        return kept

    def measured(self) -> list[int]:
        """How often each loss's gradient was measured."""
        return [balance.measured for balance in self.balances]

    def restore(self, tensors: Mapping[str, Tensor], measured: Sequence[int]) -> None:
        """The inverse of `state` and `measured`."""
        for number, (loss, balance) in enumerate(zip(self.losses, self.balances, strict=True)):
            restore(loss, under(f"loss/{number}", tensors))
            balance.norms = tensors[f"norms/{number}"].to(self.device, copy=True)
            balance.measured = int(measured[number])

    def remove(self) -> None:
        """Take the hooks off the student."""
        self.taps.remove()


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    """What a layer gave in all calls of the network, as one batch."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
