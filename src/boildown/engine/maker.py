"""Making the candidates of rungs, or sketches of them: here or in a child, on what earlier attempts and runs made."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from boildown.domain.candidate import Candidate
from boildown.domain.deployment import HERE
from boildown.domain.measurement import Measurement
from boildown.domain.rules import Rules
from boildown.engine.bench import Bench
from boildown.engine.chain import (
    LINK,
    STUDENTS,
    Begun,
    apply_chain,
    context_of,
    first_key,
    keeper,
    kept,
    link_keys,
    rules_for,
)
from boildown.engine.job import Job
from boildown.engine.prepare import FIRST
from boildown.engine.rivals import refusal
from boildown.engine.rung import Rung
from boildown.engine.search import Variant, measure_costs, measure_variant, search, standing_of
from boildown.engine.unread import Unread, beyond
from boildown.errors import BoildownError, DeadlineError, JournalError
from boildown.execution.child import Child
from boildown.execution.quiet import delegated, give_way, next_wait
from boildown.files import real
from boildown.journal.journal import Journal
from boildown.journal.keys import hash_of
from boildown.journal.rows import AttemptRow
from boildown.journal.runs import find_finished
from boildown.methods.base import Context, Method, by_costs, searches
from boildown.surgery.plan import place
from boildown.surgery.store import load_candidate, save_candidate

Emit = Callable[[str, Mapping[str, Any]], None]

NOT_REUSED = "not reused"
"""The journal's records of candidates that earlier runs have, and why they were made again."""

MADE = "made"
"""The journal's records of what attempts have made: the keys after every link."""

TRAINING = "training"
"""The folder of a run that holds what unfinished attempts go on from."""


class Maker:
    """Makes one candidate after the other for a job, in its run folder.

    number: of the attempt that what is made and measured belongs to; None between attempts. end: when the work
    under way has to be done, by the monotonic clock. went_on: whether the attempt took links that were made before.
    sketched: what the sketches of searches cost, by their rungs.
    """

    def __init__(
        self, job: Job, bench: Bench, journal: Journal, *, folder: Path, runs: Path, first: Candidate,
        stop: Callable[[], None], emit: Emit, fresh: bool = False,
    ) -> None:  # fmt: skip
        self.job, self.bench, self.journal = job, bench, journal
        self.folder, self.runs, self.first, self.fresh = folder, runs, first, fresh
        self.stop, self.emit = stop, emit
        self.first_key = first_key(first, bench.graph(first))
        self.number: int | None = None
        self.end = float("inf")
        self.went_on = False
        self._child = Child(bench.home)
        self._donors: list[Path] = []
        self._climbed: list[Rung] = []
        self.sketched: dict[str, dict[str, Measurement]] = {}
        self._reasons: dict[Method, str | None] = {}
        self._made: dict[str, Path] = {}
        for record in journal.records(MADE):
            self._learn(record.attempt or 0, record.data["keys"])
        self.donor(self.first_key)  # its measurements of the first model hold here too
        bench.check, bench.recall, bench.keep = self.check, self._recall, self._keep
        bench.record = self.record

    def close(self) -> None:
        """End the child process."""
        self._child.close()

    def record(self, kind: str, data: Mapping[str, Any]) -> None:
        """Journal something of the attempt under way, and tell it."""
        self.journal.record(self.number, kind, data)
        self.emit("record", {"attempt": self.number, "kind": kind, "data": data})

    def check(self) -> None:
        """Called between steps everywhere: stop, deadline, and silence for somebody's timing."""
        self.stop()
        give_way(self.stop)
        if time.monotonic() > self.end:
            raise DeadlineError("The attempt took all the time it had. Give the run a larger budget.")

    def refusal(self, rung: Rung) -> str | None:
        """Why the rung does not apply, in words.

        Links after the first meet a candidate that does not exist yet, and are asked when it does.
        """
        name = rung.runtime or self.job.deployment.first
        if (refused := refusal(rung, self.bench.runtimes[name], self.bench.form)) is not None:
            return f"{refused} (runtime {name})"
        if (out_of_reach := beyond(self.first.model, rung)) is not None:
            return out_of_reach
        available = {"train": self.job.splits.train, "calibration": self.job.splits.calibration}
        for method in rung.methods:
            for need in method.card.needs:
                if available[need] is None:
                    return f"{method.card.name} needs {need} data, and the task has none"
        if isinstance(self.first.model, Unread):
            return None
        method = rung.methods[0]
        if method not in self._reasons:
            self._reasons[method] = method.applies_to(self.first, self.job.task)
        reason = self._reasons[method]
        return None if reason is None else f"{method.card.name} does not apply: {reason}"

    def keys(self, rung: Rung) -> tuple[str, str]:
        """The key of the rung's candidate, and its parent's."""
        *_, parent, key = link_keys(rung, self.first_key, self.job)
        if any(searches(method) for method in rung.methods):
            # What a search finds depends on what is asked and where: only the same question has the same answer.
            asked = [condition.text for condition in self.job.target.conditions]
            where = self.job.deployment.beside_first(rung.runtime).to_json()
            key = hash_of([key, asked, where, self.bench.machine])
        return key, parent

    def donor(self, key: str) -> tuple[Path, AttemptRow] | None:
        """An earlier run, and its attempt, with a finished candidate of this key; None where nothing is reused."""
        if self.fresh:
            return None
        found = find_finished(self.runs, key, exclude=self.folder)
        if found is not None and found[0] not in self._donors:
            self._donors.append(found[0])
        return found

    def outdated(self, rung: Rung) -> tuple[Path, AttemptRow] | None:
        """As `donor`, of a run of boildown 0.1: its keys had hardware as it was asked for, and no rules.

        Where the candidate was made for something else, that is journalled, and it is not used.
        """
        deployment, asked = self.job.deployment, [condition.text for condition in self.job.target.conditions]
        for hardware in () if self.fresh or rung.runtime else dict.fromkeys((HERE, deployment.hardware)):
            key = link_keys(rung, self.first_key, self.job, {"hardware": hardware})[-1]
            if any(searches(method) for method in rung.methods):
                called = {"batch": deployment.batch, "threads": deployment.threads}
                key = hash_of([key, asked, called, deployment.first, self.bench.machine])
            found = find_finished(self.runs, key, exclude=self.folder)
            if found is None:
                continue
            made_for = None
            with (
                contextlib.suppress(JournalError, KeyError, AttributeError),
                Journal.open(found[0], readonly=True) as journal,
            ):
                made_for = journal.facts["deployment"].get("hardware")
            if made_for == deployment.hardware and self._placed_alike(Rules()):
                return found
            why = f"made for {made_for} by the rules of ONNX Runtime, and wanted for {deployment}"
            self.journal.record(self.number, NOT_REUSED, {"run": found[0].name, "why": why})
        return None

    def _placed_alike(self, rules: Rules) -> bool:
        """Whether other rules quantize the same of the first model."""
        graph = self.bench.graph(self.first)
        own = self.job.rules_of()
        return rules == own or place(graph, rules) == place(graph, own)

    def begin(self, number: int, end: float) -> None:
        """An attempt begins."""
        self.number, self.end, self.went_on, self._climbed = number, end, False, []

    def goes_on(self, rung: Rung) -> bool:
        """Whether a training of the rung that was cut goes on from where it stood."""
        return any(kept(self.folder / TRAINING, key).exists() for key in link_keys(rung, self.first_key, self.job)[1:])

    def tidy(self, rung: Rung) -> None:
        """Throw away what the training of a rung, and of the variants of it that were made, could have gone on from."""
        for made in (rung, *self._climbed):
            for key in link_keys(made, self.first_key, self.job):
                shutil.rmtree(kept(self.folder / TRAINING, key), ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / TRAINING).rmdir()

    # -- making --------------------------------------------------------------------------------------

    def make(self, rung: Rung, folder: Path, *, sketched: bool = False) -> Candidate:
        """The candidate of a rung, or a sketch of it, saved in a folder: in a child where factories allow."""
        self.emit("step", {"what": f"{'sketch' if sketched else 'apply'} {rung}", "done": 0, "total": None})
        if not sketched:
            self._climbed.append(rung)
        begun = None if sketched else self._begun(rung)
        self.went_on |= begun is not None
        if self.job.factories.complete:
            seconds = max(1.0, self.end - time.monotonic()) if self.end < float("inf") else None
            with delegated(self.stop):
                records = self._child.call(
                    "boildown.engine.chain:apply_in_child", self.job.factories, str(rung), str(folder),
                    str(self.folder / FIRST), self.job.seed, self.job.device, self.job.deployment, self.job.rules,
                    str((self.folder / TRAINING).resolve()), begun, sketched,
                    next_wait(), seconds, deadline=seconds,
                    check=self.stop, on_progress=self.bench.progress, retries=1,
                    doing=f"{'sketching' if sketched else 'applying'} {rung}",
                )  # fmt: skip
            for kind, data in records:
                self.record(kind, data)
            return load_candidate(folder, self.first, self.job.students)
        context = replace(self._context(), keep=keeper(folder, self.first, self.folder / FIRST))
        candidate = apply_chain(rung, self.first, self.first_key, self.job, context, begun, sketched=sketched)
        save_candidate(candidate, folder, self.first, self.folder / FIRST)
        return candidate

    def made(self, rung: Rung) -> None:
        """The attempt under way has made a rung, with every setting fixed: it need not be made again."""
        keys = link_keys(rung, self.first_key, self.job)[1:]
        self.journal.record(self.number, MADE, {"keys": keys})
        self._learn(self.number or 0, keys)

    def known(self, rung: Rung) -> tuple[int, Path | None]:
        """(how many links of a rung this run has made before, for whatever runtime, the folder of their candidate)."""
        keys = link_keys(rung, self.first_key, self.job)
        for count in range(len(rung.methods), 0, -1):
            if (folder := self._made.get(keys[count])) is not None and folder.is_dir():
                return count, folder
        return 0, None

    def _learn(self, number: int, keys: Sequence[str]) -> None:
        """The folders of an attempt hold its candidate and those on the way to it."""
        for folder in (self.folder / "attempts").glob(f"{number:02d}-*"):
            self._made[keys[-1]] = folder
            for count, key in enumerate(keys[:-1], start=1):
                for link in (folder / STUDENTS).glob(f"{LINK}{count}-*"):
                    self._made[key] = link

    def settle(self, rung: Rung, folder: Path, *, sketched: bool = False) -> Rung:
        """The rung with every setting fixed: a link that searches is driven by measurements of its variants.

        sketched: the variants are sketches, which a search that looks at costs alone is content with.
        """
        methods: tuple[Method, ...] = ()
        for position, method in enumerate(rung.methods):
            if searches(method) and (by_costs(method) or not sketched):
                parent = self.first
                if methods and not sketched:
                    begun = self._begun(replace(rung, methods=(*methods, method)))
                    before = replace(rung, methods=methods)
                    parent = apply_chain(before, self.first, self.first_key, self.job, self._context(), begun)
                place = folder / f"variants-{position}"
                settled = replace(rung, methods=(*methods, *rung.methods[position:]))
                method = self._best_variant(settled, position, parent, place, sketched)
            methods += (method,)
        return replace(rung, methods=methods)

    def _best_variant(self, chain: Rung, position: int, parent: Candidate, folder: Path, sketched: bool) -> Method:
        """The settings to keep of a link that searches, found with the rest of the chain behind every variant of it."""
        method, before, after = chain.methods[position], chain.methods[:position], chain.methods[position + 1 :]
        assert searches(method)

        def make(variant: Method) -> Variant:
            self.check()
            rung, own = (
                replace(chain, methods=(*before, variant, *after)),
                folder / f"{len(list(folder.glob('*'))):02d}",
            )
            candidate = self.make(rung, own, sketched=sketched)
            if sketched:
                timed = self.job.is_about("latency") or getattr(method, "of", "") == "latency"
                _, costs = measure_costs(
                    candidate, own, self.first, self.job, self.bench, runtime=rung.runtime, timed=timed
                )
                self.sketched[str(rung)] = costs
                standing = standing_of(self.job, costs)
            else:
                standing = measure_variant(
                    candidate, own, self.first, self.job, self.bench,
                    lambda standing: standing.excess <= 0 and not by_costs(method), runtime=rung.runtime,
                )  # fmt: skip
            return Variant(rung, own, standing)

        def record(variant: Variant) -> None:
            facts = {"rung": str(variant.rung), "sketched": sketched, **asdict(variant.standing)}
            self.record("variant", facts)

        context = replace(self._context(), rules=rules_for(method, self.job, chain.runtime))
        found = search(method.search(parent, self.job.task, context), make, record)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    def _begun(self, rung: Rung) -> Begun | None:
        """The longest part of a chain, from its start, that an earlier attempt has made: not made again."""
        keys = link_keys(rung, self.first_key, self.job)
        for count in range(len(rung.methods) - 1, 0, -1):
            rows = reversed(self.journal.attempts_of(keys[count]))
            found = next((row.artifact.folder for row in rows if row.artifact is not None), self._made.get(keys[count]))
            if found is None and (donor := self.donor(keys[count])) is not None and donor[1].artifact is not None:
                found = donor[1].artifact.folder
            if found is None:
                continue
            folder = real(found)
            with contextlib.suppress(OSError, ValueError, KeyError, BoildownError):  # damaged: made again
                load_candidate(folder, self.first, self.job.students)
                return count, folder
        return None

    def _context(self) -> Context:
        """What a method gets in this process."""
        return context_of(
            self.job, self.first, self.folder / TRAINING, progress=self.bench.progress, check=self.check,
            record=self.record,
        )  # fmt: skip

    # -- what is known already -----------------------------------------------------------------------

    def _recall(self, key: str) -> Measurement | None:
        """A measurement of this run, or of a run that gave a candidate."""
        known = self.journal.measurement(key)
        for donor in list(self._donors) if known is None else ():
            try:
                with Journal.open(donor, readonly=True) as journal:
                    found = known or journal.measurement(key)
                    known = found if found is not None and found.alone else None  # elsewhere, under load: not here
            except JournalError:  # it was deleted or damaged since
                self._donors.remove(donor)
        if known is not None:
            self._keep(key, known)
        return known

    def _keep(self, key: str, measurement: Measurement) -> None:
        if self.number is not None:
            self.journal.add_measurement(key, self.number, measurement)
