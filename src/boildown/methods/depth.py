"""Whole repeated blocks out, and the layers behind them refitted; no training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from torch.fx import GraphModule

from boildown.domain.candidate import Candidate
from boildown.domain.task import Task
from boildown.errors import AttemptError
from boildown.methods.base import Card, Context
from boildown.methods.smaller import Smaller, quantized
from boildown.surgery.depth import Block, drop, errors_without, find_blocks
from boildown.surgery.repair import Layer, repair
from boildown.surgery.stepping import Call, cost, largest
from boildown.surgery.trainable import trainable
from boildown.surgery.weights import weights_hash

_PROBES = 2


@dataclass(frozen=True)
class Depth(Smaller):
    """Blocks out, one after the other, each time the one that is missed least at the outputs."""

    card: ClassVar[Card] = Card(
        name="depth",
        version=1,
        family="pruning",
        summary="repeated blocks out whole, those missed least first, and the layers behind refitted in closed form",
        when=(
            "Latency has to fall on a narrow network that repeats its blocks: fewer layers always run faster, where "
            "fewer channels may not. A good start for `distill`."
        ),
        when_not="The network repeats no block, or quality must hold without training after.",
        source=(
            "Blocks by measured output error, as Veit et al., Residual networks behave like ensembles "
            "(arXiv 1605.06431) take them out; repair as in He et al., Channel pruning (arXiv 1707.06168)"
        ),
        lowers=("size", "latency", "memory", "params", "macs"),
        needs=("calibration",),
        minutes=1.0,
        order=70,
        shape=("ratio", "of"),
    )

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether the model repeats blocks."""
        if (reason := quantized(candidate)) is not None:
            return reason
        if not find_blocks(trainable(candidate.model, *task.example())[0]):
            return "the model repeats no block whose output has the shape of its input"
        return None

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The model without some blocks, as a graph that trains and exports.

        Raises AttemptError without samples, and where even one block is more than may go.
        """
        module, captured = trainable(candidate.model, *task.example())
        calls = self.calls(task, context, largest(module))
        dropped, ratio = self._dropped(self._descent(candidate, module, context), calls, context)
        pruned, edit = drop(module, dropped)
        if self.repair:
            behind = _behind(module, pruned)
            pruned = repair(
                module, pruned, dict.fromkeys(behind), calls, seed=context.seed, check=context.check,
                progress=context.progress,
            )  # fmt: skip
        context.record("pruned", {"ratio": ratio, "of": self.counted, "asked": self.share, "blocks": dropped})
        note = f"{ratio:.3f}x the {self.counted} of its parent, without {', '.join(dropped)}"
        return candidate.derive(model=pruned, edits=(*((captured,) if captured else ()), edit), notes=(note,))

    def _dropped(self, descent: _Descent, calls: Sequence[Call], context: Context) -> tuple[list[str], float]:
        """(the blocks to leave out, what is then left of the cost): to the ratio, or as near as whole blocks allow."""
        wanted, left = self.share, 1.0
        dropped: list[str] = []
        while left > wanted:
            step = descent.step(len(dropped), calls[:_PROBES], context.check)
            if step is None or abs(step.left - wanted) > abs(left - wanted):
                break
            context.record("block", {"block": step.block, "error": step.error, "left": step.left})
            context.progress("leave blocks out", len(dropped), None)
            dropped.append(step.block)
            left = step.left
        if not dropped:
            raise AttemptError(f"No block can go at {self.counted} {self.share:g}x. Ask for a smaller ratio.")
        return dropped, left

    def _descent(self, candidate: Candidate, module: GraphModule, context: Context) -> _Descent:
        """Which blocks go one after the other, found once for all ratios that are tried."""
        key = (weights_hash(candidate.model), self.counted, self.samples, context.seed, context.data.calibration)
        known = _descents.get(candidate.model)
        if known is None or known[0] != key:
            known = _descents[candidate.model] = (key, _Descent(module, self.counted))
        return known[1]


@dataclass(frozen=True)
class _Step:
    """A block that goes. error: of the outputs without it, relative; left: of the cost without it and all before."""

    block: str
    error: float
    left: float


class _Descent:
    """Block after block out of a model, each time the one that is missed least, as far as anybody has asked.

    Only what may be missed least is measured again: the fewer blocks are left, the more each of them is missed (the
    accelerated greedy algorithm of Minoux, 1978).
    """

    def __init__(self, module: GraphModule, counted: Literal["macs", "params"]) -> None:
        self._now, self._counted, self._full = module, counted, cost(module, counted)
        self._names = {block.name for block in find_blocks(module)}
        self._steps: list[_Step] = []
        self._errors: dict[str, float] = {}

    def step(self, number: int, calls: Sequence[Call], check: Callable[[], None]) -> _Step | None:
        """The step of this number; None where no block is left."""
        while len(self._steps) <= number:
            blocks = [block for block in find_blocks(self._now) if block.name in self._names]  # none inside of others
            if not blocks:
                return None
            errors = self._measured(blocks, calls, check)
            best = min(errors, key=lambda name: errors[name])
            self._now, _ = drop(self._now, [best])
            self._steps.append(_Step(best, errors[best], cost(self._now, self._counted) / self._full))
        return self._steps[number]

    def _measured(
        self, blocks: Sequence[Block], calls: Sequence[Call], check: Callable[[], None]
    ) -> Mapping[str, float]:
        """The errors of those blocks that may be missed least, by what they were when others were still there."""
        measured: dict[str, float] = {}
        likely = sorted(blocks, key=lambda block: self._errors.get(block.name, 0.0))
        for (name, error), after in zip(
            errors_without(self._now, likely, calls, check), (*likely[1:], None), strict=False
        ):
            measured[name] = error
            if after is not None and min(measured.values()) <= self._errors.get(after.name, 0.0):
                break
        self._errors |= measured
        return measured


_descents: WeakKeyDictionary[Any, tuple[Any, _Descent]] = WeakKeyDictionary()


def _behind(dense: GraphModule, pruned: GraphModule) -> list[str]:
    """The layers to refit: all that come after the first block that is gone."""
    left = {node.name for node in pruned.graph.nodes}
    names = [node.name for node in dense.graph.nodes if node.op == "call_function"]
    first = next(i for i, name in enumerate(names) if name not in left)
    return [n.name for n in pruned.graph.nodes if n.name in names[first:] and Layer.fits(pruned, n)]
