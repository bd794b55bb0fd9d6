"""One attempt: a rung climbed, from the first model to a verdict, journalled before anything is raised."""

from __future__ import annotations

import contextlib
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from boildown import files
from boildown.domain.artifact import Artifact, file_hash
from boildown.domain.candidate import Candidate
from boildown.domain.deployment import written_form
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import State
from boildown.domain.verdict import Status, Verdict, judge
from boildown.engine.bench import TIMING_SECONDS, Bench
from boildown.engine.budget import Budget
from boildown.engine.chain import LINK, STUDENTS
from boildown.engine.costs import of_calls, of_the_file
from boildown.engine.floats import FLOATS, UNKNOWN, floats, not_faster
from boildown.engine.forecast import Forecast, Forecaster, from_quote, unknown
from boildown.engine.job import Job
from boildown.engine.layers import LAYERS, layers
from boildown.engine.maker import NOT_REUSED, Emit, Maker
from boildown.engine.outlook import outlook
from boildown.engine.prepare import FIRST, Prepared
from boildown.engine.probe import probe
from boildown.engine.rung import Rung, parse_rung, runtime_of
from boildown.engine.search import measure_variant
from boildown.engine.timing import in_doubt
from boildown.engine.unread import Unread
from boildown.errors import (
    AttemptError,
    BoildownError,
    BudgetError,
    Cancelled,
    DeadlineError,
    JournalError,
    WorkerLost,
    contained,
    disk_is_full,
    in_words,
)
from boildown.journal.journal import Journal
from boildown.journal.rows import FASTEST, LATENCY
from boildown.methods.base import Standing
from boildown.surgery.store import CANDIDATE, WEIGHTS, load_candidate, save_candidate
from boildown.surgery.weights import weights_hash

PROBE = "probe"
"""The journal's records of where attempts lost quality."""

AGAIN = "again, with more time"
"""The reason for an attempt that climbs an earlier one's rung once more."""

_FEWER_MACS = 0.9
_LONGER = 0.25
"""How much more time what was cut is given to be begun anew, and the least share that what goes on needs still."""
_WRITTEN = "written"
_KEPT = (LAYERS, "changed", "curve", "loss", "sensitivity", "survivors")
"""The records of how a candidate was made that go along with it to the run that uses it again."""
_STATES = {Status.MET: State.MET, Status.MISSED: State.MISSED, Status.UNDECIDED: State.UNDECIDED}


@dataclass
class Attempt:
    """One rung climbed. Attempt 0 is the first model itself."""

    number: int
    rung: str
    reason: str
    folder: Path
    key: str = ""
    parent: str | None = None
    state: State = State.RUNNING
    candidate: Candidate | None = None
    artifact: Artifact | None = None
    verdict: Verdict | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    notes: list[str] = field(default_factory=list)
    quote: dict[str, Any] = field(default_factory=dict)
    """What was expected of it, as the journal keeps it."""
    probe: dict[str, float] = field(default_factory=dict)
    """Where it lost quality: how far its outputs diverge by quantized weights alone, and what activations add."""

    @property
    def sentence(self) -> str:
        """How it stands, in words."""
        return self.failure or (self.verdict.sentence() if self.verdict else "")

    @property
    def runtime(self) -> str:
        """The runtime that it is made for; empty for the first of the deployment."""
        return runtime_of(self.rung)

    @property
    def settled(self) -> str:
        """The rung with the settings that sketches found."""
        return str(self.quote.get("rung", self.rung))

    @property
    def cut(self) -> bool:
        """Whether it failed for want of time alone."""
        return _was_cut(self.state, self.failure)

    @property
    def judged_in_full(self) -> bool:
        """Whether its quality was measured on the verdict samples."""
        return any(measurement.data == "verdict" for measurement in self.measurements.values())


class Climber:
    """Climbs one rung at a time for a job, in its run folder."""

    def __init__(
        self, job: Job, bench: Bench, journal: Journal, budget: Budget, *, folder: Path, runs: Path,
        first: Candidate, prepared: Prepared, stop: Callable[[], None], emit: Emit, fresh: bool = False,
    ) -> None:  # fmt: skip
        self.job, self.bench, self.journal, self.budget = job, bench, journal, budget
        self.folder, self.first, self.prepared, self.emit = folder, first, prepared, emit
        self.maker = Maker(
            job, bench, journal, folder=folder, runs=runs, first=first, stop=stop, emit=emit, fresh=fresh
        )  # fmt: skip
        self.forecast = Forecaster(self.maker, budget)

    @property
    def quality(self) -> str:
        """The metric that the goal `best` looks at."""
        return self.job.first_quality

    def close(self) -> None:
        """End the child processes."""
        self.maker.close()
        self.bench.close()

    # -- climbing ------------------------------------------------------------------------------------

    def measure_first(self) -> Attempt:
        """Attempt 0: the first model's own artifact, prepared already, measured and judged like any other.

        Raises BoildownError where it cannot be measured: nothing could be compared with it.
        """
        attempt = Attempt(0, "first", "the first model itself", self.folder / FIRST, key=self.maker.first_key)

        def climb() -> None:
            save_candidate(self.first, attempt.folder, self.first, attempt.folder)
            attempt.candidate, attempt.artifact = self.first, self.bench.first
            attempt.notes = [self.prepared.agreement]
            if unknown := self.bench.graph(self.first).uncounted():
                attempt.notes.append(f"macs leave out {', '.join(unknown)}, whose parameters are not counted")
            self._record_layers(attempt, self.first)
            self._measure(attempt, self.first)

        self._journalled(attempt, climb)
        spent = attempt.seconds["total"] + self.bench.seconds["export"] + sum(self.bench.scoring.values())
        self.forecast.judged_first(spent)
        return attempt

    def climb(self, number: int, rung: Rung, reason: str, *, skip: bool = False, last: bool = False) -> Attempt:
        """Climb one rung from the first model to a verdict.

        What is limited is the time to make it; judging what was made ends with the budget. skip: leave it out where
        the forecast says that it must miss a cost. last: nothing else is left to climb. Returns the attempt whatever
        happened to it: skipped, failed, missed, undecided or met. Raises Cancelled when the user stops, BoildownError
        when the disk is full.
        """
        attempt = Attempt(number, str(rung), reason, self._folder(number, str(rung)))
        attempt.key, attempt.parent = self.maker.keys(rung)
        forecast = self.forecast(rung)
        attempt.quote = forecast.quote()

        def climb() -> None:
            refusal = self.maker.refusal(rung) or (forecast.sentence() or self._outlook(forecast) if skip else "")
            if refusal:
                attempt.state, attempt.failure = State.SKIPPED, refusal
                return
            left = max(0.0, self.budget.remaining / 60)
            if skip and self.forecast.making(forecast) > self.budget.room(self.forecast.beside):
                raise DeadlineError(
                    f"It takes about {forecast.minutes:.0f} min by forecast, and {left:.0f} are left. "
                    "Give the run a larger budget."
                )
            if forecast.sentence():
                self.emit("notice", {"text": forecast.sentence()})
                attempt.notes.append(forecast.sentence())
            reused = self._reused(attempt, rung)
            candidate = reused or self._unfinished(attempt) or self._applied(attempt, forecast.rung)
            if attempt.artifact is None:
                self._deploy(attempt, candidate)
            self._measure(attempt, candidate)
            self._until(self.budget.limit(0.0))  # no more of it is spent on what only explains
            if candidate.plan is not None or candidate.rewrite is not None:
                self._explain(attempt, lambda: self._look_for_floats(attempt, candidate), UNKNOWN)
            if reused is None:
                self._explain(attempt, lambda: self._measure_links(attempt, candidate), "links not measured")
            if skip and attempt.verdict is not None and attempt.verdict.missed & self.job.quality:
                self._explain(attempt, lambda: self._probe(attempt, candidate), "not probed")

        limit = self.budget.limit(self.forecast.making(forecast) / 60, self.forecast.beside, last=last)
        self.maker.begin(number, time.monotonic() + limit)
        self._journalled(attempt, climb)
        made = attempt.candidate is not None
        if attempt.seconds.get("apply") and (made or attempt.cut) and reason != AGAIN and not self.maker.went_on:
            self.forecast.learn(number, forecast, attempt.seconds["apply"], cut=not made)
        if not attempt.cut:  # one that was goes on from there, given more time
            self.maker.tidy(rung)
        return attempt

    def climbable(self, rungs: Sequence[str]) -> str | None:
        """Of rungs whose time was up, the shortest that there is enough time for now; None where there is none.

        What was made needs to be judged only. What trains goes on; anything else needs more time than it had.
        """
        if self.budget.seconds is None:
            return None
        room = self.budget.room(self.forecast.beside)
        needs = {rung: self._need(rung) for rung in rungs}
        return min((rung for rung in rungs if needs[rung] < room), key=lambda rung: needs[rung], default=None)

    def _need(self, rung: str) -> float:
        """Seconds that making the candidate of a rung takes still, which was begun before."""
        rows = [row for row in self.journal.attempts() if row.rung == rung and _was_cut(row.state, row.sentence)]
        if any(row.candidate is not None for row in rows):
            return 0.0
        had = [row.timings.get("apply", 0.0) for row in rows]
        told = rows[-1].quote
        need = self.forecast.making(from_quote(told, self.job) if "rung" in told else unknown(parse_rung(rung)))
        if self.maker.goes_on(parse_rung(rung)):
            return max(need - sum(had), _LONGER * need)
        return max(need, (1 + _LONGER) * max(had))

    def _until(self, seconds: float) -> None:
        """The work under way has to be done in so many seconds."""
        self.maker.end = self.bench.deadline = time.monotonic() + seconds

    def _outlook(self, forecast: Forecast) -> str:
        return outlook(forecast, self.journal.attempts(), self.job.quality)

    def judge_in_full(self, attempt: Attempt) -> None:
        """Give an attempt that search rejected its figures on the verdict samples."""
        candidate = attempt.candidate
        if candidate is None or attempt.judged_in_full or attempt.artifact is None:
            return

        def look() -> None:
            self._look(attempt, candidate)
            self._time_again(attempt)

        self._judge_again(attempt, look)

    def time_anew(self, attempt: Attempt) -> None:
        """Judge the attempt that was chosen for being the fastest by a timing that had no part in the choice.

        All timings of this kind in a run share the error, however many of the chosen do not stand.
        """

        def anew() -> None:
            assert attempt.artifact is not None
            looks = [look for look in self.journal.looks() if look.data == FASTEST]
            known = next((look.k for look in looks if look.attempt == attempt.number), None)
            attempt.measurements["latency"] = self.bench.latency(
                attempt.artifact, purpose="fastest", look=known or len(looks) + 1
            )
            if known is None:
                self.journal.add_look(attempt.number, FASTEST)

        self._judge_again(attempt, anew)

    def _judge_again(self, attempt: Attempt, measure: Callable[[], None]) -> None:
        """Amend the verdict of a finished attempt by what is measured now, as far as the budget goes."""
        self.maker.number = attempt.number
        self._until(self.budget.left)
        try:
            with contained():
                measure()
                self._conclude(attempt)
        except (Cancelled, JournalError):
            raise
        except DeadlineError:  # what was measured before counts
            self._conclude(attempt)
        except Exception as error:  # noqa: BLE001 - journalled by its name; another attempt is handed over
            self._fail(attempt, error)
            attempt.verdict = None
        finally:
            self._until(float("inf"))
        verdict = None if attempt.verdict is None else attempt.verdict.to_json()
        self.journal.amend_attempt(attempt.number, attempt.state, attempt.sentence, verdict)
        self.emit("verdict", {"attempt": attempt})

    # -- the parts of an attempt ---------------------------------------------------------------------

    def _applied(self, attempt: Attempt, rung: Rung) -> Candidate:
        """The candidate made by the rung's methods, and saved: from here on it is finished."""
        with self.bench.timed("apply"):
            settled = self.maker.settle(rung, attempt.folder)
            self.bench.rung = str(settled)
            if str(settled) != attempt.rung:
                attempt.notes.append(f"settings found by measurement: {settled}")
            candidate = self._known(attempt, settled) or self.maker.make(settled, attempt.folder)
            self.maker.made(settled)
        attempt.notes += candidate.notes
        self._made(attempt, candidate)
        return candidate

    def _known(self, attempt: Attempt, settled: Rung) -> Candidate | None:
        """The candidate of a rung that this run has made before, for another runtime: it is not made again."""
        count, folder = self.maker.known(settled)
        if count < len(settled.methods) or folder is None:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, BoildownError):  # damaged: made again
            candidate = load_candidate(folder, self.first, self.job.students)
            save_candidate(candidate, attempt.folder, self.first, self.folder / FIRST)
            attempt.notes.append(f"made before, in {folder.relative_to(self.folder).as_posix()}")
            self.maker.went_on = True
            return candidate
        return None

    def _made(self, attempt: Attempt, candidate: Candidate) -> None:
        """It is made: what is left of the budget may be spent on judging it."""
        attempt.candidate = candidate
        self._until(self.budget.left)

    def _look_for_floats(self, attempt: Attempt, candidate: Candidate) -> None:
        """See which layers of a quantized candidate run in float all the same. Raises DeadlineError without time."""
        assert attempt.artifact is not None
        if self.budget.remaining <= 0:
            raise DeadlineError("No time was left to look.")
        if not (executed := self.bench.executed(attempt.artifact)):
            return
        written = [record.data for record in self.journal.records(_WRITTEN) if record.attempt == attempt.number]
        found = floats(
            self.bench.graph(candidate), candidate, executed, written[-1].get("names", {}) if written else {},
            self.job.rules_of(attempt.runtime),
        )  # fmt: skip
        self.journal.record(attempt.number, FLOATS, found)
        if said := not_faster(found, attempt.measurements.get("latency")):
            attempt.notes.append(said)

    def _measure_links(self, attempt: Attempt, candidate: Candidate) -> None:
        """Export and measure the candidates on the way to the attempt's own."""
        assert attempt.artifact is not None
        links = []
        for folder in sorted((attempt.folder / STUDENTS).glob("*")):
            standing = self._measure_student(attempt, folder)
            if folder.name.startswith(LINK):
                links.append((folder.name.removeprefix(LINK).partition("-")[2], standing.divergence))
        if links:
            last = self.bench.divergence(candidate, attempt.artifact, self.first)
            attempt.notes.append(blame([*links, (str(candidate.method), last.value)]))

    def _measure_student(self, attempt: Attempt, folder: Path) -> Standing:
        """Export and measure a candidate on the way to the attempt's own: a glance, no verdict samples."""
        candidate = load_candidate(folder, self.first, self.job.students)
        standing = measure_variant(candidate, folder, self.first, self.job, self.bench, runtime=attempt.runtime)
        costs = {m.metric: m.ratio for m in self.bench.operations(candidate, self.first)}
        kind = "link" if folder.name.startswith(LINK) else "student"
        self.journal.record(attempt.number, kind, {"name": folder.name, **costs, **asdict(standing)})
        return standing

    def _deploy(self, attempt: Attempt, candidate: Candidate) -> None:
        """Write the artifact and hold it against the model."""
        attempt.artifact, written = self.bench.write(
            candidate, weights_hash(candidate.model), attempt.folder, attempt.runtime
        )
        attempt.notes += [self.bench.agree(candidate, attempt.artifact), *written.notes]
        self.journal.record(attempt.number, _WRITTEN, {"form": written.form, **written.facts})
        self._record_layers(attempt, candidate)

    def _record_layers(self, attempt: Attempt, candidate: Candidate) -> None:
        if candidate.rewrite is None and not isinstance(candidate.model, Unread):  # the file's layers are its own
            found = layers(self.bench.graph(candidate), candidate.plan)
            self.journal.record(attempt.number, LAYERS, {"layers": found})

    def _measure(self, attempt: Attempt, candidate: Candidate) -> None:
        """Cheap measurements first; verdict samples are read only by a candidate that passed search."""
        job, bench, artifact = self.job, self.bench, attempt.artifact
        assert artifact is not None
        is_first = attempt.number == 0
        found = attempt.measurements
        found.update(of_the_file(job, bench, artifact, self.prepared.plain))
        found.update({m.metric: m for m in bench.operations(candidate, self.first)})
        if job.asks("memory"):
            found["memory"] = bench.memory(artifact)
        found.update({m.metric: m for m in bench.quality(candidate, artifact, "search", first=self.first)})
        if not job.splits.search_labelled:
            found["divergence"] = bench.divergence(candidate, artifact, self.first)
        if is_first or "latency" in job.costs:
            self._time(attempt, look=1)
            self._time_again(attempt)
        found.update(of_calls(job, bench, artifact))
        missed = [f for f in judge(job.target, found).findings if f.status is Status.MISSED]
        passed = all(finding.by_chance for finding in missed)
        if passed or is_first:
            self._look(attempt, candidate)
            if "latency" not in found:
                with contextlib.suppress(DeadlineError):  # a glance that no condition is about
                    self._time(attempt, look=1)
        self._conclude(attempt)

    def _time(self, attempt: Attempt, *, look: int) -> None:
        """Time it for its verdict; every look that has a bound to decide is journalled, a recalled one as well."""
        assert attempt.artifact is not None
        found = attempt.measurements["latency"] = self.bench.latency(attempt.artifact, look=look)
        data = f"{LATENCY}{attempt.artifact.digest}" + (f" in {attempt.runtime}" if attempt.runtime else "")
        if found.look > sum(look.data == data for look in self.journal.looks()):
            self.journal.add_look(attempt.number, data)

    def _time_again(self, attempt: Attempt) -> None:
        """Time it once more where the first look leaves it open and there is time for another."""
        if in_doubt(self.job, attempt.measurements) and self.maker.end - time.monotonic() > 2 * TIMING_SECONDS:
            self._time(attempt, look=2)

    def _look(self, attempt: Attempt, candidate: Candidate) -> None:
        """Read the verdict samples; every look is journalled and the k-th is held to a stricter level."""
        assert attempt.artifact is not None
        asked = [c for c in self.job.target.conditions if c.metric in self.job.quality]
        counts = attempt.number or any(condition.form != "drop" for condition in asked)
        look = self.journal.add_look(attempt.number, self.bench.fingerprint("verdict")) if counts else 1
        quality = self.bench.quality(candidate, attempt.artifact, "verdict", first=self.first, look=max(look, 1))
        attempt.measurements.update({m.metric: m for m in quality})
        said = dict.fromkeys(note for measurement in quality for note in measurement.notes)
        attempt.notes += [note for note in said if note not in attempt.notes]

    def _conclude(self, attempt: Attempt) -> None:
        job = self.job
        attempt.verdict = judge(job.target, attempt.measurements, job.confidence, self.bench.machine, attempt.runtime)
        attempt.state = _STATES[attempt.verdict.status]
        if attempt.number and (said := slower(attempt.measurements)) and said not in attempt.notes:
            attempt.notes.append(said)

    def _probe(self, attempt: Attempt, candidate: Candidate) -> None:
        """Look where a quantized candidate lost the quality that it missed: the next rung may depend on it."""
        attempt.probe = probe(candidate, self.first, self.job, self.maker.check)
        if attempt.probe:
            self.journal.record(attempt.number, PROBE, attempt.probe)
            told = ", ".join(f"{part} {value:.3g}" for part, value in attempt.probe.items())
            attempt.notes.append(f"divergence by what is quantized, simulated: {told}")

    def _explain(self, attempt: Attempt, look: Callable[[], None], without: str) -> None:
        """Look at why a verdict is as it is; without time for it, or where it fails, the verdict stands."""
        try:
            with contained():
                look()
        except (Cancelled, JournalError):
            raise
        except Exception as error:
            if disk_is_full(error):
                raise
            self.journal.record(attempt.number, without, {"why": f"{type(error).__name__}: {error}"})

    # -- keeping -------------------------------------------------------------------------------------

    def _journalled(self, attempt: Attempt, climb: Callable[[], None]) -> Attempt:
        """Run `climb` with the attempt begun before and finished after in the journal, even if it fails."""
        self.maker.number, before, start = attempt.number, dict(self.bench.seconds), time.perf_counter()
        self.bench.deadline = self.maker.end
        self.bench.attempt, self.bench.rung = attempt.number, attempt.rung
        self.journal.begin_attempt(
            attempt.number, attempt.rung, attempt.reason, parent=attempt.parent, candidate_key=attempt.key,
            quote=attempt.quote,
        )  # fmt: skip
        self.emit("attempt", {"attempt": attempt})
        try:
            with contained():
                climb()
        except (Cancelled, JournalError):
            raise
        except Exception as error:
            if attempt.number == 0 and isinstance(error, BudgetError):  # a larger one goes on from here
                raise
            self._fail(attempt, error)
            if attempt.number == 0:
                raise BoildownError(f"The first model could not be measured: {attempt.failure}") from error
        finally:
            self._until(float("inf"))
        spent = {kind: seconds - before.get(kind, 0.0) for kind, seconds in self.bench.seconds.items()}
        attempt.seconds |= {**spent, "total": time.perf_counter() - start}
        if attempt.number and attempt.judged_in_full and not any(n.startswith("reused") for n in attempt.notes):
            self.forecast.judged(attempt.seconds["total"] - attempt.seconds.get("apply", 0.0))
        self._finish(attempt)
        return attempt

    def _fail(self, attempt: Attempt, error: Exception) -> None:
        """It failed, by name. Raises BoildownError where the disk is full: nothing could be journalled."""
        if disk_is_full(error):
            raise BoildownError("The disk is full. Free space, then resume the run.") from error
        details = getattr(error, "details", "") or traceback.format_exc()
        self.journal.record(attempt.number, "traceback", {"text": details})
        attempt.state, attempt.failure = State.FAILED, _named(error)

    def _finish(self, attempt: Attempt) -> None:
        candidate = attempt.candidate
        self.journal.finish_attempt(
            attempt.number,
            attempt.state,
            attempt.sentence,
            verdict=attempt.verdict.to_json() if attempt.verdict else None,
            candidate=None if candidate is None else _kept(candidate, attempt.folder),
            artifact=attempt.artifact,
            timings=attempt.seconds,
            notes=attempt.notes,
        )
        self.emit("verdict", {"attempt": attempt})

    def _reused(self, attempt: Attempt, rung: Rung) -> Candidate | None:
        """The same candidate finished by an earlier run, whose files are as they were.

        Its artifact goes along where the same version of the runtime wrote it in the same form, and tells who made it
        as ours do.
        """
        donor = self.maker.donor(attempt.key) or self.maker.outdated(rung)
        if donor is None:
            return None
        run, row = donor
        assert row.artifact is not None
        try:
            with Journal.open(run, readonly=True) as earlier:
                told = [record for record in earlier.records() if record.attempt == row.number]
                where = earlier.facts["deployment"]
                for path in {*earlier.files(row), *(row.artifact.folder / name for name in (CANDIDATE, WEIGHTS))}:
                    if path.exists():
                        own = attempt.folder / path.relative_to(row.artifact.folder)
                        own.parent.mkdir(parents=True, exist_ok=True)
                        files.remove(own)
                        files.copy(path, own, run)
            candidate = load_candidate(attempt.folder, self.first, self.job.students)
        except (OSError, ValueError, KeyError, BoildownError) as error:
            self.journal.record(attempt.number, NOT_REUSED, {"run": run.name, "why": str(error)})
            return None
        attempt.notes += [*candidate.notes, f"reused from run {run.name}"]
        for record in told:
            if record.kind in _KEPT:
                self.journal.record(attempt.number, record.kind, record.data)
        form = written_form(where["form"], where["runtime"])
        written = row.artifact.runtime, row.artifact.version, form, bool(row.artifact.content)
        assert self.bench.first is not None
        runtime = attempt.runtime or self.job.deployment.first
        if written == (runtime, self.bench.versions[runtime], self.bench.form, self.bench.stamps):
            attempt.artifact = row.artifact.at(attempt.folder)
            for record in told:
                if record.kind == _WRITTEN:
                    self.journal.record(attempt.number, _WRITTEN, {**record.data, "by run": run.name})
        else:
            for path in row.artifact.at(attempt.folder).paths:
                path.unlink(missing_ok=True)
        return candidate

    def _unfinished(self, attempt: Attempt) -> Candidate | None:
        """The candidate that an earlier attempt of this run made, and had no time to judge."""
        for row in reversed(self.journal.attempts_of(attempt.key)):
            if row.candidate is None or not _was_cut(row.state, row.sentence):
                continue
            folder = self._folder(row.number, row.rung)
            try:
                if any(file_hash(folder / name) != sha256 for name, sha256 in row.candidate["files"].items()):
                    continue
                candidate = self._copied(attempt, folder)
            except (OSError, ValueError, KeyError, BoildownError):  # made again
                continue
            attempt.notes += [*row.notes, f"made by attempt {row.number}"]
            return candidate
        return None

    def _copied(self, attempt: Attempt, folder: Path) -> Candidate:
        """The candidate of a folder, copied into an attempt's own. Raises OSError, ValueError or BoildownError."""
        shutil.copytree(folder, attempt.folder, dirs_exist_ok=True)
        candidate = load_candidate(attempt.folder, self.first, self.job.students)
        self._made(attempt, candidate)
        return candidate

    def _folder(self, number: int, rung: str) -> Path:
        name = "".join(character if character.isalnum() or character == "-" else "-" for character in rung)
        return self.folder / "attempts" / f"{number:02d}-{name[:60].strip('-')}"


def _kept(candidate: Candidate, folder: Path) -> dict[str, Any]:
    """What the journal keeps of a candidate, with the hashes of the files that it is rebuilt from."""
    files = {name: file_hash(folder / name) for name in (CANDIDATE, WEIGHTS) if (folder / name).is_file()}
    return {"method": candidate.method, "settings": dict(candidate.settings), "files": files}


def _was_cut(state: State, sentence: str) -> bool:
    """Whether an attempt failed for want of time alone."""
    return state is State.FAILED and sentence.startswith(f"{DeadlineError.name}: ")


def blame(links: Sequence[tuple[str, float]]) -> str:
    """What each link of a chain moved the outputs from the first model's: (method, divergence after it) in order."""
    parts, before = [], 0.0
    for name, divergence in links:
        parts.append(f"{name} {divergence - before:+.3g}")
        before = divergence
    return f"divergence from the first model, link by link: {', '.join(parts)}"


def slower(found: Mapping[str, Measurement]) -> str:
    """What to say out loud where time did not fall: 'MACs fell, time did not', or slower than before."""
    latency, macs = found.get("latency"), found.get("macs")
    interval = latency.intervals.get("ratio") if latency is not None else None
    if latency is None or latency.ratio is None or interval is None:
        return ""
    fewer = macs.ratio if macs is not None and macs.ratio is not None else 1.0
    if fewer < _FEWER_MACS and interval.high > 1:
        return f"MACs fell to {fewer:.2f}x, time did not: {latency.ratio:.2f}x"
    return f"slower than the first model: {latency.ratio:.2f}x of its time" if interval.low > 1 else ""


def _named(error: Exception) -> str:
    """A failure as the journal tells it: its short name, then what was said."""
    if isinstance(error, AttemptError):
        return f"{error.name}: {error}"
    return f"worker lost: {error}" if isinstance(error, WorkerLost) else in_words(error)
