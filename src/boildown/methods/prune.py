"""Channels out of every layer that can spare them, and the layers behind refitted; no training."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch

from boildown.domain.candidate import Candidate
from boildown.domain.task import Task
from boildown.errors import AttemptError, InputError, Mistake
from boildown.methods.base import Card, Context, setting
from boildown.methods.smaller import Smaller, quantized
from boildown.surgery import importance as importances
from boildown.surgery.channels import Channels, find_channels, remove
from boildown.surgery.repair import ASIDE, repair
from boildown.surgery.stepping import Call, largest
from boildown.surgery.weights import weights_hash
from boildown.surgery.widths import Curve, choose, curves

Scores = Mapping[int, float] | None

_PROBES = 128
_BATCHES = 8


@dataclass(frozen=True)
class Prune(Smaller):
    """Structured pruning by dependency group with closed-form repair."""

    card: ClassVar[Card] = Card(
        name="prune",
        version=1,
        family="pruning",
        summary="channels out where outputs miss them least, and the layers behind refitted in closed form",
        when=(
            "Fewer MACs or parameters are asked for and there is no time to train: half the MACs of ResNet-56 cost "
            "2 pp, a quarter costs half a point, in a minute. Also as a start for `distill` and `progressive`."
        ),
        when_not=(
            "Lean networks such as MobileNet: without training every ratio costs several points there, so that it is "
            "a start for distillation and no product; quantize instead. Latency may not follow MACs: it is measured."
        ),
        source=(
            "Repair: He et al., Channel pruning (arXiv 1707.06168). Channels by optimal brain surgeon on the layers "
            "behind: Hassibi and Stork 1993; ZipLM (arXiv 2302.04089). Others by their setting: arXiv 1608.08710, "
            "1607.03250, 1906.10771, 1708.06519"
        ),
        lowers=("size", "latency", "memory", "params", "macs"),
        needs=("calibration",),
        minutes=2.0,
        order=60,
        shape=("ratio", "of", "multiple"),
        weak=("latency",),
    )

    importance: importances.Importance = setting(
        "hessian",
        "which channels go: those missed least once the others are refitted (hessian), or by magnitude, activation, "
        "taylor (needs training data) or the batch norm's scale",
        choices=("hessian", "magnitude", "activation", "taylor", "norm-scale"),
    )
    widths: Literal["measured", "global", "uniform"] = setting(
        "measured",
        "how many go from each layer: by the error measured at the outputs, the least of all, or the same share",
        choices=("measured", "global", "uniform"),
    )
    multiple: int = setting(
        4, "widths are whole multiples of this: 16 is what float kernels like, 8 what integer kernels like", least=1
    )
    keep: tuple[str, ...] | None = setting(None, "layers whose channels all stay, by the name of their weight")

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether any layer of the model has channels that could go."""
        return quantized(candidate) or no_channels(candidate, task)

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The model without some channels, as a graph that trains and exports.

        Raises SurgeryError where removing would change what it computes, AttemptError without samples, InputError
        for names in `keep` that the model does not have.
        """
        channels, edits = look(candidate, task)
        keep = _kept(self.keep or (), channels)
        calls = self.calls(task, context, largest(channels.module))
        ranked, scores = self._ranked(channels, calls, task, context)
        pool = [curve for curve in ranked if keep.isdisjoint(slot.parameter for slot in curve.group.writers)]
        costs = channels.costs(self.counted)
        gone = choose(
            pool, costs, self.share, allocation=self.widths, scores=scores, multiple=self.multiple,
        )  # fmt: skip
        if not gone:
            raise AttemptError(
                f"No channel can go at {self.counted} {self.share:g}x with widths in multiples of {self.multiple}.\n"
                "  Ask for a smaller ratio, or give multiple=1."
            )
        module = None
        if self.repair:
            module = repair(
                channels.module, channels.silenced(gone), channels.readers(gone), calls, seed=context.seed,
                check=context.check, progress=context.progress,
            )  # fmt: skip
        pruned, edit = remove(channels, gone, task.example(), module)
        widths = [
            [curve.group.name, curve.group.width, curve.group.width - sum(n in gone for n in curve.group.channels)]
            for curve in ranked
        ]
        facts = {"ratio": costs.total / costs.full, "of": self.counted, "asked": self.share, "widths": widths}
        context.record("pruned", {**facts, "left alone": channels.left_alone})
        note = f"{costs.total / costs.full:.3f}x the {self.counted} of its parent, {len(gone)} channels out"
        return candidate.derive(model=pruned, edits=(*edits, edit), notes=(note,))

    def _scores(self, channels: Channels, calls: Sequence[Call], task: Task, context: Context) -> Scores:
        """Importance per channel; None for the hessian's, which changes with every channel that goes."""
        if self.importance == "magnitude":
            return importances.magnitude(channels)
        if self.importance == "norm-scale":
            return importances.norm_scale(channels)
        if self.importance == "activation":
            return importances.activation(channels, calls, context.check)
        if self.importance == "taylor":
            return importances.taylor(channels, _batches(context), _loss(task), context.check)
        return None

    def _ranked(
        self, channels: Channels, calls: Sequence[Call], task: Task, context: Context
    ) -> tuple[list[Curve], Scores]:
        """The curves and importances, found once for all ratios that are tried."""
        same = replace(self, ratio=0.5, of="macs", multiple=1, keep=None, repair=True)
        key = (same, context.seed, context.data.calibration)
        known = _rankings.get(channels.module)
        if known is None or known[0] != key:
            scores = self._scores(channels, calls, task, context)
            found = curves(
                channels, calls, importance=scores, measured=self.widths == "measured",
                probes=_some(calls[1::ASIDE] or calls), seed=context.seed,
                check=context.check, progress=context.progress,
            )  # fmt: skip
            known = _rankings[channels.module] = (key, (found, scores))
        return known[1]


_looks: WeakKeyDictionary[Any, tuple[str, tuple[Channels, tuple[Any, ...]]]] = WeakKeyDictionary()
_rankings: WeakKeyDictionary[Any, tuple[Any, tuple[list[Curve], Scores]]] = WeakKeyDictionary()


def look(candidate: Candidate, task: Task) -> tuple[Channels, tuple[Any, ...]]:
    """The channels of a candidate's model, and the edits before them; looked for once while its weights stay."""
    weights = weights_hash(candidate.model)
    known = _looks.get(candidate.model)
    if known is None or known[0] != weights:
        known = _looks[candidate.model] = (weights, find_channels(candidate.model, *task.example()))
    return known[1]


def no_channels(candidate: Candidate, task: Task) -> str | None:
    """Why no channel of a candidate can go, in words; None where some can."""
    channels, _ = look(candidate, task)
    if channels.groups:
        return None
    told = "; ".join(f"{name}: {why}" for name, why in list(channels.left_alone.items())[:3])
    return f"no layer of the model has channels that could go ({told or 'it has no layer with weights'})"


def _kept(names: Sequence[str], channels: Channels) -> frozenset[str]:
    """The weights whose channels stay. Raises InputError for names that the model does not have."""
    known = {slot.parameter for slot in channels.trace.slots} | {name for name, _ in channels.module.named_parameters()}
    mistakes = []
    for name in names:
        if name not in known:
            inside = sorted(weight for weight in known if weight.startswith(f"{name}."))
            near = inside or difflib.get_close_matches(name, known, cutoff=0.3) or sorted(known)
            mistakes.append(
                Mistake(f"keep names {name!r}, which is no weight of the model.", f"Near: {', '.join(near[:3])}.")
            )
    if mistakes:
        raise InputError(*mistakes)
    return frozenset(names)


def _some(calls: Sequence[Call]) -> Sequence[Call]:
    """So many of the calls that their samples make about `_PROBES`."""
    leaves = torch.utils._pytree.tree_leaves(calls[0])
    size = next((len(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim), 1)
    return calls[: max(1, _PROBES // size)]


def _batches(context: Context) -> list[tuple[Any, Any]]:
    if context.data.train is None:
        raise AttemptError("Importance by taylor needs training data, and the task has none. Choose another.")
    samples = context.data.train
    return list(samples.subset(range(min(len(samples), 64 * _BATCHES))).batches(64))


def _loss(task: Task) -> Any:
    return lambda module, inputs, target: task.loss(task.run(module, inputs), target)
