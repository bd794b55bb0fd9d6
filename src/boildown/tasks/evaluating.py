"""An evaluation of the user's own: what it returns, by name, and which way is better."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch

from boildown.domain.grammar import FRACTION, unit_of
from boildown.errors import InputError, Mistake
from boildown.tasks.metrics import METRICS, metric, nameless

Evaluate = Callable[..., Any]
"""`evaluate(model)` or `evaluate(model, indices)` gives a number, or numbers by name."""

ALONE = "score"
"""What a number is called that nobody has named."""

INDICES = "indices"
_DIRECTIONS = {"higher": True, "lower": False}


@dataclass
class Evaluated:
    """A number that an evaluation returns; assumed: nobody has said that higher is better."""

    name: str
    higher_is_better: bool = True
    unit: str = ""
    range: tuple[float, float] = (-math.inf, math.inf)
    assumed: bool = False
    decomposable: bool = False

    @property
    def open(self) -> bool:
        """Whether nothing is said of its unit and range."""
        return not self.unit and self.range == (-math.inf, math.inf)

    def bounded(self, unit: str) -> Evaluated:
        """The same, of which a target says no more than the unit of its bound: in % or pp it is a share."""
        return replace(self, unit=FRACTION, range=(0.0, 1.0)) if unit in ("%", "pp") else self

    def statistic(self, output: Any, target: Any) -> Any:
        """None: nothing is known of single samples."""
        raise TypeError(f"{self.name} is evaluated as a whole.")

    def compute(self, statistics: Any) -> float:
        """None, as of `statistic`."""
        raise TypeError(f"{self.name} is evaluated as a whole.")


def parted(
    metrics: Any, evaluate: Evaluate | None, usual: Sequence[str]
) -> tuple[tuple[Any, ...], tuple[Evaluated, ...]]:
    """(the metrics of single samples, those that `evaluate` returns) of what a task is given as its metrics.

    usual: those where none are given and nothing is evaluated. Raises InputError for what cannot be meant.
    """
    if evaluate is not None and not callable(evaluate):
        raise InputError.of(
            f"evaluate = {evaluate!r:.80} cannot be called.", "Give a function: evaluate(model) -> number."
        )
    if metrics is None:
        return (tuple(usual) if evaluate is None else ()), ()
    if isinstance(metrics, Mapping):
        if evaluate is None:
            raise InputError.of(
                f"metrics = {dict(metrics)!r:.80} says what evaluate returns, and there is no evaluate.",
                "Give evaluate=, or metrics as a list.",
            )
        return (), _declared(metrics)
    given = tuple(metrics) if isinstance(metrics, list | tuple) else (metrics,)
    if evaluate is None:
        return given, ()
    named = [each for each in given if isinstance(each, str) and each not in METRICS]
    return tuple(each for each in given if each not in named), _declared(dict.fromkeys(named))


def assumed(name: str, unit: str = "") -> Evaluated:
    """A number of which a target says no more than its name, and the unit of its bound: a shipped metric's where it is
    called so, else one of which higher is better, a share where the bound is in % or pp."""
    if name in METRICS:
        known = metric(name)
        return Evaluated(name, known.higher_is_better, unit_of(known), known.range)
    return Evaluated(name, assumed=True).bounded(unit)


def _declared(metrics: Mapping[Any, Any]) -> tuple[Evaluated, ...]:
    """What names and directions, or metrics in their place, say. Raises InputError with every mistake."""
    found, mistakes = [], list[Mistake]()
    for name, said in metrics.items():
        mistakes += nameless(name)
        usual = assumed(str(name))
        if said is None:
            found.append(usual)
        elif isinstance(said, str) and said in _DIRECTIONS:
            higher = _DIRECTIONS[said]
            same = not usual.assumed and usual.higher_is_better == higher
            found.append(usual if same else Evaluated(str(name), higher))
        elif isinstance(said, str) and said in METRICS:
            known = assumed(said)
            found.append(Evaluated(str(name), known.higher_is_better, known.unit, known.range))
        elif isinstance(getattr(said, "higher_is_better", None), bool | np.bool_):
            low, high = getattr(said, "range", (-math.inf, math.inf))
            unit = unit_of(said) if hasattr(said, "range") and hasattr(said, "unit") else getattr(said, "unit", "")
            found.append(Evaluated(str(name), bool(said.higher_is_better), unit, (float(low), float(high))))
        else:
            cure = 'Say "higher" or "lower", the name of a shipped metric, or give an object with higher_is_better.'
            mistakes.append(Mistake(f"metrics says {said!r:.60} of {name!r:.60}.", cure))
    if mistakes:
        raise InputError(*mistakes)
    return tuple(found)


def takes_indices(evaluate: Evaluate) -> bool:
    """Whether an evaluation can be asked for some of the samples."""
    try:
        return INDICES in inspect.signature(evaluate).parameters
    except (TypeError, ValueError):  # a builtin that does not tell
        return False


def values_of(returned: Any, names: Sequence[str]) -> dict[str, float]:
    """The numbers by name of what an evaluation returned, `names` among them; what else is no number is left out.

    names: that the target or the task say of it. Raises InputError where one of these is no finite number.
    """
    if not isinstance(returned, Mapping):
        if len(names) > 1:
            raise InputError.of(
                f"evaluate returned one {_kind(returned)}, and the target names {', '.join(names)}.",
                "Return them by name: {" + ", ".join(f'"{name}": ...' for name in names) + "}.",
            )
        returned = {names[0] if names else ALONE: returned}
    if not returned:
        raise InputError.of("evaluate returned no number.", 'Return a number, or numbers by name: {"map": 0.42}.')
    mistakes, found = dict[str, Mistake](), dict[str, float]()
    for name, value in returned.items():
        number = _number(value)
        if number is not None and math.isfinite(number) and not nameless(name):
            found[name] = number
        elif number is None:
            shown = f"{value!r:.60}" if isinstance(value, str) else f"a {_kind(value)}"
            mistakes[name] = Mistake(f"evaluate returned {shown} as {name!s:.60}, no number.", "Return a float.")
        else:
            cure = "Look at what it computes for this model: an empty mean, or a division by zero."
            mistakes[name] = [*nameless(name), Mistake(f"evaluate returned {number} as {name!s:.60}.", cure)][0]
    if wrong := [mistake for name, mistake in mistakes.items() if name in names or not found]:
        raise InputError(*wrong)
    if missing := [name for name in names if name not in found]:
        folded = {str(name).casefold(): str(name) for name in returned}
        near = difflib.get_close_matches(missing[0].casefold(), folded, n=1)
        guess = f"Did you mean {folded[near[0]]!r}? " if near else ""
        scored = [name for name in missing if name in METRICS]
        own = f"; with metrics={scored} boildown scores {', '.join(scored)} itself" if scored else ""
        raise InputError.of(
            f"evaluate returned {', '.join(map(str, returned))}, and not {', '.join(missing)}.",
            f"{guess}Let it return what the target and metrics= name, of every model{own}.",
        )
    return found


def _number(value: Any) -> float | None:
    """A number of Python, NumPy or PyTorch, also as an array of one; None for anything else."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        one = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        value = one.item() if one.size == 1 else None
    return None if isinstance(value, bool) or not isinstance(value, Real) else float(value)


def _kind(value: Any) -> str:
    shape = f" of shape {tuple(value.shape)}" if getattr(value, "shape", ()) else ""
    return f"{type(value).__name__}{shape}"
