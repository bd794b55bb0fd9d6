"""Layers as the product of two smaller ones, where two cost less than one; no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.fx import GraphModule

from boildown.domain.candidate import Candidate, Edit
from boildown.domain.task import Samples, Task
from boildown.errors import AttemptError
from boildown.methods.base import Card, Context, setting
from boildown.methods.smaller import Smaller, quantized
from boildown.surgery.rank import Factorable, Spectrum, choose, factorize, fill, find_layers, spectra
from boildown.surgery.repair import Layer, repair
from boildown.surgery.stepping import cost, largest
from boildown.surgery.trainable import trainable
from boildown.surgery.weights import weights_hash


@dataclass(frozen=True)
class LowRank(Smaller):
    """Low-rank factorization by what outputs depend on, with closed-form repair."""

    card: ClassVar[Card] = Card(
        name="low-rank",
        version=1,
        family="factorization",
        summary="linear and convolution layers as two thinner ones each, by what outputs depend on, then refitted",
        when=(
            "Size or parameters have to fall further than integers take them, and many lie in an embedding table or in "
            "wide linear layers: before `quantize-dynamic`, 0.55x of the params take MiniLM from 0.25x to 0.14x size "
            "for half a point of Spearman's correlation, without training."
        ),
        when_not=(
            "Latency is what counts: a float encoder at 0.7x the MACs runs at 0.83x of the time, and behind int8 "
            "little or nothing is left of that. Lean networks, whose layers have no rank to spare."
        ),
        source=(
            "Output components: Zhang et al. (arXiv 1505.06798), SVD-LLM (arXiv 2403.07378); weighted by what outputs "
            "depend on: FWSVD (arXiv 2207.00112); repair as in He et al., Channel pruning (arXiv 1707.06168)"
        ),
        lowers=("size", "latency", "params", "macs"),
        needs=("calibration",),
        minutes=1.0,
        order=65,
        shape=("ratio", "of"),
        weak=("latency",),
    )

    multiple: int = setting(8, "ranks are whole multiples of this", least=1)
    embeddings: bool = setting(True, "whether embedding tables are factorized too: fewer params, a few more macs")

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether any layer of the model costs less as two."""
        if (reason := quantized(candidate)) is not None:
            return reason
        layers, left_alone = self._layers(trainable(candidate.model, *task.example())[0])
        if layers:
            return None
        told = "; ".join(f"{name}: {why}" for name, why in list(left_alone.items())[:3])
        return f"no layer of the model costs less as two ({told or 'it has no linear or convolution layer'})"

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The model with some layers as two, as a graph that trains and exports.

        Raises AttemptError without samples, and where even the first layer is more than may go.
        """
        look = self._look(candidate, task, context)
        calls = self.calls(task, context, largest(look.module))
        full = cost(look.module, self.counted)
        ranks = choose(look.found, self.counted, full, self.share, multiple=self.multiple)
        if not ranks:
            raise AttemptError(f"No layer can go at {self.counted} {self.share:g}x. Ask for a smaller ratio.")
        made, edit = factorize(look.module, ranks)
        fill(made, look.module, look.found, ranks)
        if self.repair:
            second = {look.found[name].layer.node: None for name in ranks}
            fits = {n.name: None for n in made.graph.nodes if n.name in second and Layer.fits(made, n)}
            made = repair(
                look.module, made, fits, calls, seed=context.seed, likely=look.likely, check=context.check,
                progress=context.progress,
            )  # fmt: skip
        ratio = cost(made, self.counted) / full
        told = {name: [min(s.layer.rows, s.layer.columns), ranks.get(name)] for name, s in look.found.items()}
        facts = {"ratio": ratio, "of": self.counted, "asked": self.share, "ranks": told}
        context.record("factorized", {**facts, "left alone": look.left_alone})
        note = f"{ratio:.3f}x the {self.counted} of its parent, {len(ranks)} of {len(look.found)} layers as two"
        if look.left_alone:
            name, why = next(iter(look.left_alone.items()))
            note += f"; {len(look.left_alone)} left alone, such as {name}: {why}"
        return candidate.derive(model=made, edits=(*look.edits, edit), notes=(note,))

    def _layers(self, module: GraphModule) -> tuple[list[Factorable], dict[str, str]]:
        """(the layers that can cost less as two, those that cannot and why)."""
        layers, left_alone = find_layers(module, embeddings=self.embeddings)
        reasons = {layer.weight: layer.why_not(self.counted, self.multiple) for layer in layers}
        left_alone |= {name: why for name, why in reasons.items() if why is not None}
        return [layer for layer in layers if reasons[layer.weight] is None], left_alone

    def _look(self, candidate: Candidate, task: Task, context: Context) -> _Look:
        """Found once for all ratios that are tried."""
        key = (weights_hash(candidate.model), self.counted, self.samples, self.multiple, self.embeddings, context.seed)
        known = _looks.get(candidate.model)
        if known is None or known.key != key or known.samples is not context.data.calibration:
            module, captured = trainable(candidate.model, *task.example())
            layers, left_alone = self._layers(module)
            found, likely = spectra(
                module, layers, self.calls(task, context, largest(module)), seed=context.seed,
                check=context.check, progress=context.progress,
            )  # fmt: skip
            left_alone |= {layer.weight: "no output depends on it" for layer in layers if layer.weight not in found}
            edits = () if captured is None else (captured,)
            known = _looks[candidate.model] = _Look(
                key, context.data.calibration, module, edits, found, likely, left_alone
            )  # fmt: skip
        return known


@dataclass(frozen=True)
class _Look:
    """What is known of a model before any ratio is asked for."""

    key: Any
    samples: Samples | None
    module: GraphModule
    edits: tuple[Edit, ...]
    found: Mapping[str, Spectrum]
    likely: Mapping[str, list[Tensor]]
    left_alone: Mapping[str, str]


_looks: WeakKeyDictionary[Any, _Look] = WeakKeyDictionary()
