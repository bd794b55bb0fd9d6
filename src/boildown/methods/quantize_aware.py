"""Quantization with training: weights and step sizes learned together, taught by the network in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from boildown.domain.candidate import Candidate, Plan
from boildown.domain.task import Samples, Task
from boildown.errors import in_words
from boildown.methods.base import FEW, Card, Context, Lowers, setting
from boildown.methods.taught import Lasting, held_out, training_samples
from boildown.surgery.aware import Aware
from boildown.surgery.calibrate import Call, calibrate, correct_biases, weight_quantizer
from boildown.surgery.fold import fold
from boildown.surgery.graph import Graph, capture
from boildown.surgery.guard import guarded_biases
from boildown.surgery.plan import Placement
from boildown.surgery.quantize import (
    OF_RECURRENT,
    OfRecurrent,
    calibration_calls,
    nothing_to_quantize,
    placed,
    refuse_other_grids,
    told_recurrent,
    weight_bits,
    with_recurrent,
)
from boildown.training import (
    DistillationLoss,
    DivergenceError,
    Trained,
    Training,
    make_loss,
    refusals,
    steps_for,
    train,
)

RATES = (3e-5, 1e-4, 3e-4)
"""The learning rates that are tried where none is given."""

TRIAL = 10
"""A trial is this many times shorter than the training."""

LEAST = 50
"""Steps of a trial, but at most a quarter of the training's; shorter ones favour low rates."""

_BATCH = 64


@dataclass(frozen=True)
class QuantizeAware(Lasting):
    """Quantization-aware training from the static plan: the network learns to live with its rounding."""

    card: ClassVar[Card] = Card(
        name="quantize-aware",
        version=3,
        family="quantization",
        summary="int8 or int4 weights and int8 activations, trained with their rounding; step sizes learned",
        when="Quantization after training costs too much quality, as with 4-bit weights or a pruned network.",
        when_not="quantize-static or learned-rounding is good enough: they take seconds and no training data.",
        source=(
            "Learned Step Size Quantization (arXiv 1902.08153) with fixed zero points, batch norm folded, "
            "the float network's outputs as soft targets (arXiv 1503.02531)"
        ),
        lowers=("size", "latency", "memory"),
        needs=("train",),
        trains=True,
        minutes=10.0,
        order=50,
        recovers=("quantize-static", "quantize-mixed", "learned-rounding"),
        mends=("weights", "activations"),
        harder={"bits": 4},
        shape=("bits", "edges"),
    )

    minutes: float = setting(
        10.0,
        "the most minutes to train, trials of learning rates included: they become a step count once, from 20 timed "
        "steps; 0 for no limit",
        least=0,
    )
    batch: int = setting(128, "samples per step", least=1)
    bits: int = setting(8, "bits of a weight", choices=(8, 4))
    edges: str = setting("same", "bits of the first and the last layer: as the others, or 8", choices=("same", "8"))
    lr: float = setting(0.0, "the highest learning rate; 0 tries three and takes the best", least=0.0)
    coefficient: float = setting(
        1.0, "how much the teacher's outputs count beside the labels; 0 for not at all", least=0.0
    )
    teacher: Literal["parent", "first"] = setting(
        "parent", "who teaches: the float network that is quantized, or the first model", choices=("parent", "first")
    )
    ema: float = setting(0.0, "decay of a moving average of the weights; 0 for none", least=0.0, most=0.9999)
    samples: int = setting(256, "how many calibration samples to start from at most", least=1)
    recurrent: OfRecurrent = setting("dynamic", OF_RECURRENT, choices=("dynamic", "weights", "float"), later=True)

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether there is data to train on, and anything to quantize that is not yet."""
        if task.train is None:
            return "there is no training data"
        return nothing_to_quantize(candidate, task)

    def outline(self) -> Plan:
        """A plan is asked of the runtime."""
        return Plan()

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The folded model with trained weights on their grids, and the plan that says which.

        A part of the training data is held out. What was trained is kept only if the outputs diverge
        less from the teacher's there than those of the plan it started from. Raises AttemptError
        without training data, and what `train` raises.
        """
        samples, judges = held_out(training_samples(context), task, context.seed)
        graph = capture(candidate.model, *task.example())
        refuse_other_grids(context.rules)
        placement = placed(graph, with_recurrent(context.rules, self.recurrent))
        calibration = context.data.calibration or samples
        calls = calibration_calls(task, calibration, self.samples)
        plan, told = guarded_biases(
            graph, placement, self._plan(graph, placement, calls, context), task, calibration, self.samples, calls,
            check=context.check, progress=context.progress,
        )  # fmt: skip
        aware = Aware(graph, placement, plan)
        teacher = (context.first or candidate) if self.teacher == "first" else candidate
        course = _Course(self, aware.module(), teacher.model, task, samples, judges, context)
        effort = 1.0 if self.lr else 1 + len(RATES) / TRIAL
        steps = self.step_count(samples, context, course.fitting, effort)
        rate = self.lr or course.best_rate(steps)
        trained = course.train(steps, rate, "training")
        before, after = course.divergence(course.student), course.divergence(trained.model)
        context.record("trained", {"steps": steps, "lr": rate, "divergence": after, "untrained": before})
        learned, notes = trained.model, (f"trained for {steps} steps with a learning rate of {rate:g}", *trained.notes)
        if not after < before:
            learned, notes = course.student, ("not trained: it was no better on samples it had not seen",)
        model, edit = fold(candidate.model, *task.example())
        notes = (*told, *notes, *told_recurrent(placement))
        return candidate.derive(model=model, edits=(edit,), plan=aware.settle(learned, model), notes=notes)

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """The plans of those that do not train, with other values in them."""
        size = "quantize-static" if self.bits == 8 else f"learned-rounding(bits=4, edges='{self.edges}')"
        return {"latency": "quantize-static", "size": size, "memory": size, "params": "", "macs": ""}

    def sketch(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The static plan that training starts from, from a few samples."""
        graph = capture(candidate.model, *task.example())
        refuse_other_grids(context.rules)
        placement = placed(graph, with_recurrent(context.rules, self.recurrent))
        calls = calibration_calls(task, context.data.calibration or training_samples(context), FEW)
        model, edit = fold(candidate.model, *task.example())
        plan = self._plan(graph, placement, calls, context)
        plan = correct_biases(graph, placement, plan, calls, check=context.check, progress=context.progress)
        return candidate.derive(model=model, edits=(edit,), plan=plan)

    def _plan(self, graph: Graph, placement: Placement, calls: Sequence[Call], context: Context) -> Plan:
        """The static plan before its biases are corrected, the scales of 4-bit weights by least squared error."""
        eight = weight_bits(context.hardware)
        plan = calibrate(graph, placement, calls, weight_bits=eight, check=context.check, progress=context.progress)
        narrow = set() if self.bits == 8 else set(placement.weights)
        if self.edges == "8":
            narrow -= {placement.weights[0], placement.weights[-1]}
        searched = {
            layer.weight: weight_quantizer(
                layer.weight,
                graph.parameter(layer.weight),
                self.bits,
                search=True,
                bias=None if layer.bias is None else graph.parameter(layer.bias),
                input_scale=plan.activations[layer.input].scale[0],
            )
            for layer in placement.layers
            if layer.weight in narrow
        }
        return replace(plan, weights={**plan.weights, **searched})


@dataclass(frozen=True)
class _Course:
    """The trainings of one candidate: they differ in length and learning rate only."""

    method: QuantizeAware
    student: nn.Module
    teacher: nn.Module
    task: Task
    samples: Samples
    judges: Samples
    context: Context

    def fitting(self, minutes: float) -> int:
        """How many steps fit into so many minutes here."""
        context = self.context
        return steps_for(
            minutes, self.student, self.task, self.samples, settings=self._settings(RATES[0]), teacher=self.teacher,
            losses=self._losses, augment=self._augment, seed=context.seed, device=context.device, check=context.check,
        )  # fmt: skip

    def best_rate(self, steps: int) -> float:
        """The learning rate whose short training diverges least. Raises DivergenceError if none holds."""
        length, found = max(1, min(max(LEAST, steps // TRIAL), steps // 4)), {}
        for rate in RATES:
            try:
                found[rate] = self.divergence(self.train(length, rate, f"trial-{rate:g}").model)
            except DivergenceError as error:
                if rate == RATES[-1] and not found:
                    raise
                self.context.record("trial", {"lr": rate, "steps": length, "failed": in_words(error)})
            else:
                self.context.record("trial", {"lr": rate, "steps": length, "divergence": found[rate]})
        return min(found, key=lambda rate: found[rate])

    def train(self, steps: int, rate: float, name: str) -> Trained:
        """The student trained with this learning rate; checkpoints are kept under the name."""
        context = self.context
        return train(
            self.student, self.task, self.samples, steps=steps, settings=self._settings(rate), teacher=self.teacher,
            losses=self._losses, augment=self._augment, seed=context.seed, device=context.device,
            folder=None if context.folder is None else context.folder / name, shared=context.folder,
            check=context.check, progress=context.progress, record=context.record,
        )  # fmt: skip

    @torch.no_grad()
    def divergence(self, student: nn.Module) -> float:
        """Mean divergence of the outputs from the teacher's on the samples held out."""
        found: list[Tensor] = []
        for inputs, _ in self.judges.batches(_BATCH):
            self.context.check()
            ours, theirs = (self.task.run(model, inputs) for model in (student, self.teacher))
            found.append(torch.as_tensor(self.task.divergence(ours, theirs)).flatten())
        return float(torch.cat(found).double().mean())

    def _settings(self, rate: float) -> Training:
        # With the products of half precision, the network would learn to live with another rounding.
        return Training(
            lr=rate, weight_decay=0.0, batch=self.method.batch, ema=self.method.ema or None, precision="float32"
        )

    @cached_property
    def _losses(self) -> list[DistillationLoss]:
        """Class scores are compared as such, other outputs number by number."""
        names = ("kd", "mse") if self.method.coefficient else ()
        refused = refusals(names, self.student, self.teacher, self.task, self.samples)
        return [make_loss(name, self.method.coefficient) for name in names if name not in refused][:1]

    @property
    def _augment(self) -> Any:
        return getattr(self.task, "augment", None)
