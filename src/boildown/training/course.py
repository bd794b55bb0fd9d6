"""One training under way.

The data's order and all random numbers are functions of (seed, epoch, step), state is judged and kept
every `Training.every` steps, and what was kept is all that a checkpoint holds. A training that was
killed and one that was not therefore end with the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from boildown.domain.task import Samples
from boildown.errors import Cancelled, DeadlineError, in_words, text_of
from boildown.measuring.environment import environment
from boildown.training.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    copied,
    optimizer_state,
    restore,
    restore_optimizer,
    state_of,
    under,
)
from boildown.training.distillation import Distillation, probe
from boildown.training.failures import DivergenceError, MismatchError, OutOfMemoryError, ReadError
from boildown.training.reading import (
    COMPUTING,
    PROJECTING,
    Batches,
    map_tensors,
    part,
    repeats,
    set_random_state,
    tensors,
)
from boildown.training.schedule import factor
from boildown.training.settings import Check, Order, Progress, Record, Trained, Training
from boildown.training.teaching import digest

ROLLBACKS = 2
EXPLODED, DOUBTFUL = 10.0, 2.0
"""Times the larger of the first loss and that of an all-zero output: to roll back, and not to go back to."""

_PROBED = 8
_POINTS = 120
_PAUSE = 100.0
"""Times what writing a checkpoint took, until the next: a kill loses little, and writing costs one per cent."""

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_NATIVE = frozenset({"avx512_bf16", "amx_bf16"})
_LARGE = 200_000
"""Weights above which casting them costs less than bfloat16 saves: ResNet-20 has 270,000."""


class Course:
    """One training under way: the state between two steps, and how to take a step."""

    def __init__(
        self,
        order: Order,
        check: Check = lambda: None,
        progress: Progress = lambda _what, _done, _total: None,
        record: Record = lambda _kind, _data: None,
        *,
        keep: bool = True,
    ) -> None:
        """keep: whether the teacher's outputs are computed once and kept, where they can be."""
        if order.losses and order.teacher is None:
            raise ValueError("Distillation losses need a teacher.")
        self.check, self.progress, self.record, self.keep = check, progress, record, keep
        self.order, self.task, self.settings = order, order.task, order.settings
        self.steps, self.seed, self.folder = order.steps, order.seed, order.folder
        self.device = torch.device(order.device)
        self.custom: Callable[..., Any] | None = getattr(order.task, "training_step", None)
        self.trained = {name: tensor.requires_grad for name, tensor in order.student.named_parameters()}
        self.model = _copy(order.student).to(self.device)
        if not any(self.trained.values()):
            self.model.requires_grad_(True)
        self.batches = Batches(order.samples, order.settings.batch, order.seed)
        self.precision, self.loss_scale = _precision(order.settings, self.device, (order.student, order.teacher))
        self.layout = torch.contiguous_format
        self.layout = self._fastest_layout()
        self.model.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.average = _copy(self.model).requires_grad_(False).eval() if order.settings.ema else None
        self.best: dict[str, Tensor] | None = None
        self.best_loss, self.worse, self.stopped = math.inf, 0, False
        self.step, self.parts, self.slowed, self.rollbacks = 0, 1, 1.0, 0
        self.history: list[tuple[int, float]] = []
        self.notes: list[str] = [*_told(order.student)]
        self.sum, self.summed = torch.zeros((), device=self.device), 0
        self.distillation: Distillation | None = None

    # ---- before the first step ---------------------------------------------------------------

    def prepare(self) -> None:
        """Match student and teacher, make the optimizer, and go on from a checkpoint if there is one."""
        self.key = self._key()
        inputs, target = self._probe()
        self.reference = self._reference(inputs, target)
        teacher, losses = self.order.teacher, self.order.losses
        if teacher is not None and losses:
            model = _copy(teacher).to(self.device).to(memory_format=self.layout)  # type: ignore[call-overload]
            probed = probe(self.model, model, self.task, inputs, target)
            set_random_state(self.seed, 0, 0, PROJECTING, self.device)
            self.distillation = Distillation(
                self.model, model, self.task, losses, probed, self.arrange, self.precision, self.device
            )
        self.optimizer = self._optimizer()
        self.updated = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.average is not None:
            averaged, followed = state_of(self.average), state_of(self.model)
            pairs = [(averaged[name], followed[name]) for name in averaged]
            self.floats = [(a, b) for a, b in pairs if a.is_floating_point()]
            self.others = [(a, b) for a, b in pairs if not a.is_floating_point()]
        self.good = self._state()
        self.written, self.writing = time.monotonic(), 0.0

        def noted(sentence: str) -> None:
            self.record("checkpoint", {"note": sentence})

        saved = None if self.folder is None else Checkpoint.read(self.folder / CHECKPOINT, noted)
        if saved is not None and saved.facts.get("key") == self.key:
            self._restore(saved)
        elif saved is not None:
            noted("The checkpoint found is of another training: started anew.")
        if self.distillation is not None and self.keep and self.may_keep():
            samples, size = self.batches.samples, self.batches.size
            self.distillation.teacher.keep(samples, size, self.check, self.order.shared)

    def may_keep(self) -> bool:
        """Whether the teacher's outputs can be kept, and are used more than once on average."""
        if self.distillation is None or self.distillation.looks_inside or self.order.augment is not None:
            return False
        return self.repeated and self.steps > self.batches.per_epoch

    def arrange(self, tree: Any) -> Any:
        """Inputs or targets on the device, images in the layout of the network."""

        def move(tensor: Tensor) -> Tensor:
            tensor = tensor.to(self.device, non_blocking=True)
            image = tensor.ndim == 4 and tensor.is_floating_point()
            return tensor.contiguous(memory_format=self.layout) if image else tensor

        return map_tensors(move, tree)

    def wait(self) -> None:
        """Wait for the device."""
        self.sum.item()

    def _key(self) -> str:
        """What a checkpoint must agree with: everything that the weights depend on."""
        samples = self.batches.samples
        self.repeated = repeats(samples)
        parts: dict[str, Any] = {
            "settings": {name: value for name, value in asdict(self.settings).items() if name != "seconds"},
            "steps": self.steps,
            "seed": self.seed,
            "augmented": self.order.augment is not None,
            "losses": [[loss.name, loss.coefficient] for loss in self.order.losses],
            "samples": samples.fingerprint(every=False) if self.repeated and self.folder else len(samples),
        }
        if self.folder is not None:
            models = (self.model, self.order.teacher)
            parts["models"] = [None if model is None else digest(model) for model in models]
        return json.dumps(parts, sort_keys=True)

    def _probe(self) -> tuple[Any, Any]:
        """(inputs, target) of the first few samples, on the device."""
        count = min(_PROBED, len(self.batches.samples))
        inputs, target = next(iter(self.batches.samples.subset(range(count)).batches(count)))
        return self.arrange(inputs), self.arrange(target)

    def _fastest_layout(self) -> torch.memory_format:
        """Channels last for networks of 2-D convolutions (about 20 % faster on a CPU), if they allow it."""
        convolves = any(isinstance(module, nn.Conv2d) for module in self.model.modules())
        if not convolves or self.device.type not in ("cpu", "cuda"):
            return torch.contiguous_format
        inputs, _target = self._probe()
        images = map_tensors(lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t, inputs)
        try:
            for model in (self.model, self.order.teacher):
                if model is not None:
                    trial = _copy(model).to(self.device).eval()
                    with torch.no_grad(), self.precision():
                        self.task.run(trial.to(memory_format=torch.channels_last), images)  # type: ignore[call-overload]
        except RuntimeError:
            # A network that calls `view` on an image's memory cannot do with another layout.
            return torch.contiguous_format
        return torch.channels_last

    @torch.no_grad()
    def _reference(self, inputs: Any, target: Any) -> float:
        """The first loss, or an all-zero output's if that is larger; infinite where neither is known."""
        if target is None:
            return math.inf
        self.model.eval()
        with self.precision():
            if self.custom is not None:
                found = [float(self.custom(self.model, inputs, target))]
            else:
                output = map_tensors(_as_float, self.task.run(self.model, inputs))
                outputs = output, map_tensors(torch.zeros_like, output)
                found = [float(self.task.loss(each, target)) for each in outputs]
        return max((value for value in found if math.isfinite(value) and value > 0), default=math.inf)

    def _optimizer(self) -> torch.optim.Optimizer:
        learned = () if self.distillation is None else self.distillation.parameters()
        parameters = [p for p in (*self.model.parameters(), *learned) if p.requires_grad]
        decay = self.settings.weight_decay
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        # One kernel for all parameters; MPS has it for some versions of torch only.
        fused = True if self.device.type in ("cpu", "cuda") else None
        if self.settings.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.settings.lr, fused=fused)
        momentum, nesterov = self.settings.momentum, self.settings.nesterov and self.settings.momentum > 0
        return torch.optim.SGD(groups, lr=self.settings.lr, momentum=momentum, nesterov=nesterov, fused=fused)

    # ---- steps -------------------------------------------------------------------------------

    def climb(self, stop: int) -> None:
        """Go on to step `stop`, judging and keeping the state on the way."""
        self.model.train()
        batches = self.batches.between(self.step, stop)
        try:
            while self.step < stop and not self.stopped:
                self.check()
                try:
                    batch = next(batches)
                except (Cancelled, DeadlineError):
                    raise
                except Exception as error:
                    raise ReadError(
                        f"The training data could not be read at step {self.step}: {in_words(error)}. "
                        "Mend that item, or leave it out."
                    ) from error
                self._advance(*batch)
                self.step += 1
                if self.step % self.settings.every == 0 or self.step == stop:
                    if self._settle(stop):
                        self._write(last=self.step == stop or self.stopped)
                    else:
                        batches = self.batches.between(self.step, stop)
        except BaseException:
            self._write(last=True)
            raise

    def _advance(self, inputs: Any, target: Any) -> None:
        """One step of the optimizer on one batch."""
        set_random_state(self.seed, self.step // self.batches.per_epoch, self.step, COMPUTING, self.device)
        inputs, target = self.arrange(inputs), self.arrange(target)
        if self.order.augment is not None:
            inputs, target = self.order.augment(inputs, target)
        rate = self.settings.lr * self.slowed * factor(self.settings.schedule, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._gradients(inputs, target)
        if self.loss_scale is not None:
            self.loss_scale.unscale_(self.optimizer)
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.updated, self.settings.clip)
        if self.loss_scale is not None:
            self.loss_scale.step(self.optimizer)
            self.loss_scale.update()
        else:
            self.optimizer.step()
        # Added up on the device: reading it would wait for the device at every step.
        self.sum += loss
        self.summed += 1
        if self.average is not None and self.settings.ema is not None:
            self._follow(min(self.settings.ema, (1 + self.step) / (10 + self.step)))

    def _gradients(self, inputs: Any, target: Any) -> Tensor:
        """Gradients of the batch, in parts where memory was short; the batch's task loss, detached."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._in_parts(inputs, target)
            except (RuntimeError, MemoryError) as error:
                if not _short_of_memory(error):
                    raise
                if self.parts >= self.batches.size:
                    raise OutOfMemoryError(
                        f"One sample at a time does not fit into the memory of {self.device}. "
                        "Use a device with more memory, or a smaller input."
                    ) from error
            # Not in the handler, where the error keeps the failed step's tensors alive.
            self._split()

    def _split(self) -> None:
        """Halve the samples computed at once."""
        self.parts = min(2 * self.parts, self.batches.size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.notes.append(f"Step {self.step}: memory was short, batches are computed in {self.parts} parts from here.")
        self.record("memory", {"step": self.step, "parts": self.parts})

    def _in_parts(self, inputs: Any, target: Any) -> Tensor:
        """Gradients of the batch; its task loss, detached."""
        taught = None
        if self.distillation is not None and self.distillation.teacher.kept is not None:
            taught = self.distillation.teacher.look_up(self.batches.indices(self.step))
        if self.parts == 1:
            return self._one_part(inputs, target, taught, 1.0, self.step)
        count = self.batches.size
        size = math.ceil(count / self.parts)
        total = torch.zeros((), device=self.device)
        for start in range(0, count, size):
            stop = min(start + size, count)
            share = (stop - start) / count
            a, b, c = (part(tree, start, stop) for tree in (inputs, target, taught))
            total += share * self._one_part(a, b, c, share, None if start else self.step)
        return total

    def _one_part(self, inputs: Any, target: Any, taught: Any, share: float, measured: int | None) -> Tensor:
        """Add the gradients of some samples by their share of the batch; their task loss, detached."""
        if self.distillation is not None:
            self.distillation.taps.clear()
        task_loss, output, at = self._task_loss(inputs, target)
        total = task_loss
        if self.distillation is not None:
            total = self.distillation.add(task_loss, output, at, inputs, target, taught, measured)
        if total is None:
            raise MismatchError("The samples have no targets and there is no teacher. Give either.")
        weighted = total if share == 1.0 else total * share
        (weighted if self.loss_scale is None else self.loss_scale.scale(weighted)).backward()  # type: ignore[no-untyped-call]
        return (total if task_loss is None else task_loss).detach()

    def _task_loss(self, inputs: Any, target: Any) -> tuple[Tensor | None, Any, list[Tensor]]:
        """(the task's loss, the output in float32, the tensors its gradient is measured at)."""
        if self.custom is None or target is None:
            with self.precision():
                output = self.task.run(self.model, inputs)
            output = map_tensors(_as_float, output)
            at = [tensor for tensor in tensors(output) if tensor.requires_grad]
            return None if target is None else self.task.loss(output, target), output, at
        with _watched(self.model) as seen, self.precision():
            task_loss = self.custom(self.model, inputs, target)
        at = [tensor for tensor in tensors(seen) if tensor.requires_grad]
        if all(loss.kind == "feature" for loss in self.order.losses):
            return task_loss, None, at
        replayed = iter(seen)
        try:
            output = self.task.run(lambda *_args, **_kwargs: next(replayed), inputs)
        except StopIteration as error:
            raise MismatchError(
                "The task's training step calls the model less often than the task's run does, so its output cannot be "
                "compared with the teacher's. Use a loss on layers, or let both make the same calls."
            ) from error
        return task_loss, map_tensors(_as_float, output), at

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Move the averaged weights."""
        averaged, followed = zip(*self.floats, strict=True)
        torch._foreach_lerp_(averaged, followed, 1 - decay)
        for ours, theirs in self.others:
            ours.copy_(theirs)

    # ---- every so many steps -----------------------------------------------------------------

    def _settle(self, stop: int) -> bool:
        """Judge the last steps: keep the state, or roll back (False). Raises DivergenceError."""
        mean = (self.sum / max(self.summed, 1)).item()
        self.sum, self.summed = torch.zeros((), device=self.device), 0
        norms = torch.stack(torch._foreach_norm([p.detach() for p in self.updated]))
        if not math.isfinite(mean) or mean > EXPLODED * self.reference or not bool(norms.isfinite().all()):
            self._roll_back(mean)
            return False
        self.history.append((self.step, mean))
        if self.order.holdout is not None and (self.step % self._evaluated() == 0 or self.step == self.steps):
            self._evaluate(self.order.holdout)
        if mean <= DOUBTFUL * self.reference or self.step == stop:
            self.good = self._state()
        self.progress("training", self.step, self.steps)
        return True

    def _evaluated(self) -> int:
        """Steps between two evaluations: about an epoch, a multiple of `every`."""
        return math.ceil(self.batches.per_epoch / self.settings.every) * self.settings.every

    def _roll_back(self, mean: float) -> None:
        failed, back = self.step, int(self.good.facts["step"])
        if self.rollbacks == ROLLBACKS:
            raise DivergenceError(
                f"The loss was {mean:.4g} at step {failed}, after the learning rate had been halved {ROLLBACKS} times "
                f"from {self.settings.lr:g}. Set a lower one, and look for extreme values in the training data."
            )
        self._restore(self.good)
        self.rollbacks += 1
        self.slowed /= 2
        rate = self.settings.lr * self.slowed
        self.notes.append(
            f"The loss was {mean:.4g} at step {failed}: back to step {back} with a learning rate of {rate:g}."
        )
        self.record("rollback", {"step": failed, "to": back, "lr": rate, "loss": mean if math.isfinite(mean) else None})
        self.good = self._state()

    @torch.no_grad()
    def _evaluate(self, holdout: Samples) -> None:
        """The held-out loss; remembers the best weights, and stops without progress."""
        judged = self.model if self.average is None else self.average
        judged.eval()
        total = 0.0
        for inputs, target in holdout.batches(2 * self.batches.size):
            self.check()
            inputs, target = self.arrange(inputs), self.arrange(target)
            with self.precision():
                if self.custom is not None:
                    loss = self.custom(judged, inputs, target)
                else:
                    loss = self.task.loss(map_tensors(_as_float, self.task.run(judged, inputs)), target)
            total += float(loss) * len(next(tensors(inputs)))
        self.model.train()
        mean = total / len(holdout)
        if mean < self.best_loss:
            self.best_loss, self.worse, self.best = mean, 0, copied("best", state_of(judged))
        else:
            self.worse += 1
        if self.settings.patience is not None and self.worse >= self.settings.patience:
            self.stopped = True
            self.notes.append(
                f"Stopped at step {self.step}: the held-out loss has not fallen for {self.worse} evaluations."
            )

    # ---- state -------------------------------------------------------------------------------

    def _state(self) -> Checkpoint:
        """Everything the next steps depend on, copied."""
        kept = copied("model", state_of(self.model))
        if self.average is not None:
            kept |= copied("average", state_of(self.average))
        if self.distillation is not None:
            kept |= self.distillation.state()
        kept |= copied("optimizer", optimizer_state(self.optimizer))
        kept |= self.best or {}
        facts = {
            "key": self.key,
            "step": self.step,
            "parts": self.parts,
            "slowed": self.slowed,
            "rollbacks": self.rollbacks,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "worse": self.worse,
            "stopped": self.stopped,
            "history": list(self.history),
            "notes": list(self.notes),
            "measured": [] if self.distillation is None else self.distillation.measured(),
            "loss_scale": None if self.loss_scale is None else self.loss_scale.state_dict(),
        }
        return Checkpoint(kept, facts)

    def _restore(self, saved: Checkpoint) -> None:
        """The inverse of `_state`."""
        restore(self.model, under("model", saved.tensors))
        if self.average is not None:
            restore(self.average, under("average", saved.tensors))
        if self.distillation is not None:
            self.distillation.restore(saved.tensors, saved.facts["measured"])
        self.optimizer.zero_grad(set_to_none=True)
        restore_optimizer(self.optimizer, under("optimizer", saved.tensors))
        self.best = {name: t for name, t in saved.tensors.items() if name.startswith("best/")} or None
        facts = saved.facts
        self.step, self.parts = int(facts["step"]), int(facts["parts"])
        self.slowed, self.rollbacks = float(facts["slowed"]), int(facts["rollbacks"])
        self.best_loss = math.inf if facts["best_loss"] is None else float(facts["best_loss"])
        self.worse, self.stopped = int(facts["worse"]), bool(facts["stopped"])
        self.history = [(int(step), float(loss)) for step, loss in facts["history"]]
        self.notes = list(facts["notes"])
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(facts["loss_scale"])
        self.good = saved

    def _write(self, *, last: bool) -> None:
        """Write the state last kept, if there is a folder and enough time has gone by."""
        start = time.monotonic()
        pause = min(self.settings.seconds, _PAUSE * self.writing)
        if self.folder is None or (not last and start - self.written < pause):
            return
        self.good.write(self.folder / CHECKPOINT)
        self.written = time.monotonic()
        self.writing = self.written - start

    def curve(self) -> dict[str, Any]:
        """The course of the loss as plain data: at most `_POINTS` points (step, mean loss since the one before)."""
        width = math.ceil(len(self.history) / _POINTS) or 1
        groups = [self.history[at : at + width] for at in range(0, len(self.history), width)]
        return {
            "losses": [loss.name for loss in self.order.losses],
            "of": self.steps,
            "lr": self.settings.lr,
            "points": [[group[-1][0], sum(loss for _step, loss in group) / len(group)] for group in groups],
        }

    def result(self) -> Trained:
        """A clean copy of what was learned."""
        if self.distillation is not None:
            self.distillation.remove()
        model = self.model if self.average is None else self.average
        if self.best is not None:
            restore(model, under("best", self.best))
        model.zero_grad(set_to_none=True)
        for name, tensor in model.named_parameters():
            tensor.requires_grad_(self.trained[name])
        model = model.to("cpu").to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        held_out = None if self.best is None else self.best_loss
        return Trained(model, self.step, self.steps, tuple(self.history), held_out, tuple(self.notes))


def _precision(
    settings: Training, device: torch.device, models: Sequence[nn.Module | None]
) -> tuple[Callable[[], AbstractContextManager[Any]], torch.amp.GradScaler | None]:
    """(a context for computing outputs, the scaler of the loss that float16 needs)."""
    if settings.precision == "float32":
        return nullcontext, None
    if device.type == "cpu" and _pays(models):
        return (lambda: torch.autocast("cpu", torch.bfloat16)), None
    if device.type != "cuda":
        return nullcontext, None
    kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    scaler = None if kind == torch.bfloat16 else torch.amp.GradScaler("cuda")
    return (lambda: torch.autocast("cuda", kind)), scaler


def _pays(models: Sequence[nn.Module | None]) -> bool:
    """Whether this processor computes in bfloat16 and a network is large enough to gain by it."""
    native = _NATIVE & set(environment()["flags"])
    largest = max(sum(p.numel() for p in model.parameters() if p.ndim > 1) for model in models if model is not None)
    return bool(native) and largest >= _LARGE


def _short_of_memory(error: Exception) -> bool:
    """Whether a device, this process or the system had too little memory; torch has no one error for it."""
    said = text_of(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in _NO_MEMORY)


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[Any]]:
    """The outputs of every call of a model made meanwhile."""
    seen: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _args, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def _told(student: nn.Module) -> Iterator[str]:
    """What a user who froze parameters should know."""
    of = sum(tensor.numel() for tensor in student.parameters())
    frozen = sum(tensor.numel() for tensor in student.parameters() if not tensor.requires_grad)
    if frozen == of:
        yield "All parameters were frozen, as for inference: all of them were trained."
    elif frozen:
        yield f"{frozen / of:.0%} of the parameters were frozen in the model, and stayed as they were."


def _copy(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes, in captured graphs
        return copy.deepcopy(model)


def _as_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
