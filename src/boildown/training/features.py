"""Where to compare the inside of a student with the inside of its teacher.

Tap points are found by running both once: layers of equal spatial size where a stage ends (images),
and the ends of repeated blocks at equal relative depth (transformers, networks of one stage).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boildown.training.failures import MismatchError

ENOUGH = 3
"""Stages from which on no layers within them are tapped."""

MOST_BLOCKS = 4


@dataclass(frozen=True)
class Tap:
    """The output of one call of one module. `shape` is without the batch: (C, H, W) or (T, C)."""

    module: str
    call: int
    shape: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """The positions: (H, W) or (T,)."""
        return self.shape[1:] if len(self.shape) == 3 else self.shape[:1]

    @property
    def width(self) -> int:
        """The channels."""
        return self.shape[0] if len(self.shape) == 3 else self.shape[1]


@dataclass(frozen=True)
class Pair:
    """A layer of the student and the layer of the teacher it is compared with."""

    student: Tap
    teacher: Tap

    def __str__(self) -> str:
        return f"{self.student.module} {self.student.shape} ~ {self.teacher.module} {self.teacher.shape}"


def find_pairs(student: nn.Module, teacher: nn.Module, run: Callable[[nn.Module], Any]) -> tuple[Pair, ...]:
    """Matching layers in the order in which the student computes them; none where nothing matches.

    run: runs a model on a small batch. Outputs of the whole network are no layers.
    """
    ours, theirs = _trace(student, run), _trace(teacher, run)
    shared = [grid for grid in _grids(ours) if grid in _grids(theirs)]
    found: list[tuple[int, Pair]] = []
    for grid in shared:
        mine, other = ([event for event in events if event.tap.grid == grid] for events in (ours, theirs))
        found.append((mine[-1].order, Pair(mine[-1].tap, other[-1].tap)))
        if len(shared) < ENOUGH:
            mine, other = ([event for event in events if event.block] for events in (mine, other))
            count = min(len(mine), len(other), MOST_BLOCKS)
            for number in range(1, count + 1):
                a, b = (events[round(number * len(events) / count) - 1] for events in (mine, other))
                found.append((a.order, Pair(a.tap, b.tap)))
    return tuple(dict.fromkeys(pair for _order, pair in sorted(found, key=lambda item: item[0])))


class Taps:
    """Collects what given taps of a model see while it runs; `remove` takes the hooks off again."""

    def __init__(self, model: nn.Module, taps: Sequence[Tap]) -> None:
        self.taps = tuple(taps)
        self._seen: dict[tuple[str, int], list[Tensor]] = {}
        self._calls: Counter[str] = Counter()
        modules = dict(model.named_modules())
        wanted = {(tap.module, tap.call) for tap in taps}
        self._handles = [model.register_forward_pre_hook(lambda _module, _args: self._calls.clear())]
        for name in dict.fromkeys(tap.module for tap in taps):
            self._handles.append(modules[name].register_forward_hook(self._hook(name, wanted)))

    def clear(self) -> None:
        """Forget what was seen; called before the model runs."""
        self._seen.clear()

    def take(self) -> dict[Tap, tuple[Tensor, ...]]:
        """What each tap saw, one tensor for each call of the whole model. Raises MismatchError where nothing."""
        missing = [tap.module for tap in self.taps if (tap.module, tap.call) not in self._seen]
        if missing:
            raise MismatchError(
                f"Layers {', '.join(missing)} were not reached. For a network that skips layers use losses on outputs."
            )
        return {tap: tuple(self._seen[tap.module, tap.call]) for tap in self.taps}

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str, wanted: set[tuple[str, int]]) -> Callable[[nn.Module, Any, Any], None]:
        def see(_module: nn.Module, _args: Any, output: Any) -> None:
            tensor, key = _tensor(output), (name, self._calls[name])
            self._calls[name] += 1
            if tensor is not None and key in wanted:
                self._seen.setdefault(key, []).append(tensor)

        return see


@dataclass(frozen=True)
class _Event:
    order: int
    tap: Tap
    block: bool
    """One of several modules in a row that have parts of their own."""


def _trace(model: nn.Module, run: Callable[[nn.Module], Any]) -> list[_Event]:
    """Every layer with positions, in the order in which it ends; of the first call of the model only."""
    events: list[_Event] = []
    shapes: list[tuple[int, ...]] = []
    calls: Counter[str] = Counter()
    modules = dict(model.named_modules())
    listed = [module for module in modules.values() if isinstance(module, nn.Sequential | nn.ModuleList)]
    rows = {id(child) for module in listed for child in module.children()}

    def see(name: str, module: nn.Module, output: Any) -> None:
        tensor = _tensor(output)
        call, calls[name] = calls[name], calls[name] + 1
        if len(shapes) or tensor is None or not tensor.is_floating_point() or tensor.ndim not in (3, 4):
            return
        tap = Tap(name, call, tuple(tensor.shape[1:]))
        if max(tap.grid) > 1:
            block = id(module) in rows and next(module.children(), None) is not None
            events.append(_Event(len(events), tap, block))

    def end(_module: nn.Module, _args: Any, output: Any) -> None:
        tensor = _tensor(output)
        shapes.append(() if tensor is None else tuple(tensor.shape[1:]))

    handles = [model.register_forward_hook(end)]
    for name, module in modules.items():
        if name:
            handles.append(module.register_forward_hook(lambda m, _a, out, name=name: see(name, m, out)))
    try:
        with torch.no_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    return [event for event in events if event.tap.shape != shapes[0]]


def _grids(events: Sequence[_Event]) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(event.tap.grid for event in events))


def _tensor(output: Any) -> Tensor | None:
    """A module's output, or the first of several."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) else None
