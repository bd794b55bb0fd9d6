"""What a run hands back: its attempts, the best of them, deliverable folders."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from boildown import files
from boildown.api.as_transformers import check_ports, files_for
from boildown.api.sealing import sealing
from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.front import compared, front
from boildown.domain.grammar import COSTS
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import Outcome, State
from boildown.domain.verdict import Verdict
from boildown.engine.attempt import Attempt
from boildown.engine.deliver import deliver
from boildown.engine.job import Job
from boildown.engine.prepare import FIRST
from boildown.engine.unread import Unread
from boildown.errors import InputError, install
from boildown.journal.journal import Journal, readable
from boildown.journal.rows import AttemptRow, Record
from boildown.journal.runs import resolve_run
from boildown.report import facts as report_facts
from boildown.report import fragment
from boildown.report import write as write_report
from boildown.report.floats import Floats, floats
from boildown.report.slices import changes, plain
from boildown.report.text import summary
from boildown.surgery.graph import captured
from boildown.surgery.simulate import simulate
from boildown.surgery.store import load_candidate


class Result:
    """One attempt of a run, as its user sees it."""

    def __init__(self, attempt: Attempt, run: Run) -> None:
        self._attempt, self._run = attempt, run

    @property
    def number(self) -> int:
        """0 is the first model itself."""
        return self._attempt.number

    @property
    def rung(self) -> str:
        """The methods and settings."""
        return self._attempt.rung

    @property
    def runtime(self) -> str:
        """What runs its file."""
        return self._attempt.runtime or self._run.job.deployment.first

    @property
    def key(self) -> str:
        """What the candidate was made of and how, as a hash: equal keys are equal candidates."""
        return self._attempt.key

    @property
    def parent(self) -> str | None:
        """The key of the candidate it was made from; None for the first model."""
        return self._attempt.parent

    @property
    def state(self) -> State:
        """Met, missed, undecided, skipped or failed."""
        return self._attempt.state

    @property
    def sentence(self) -> str:
        """How it stands, or why it was skipped or failed, in words."""
        return self._attempt.sentence

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing about the candidate and its file."""
        return tuple(self._attempt.notes)

    @property
    def artifact(self) -> Path | None:
        """The file to load; the best attempt's lies in `best/`."""
        return None if self.files is None else self.files.path

    @property
    def files(self) -> Artifact | None:
        """Everything that is deployed, the file to load and others that it needs; the best attempt's lie in `best/`."""
        artifact, best = self._attempt.artifact, self._run.path / "best"
        if artifact is not None and self._attempt is self._run.best_attempt and (best / artifact.name).exists():
            return artifact.at(best)
        return artifact

    @property
    def verdict(self) -> Verdict | None:
        """Condition by condition; None if it was skipped or failed."""
        return self._attempt.verdict

    @property
    def measurements(self) -> Mapping[str, Measurement]:
        """By metric name."""
        return self._attempt.measurements

    @property
    def floats(self) -> Floats | None:
        """What its file computes in float although it is quantized, layer by layer; None where nobody looked."""
        with Journal.open(self._run.path, readonly=True) as journal:
            return floats(journal.records(), self.number)

    def module(self) -> nn.Module:
        """The candidate as a PyTorch module, rebuilt from the first model, edits, plan and safetensors.

        A quantized candidate comes as its simulation. Raises InputError for an attempt that made no
        candidate, and for one made on the exported file, which has no PyTorch form.
        """
        if self._attempt.artifact is None:
            raise InputError.of(
                f"Attempt {self.number} ({self.rung}) made no model: it {self.state.value}.", "Choose another attempt."
            )
        candidate = load_candidate(self._attempt.folder, self._run.first, self._run.job.students)
        if isinstance(candidate.model, Unread):
            raise InputError.of(
                f"The model stays a file, and has no PyTorch module: {candidate.model.reason}.",
                f"Use its artifact: {self.artifact}.",
            )
        if candidate.rewrite is not None:
            raise InputError.of(
                f"Attempt {self.number} ({self.rung}) was made on the exported file and has no PyTorch module.",
                f"Use its artifact: {self.artifact}.",
            )
        if candidate.plan is None:
            return cast(nn.Module, candidate.model)
        return simulate(captured(candidate, *self._run.job.task.example()), candidate.plan)

    def export(self, folder: str | Path) -> Path:
        """Write a deployable folder for this attempt, as `best/` is; returns the artifact's path."""
        return take(self._run.path, self.number, folder)

    def __repr__(self) -> str:
        return f"<attempt {self.number}: {self.rung}, {self.state.value}>"


class Run:
    """One `compress` from start to outcome. `print(run)` gives the table a person wants."""

    def __init__(
        self,
        path: Path,
        job: Job,
        first: Candidate,
        outcome: Outcome,
        attempts: Sequence[Attempt],
        best: Attempt | None,
    ) -> None:
        self.path, self.job, self.first, self.outcome = path, job, first, outcome
        self.best_attempt = best
        self._attempts = list(attempts)

    @property
    def id(self) -> str:
        """UTC time and four hex digits."""
        return self.path.name

    @property
    def best(self) -> Result | None:
        """The attempt to deploy, or the nearest one; None only if the run was cancelled before any."""
        return None if self.best_attempt is None else Result(self.best_attempt, self)

    @property
    def candidates(self) -> list[Result]:
        """Every attempt, the first model included."""
        return [Result(attempt, self) for attempt in self._attempts]

    def attempt(self, number: int) -> Result:
        """The attempt of this number; 0 is the first model. Raises InputError where there is none."""
        for result in self.candidates:
            if result.number == number:
                return result
        have = ", ".join(str(attempt.number) for attempt in self._attempts)
        raise InputError.of(f"Run {self.id} has no attempt {number}.", f"It has these: {have}.")

    @property
    def front(self) -> list[Result]:
        """The Pareto front: the attempts that no other beats in every metric of the target.

        Where search had no labels, quality is how far outputs diverge from the first model's.
        """
        judged = [attempt.measurements for attempt in self._attempts if attempt.verdict is not None]
        metrics = compared(self.job.target.conditions, self.job.first_quality, self.job.goal, judged)
        kept = front({attempt.number: attempt.measurements for attempt in self._attempts}, metrics)
        return [result for result in self.candidates if result.number in kept]

    def report(self) -> Path:
        """Path of one self-contained HTML file, written anew."""
        return write_report(self.path)

    def to_json(self) -> dict[str, Any]:
        """The run as plain data, as `--json` prints it."""
        return show(self.path)

    def __str__(self) -> str:
        with Journal.open(self.path, readonly=True) as journal:
            return summary(report_facts(journal))

    def to_frame(self) -> Any:
        """One row per attempt as a pandas DataFrame, indexed by its number: rung, state, and every metric's figures.

        A metric has its value in base units under its name, and `NAME ratio` or `NAME drop` beside it; a timing also
        whether it is `NAME noisy`. Raises InputError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise InputError.of(
                "to_frame() needs pandas, which is not installed.", f"{install('pandas')}, or use to_json()."
            ) from None
        rows = [_row(attempt) for attempt in self._attempts]
        return pandas.DataFrame(rows, index=pandas.Index([a.number for a in self._attempts], name="attempt"))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        with Journal.open(self.path, readonly=True) as journal:
            return fragment(report_facts(journal))

    def __repr__(self) -> str:
        return f"<run {self.id}: {self.outcome.name}>"


def _row(attempt: Attempt) -> dict[str, Any]:
    """An attempt as the columns of a table."""
    row: dict[str, Any] = {
        "rung": attempt.rung,
        "state": attempt.state.value,
        "sentence": attempt.sentence,
        "minutes": attempt.seconds.get("total", 0.0) / 60,
    }
    for name, measurement in attempt.measurements.items():
        row[name] = measurement.value
        row |= {f"{name} drop": measurement.drop} if measurement.drop is not None and name not in COSTS else {}
        row |= {f"{name} ratio": measurement.ratio} if measurement.ratio is not None else {}
        row |= {f"{name} noisy": measurement.noisy} if measurement.spread is not None else {}
    return row


def take(
    run: str | Path,
    attempt: int | None = None,
    to: str | Path | None = None,
    *,
    runs: str | Path = "runs",
    samples: bool = True,
    with_preprocessing: bool = False,
    as_: str | None = None,
    trust: bool = False,
) -> Path:
    """Write a deployable folder for any attempt of a run, by default its best; returns the artifact's path.

    The folder is `to`, which must be new or empty, or `attempt-N` in the run folder. Raises
    InputError for an attempt without an artifact, one whose file is not the one that was measured, and
    for a folder that holds something. samples: whether samples of the user's data lie in it, where the
    run lets them. with_preprocessing: `NAME.with-preprocessing.onnx` lies beside, which takes uint8 pictures of
    any size; refused where ONNX lacks an operator. as_: `transformers` for a folder that optimum's ORTModel loads.
    `trust` is needed where loading the artifact could execute code
    (runtime `eager`).
    """
    if as_ not in (None, "transformers"):
        raise InputError.of(f"as_ = {as_!r} is not known.", "It may be 'transformers'.")
    folder = resolve_run(Path(runs), str(run))
    with Journal.open(folder, readonly=True) as journal:
        rows = {row.number: row for row in journal.attempts()}
        if attempt is None:
            attempt = None if journal.ending is None else journal.ending.best_attempt
        if attempt is None:
            raise InputError.of(
                f"Run {folder.name} has no best attempt yet.", "Name an attempt, or let the run end: boildown resume."
            )
        row = rows.get(attempt)
        artifact = None if row is None else row.artifact
    files.survey(folder, ["attempts"])
    if row is None or artifact is None or not artifact.path.exists():
        have = ", ".join(str(number) for number, row in rows.items() if row.artifact) or "none"
        raise InputError.of(f"Attempt {attempt} of run {folder.name} has no artifact.", f"These have one: {have}.")
    if changed := artifact.changed(folder):
        raise InputError.of(
            f"The artifact of attempt {attempt} ({changed[0]}) is not the file that was measured.",
            "Bring it back from a copy, or make it again in a new run.",
        )
    target = files.real(Path(to)) if to is not None else folder / f"attempt-{attempt}"
    if to is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError.of(f"{target} exists and is not an empty folder.", "Name a new folder.")
    with Journal.open(folder, readonly=True) as journal, readable(folder):
        beside = files_for(journal.facts, artifact.runtime) if as_ is not None else []
        seal = sealing(journal, row)

        def finish(made: Path) -> None:
            if as_ is not None:
                check_ports(made)
            for file in beside:
                shutil.copyfile(file, made / file.name)
            seal(made)

        notes = deliver(
            artifact, folder / FIRST, target, journal.facts.get("classes"),
            samples=samples, with_preprocessing=with_preprocessing, trust=trust, finish=finish,
        )  # fmt: skip
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return target / artifact.name


def show(folder: Path) -> dict[str, Any]:
    """A run as plain data, read from its journal."""
    with Journal.open(folder, readonly=True) as journal, readable(folder):
        ending, facts, rows = journal.ending, journal.facts, journal.attempts()
        records = journal.records()
        best = next((row.artifact for row in rows if ending and row.number == ending.best_attempt), None)
        delivered = None if best is None else folder / "best" / best.name
        return {
            "run": folder.name,
            "path": str(folder),
            "outcome": ending.outcome.name if ending else None,
            "sentence": ending.sentence if ending else "The run has not ended.",
            "seconds": ending.seconds if ending else None,
            "best": ending.best_attempt if ending else None,
            "artifact": str(delivered) if delivered is not None and delivered.exists() else None,
            "report": str(folder / "report.html"),
            "target": facts["target"],
            "attempts": [
                {
                    "number": row.number,
                    "rung": row.rung,
                    "state": row.state.value,
                    "reason": row.reason,
                    "sentence": row.sentence,
                    "parent": row.parent,
                    "key": row.candidate_key,
                    "runtime": None if row.artifact is None else row.artifact.runtime,
                    "artifact": None if row.artifact is None else _inside(row.artifact.path, folder),
                    "sha256": None if row.artifact is None else row.artifact.sha256,
                    "content": None if row.artifact is None else row.artifact.digest,
                    "files": {} if row.artifact is None else dict(row.artifact.files),
                    "seconds": row.timings,
                    "notes": list(row.notes),
                    "verdict": row.verdict,
                    "slices": _slices(row, records),
                    "floats": None if (kept := floats(records, row.number)) is None else kept.to_json(),
                }
                for row in rows
            ],
        }


def _slices(row: AttemptRow, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every slice that an attempt was measured on, and which of its samples changed, where that was looked at."""
    digest = "" if row.artifact is None else row.artifact.digest
    with contextlib.suppress(KeyError, TypeError, ValueError):  # a verdict that this version cannot read
        if row.verdict is not None:
            return plain(Verdict.from_json(row.verdict).measurements, changes(records, row.number, digest))
    return []


def _inside(path: Path, folder: Path) -> str:
    """A path as it is below a folder, where it lies there."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
