"""The ladder `auto`: what an expert with a stopwatch would climb next, read from cards, verdicts and forecasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from boildown.domain.front import GOALS
from boildown.domain.grammar import FOLLOWS
from boildown.domain.outcome import State
from boildown.engine.attempt import Attempt
from boildown.engine.choice import CHOICE, Option, best_met, expect, in_vain
from boildown.engine.diagnosis import Diagnosis, diagnose
from boildown.engine.experience import Earlier
from boildown.engine.forecast import Forecast, unknown
from boildown.engine.job import Job
from boildown.engine.rivals import may_gain, rivals
from boildown.engine.rung import Rung, parse_rung
from boildown.methods.base import Method, by_costs, levels, quantizes, settings_of
from boildown.methods.registry import installed

_OFF, _MARGIN, _CORRECTIONS = 0.25, 0.97, 2
"""How far sketches may be off, what a corrected ratio keeps below that, and how often a chain's is corrected."""
_DOWN, _NEAR, _LEAST = 0.75, 1.1, 0.05
"""For the smallest or fastest: the step to a smaller ratio, how near a good and a bad one come, and where it ends."""
_UNSUITED, _SURE, _UNSEEN, _WEAK = 0.1, 0.8, 0.5, 0.25
"""Chances: of a method that answers nothing, doubled with every point that it does, and at most; of parts out that were
not sketched yet, and by a method that lowers little of what was missed."""

Record = Callable[[str, Mapping[str, Any]], None]
Stage = Callable[[Sequence[Attempt], bool], Iterator[Option]]


@dataclass(frozen=True)
class Knowledge:
    """What may be asked about rungs, and where choices are told.

    forecast: with a sketch where that is worth it. guess: without one. earlier: what runs before this one teach.
    """

    forecast: Callable[[Rung], Forecast] = unknown
    guess: Callable[[Rung], Forecast] = unknown
    earlier: Callable[[], Earlier] = Earlier
    record: Record = lambda _kind, _data: None


class Auto:
    """Every installed method that lowers something the target asks for, and the chains that the misses call for.

    Four stages, cheap ones first: methods that keep every layer and need no training; parts out without training,
    alone and quantized, where nothing before met the costs; the same two with training. Within a stage the rung comes
    first that is expected to gain most per minute (`choice`). Its chance is the better, the better the method's card
    answers the last miss; the more of the network its sketch keeps; the nearer in quality the candidate was that it
    mends; and the more often it met in earlier runs. Settings that compress harder are climbed only where gentler
    ones missed a cost. For the goals `smallest` and `fastest` a chain that met the target is climbed again with less
    left, until quality is missed, and then in between; what by forecast is no better than what met is left out.

    Where the deployment names several runtimes, every one has such a ladder of its own, made of the attempts for it; of
    all that are open the next is chosen. A network that lost too much without being quantized is not tried in another.
    """

    skips = True

    def __init__(self, job: Job, knowledge: Knowledge = Knowledge()) -> None:
        self._job, self._known = job, knowledge
        self._pushes = job.goal in ("smallest", "fastest")
        asked = {condition.metric for condition in job.target.conditions} - job.quality
        self._asked = {FOLLOWS.get(metric, metric) for metric in asked}
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
        found = sorted((*whole, *parts), key=lambda rung: (_trains(rung), _takes_out(rung)))
        return tuple(rival for rung in found for rival in rivals(rung, self._job))

    def next(self, attempts: Sequence[Attempt]) -> tuple[Rung, str] | None:
        """The open rung to climb now, and why."""
        _, *others = self._job.deployment.runtimes
        for trains in (False, True):
            for stage in (self._whole, self._parts):
                options = [o for runtime in ("", *others) for o in self._open(stage, runtime, attempts, trains)]
                if (chosen := self._chosen(options, attempts)) is not None:
                    return chosen.rung, chosen.reason
        return None

    def _open(self, stage: Stage, runtime: str, attempts: Sequence[Attempt], trains: bool) -> Iterator[Option]:
        """What a stage has for a runtime, by the attempts that were made for it."""
        own = [attempt for attempt in attempts if not attempt.number or attempt.runtime == runtime]
        for option in stage(own, trains):
            rung = replace(option.rung, runtime=runtime)
            if _trains(rung) == trains and (not runtime or may_gain(rung, runtime, self._job)):
                yield replace(option, rung=rung)

    def _chosen(self, options: Sequence[Option], attempts: Sequence[Attempt]) -> Option | None:
        """The option that is expected to gain most per minute. Sketches are made only of those that come out on top."""
        tried = {attempt.rung for attempt in attempts} | {attempt.settled for attempt in attempts}
        options = [option for option in options if str(option.rung) not in tried]
        job, best = self._job, best_met(attempts, self._job)
        earlier, left_out = self._known.earlier() if options else Earlier(), dict[str, str]()
        open_ = {o: expect(o, self._known.guess(o.rung), job, best, earlier) for o in dict.fromkeys(options)}
        seen = set[Option]()
        while open_:
            top = max(open_, key=lambda option: open_[option].rate)
            if why := in_vain(open_[top].forecast, job, best):
                left_out[str(top.rung)] = why
            elif top not in seen:
                seen.add(top)
                open_[top] = expect(top, self._known.forecast(top.rung), job, best, earlier)
                continue
            elif why := self._lost(open_[top].forecast.rung, attempts):
                left_out[str(top.rung)] = why
            elif (settled := str(open_[top].forecast.rung)) not in tried:
                candidates = [each.to_json() for each in sorted(open_.values(), key=lambda each: -each.rate)]
                chosen = {"rung": str(top.rung), "reason": top.reason}
                self._known.record(CHOICE, {**chosen, "candidates": candidates, "left out": left_out})
                return top
            else:
                left_out[str(top.rung)] = f"{settled} was climbed already"
            del open_[top]
        if left_out:
            self._known.record(CHOICE, {"rung": None, "candidates": [], "left out": left_out})
        return None

    def _lost(self, rung: Rung, attempts: Sequence[Attempt]) -> str:
        """Why a float network is in vain: it lost too much in another runtime already; empty where it may not be."""
        if any(map(quantizes, rung.methods)):
            return ""
        elsewhere = [a for a in attempts[1:] if a.runtime != rung.runtime and self._missed_quality(a)]
        same = (a.rung for a in elsewhere if parse_rung(a.settled).methods == rung.methods)
        return next((f"the same network lost too much as {rival}" for rival in same), "")

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

    def _whole(self, attempts: Sequence[Attempt], _trains: bool) -> Iterator[Option]:
        """Quantization and the like; harder settings after a gentler miss of a cost."""
        diagnosis, last = self._diagnosis(attempts)
        usual = [rung for rung in self._usual if not _takes_out(rung) and self._may_do(rung.methods[0], attempts[0])]
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
            yield Option(rung, reason, min(_SURE, _UNSUITED * 2 ** scores[rung]))

    def _may_do(self, method: Method, first: Attempt) -> bool:
        """Whether what a method leaves at least of a cost may be little enough: one that compresses gently is for who
        asks for no more than that."""
        leaves, lowers = method.card.leaves, set(method.card.lowers)
        if not leaves:
            return True
        for condition in self._job.target.conditions:
            found = first.measurements.get(condition.metric)
            whole = 1.0 if condition.form == "ratio" or found is None else found.value
            if condition.metric in leaves and condition.bound <= leaves[condition.metric] * whole:
                return False
        return bool(self._asked) and self._asked <= lowers

    # -- methods that take parts out, and chains ---------------------------------------------------------

    def _parts(self, attempts: Sequence[Attempt], trains: bool) -> Iterator[Option]:
        """Parts out, alone and before a quantization, and what trains in the place of what lost too much."""
        diagnosis, _ = self._diagnosis(attempts)
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
        wanted = {FOLLOWS.get(m, m) for attempt in judged for m in self._missed(attempt)} | {
            GOALS.get(self._job.goal, "")
        }
        met = self._pushes and any(attempt.state is State.MET for attempt in judged)
        explored = {_links(attempt) for attempt in judged if _ratio(parse_rung(attempt.settled))}
        rungs = [rung for rung in self._usual if _takes_out(rung)]
        too_gentle = self._too_gentle(attempts)
        rungs += [rung for rung in self._harder if _takes_out(rung) and _names(rung) & too_gentle]
        for rung in rungs:
            if rung.methods[0].card.trains == trains:
                partners = [] if rung.methods[-1].card.terminal else self._partners(attempts)
                weak = wanted & set(rung.methods[0].card.weak)
                methods = tuple(map(_started, rung.methods)) if met else rung.methods
                for partner in partners or ((),):
                    chain = Rung((*methods, *partner))
                    if met and _links(chain) in explored:
                        continue
                    yield Option(chain, f"{told}; fewer parts are needed", _WEAK if weak else _UNSEEN, shrinks=True)

    def _corrected(self, attempts: Sequence[Attempt]) -> Iterator[Option]:
        """Chains that missed a cost by no more than sketches may be off: once more, with a ratio smaller by as much."""
        climbed = Counter(_links(attempt) for attempt in attempts[1:] if attempt.verdict is not None)
        for attempt in attempts[1:]:
            over = self._over(attempt)
            if not 0 < over <= _OFF:
                continue
            if climbed[_links(attempt)] > _CORRECTIONS or self._levelled(attempt, attempts):
                continue
            methods = parse_rung(attempt.settled).methods
            smaller = tuple(_smaller(method, over) for method in methods)
            if smaller != methods:
                told = f"{attempt.rung} missed by {over:.0%}: its ratio was a little too large"
                yield Option(Rung(smaller), told, _UNSEEN, shrinks=True)

    def _levelled(self, attempt: Attempt, attempts: Sequence[Attempt]) -> bool:
        """Whether latency is the cost that it missed, and had fallen no further since one with more left."""
        if attempt.quote.get("why"):  # its search has found so
            return True
        ratio = _ratio(parse_rung(attempt.settled))
        missed = {FOLLOWS.get(metric, metric) for metric in self._missed(attempt) - self._job.quality}
        if ratio is None or missed != {"latency"}:
            return False
        for other in attempts[1:]:
            larger = _ratio(parse_rung(other.settled)) if _links(other) == _links(attempt) else None
            latencies = [each.measurements.get("latency") for each in (other, attempt)]
            before, after = (None if each is None else each.ratio for each in latencies)
            if larger and before and after and larger > ratio and levels(before, after, larger / ratio):
                return True
        return False

    def _explored(self, attempts: Sequence[Attempt]) -> Iterator[Option]:
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
            rung = Rung(tuple(_with_ratio(method, new) for method in methods))
            yield Option(rung, told, _SURE if best is not None else _UNSEEN)

    def _mended(self, attempts: Sequence[Attempt]) -> Iterator[Option]:
        """Chains that met the costs and missed quality, with a link that trains in the place of one or behind it."""
        for attempt in attempts[1:]:
            if attempt.verdict is None or not self._fits(attempt) or attempt.state is not State.MISSED:
                continue
            methods, chance = parse_rung(attempt.settled).methods, 1 / (1 + attempt.verdict.excess)
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
                            yield Option(rung, reason, chance)
                    if link.card.name in card.continues and not (link.card.terminal or card.terminal):
                        yield Option(Rung((*before, link, healer(), *after)), reason, chance)

    def _partners(self, attempts: Sequence[Attempt]) -> list[tuple[Method, ...]]:
        """Quantizations to put behind, of those whose quality held or that were never made: the first, and the smallest
        where size is asked for."""
        found: list[tuple[Attempt, Rung]] = []
        for attempt in attempts[1:]:
            rung = parse_rung(attempt.settled)
            made = attempt.verdict is not None or (
                attempt.state is State.SKIPPED and (attempt.quote.get("size") or attempt.quote.get("misses"))
            )
            known = any(rung == other for _, other in found) or any(method.card.leaves for method in rung.methods)
            if made and not known and not _takes_out(rung) and not self._missed_quality(attempt):
                found.append((attempt, rung))
        others = {rung: _size(attempt) for attempt, rung in found[1:]} if "size" in self._asked else {}
        sizes = {rung: size for rung, size in others.items() if size is not None}
        smallest = [*(rung for rung in others if rung not in sizes), *sorted(sizes, key=lambda rung: sizes[rung])[:1]]
        return [rung.methods for rung in dict.fromkeys((*(rung for _, rung in found[:1]), *smallest))]

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


def _takes_out(rung: Rung) -> bool:
    """Whether some link lowers what is counted: parts of the network go."""
    return bool(rung.lowers & {"macs", "params"})


def _trains(rung: Rung) -> bool:
    return any(method.card.trains for method in rung.methods)


def _names(of: Attempt | Rung) -> set[str]:
    rung = of if isinstance(of, Rung) else parse_rung(of.rung)
    return {method.card.name for method in rung.methods}


def _links(of: Attempt | Rung) -> tuple[str, ...]:
    rung = of if isinstance(of, Rung) else parse_rung(of.rung)
    return tuple(method.card.name for method in rung.methods)


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


def _started(method: Method) -> Method:
    """The same method at the ratio that exploring begins with, in place of one that would be searched."""
    return replace(method, ratio=_DOWN) if by_costs(method) and "ratio" in method.card.shape else method  # type: ignore[type-var]


def _size(attempt: Attempt) -> float | None:
    """Relative to the first model's; None where it was neither measured nor sketched."""
    found = attempt.measurements.get("size")
    ratio = found.ratio if found else attempt.quote.get("size", {}).get("ratio")
    return None if ratio is None else float(ratio)


def _alike(method: Method, other: Method) -> Method:
    """A method set to make its candidates as small as another's."""
    shared = set(method.card.shape) & set(other.card.shape)
    return replace(method, **{name: value for name, value in settings_of(other).items() if name in shared})  # type: ignore[type-var]
