"""The ladder `auto`: what an expert with a stopwatch would climb next, read from cards, verdicts and forecasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from boildown.domain.front import GOALS
from boildown.domain.outcome import State
from boildown.engine.attempt import Attempt
from boildown.engine.diagnosis import Diagnosis, diagnose
from boildown.engine.forecast import Forecast, unknown
from boildown.engine.job import Job
from boildown.engine.rung import Rung, parse_rung
from boildown.methods.base import Method, by_costs, settings_of
from boildown.methods.registry import installed

_OFF, _MARGIN, _CORRECTIONS = 0.25, 0.97, 2
"""How far sketches may be off, what a corrected ratio keeps below that, and how often a chain's is corrected."""
_DOWN, _NEAR, _LEAST = 0.75, 1.1, 0.05
"""For the smallest or fastest: the step to a smaller ratio, how near a good and a bad one come, and where it ends."""


@dataclass(frozen=True)
class _Proposal:
    """A rung with the reason for it. excess: how far the quality of what it mends was missed."""

    rung: Rung
    reason: str
    excess: float = 0.0


class Auto:
    """Every installed method that lowers something the target asks for, and the chains that the misses call for.

    Four stages, cheap ones first: methods that keep every layer and need no training; parts out without training,
    alone and quantized, where nothing before met the costs; the same two with training. Within the first, the
    method whose card answers the last miss best comes first. In the others every open rung is sketched, and the
    one that keeps most of the network while it meets the costs comes first; what is trained first is what was
    nearest in quality without. Settings that compress harder are climbed only where gentler ones missed a cost.
    For the goals `smallest` and `fastest` a chain that met the target is climbed again with less left, until quality
    is missed, and then in between.
    """

    skips = True

    def __init__(self, job: Job, forecast: Callable[[Rung], Forecast] = unknown) -> None:
        self._job, self._forecast = job, forecast
        self._pushes = job.goal in ("smallest", "fastest")
        self._asked = {condition.metric for condition in job.target.conditions} - job.quality
        self._asked |= {GOALS[job.goal]} if job.goal in GOALS else set()
        self._methods = [m for m in installed().values() if not self._asked or self._asked & set(m.card.lowers)]
        self._usual = [Rung((method(),)) for method in self._methods]
        self._harder = [Rung((method(**method.card.harder),)) for method in self._methods if method.card.harder]

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """Every method alone, with harder settings, and what takes parts out with a quantization behind."""
        whole = [rung for rung in (*self._usual, *self._harder) if not _takes_out(rung)]
        partner = next((rung.methods for rung in whole if rung.methods[0].card.needs == ("calibration",)), ())
        parts = [Rung((*rung.methods, *partner)) for rung in self._usual if _takes_out(rung)]
        return tuple(sorted((*whole, *parts), key=lambda rung: (_trains(rung), _takes_out(rung))))

    def next(self, attempts: Sequence[Attempt]) -> tuple[Rung, str] | None:
        """The open rung to climb now, and why."""
        tried = {attempt.rung for attempt in attempts} | {attempt.settled for attempt in attempts}
        diagnosis, last = self._diagnosis(attempts)
        for trains in (False, True):
            whole = [p for p in self._whole(attempts, diagnosis, last) if _trains(p.rung) == trains]
            if found := next((p for p in whole if str(p.rung) not in tried), None):
                return found.rung, found.reason
            parts = [p for p in self._parts(attempts, diagnosis, trains) if str(p.rung) not in tried]
            forecasts = {p: self._forecast(p.rung) for p in parts if _trains(p.rung) == trains}
            open_ = [p for p, forecast in forecasts.items() if str(forecast.rung) not in tried]
            if open_:
                best = min(open_, key=lambda p: _order(p, forecasts[p]))
                return best.rung, best.reason
        return None

    def ends(self, attempts: Sequence[Attempt]) -> bool:
        """Nobody knows before the verdict."""
        return False

    def _diagnosis(self, attempts: Sequence[Attempt]) -> tuple[Diagnosis | None, Method | None]:
        """What the last verdict that missed asks for, and the method it was about."""
        judged = [a for a in attempts[1:] if a.state is State.MISSED and a.verdict is not None]
        if not judged:
            return None, None
        assert judged[-1].verdict is not None
        found = diagnose(judged[-1].verdict, self._job.quality, judged[-1].probe)
        return found, parse_rung(judged[-1].rung).methods[-1]

    # -- methods that keep every layer -------------------------------------------------------------------

    def _whole(
        self, attempts: Sequence[Attempt], diagnosis: Diagnosis | None, last: Method | None
    ) -> Iterator[_Proposal]:
        """Quantization and the like, best answer first; harder settings after a gentler miss of a cost."""
        usual = [rung for rung in self._usual if not _takes_out(rung)]
        if diagnosis is None or last is None:
            scores = dict.fromkeys(usual, 0)
            reason = "the cheapest method that lowers what the target asks for"
        else:
            scores = {rung: diagnosis.suits(rung.methods[-1].card, last.card) for rung in usual}
            reason = f"after {last.card.name}: {diagnosis.sentence}"
        for rung in self._harder:
            card = rung.methods[-1].card
            if not _takes_out(rung) and self._too_gentle(attempts) & {card.name, *card.recovers}:
                scores[rung] = 1 + max(scores.values(), default=0)
        for rung in sorted(scores, key=lambda rung: -scores[rung]):
            yield _Proposal(rung, reason)

    # -- methods that take parts out, and chains ---------------------------------------------------------

    def _parts(self, attempts: Sequence[Attempt], diagnosis: Diagnosis | None, trains: bool) -> Iterator[_Proposal]:
        """Parts out, alone and before a quantization, and what trains in the place of what lost too much."""
        if trains:
            yield from self._mended(attempts)
        told = diagnosis.sentence if diagnosis is not None else "nothing that keeps every layer is left to try"
        judged = [attempt for attempt in attempts[1:] if attempt.verdict is not None]
        room = any(self._missed_a_cost(attempt) and not self._missed_quality(attempt) for attempt in judged)
        if not trains and self._job.goal == "first" and any(map(self._fits, judged)) and not room:
            return  # costs are met and quality is not: taking out more can only lose more
        yield from self._corrected(attempts)
        if self._pushes:
            yield from self._explored(attempts)
        rungs = [rung for rung in self._usual if _takes_out(rung)]
        too_gentle = self._too_gentle(attempts)
        rungs += [rung for rung in self._harder if _takes_out(rung) and _names(rung) & too_gentle]
        for rung in rungs:
            if rung.methods[0].card.trains == trains:
                partners = [] if rung.methods[-1].card.terminal else self._partners(attempts)
                for partner in partners or ((),):
                    yield _Proposal(Rung((*rung.methods, *partner)), f"{told}; fewer parts are needed")

    def _corrected(self, attempts: Sequence[Attempt]) -> Iterator[_Proposal]:
        """Chains that missed a cost by no more than sketches may be off: once more, with a ratio smaller by as much."""
        for attempt in attempts[1:]:
            over = self._over(attempt)
            again = sum(_links(other) == _links(attempt) for other in attempts[1:] if other.verdict is not None)
            if not 0 < over <= _OFF or again > _CORRECTIONS:
                continue
            methods = parse_rung(attempt.settled).methods
            smaller = tuple(_smaller(method, over) for method in methods)
            if smaller != methods:
                yield _Proposal(Rung(smaller), f"{attempt.rung} missed by {over:.0%}: its ratio was a little too large")

    def _explored(self, attempts: Sequence[Attempt]) -> Iterator[_Proposal]:
        """Chains that met the costs, at a ratio where quality may hold: below all that met, above what did not."""
        chains: dict[tuple[str, ...], list[tuple[Attempt, float]]] = {}
        for attempt in attempts[1:]:
            if self._fits(attempt) and (ratio := _ratio(parse_rung(attempt.settled))):
                chains.setdefault(_links(attempt), []).append((attempt, ratio))
        for found in chains.values():
            best, good = min(
                (each for each in found if each[0].state is State.MET), key=lambda each: each[1], default=(None, 1.0)
            )
            bad = max((ratio for attempt, ratio in found if attempt is not best and ratio < good), default=0.0)
            new = round((good * bad) ** 0.5 if bad else _DOWN * good, 3)
            if (best is None and not bad) or new < _LEAST or (bad and good / bad < _NEAR):
                continue
            methods = parse_rung((best or found[0][0]).settled).methods
            told = (
                f"above a ratio of {bad:g} quality may hold" if bad else "it met the target: with less left it may too"
            )
            yield _Proposal(Rung(tuple(_with_ratio(method, new) for method in methods)), told)

    def _mended(self, attempts: Sequence[Attempt]) -> Iterator[_Proposal]:
        """Chains that met the costs and missed quality, with a link that trains in the place of one or behind it."""
        for attempt in attempts[1:]:
            if attempt.verdict is None or not self._fits(attempt) or attempt.state is not State.MISSED:
                continue
            methods, excess = parse_rung(attempt.settled).methods, attempt.verdict.excess
            if any(by_costs(method) for method in methods):
                continue  # made in an earlier run: the ratio that was found is not known here
            reason = f"the costs are met by {attempt.rung}: recover its quality"
            for position, link in enumerate(methods):
                for healer in installed().values():
                    card, before, after = healer.card, methods[:position], methods[position + 1 :]
                    if not card.trains or card.name in _names(attempt) or (card.terminal and after):
                        continue
                    if link.card.name in card.recovers:
                        rung = Rung((*before, _alike(healer(), link), *after))
                        if _takes_out(rung):
                            yield _Proposal(rung, reason, excess)
                    if link.card.name in card.continues and not (link.card.terminal or card.terminal):
                        yield _Proposal(Rung((*before, link, healer(), *after)), reason, excess)

    def _partners(self, attempts: Sequence[Attempt]) -> list[tuple[Method, ...]]:
        """Quantizations to put behind, of those whose quality held or that were never made: the first, and the smallest
        where size is asked for."""
        found: list[tuple[Attempt, Rung]] = []
        for attempt in attempts[1:]:
            rung = parse_rung(attempt.settled)
            made = attempt.verdict is not None or (attempt.state is State.SKIPPED and attempt.quote.get("size"))
            known = any(rung == other for _, other in found)
            if made and not known and not _takes_out(rung) and not self._missed_quality(attempt):
                found.append((attempt, rung))
        smallest = [min(found[1:], key=lambda pair: _size(pair[0]))] if found[1:] and "size" in self._asked else []
        return [rung.methods for _, rung in (*found[:1], *smallest)]

    # -- what verdicts and forecasts said ----------------------------------------------------------------

    def _too_gentle(self, attempts: Sequence[Attempt]) -> set[str]:
        """The methods of attempts that missed a cost; for the smallest and the fastest of those that met, too."""
        return {
            name
            for attempt in attempts[1:]
            if self._missed_a_cost(attempt) or (self._pushes and attempt.state is State.MET)
            for name in _names(attempt)
        }

    def _missed(self, attempt: Attempt) -> set[str]:
        """The metrics that an attempt missed, by its verdict or by its forecast."""
        if attempt.verdict is not None:
            return set(attempt.verdict.missed)
        forecast = attempt.quote.get("misses", ()) if attempt.state is State.SKIPPED else ()
        return set(forecast)

    def _over(self, attempt: Attempt) -> float:
        """How far the worst cost was missed when it was measured, relative; 0 where none was."""
        findings = () if attempt.verdict is None else attempt.verdict.findings
        missed = self._missed(attempt) - self._job.quality
        return max((finding.excess for finding in findings if finding.condition.metric in missed), default=0.0)

    def _missed_a_cost(self, attempt: Attempt) -> bool:
        return bool(self._missed(attempt) - self._job.quality)

    def _missed_quality(self, attempt: Attempt) -> bool:
        return bool(self._missed(attempt) & self._job.quality)

    def _fits(self, attempt: Attempt) -> bool:
        """Whether it was measured and met every condition on costs."""
        return attempt.verdict is not None and not self._missed_a_cost(attempt)


def _order(proposal: _Proposal, forecast: Forecast) -> tuple[Any, ...]:
    """What may meet the costs, and is known to, before what cannot; then what was nearest in quality and keeps most."""
    doubt = bool(forecast.misses), not forecast.costs
    return *doubt, proposal.excess or float("inf"), -round(forecast.left, 2), proposal.rung.minutes


def _takes_out(rung: Rung) -> bool:
    """Whether some link lowers what is counted: parts of the network go."""
    return bool(rung.lowers & {"macs", "params"})


def _trains(rung: Rung) -> bool:
    return any(method.card.trains for method in rung.methods)


def _names(of: Attempt | Rung) -> set[str]:
    rung = of if isinstance(of, Rung) else parse_rung(of.rung)
    return {method.card.name for method in rung.methods}


def _links(of: Attempt) -> tuple[str, ...]:
    return tuple(method.card.name for method in parse_rung(of.rung).methods)


def _smaller(method: Method, over: float) -> Method:
    """The same method with its ratio smaller by as much as a cost was missed; as it is where it has none."""
    return _with_ratio(method, round(_MARGIN * (_ratio(Rung((method,))) or 0.0) / (1 + over), 3))


def _with_ratio(method: Method, ratio: float) -> Method:
    """The same method with another ratio; as it is where it has none."""
    return replace(method, ratio=ratio) if _ratio(Rung((method,))) else method  # type: ignore[type-var]


def _ratio(rung: Rung) -> float | None:
    """The ratio of what a rung takes out, of the first link that has one; None where it has none or it is searched."""
    ratios = (getattr(method, "ratio", None) for method in rung.methods if "ratio" in method.card.shape)
    return next((float(ratio) for ratio in ratios if ratio), None)


def _size(attempt: Attempt) -> float:
    found = attempt.measurements.get("size")
    return float((found.ratio if found else attempt.quote["size"]["ratio"]) or 1.0)


def _alike(method: Method, other: Method) -> Method:
    """A method set to make its candidates as small as another's."""
    shared = set(method.card.shape) & set(other.card.shape)
    return replace(method, **{name: value for name, value in settings_of(other).items() if name in shared})  # type: ignore[type-var]
