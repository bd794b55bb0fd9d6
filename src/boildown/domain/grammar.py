"""The words of a target: text to conditions, conditions and values to text.

    METRIC [drop] (<=|<|>=|>) NUMBER [UNIT]

A metric is one of the task's own, one that holds the outputs against the first model's (agreement, divergence), or a
cost (size, latency, throughput, memory, ...), whose name may have two words: `latency p95`. One of quality may be that
of a slice or of another data set (`names`). `x` is a ratio to the first model, `drop` how much worse than the first
model, `pp` percentage points.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from types import MappingProxyType
from typing import cast

from boildown.domain.measurement import MARK, Form, Measurement
from boildown.domain.names import WORST, hidden, name_of, resolved, written
from boildown.domain.names import base_of as base_of  # part of the grammar
from boildown.domain.names import set_of as set_of
from boildown.domain.target import Condition, Operator, Target
from boildown.domain.task import Metric
from boildown.errors import InputError, Mistake, TargetError

RATE = "samples/s"
COSTS: Mapping[str, str] = {
    "size": "B", "latency": "s", "memory": "B", "params": "params", "macs": "MACs",
    "latency p95": "s", "latency p99": "s", "throughput": RATE, "load time": "s", "planned memory": "B",
}  # fmt: skip
"""What every artifact costs, and the base unit it is measured in; lower is better, but for those in `LARGER`."""

LARGER = frozenset({"throughput"})
"""The costs that should be large."""

FOLLOWS: Mapping[str, str] = {
    "latency p95": "latency", "latency p99": "latency", "throughput": "latency", "load time": "size",
    "planned memory": "memory",
}  # fmt: skip
"""Costs that improve where another falls: methods say of those others that they lower them."""

FRACTION = "fraction"
"""The unit of a metric between 0 and 1: values are shown in %, drops in pp."""

_DECIMAL: Mapping[str, Mapping[str, str]] = {
    "B": {"GB": "1e9", "MB": "1e6", "kB": "1e3", "B": "1"},
    "s": {"s": "1", "ms": "1e-3", "us": "1e-6"},
    "params": {"G": "1e9", "M": "1e6", "k": "1e3", "": "1"},
    "MACs": {"G": "1e9", "M": "1e6", "k": "1e3", "": "1"},
    RATE: {RATE: "1"},
}
_BINARY = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
_PERCENT = {"%": Decimal("0.01"), "pp": Decimal("0.01")}
_ALIASES = {RATE: ("/s", "")}
"""Other ways to write a unit that is alone of its kind."""
_NEVER_GROWS = ("size", "params", "macs")

_CONDITION = re.compile(
    r"(?P<subject>[^<>=≤≥]*)(?P<operator><=|>=|[<>≤≥])\s*"
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf(?:inity)?)\b)"
    r"\s*(?P<unit>.*?)\s*",
    re.DOTALL | re.IGNORECASE,
)
_BETWEEN = re.compile(r"(?:\s*[,;&]\s*|\s+and\s+)(?=[^\s<>=≤≥,;&]+[^<>=≤≥,;&]*[<>=≤≥])", re.IGNORECASE)
"""What stands between two conditions: each has an operator of its own."""
_SHOWN = 4
_ALSO = {
    "acc": "accuracy", "top1": "accuracy", "flops": "macs", "flop": "macs", "mac": "macs", "parameters": "params",
    "weights": "params", "ram": "memory", "time": "latency", "speed": "latency", "bytes": "size", "disk": "size",
    "p95": "latency p95", "p99": "latency p99", "p95 latency": "latency p95", "p99 latency": "latency p99",
    "median latency": "latency", "latency p50": "latency", "fps": "throughput", "qps": "throughput",
    "samples per second": "throughput", "loading time": "load time", "startup": "load time", "loading": "load time",
    "load": "load time", "peak memory": "memory", "arena": "planned memory", "activations": "planned memory",
    "calibration error": "ece", "log loss": "nll", "kl": "divergence",
}  # fmt: skip
"""What people call the metrics, besides their names."""
_EXAMPLE = "METRIC [drop] (<=|<|>=|>) NUMBER [UNIT], for example `accuracy drop <= 1 pp` or `size <= 0.25x`"


def unit_of(metric: Metric) -> str:
    """The unit a metric's values are stored and shown in: `fraction` for a metric between 0 and 1."""
    return FRACTION if metric.unit in ("", "%") and tuple(metric.range) == (0, 1) else metric.unit


def parse_target(
    texts: Sequence[str],
    metrics: Sequence[Metric],
    *,
    slices: Mapping[str, Sequence[str]] = MappingProxyType({}),
    sets: Sequence[str] = (),
) -> Target:
    """Read conditions; bounds come out in base units (bytes, seconds, counts, the metric's own unit).

    metrics: the task's own. slices: what tells slices apart, with its values. sets: the names of other data sets and
    corruptions. Raises TargetError with every mistake in every condition, each with its cure.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise TargetError(Mistake("The target has no condition.", f"Give at least one: {_EXAMPLE}."))
    known = {name: _Quantity(name, unit, name in LARGER, cost=True) for name, unit in COSTS.items()}
    known |= {m.name: _Quantity(m.name, unit_of(m), m.higher_is_better, tuple(m.range)) for m in metrics}
    conditions: list[Condition] = []
    mistakes: list[Mistake] = []
    for text in texts:
        try:
            conditions.append(_condition(text, known, slices, sets))
        except InputError as error:  # slices are read when they are named
            mistakes.extend(error.mistakes)
    mistakes.extend(_doubled(conditions))
    if mistakes:
        raise TargetError(*mistakes)
    return Target(tuple(conditions))


def unknown_names(texts: Sequence[str], metrics: Sequence[Metric]) -> dict[str, str]:
    """The metrics that conditions name and nobody here has, nor one that may be meant, each with the unit of its bound.

    metrics: those that are known. What cannot be read names nothing.
    """
    known = {name: _Quantity(name, unit, cost=True) for name, unit in COSTS.items()}
    known |= {metric.name: _Quantity(metric.name, unit_of(metric)) for metric in metrics}
    folded, found = {name.casefold() for name in known}, dict[str, str]()
    for text in [texts] if isinstance(texts, str) else texts:
        read = _CONDITION.fullmatch(hidden(text)) if isinstance(text, str) else None
        name = None if read is None else name_of(_subject(text[: read.end("subject")])[0])
        if read is None or name is None or len(name.base.split()) != 1 or name.base.casefold() in folded:
            continue
        if not _near(name.base, {metric: known[metric] for metric in COSTS}):
            found.setdefault(name.base, text[slice(*read.span("unit"))])
    return found


def describe(condition: Condition) -> str:
    """The canonical text of a condition, exact: reading it gives the same condition back.

    A condition on a task's metric keeps the unit that its present text is written in.
    """
    drop = " drop" if condition.form == "drop" else ""
    return f"{condition.metric}{drop} {condition.operator} {_bound(condition)}"


def relaxed(condition: Condition, value: float) -> Condition:
    """The condition with its bound moved to let `value` in, rounded outward (two digits; three for values).

    The operator becomes the one that includes its bound.
    """
    upper = condition.operator in ("<=", "<")
    exact = Decimal(repr(value))
    digits = 3 if condition.form == "value" else 2
    step = Decimal(1).scaleb(exact.adjusted() - digits + 1) if exact else Decimal(1)
    rounded = exact.quantize(step, rounding=ROUND_CEILING if upper else ROUND_FLOOR)
    moved = replace(condition, operator="<=" if upper else ">=", bound=float(rounded))
    return replace(moved, text=describe(moved))


def format_value(value: float, unit: str, form: Form = "value") -> str:
    """A number for people: '1.16 MB', '0.79 ms', '93.40 %', '-0.33 pp', '0.26x'.

    value: in base units. unit: a base unit, the unit of a metric, or the name of a cost.
    """
    unit = COSTS.get(unit, unit)
    if not math.isfinite(value):
        return str(value)
    if form == "ratio":
        return f"{value:.3g}x"
    if unit == FRACTION:
        # Adding zero turns a rounded -0.0 into 0.0.
        return f"{round(100 * value, 2) + 0.0:.2f} {'pp' if form == 'drop' else '%'}"
    if unit in _DECIMAL:
        shown, factor = _scale(unit, abs(value))
        number = value / float(factor)
        if unit not in ("s", RATE) and factor == 1:
            return f"{number:.0f} {shown}".strip()
        return f"{number:.{2 if abs(number) < 100 else 1}f} {shown}"
    return f"{value:.4g} {unit}".strip()


def format_measurement(measurement: Measurement, form: Form = "value") -> str:
    """What a measurement shows in this form, for people, marked if noisy; 'not measured' where it has none."""
    value = measurement.observed(form)
    unit = COSTS.get(measurement.metric, measurement.unit)
    return "not measured" if value is None else marked(format_value(value, unit, form), noisy=measurement.noisy)


def marked(shown: str, *, noisy: bool) -> str:
    """A figure for people, with the mark behind it if it is noisy."""
    return f"{shown} {MARK}" if noisy else shown


def says_nothing(condition: Condition) -> bool:
    """Whether the first model meets the condition by construction (`size <= 2x`)."""
    return condition.form == "ratio" and condition.metric in _NEVER_GROWS and condition.bound > 1


@dataclass(frozen=True)
class _Quantity:
    """What may be said about one metric."""

    name: str
    unit: str
    higher_is_better: bool = False
    range: tuple[float, ...] = (0.0, math.inf)
    cost: bool = False

    @property
    def may_use_points(self) -> bool:
        return self.unit == FRACTION or (self.unit == "" and self.range[1] == 1)

    def units(self, form: Form) -> dict[str, Decimal]:
        """The units of a value or a drop, and their size in the base unit."""
        if self.cost:
            units = {unit: Decimal(size) for unit, size in _DECIMAL[self.unit].items()}
            if self.unit == "B":
                units |= {unit: Decimal(size) for unit, size in _BINARY.items()}
            return units | dict.fromkeys(_ALIASES.get(self.unit, ()), Decimal(1))
        units = {"": Decimal(1)}
        if self.unit != FRACTION:
            units[self.unit] = Decimal(1)
        if form == "drop" and self.may_use_points:
            units["pp"] = _PERCENT["pp"]
        if form == "value" and self.unit == FRACTION:
            units["%"] = _PERCENT["%"]
        return units

    def canonical_unit(self, form: Form) -> str:
        """The unit that a condition on a task's metric is written in."""
        if self.unit == FRACTION:
            return "pp" if form == "drop" else "%"
        return self.unit


def _condition(
    text: object, known: Mapping[str, _Quantity], slices: Mapping[str, Sequence[str]], sets: Sequence[str]
) -> Condition:
    """One condition from its text. Raises TargetError."""
    if not isinstance(text, str):
        raise TargetError(Mistake(f"A condition is {type(text).__name__}, not text.", f"Write it as {_EXAMPLE}."))
    shown = f"`{' '.join(text.split())[:80]}`"
    several = _parts(text)
    if len(several) > 1:
        told = ", ".join(f'"{part[:80]}"' for part in several[:_SHOWN])
        raise TargetError(
            Mistake(f"{shown} holds {len(several)} conditions.", f"Give each as a text of its own: [{told}].")
        )
    if not text.strip():
        raise TargetError(Mistake("A condition is empty.", f"Write {_EXAMPLE}, or leave it out."))
    found = _CONDITION.fullmatch(hidden(text))
    name, drop = ("", False) if found is None else _subject(text[: found.end("subject")])
    if found is None or not (name or drop):
        raise TargetError(Mistake(f"{shown} cannot be read.", f"Write {_EXAMPLE}."))
    if not name:
        raise TargetError(Mistake(f"{shown} does not say which metric drops.", f"Write {_EXAMPLE}."))
    quantity = _named(name, shown, known, slices, sets)
    read = _Read(
        shown,
        quantity,
        drop,
        cast(Operator, found["operator"].replace("≤", "<=").replace("≥", ">=")),
        _number(found["number"]),
        text[slice(*found.span("unit"))].replace("µ", "u").replace("μ", "u"),
    )
    mistakes = [*read.direction(), *read.number_and_unit()]
    if mistakes:
        raise TargetError(*mistakes)
    unit = "x" if read.form == "ratio" else quantity.canonical_unit(read.form)
    condition = Condition(
        quantity.name, read.form, read.operator, read.bound, f"{quantity.name} {read.operator} 0 {unit}"
    )
    return replace(condition, text=describe(condition))


def _parts(text: str) -> list[str]:
    """The conditions that stand in one text."""
    between = [found.span() for found in _BETWEEN.finditer(hidden(text))]
    starts, ends = [0, *(end for _, end in between)], [*(start for start, _ in between), len(text)]
    parts = (text[start:end].strip() for start, end in zip(starts, ends, strict=True))
    return [part for part in parts if part]


def _subject(text: str) -> tuple[str, bool]:
    """(the name before the operator, whether its drop is meant)."""
    text = text.strip()
    return (text[:-4].strip(), True) if hidden(text).split()[-1:] == ["drop"] else (text, False)


def _named(
    text: str, shown: str, known: Mapping[str, _Quantity], slices: Mapping[str, Sequence[str]], sets: Sequence[str]
) -> _Quantity:
    """The quantity of a name: a metric, or one of a slice or of another data set. Raises TargetError."""
    name, words = name_of(text), text.split()
    if re.search(r"\]\s*\[", text) if name is None else name.worst and "[" in name.base:
        cause = f"{shown} names two parts of the data, and one at a time is judged: slices are those of the main set."
        cure = "Name one, or make what you mean a data set of its own, validation={..., 'night-stop': ...}."
        raise TargetError(Mistake(cause, cure))
    if name is None or (len(name.base.split()) > 1 and name.base.casefold() not in map(str.casefold, known)):
        if words[0].casefold() == WORST and len(words) == 2:
            keys = ", ".join(map(written, slices)) or "KEY"
            cure = f"Write `{WORST} KEY METRIC ...`, such as `{WORST} class accuracy ...`; slices here are by {keys}."
            raise TargetError(Mistake(f"{shown} does not say of which slices it is the worst.", cure))
        meant = () if name is None else _near(name.base, known)
        raise TargetError(Mistake(f"{shown} cannot be read.", f"{_guess(meant)}Write {_EXAMPLE}."))
    quantity = _find(name.base, shown, known, lambda near: str(replace(name, base=near)))
    if not (name.key or name.within):
        return quantity
    if quantity.cost:
        cause = f"{shown}: {quantity.name} is that of the whole file, not of some samples."
        raise TargetError(Mistake(cause, f"Write `{quantity.name} ...` without the slice."))
    return replace(quantity, name=str(resolved(replace(name, base=quantity.name), shown, slices, sets)))


def _find(name: str, shown: str, known: Mapping[str, _Quantity], whole: Callable[[str], str] = str) -> _Quantity:
    """The metric of this name, in any case. Raises TargetError with near names."""
    folded = {other.casefold(): other for other in known}
    name = name if name in known else folded.get(name.casefold(), name)
    if name in known:
        return known[name]
    guess = _guess([whole(near) for near in _near(name, known)])
    raise TargetError(Mistake(f"{shown}: there is no metric {name[:40]!r}.", f"{guess}Known here: {', '.join(known)}."))


def _near(name: str, known: Mapping[str, _Quantity]) -> Sequence[str]:
    """The metrics that may be meant by a name that none has."""
    called, folded = name.casefold(), {other.casefold(): other for other in known}
    also = _ALSO.get(called)
    if also in known:
        return [str(also)]
    return [folded[near] for near in difflib.get_close_matches(called, folded, n=2, cutoff=0.7)]


def _guess(near: Sequence[str]) -> str:
    return f"Did you mean {' or '.join(f'`{name}`' for name in near)}? " if near else ""


@dataclass(frozen=True)
class _Read:
    """The parts of one condition, and what is wrong with them."""

    shown: str
    quantity: _Quantity
    drop: bool
    operator: Operator
    number: Decimal
    unit: str

    @property
    def form(self) -> Form:
        if self.drop:
            return "drop"
        return "ratio" if self.unit == "x" else "value"

    @property
    def text(self) -> str:
        """The number as the user may write it."""
        return _digits(self.number)

    @property
    def bound(self) -> float:
        """The bound in base units; the product is decimal so that 0.79 ms is 0.00079 s."""
        factor = Decimal(1) if self.form == "ratio" else self.quantity.units(self.form)[self.unit]
        return float(self.number * factor) + 0.0  # no negative zero

    def direction(self) -> Iterator[Mistake]:
        """A bound on the wrong side."""
        lower = self.operator in (">=", ">")
        name, better = self.quantity.name, self.quantity.higher_is_better and not self.drop
        if lower == better:
            return
        right = ("<" if lower else ">") + self.operator[1:]
        wish = "large" if better else "small"
        subject = f"a drop in {name}" if self.drop else name
        yield Mistake(
            f"{self.shown} bounds {subject} on the wrong side: it should be {wish}.",
            f"Write `{name}{' drop' if self.drop else ''} {right} {self.text}{self._spaced()}`.",
        )

    def number_and_unit(self) -> Iterator[Mistake]:
        """A number or a unit that cannot be meant."""
        name = self.quantity.name
        better, share = self.quantity.higher_is_better, self._share
        if not self.number.is_finite():
            yield Mistake(f"{self.shown}: the bound must be a finite number.", f"Write {_EXAMPLE}.")
        elif self.unit.startswith(","):
            yield Mistake(f"{self.shown}: a number has no comma.", "Write 0.5 for a half and 1000 for a thousand.")
        elif self.drop and self.quantity.cost:
            yield Mistake(
                f"{self.shown}: a cost has no drop.",
                f"Say how large it {'has to' if better else 'may'} be: `{name} {self._side()} {share}x` "
                f"({'twice' if better else 'half of'} the first model's), or with a unit.",
            )
        elif self.unit == "x":
            yield from self._ratio()
        elif self.unit == "" and self.quantity.cost and (self._needs_unit or 0 < self.number < 1):
            yield self._no_unit()
        elif self.unit not in self.quantity.units(self.form):
            yield self._unknown_unit()
        elif not math.isfinite(self.bound):
            yield Mistake(f"{self.shown}: the bound is too large to be a number.", f"Write {_EXAMPLE}.")
        elif self.quantity.cost:
            yield from self._cost()
        else:
            yield from self._quality()

    def _ratio(self) -> Iterator[Mistake]:
        name, text = self.quantity.name, self.text
        if self.drop:
            point = f" or `{name} drop <= 1 pp` (percentage points)" if self.quantity.may_use_points else ""
            yield Mistake(
                f"{self.shown}: a drop is a difference, `x` is a ratio.",
                f"Write `{name} {self._side()} {text}x` ({text} times the first model's){point}.",
            )
        elif not self.number > 0:
            yield Mistake(
                f"{self.shown}: a ratio must be above zero.",
                f"Write for example `{name} {self._side()} {self._share}x`.",
            )
        elif self.quantity.range[0] < 0:
            yield Mistake(f"{self.shown}: {name} may be negative, a ratio has no meaning.", "Use `drop`.")
        elif says_nothing(Condition(name, "ratio", self.operator, self.bound, "")):
            yield Mistake(
                f"{self.shown} holds for the first model itself (its {name} is 1x).",
                f"For {text} times smaller write `{name} <= {1 / self.number:.3g}x`.",
            )

    def _unknown_unit(self) -> Mistake:
        name, text, unit = self.quantity.name, self.text, self.unit[:20]
        if unit == "%" and self.quantity.cost:
            return Mistake(
                f"{self.shown}: % of what?",
                f"Write `{name} {self._side()} {_digits(self.number / 100)}x` for a share of the first.",
            )
        if unit == "%" and self.drop:
            better = self.quantity.higher_is_better
            share = 1 - self.number / 100 if better else 1 + self.number / 100
            ratio = f"`{name} {self._side()} {_digits(share)}x` ({text} % of the first model's value)"
            point = f"`{name} drop <= {text} pp` (percentage points)" if self.quantity.may_use_points else ""
            readings = [point] * bool(point) + [ratio] * (share > 0 and self.quantity.range[0] >= 0)
            cure = f"Write {' or '.join(readings)}." if readings else "Write the drop as a number."
            cause = "can be read in two ways" if len(readings) == 2 else "has no fixed meaning"
            return Mistake(f"{self.shown}: a drop in % {cause}.", cure)
        if unit == "pp" and self.quantity.may_use_points:
            return Mistake(
                f"{self.shown}: percentage points measure a difference.",
                f"Write `{name} drop <= {text} pp`, or the value itself.",
            )
        if unit == "KB":
            return Mistake(f"{self.shown}: KB can be read in two ways.", "Write kB (1,000 bytes) or KiB (1,024 bytes).")
        units = [u for u in (*self.quantity.units(self.form), "x") if u and not (u == "x" and self.drop)]
        same = [u for u in units if u.casefold() == unit.casefold()]
        guess = f"Did you mean {same[0]}? " if same else ""
        fits = ", ".join(units) or "no unit"
        return Mistake(f"{self.shown}: {name} is not measured in {unit!r}.", f"{guess}Fitting here: {fits}.")

    @property
    def _needs_unit(self) -> bool:
        return "" not in self.quantity.units(self.form)

    def _no_unit(self) -> Mistake:
        name, text = self.quantity.name, self.text
        unit = {"B": "MB", "s": "ms", RATE: RATE}.get(self.quantity.unit, "k")
        value = f"`{name} {self._side()} {text} {unit}`"
        ratio = f"`{name} {self._side()} {text}x` (of the first model's) or " if 0 < self.number <= 1 else ""
        return Mistake(f"{self.shown} has no unit.", f"Write {ratio}{value}.")

    def _cost(self) -> Iterator[Mistake]:
        if self.bound <= 0:
            name = self.quantity.name
            cure = f"Write for example `{name} {self._side()} {self._share}x`."
            yield Mistake(f"{self.shown}: {name} is always above zero.", cure)

    def _quality(self) -> Iterator[Mistake]:
        name, text = self.quantity.name, self.text
        low, high = self.quantity.range
        if self.drop:
            whole = max(abs(low), abs(high)) if self.unit == "" else high - low
            if self.bound < whole:
                return
            cause = f"{self.shown} always holds: a drop of {text}{self._spaced()} is the whole range of {name}."
            point = f"`{name} drop <= {text} pp`" if self.number < 100 else f"for example `{name} drop <= 1 pp`"
            point = point if self.quantity.may_use_points else "a smaller drop"
            yield Mistake(cause, f"Did you mean {point}?")
            return
        worst, best = (low, high) if self.quantity.higher_is_better else (high, low)
        if not low <= self.bound <= high:
            percent = self.quantity.unit == FRACTION and self.unit == "" and 1 < self.number <= 100
            guess = f"Did you mean `{name} {self.operator} {text} %`? " if percent else ""
            yield Mistake(
                f"{self.shown}: {name} lies between {low:g} and {high:g}.",
                f"{guess}Give a bound inside that range.",
            )
        elif self.bound == best and self.operator in ("<", ">"):
            yield Mistake(f"{self.shown} can never hold: {best:g} is the best there is.", "Ask for less.")
        elif self.bound == worst and self.operator in ("<=", ">="):
            yield Mistake(
                f"{self.shown} always holds: {worst:g} is the worst there is.",
                "Ask for more, or leave it out.",
            )

    def _spaced(self) -> str:
        return self.unit if self.unit in ("x", "") else f" {self.unit}"

    def _side(self) -> str:
        return ">=" if self.quantity.higher_is_better else "<="

    @property
    def _share(self) -> str:
        """A ratio that may be wished for."""
        return "2" if self.quantity.higher_is_better else "0.5"


def _doubled(conditions: Sequence[Condition]) -> Iterator[Mistake]:
    """Conditions of the same form on the same metric: all bound it from the same side."""
    groups: dict[tuple[str, Form], list[Condition]] = {}
    for condition in conditions:
        groups.setdefault((condition.metric, condition.form), []).append(condition)
    for group in groups.values():
        if len(group) > 1:
            upper = group[0].operator in ("<=", "<")
            # Of equal bounds the strict one is the tighter.
            tightest = min(group, key=lambda c: (c.bound if upper else -c.bound, len(c.operator)))
            named = " and ".join(f"`{c.text}`" for c in group)
            yield Mistake(f"{named} bound the same thing.", f"Keep one; the tighter is `{tightest.text}`.")


def _scale(unit: str, value: float | Decimal) -> tuple[str, Decimal]:
    """The unit in which a value reads well, and its size: the largest in which it is at least 1 (ms: 0.1)."""
    for shown, size in _DECIMAL[unit].items():
        factor = Decimal(size)
        if Decimal(value) >= factor * (Decimal("0.1") if shown == "ms" else 1):
            return shown, factor
    return shown, factor


def _bound(condition: Condition) -> str:
    """The bound as text, exact. Binary units only where decimal ones would be long-winded."""
    exact = Decimal(repr(condition.bound))
    if condition.form == "ratio":
        return f"{_digits(exact)}x"
    if condition.metric not in COSTS:
        found = _CONDITION.fullmatch(hidden(condition.text))
        unit = found["unit"] if found else ""
        return f"{_digits(exact / _PERCENT.get(unit, 1))} {unit}".strip()
    shown, factor = _scale(COSTS[condition.metric], exact)
    number = exact / factor
    if COSTS[condition.metric] == "B" and len(number.normalize().as_tuple().digits) > 3:
        for binary, size in _BINARY.items():
            if condition.bound % size == 0:
                return f"{_digits(Decimal(int(condition.bound) // size))} {binary}"
    return f"{_digits(number)} {shown}".strip()


def _number(text: str) -> Decimal:
    """The number exactly as written; what no float can hold becomes zero or infinite."""
    near = float(text)
    return Decimal(text) if math.isfinite(near) and near else Decimal(repr(near))


def _digits(number: Decimal) -> str:
    """A number without superfluous zeros; with an exponent only where it is very large or small."""
    number = number.normalize()
    return f"{number:f}" if -7 <= number.adjusted() <= 15 else str(number).lower()
