"""verify(): whether what a run handed over still is what it says, file by file and figure by figure."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from boildown import files
from boildown.api.climbing import reread
from boildown.api.sitting import Sitting, desk, sitting
from boildown.domain.artifact import Artifact, file_hash
from boildown.domain.candidate import Candidate
from boildown.domain.grammar import COSTS, base_of, format_value
from boildown.domain.measurement import Measurement
from boildown.domain.task import Task
from boildown.domain.verdict import Finding, Verdict, judge
from boildown.engine import manifest
from boildown.engine.budget import Budget
from boildown.engine.costs import LOAD_TIME, OF_CALLS, of_the_file
from boildown.engine.job import Job
from boildown.engine.manifest import CARD, MANIFEST, SAMPLE, handed_over
from boildown.engine.timing import of_the_machine
from boildown.errors import AttemptError, InputError, UntrustedFileError, WorkerLost, contained, in_words
from boildown.execution.child import Child
from boildown.journal.journal import FILE, Journal
from boildown.journal.rows import AttemptRow
from boildown.journal.runs import resolve_run
from boildown.measuring.environment import free_memory
from boildown.methods.registry import installed
from boildown.report.words import printable
from boildown.runtimes import get
from boildown.surgery.store import load_candidate
from boildown.tasks.watch import watching

_OF_THE_MACHINE = ("latency", "memory", *OF_CALLS, LOAD_TIME)
_CALL_SECONDS = 600.0
_TOLERANCE = 1e-3
"""Of a metric's value, or of its range: other processors round int8 otherwise, and an answer or two may change."""


@dataclass(frozen=True)
class Check:
    """One thing held against its record; `agrees` is None where it could not be compared."""

    what: str
    agrees: bool | None
    told: str

    def __str__(self) -> str:
        mark = {True: "agrees", False: "DIFFERS", None: "not compared"}[self.agrees]
        return f"{mark:<13} {self.what}: {self.told}"


@dataclass(frozen=True)
class Verification:
    """What agrees with the record of a run and what does not.

    verdict: as measured now; None where the files are not those that were measured, so that nothing was. what: is
    looked at, a run or a folder that was handed over.
    """

    run: Path
    checks: tuple[Check, ...]
    verdict: Verdict | None = None
    what: str = "Run"

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return all(check.agrees is not False for check in self.checks)

    @property
    def sentence(self) -> str:
        """What came out, in words."""
        wrong = [check.what for check in self.checks if check.agrees is False]
        if wrong:
            return f"{self.what} {printable(self.run.name)} does not agree with its record: {', '.join(wrong)}."
        return f"{self.what} {printable(self.run.name)} agrees with its record."

    def to_json(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it."""
        return {
            "run": self.run.name,
            "agrees": self.agrees,
            "sentence": self.sentence,
            "checks": [asdict(check) for check in self.checks],
            "verdict": None if self.verdict is None else self.verdict.to_json(),
        }

    def __str__(self) -> str:
        return "\n".join([*map(str, self.checks), self.sentence])


@contained()
@watching()
def verify(
    run: str | Path,
    model: nn.Module | str | Path | None = None,
    task: Task | str | None = None,
    *,
    students: Sequence[nn.Module | str] = (),
    initial_student: nn.Module | str | None = None,
    runs: str | Path = "runs",
    trust: bool = False,
) -> Verification:
    """Hold what a run handed over against its journal and manifest, and measure it again.

    A folder that was handed over, as `best/` or what `take` wrote, may lie anywhere without its run: its files are
    held against its own manifest, the manifest against the card and the file's metadata, and the file's outputs
    against the sample beside it. No script in it is run, and no link followed.

    The hashes of `best/` are held against journal and manifest; then the best artifact is measured beside the first
    model's as its verdict was, on the same samples. Timings are compared on the processor they were taken on, and
    as a verdict: met stays met. Nothing in the run folder is changed.

    run, model, task, students: as for `resume`. trust: as for `measure`. Raises InputError where there is nothing to
    verify, something is missing, or model or data are not those that the run began with.
    """
    if (given := Path(run)).is_dir() and not (given / FILE).is_file() and handed_over(given):
        return _of_folder(given, trust)
    folder = resolve_run(Path(runs), str(run))
    with Journal.open(folder, readonly=True) as journal:
        files.survey(folder, ["attempts", "best"])
        facts, rows, ending = journal.facts, {row.number: row for row in journal.attempts()}, journal.ending
        best = rows.get(-1 if ending is None or ending.best_attempt is None else ending.best_attempt)
        if best is None or best.artifact is None or best.verdict is None:
            raise InputError.of(
                f"Run {folder.name} has handed over nothing.", f"Let it end first: `boildown resume {folder.name}`."
            )
        kept = [check for number in sorted({0, best.number}) for check in _kept(journal, number, rows.get(number))]
        looks = [look.k for look in journal.looks() if look.attempt == best.number and not look.timed]
    hashes = (*kept, *_delivered(folder, best))
    if not all(check.agrees for check in hashes):
        untouched = Check("the verdict", None, "not measured again: the files are not those that were measured")
        return Verification(folder, (*hashes, untouched))
    with tempfile.TemporaryDirectory() as scratch, desk((), Budget()) as at, contextlib.ExitStack() as stack:
        found = reread(facts, folder, model, task, students, initial_student, call="verify", clock=at.budget)
        sat = stack.enter_context(sitting(found, Path(scratch), at))
        sat.check_identity(found, facts, folder.name, training=False)
        recorded = Verdict.from_json(best.verdict)
        try:
            base, look = rows[0].artifact, max(looks, default=1)
            assert base is not None  # its file has agreed
            verdict = _measured(sat, found.first, base, best.artifact.at(folder / "best"), best, recorded, look, trust)
        except (AttemptError, WorkerLost) as error:
            return Verification(folder, (*hashes, Check("the verdict", False, f"it cannot be measured again: {error}")))
    return Verification(folder, (*hashes, *_compared(sat.job, recorded, verdict)), verdict)


def _of_folder(folder: Path, trust: bool) -> Verification:
    """A folder that was handed over, wherever it lies."""
    what, checks = "The folder", list[Check]()
    folder = files.real(folder)
    try:
        told, found = manifest.read(folder), manifest.hashes(folder)
    except (OSError, ValueError) as error:
        return Verification(folder, (Check(MANIFEST, False, printable(str(error))),), what=what)
    for name in sorted(found.keys() | told["files"].keys()):
        recorded = told["files"].get(name)
        checks.append(_held(printable(name), found.get(name), None if recorded is None else printable(recorded)))
    if all(check.agrees for check in checks):
        checks += _of_file(folder, told, trust)
    return Verification(folder, tuple(checks), what=what)


def _of_file(folder: Path, told: Mapping[str, Any], trust: bool) -> list[Check]:
    """The manifest against the card and what the file says of itself; then its outputs. All files are as recorded."""
    path, name = folder / told["artifact"], printable(told["artifact"])
    try:
        runtime = get(told["runtime"])
        if path.suffix != runtime.suffix:
            raise InputError.of(f"{name} is no file of the runtime {runtime.name}.", "")
        card = json.loads(files.read_text(folder / CARD, folder))
        alike = card["made"] == told["made"] and told["files"].get(card["artifact"]["name"]) is not None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InputError) as error:
        return [Check(MANIFEST, False, printable(str(error) or type(error).__name__))]
    checks = [Check(CARD, alike, "it names the same file and run" if alike else "it names another file or run")]
    with Child() as child:
        try:
            made = child.call("boildown.runtimes.calls:about", runtime.name, str(path), deadline=_SECONDS)["identity"]
        except (AttemptError, WorkerLost, InputError) as error:
            return [*checks, Check(f"the metadata of {name}", False, printable(str(error)))]
        wrong = [key for key in {**made, **told["made"]} if made.get(key) != told["made"].get(key)]
        said = f"{MANIFEST} tells another {', '.join(map(printable, wrong))}" if wrong else f"{MANIFEST} tells the same"
        checks.append(Check(f"the metadata of {name}", not wrong if made or wrong else None, said))
        if wrong:
            return checks
        try:
            far = child.call(
                "boildown.engine.manifest:reproduced", runtime.name, str(path), str(folder / SAMPLE),
                trust=trust, deadline=_SECONDS,
            )  # fmt: skip
        except UntrustedFileError as error:
            return [*checks, Check("its outputs", None, printable(str(error)))]
        except (AttemptError, WorkerLost, InputError) as error:
            return [*checks, Check("its outputs", False, printable(str(error)))]
    shown = f"{100 * far:.2g} % from those recorded for {SAMPLE}"
    return [*checks, Check("its outputs", far <= _FAR, shown)]


_SECONDS = 300.0
_FAR = 0.05
"""Of the largest output: other processors round int8 otherwise."""


def _kept(journal: Journal, number: int, row: AttemptRow | None) -> list[Check]:
    """The files of an attempt against the journal, its artifact first."""
    files = {} if row is None else journal.files(row)
    whose = f"attempt {number}" if number else "the first model"
    names = [f"the artifact of {whose}", *(f"{path.name} of {whose}" for path in list(files)[1:])]
    if not files:
        return [_hash(names[0], None, None)]
    return [_hash(name, path, sha256) for name, (path, sha256) in zip(names, files.items(), strict=True)]


def _hash(what: str, path: Path | None, recorded: str | None) -> Check:
    """A file held against the hash on record."""
    return _held(what, file_hash(path) if path is not None and path.is_file() else None, recorded)


def _held(what: str, found: str | None, recorded: str | None) -> Check:
    """A sha256 held against the one on record; None for no file, empty for what is none: a link, a pipe."""
    if not found:
        return Check(what, False, "there is no such file" if found is None else "it is a link, or no file")
    if recorded is None:
        return Check(what, False, "it is not on record")
    if found == recorded:
        return Check(what, True, f"sha256 {found[:16]}")
    return Check(what, False, f"sha256 is {found[:16]}, the record says {str(recorded)[:16]}")


def _delivered(folder: Path, best: AttemptRow) -> list[Check]:
    """The files of `best/` against journal and manifest, and the manifest against the journal."""
    checks = []
    try:
        manifest = json.loads(files.read_text(folder / "manifest.json", folder))
        recorded = {name: str(sha256) for name, sha256 in manifest["files"].items()}
        attempts = {attempt["number"]: attempt for attempt in manifest["attempts"]}
        told = attempts[manifest["best"]]
        digest = None if best.artifact is None else best.artifact.sha256
        same = _text([told["number"], told["sha256"], told["verdict"]]) == _text([best.number, digest, best.verdict])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"it cannot be read ({in_words(error)})"
        return [Check("manifest.json", False, what), *_artifacts(folder, best)]
    said = "best attempt, its hash and its verdict are those of the journal"
    checks.append(Check("manifest.json", same, said if same else "its best attempt is not as the journal has it"))
    there = {path.relative_to(folder).as_posix() for path in files.walk(folder / "best")}
    checks += [
        _hash(name, folder / name if name in there else None, recorded.get(name))  # no path that the manifest makes up
        for name in sorted(there | recorded.keys())
    ]
    return [*checks, *_artifacts(folder, best)]


def _text(data: Any) -> str:
    """Plain data as one text: numbers that JSON lacks are equal to themselves."""
    return json.dumps(data, sort_keys=True, default=str)


def _artifacts(folder: Path, best: AttemptRow) -> list[Check]:
    """The delivered artifact against the journal."""
    files = {} if best.artifact is None else best.artifact.files
    return [_hash(f"best/{name} in the journal", folder / "best" / name, sha256) for name, sha256 in files.items()]


def _measured(
    sat: Sitting, first: Candidate, base: Artifact, artifact: Artifact, best: AttemptRow, recorded: Verdict, look: int,
    trust: bool,
) -> Verdict:  # fmt: skip
    """The verdict of the delivered artifact, as it is now on this machine, beside the first model's, `base`."""
    job, bench = sat.job, sat.bench
    bench.trust, bench.first = trust, base
    bench.bound(_CALL_SECONDS, free_memory())
    found = of_the_file(job, bench, artifact)
    if any(recorded.measurements[name].data == "verdict" for name in job.quality & recorded.measurements.keys()):
        # The first model stands in: a candidate's outputs have the same structure.
        quality = bench.quality(first, artifact, "verdict", first=first, look=look)
        found |= {measurement.metric: measurement for measurement in quality}
    if job.asks("params") or job.asks("macs"):
        installed()  # methods bring the edits that candidates are rebuilt with
        assert best.artifact is not None
        candidate = load_candidate(best.artifact.folder, first, job.students)
        found |= {measurement.metric: measurement for measurement in bench.operations(candidate, first)}
    if recorded.hardware == bench.machine:
        found |= of_the_machine(job, bench, artifact, found)
    return judge(job.target, found, job.confidence, bench.machine)


def _compared(job: Job, recorded: Verdict, now: Verdict) -> list[Check]:
    """Every figure, then every condition: as recorded, and as it is now."""
    ranges = {metric.name: metric.range for metric in (*job.metrics, *job.evaluated)}
    checks = []
    for name, measurement in now.measurements.items():
        if name in recorded.measurements and name not in _OF_THE_MACHINE:
            checks.append(_figure(measurement, recorded.measurements[name], ranges.get(base_of(name))))
    held, asked = ([finding.condition.text for finding in verdict.findings] for verdict in (recorded, now))
    if held != asked:
        told = f"the record holds {', '.join(held) or 'none'}; the run was asked for {', '.join(asked)}"
        return [*checks, Check("the conditions", False, told)]
    for before, after in zip(recorded.findings, now.findings, strict=True):
        checks.append(_condition(before, after, recorded, now))
    return checks


def _figure(now: Measurement, before: Measurement, spread: tuple[float, float] | None) -> Check:
    """A figure that is no timing: costs are counted, scores may differ by an answer or two."""
    allowed = 0.0
    if spread is not None:
        width = spread[1] - spread[0] if all(map(math.isfinite, spread)) else abs(before.value)
        allowed = max(_TOLERANCE * width, 2 * width / max(before.samples, 1) if before.samples else 0.0)
    shown = [format_value(m.value, COSTS.get(m.metric, m.unit), "value") for m in (before, now)]
    told = shown[0] if shown[0] == shown[1] else f"{shown[1]}, the record says {shown[0]}"
    same = now.value == before.value or abs(now.value - before.value) <= allowed
    return Check(now.metric, same, told)


def _condition(before: Finding, after: Finding, recorded: Verdict, now: Verdict) -> Check:
    text = before.condition.text
    if before.condition.metric in _OF_THE_MACHINE and after.observed is None:
        return Check(text, None, f"it was {before.status.value} on {recorded.hardware}, and this is {now.hardware}")
    if before.status is after.status:
        return Check(text, True, f"{after.status.value}, {after.shown}; the record says {before.shown}")
    told = f"{after.status.value}, {after.shown}; the record says {before.status.value}, {before.shown}"
    return Check(text, False, told)
