"""Where a file and what it was made from part: every layer compared on the file's own inputs of that layer.

A network may amplify a difference of one rounding to any size, and two programs never round alike everywhere. So the
outputs alone do not tell a faulty file from a sensitive network; the layers do, when each is given equal inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from boildown.domain.candidate import Plan
from boildown.engine.company import LEAST_ALONE, agreement
from boildown.runtimes.base import Array
from boildown.surgery.graph import Graph, attribute_of, bytes_per_sample
from boildown.surgery.simulate import simulate

Look = Callable[[Sequence[str]], tuple[Mapping[str, Array], Sequence[Array]] | None]
"""Values of the file by its own names, and its outputs, for some samples; None where nobody can look."""

_MOST_BYTES = 2**26
"""Of values that are looked at together."""
_MOST_NAMES = 3

Check = Callable[[], None]


@torch.no_grad()
def first_apart(
    graph: Graph, plan: Plan | None, names: Mapping[str, str], inputs: Sequence[Any], samples: int, look: Look,
    check: Check = lambda: None,
) -> str | None:  # fmt: skip
    """The first value of the graph that the file computes otherwise, in words; empty for none, None if it is not known.

    names: values of the graph, and what they are called in the file. inputs: of the graph, flat, so many samples.
    Every value that is found in the file is compared with what the graph, or its simulation, makes of the values that
    were found before it: on a grid they are equal within one step, in float but for the rounding of sums. At first
    grids and outputs alone are looked at, which leaves the file as it is; to name a layer all that it has.
    """
    module = graph.module if plan is None else simulate(graph, plan)
    grids = {} if plan is None else plan.activations
    nodes = [node for node in module.graph.nodes if node.name in names and isinstance(node.meta.get("val"), Tensor)]
    found: str | None = None
    for wanted in ([node for node in nodes if node.name in grids], nodes):
        called = {node.name: names[node.name] for node in wanted}
        groups = _groups(wanted, samples)
        beside = _Beside(module, plan or Plan(), called, groups, look, check)
        try:
            beside.run(*inputs, enable_io_processing=False)
        except _Apart as apart:
            found = apart.said if found in (None, apart.said) else f"{apart.said}, and then {found}"
        except _Unknown:
            return None
        else:
            return found or ""
    return found


class _Apart(Exception):
    """A value differs; the interpreter adds to an exception's own text."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


class _Unknown(Exception):
    """Nobody can look into the file."""


class _Beside(Interpreter):
    """Runs a graph on the file's own values, from each that is known to the next, and stops at one that differs."""

    def __init__(
        self, module: GraphModule, plan: Plan, names: Mapping[str, str], groups: Sequence[Sequence[str]], look: Look,
        check: Check,
    ) -> None:  # fmt: skip
        super().__init__(module)
        self._plan, self._names, self._groups, self._look, self._check = plan, names, list(groups), look, check
        self._values: dict[str, Array] = {}
        self._outputs: Sequence[Array] = ()

    def run_node(self, n: Node) -> Any:
        self._check()
        result = super().run_node(n)
        if n.op == "output":
            self._compare_outputs(result)
            return result
        if n.target is torch.fake_quantize_per_tensor_affine and isinstance(n.args[0], Node):
            return self._compared(n.args[0], result)
        return result if n.name in self._plan.activations else self._compared(n, result)

    def _compared(self, node: Node, ours: Any) -> Any:
        """The file's value in the place of one that was computed. Raises _Apart where they differ."""
        value = self._value(node.name)
        if value is None or not isinstance(ours, Tensor) or value.shape != tuple(ours.shape):
            return ours
        floats = value.dtype.kind == "f"
        if (grid := self._plan.activations.get(node.name)) is not None:
            value = value.astype(np.float64)
            if floats:  # integers stand behind it in the file
                value = np.clip(np.rint(value / grid.scale[0]) + grid.zero_point[0], *grid.limits)
            theirs = torch.from_numpy((value - grid.zero_point[0]) * grid.scale[0]).to(ours.dtype)
            steps = float((ours - theirs).abs().max()) / grid.scale[0] if ours.numel() else 0.0
            if not steps < 1.5:
                raise _Apart(f"{self._called(node)} differs by up to {steps:.0f} steps of its grid")
            return theirs
        theirs = torch.from_numpy(value)
        _compare(self._called(node), ours, theirs)
        return theirs.to(ours.dtype)

    def _compare_outputs(self, ours: Any) -> None:
        if not self._outputs:
            self._fetch(())
        leaves = [leaf for leaf in pytree.tree_leaves(ours) if isinstance(leaf, Tensor)]
        for own, other in zip(leaves, self._outputs, strict=False):
            if own.numel() == other.size:
                _compare("an output", own, torch.from_numpy(other).reshape(own.shape))

    def _value(self, name: str) -> Array | None:
        """The file's value; a group of them is fetched when the first of it is asked for, and the one before goes."""
        if (place := next((i for i, group in enumerate(self._groups) if name in group), None)) is not None:
            self._fetch(self._groups.pop(place))
        return self._values.get(name)

    def _fetch(self, group: Sequence[str]) -> None:
        seen = self._look([self._names[name] for name in group])
        if seen is None:
            raise _Unknown
        values, self._outputs = seen
        self._values = {name: values[self._names[name]] for name in group if self._names[name] in values}

    def _called(self, node: Node) -> str:
        """A value, and the parameters that make it of what is known before it."""
        found: dict[str, None] = {}
        todo, seen = [node], {node}
        while todo:
            for source in todo.pop().all_input_nodes:
                if attribute_of(source, self.module) is not None:
                    found[str(source.target)] = None
                elif source not in seen and source.name not in self._names:
                    todo.append(source)
                seen.add(source)
        made = [*found][-_MOST_NAMES:]
        return f"`{node.name}`" + (f" (of {', '.join(made)})" if made else "")


def _compare(called: str, ours: Tensor, theirs: Tensor) -> None:
    """Raise _Apart where two values differ by more than the rounding of sums."""
    one, other = (
        value.reshape(len(value), -1) if value.ndim and len(value) > 1 else value.reshape(-1, 1)
        for value in (ours, theirs)
    )
    if not (decibel := agreement(one, other)) >= LEAST_ALONE:
        raise _Apart(f"{called} agrees to {decibel:.1f} dB, and rounding leaves {LEAST_ALONE:.0f}")


def _groups(nodes: Sequence[Node], samples: int) -> list[list[str]]:
    """Names of values, in order, in groups of some megabytes."""
    groups: list[list[str]] = []
    room = 0
    for node in nodes:
        room -= samples * bytes_per_sample(node)
        if not groups or room < 0:
            groups.append([])
            room = _MOST_BYTES - samples * bytes_per_sample(node)
        groups[-1].append(node.name)
    return groups
