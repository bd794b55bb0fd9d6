"""The bench: turns candidates into artifacts and measures them, each result kept by its key."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from boildown.domain.artifact import SHORT, Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.deployment import written_form
from boildown.domain.grammar import base_of, format_value, set_of
from boildown.domain.measurement import Form, Interval, Measurement
from boildown.domain.rows import as_rows, of_each, stacked
from boildown.domain.target import Condition
from boildown.domain.task import Metric, Runnable, Samples
from boildown.domain.verdict import Status
from boildown.engine.answers import ANSWER, blanked, held_wrong, kinds, no_number, spoiled, told, value_of
from boildown.engine.artifact import ArtifactModel, flatten
from boildown.engine.company import LEAST_ALONE, alone_and_together
from boildown.engine.costs import beside_itself, in_company
from boildown.engine.deliver import RESERVED
from boildown.engine.evaluation import Evaluations
from boildown.engine.job import Job
from boildown.engine.parity import first_apart
from boildown.engine.slices import Rows, Slicer
from boildown.engine.unread import FileGraph, Unread
from boildown.errors import AttemptError, Cancelled, DeadlineError, ExportError, ParityError, WorkerLost
from boildown.execution.child import Child
from boildown.execution.quiet import quiet
from boildown.journal.keys import hash_of, measurement_key
from boildown.journal.runs import HIDDEN
from boildown.measuring import memory as memory_measure
from boildown.measuring.environment import environment, machine_key
from boildown.measuring.quality import measure_quality, summarise_divergence
from boildown.measuring.sequential import ERROR, EarlyStop, reading_order
from boildown.measuring.size import measure_size
from boildown.measuring.statistics import level_at_look
from boildown.runtimes import get
from boildown.runtimes.base import Array, Executed, Port, Written
from boildown.surgery.graph import Graph, captured
from boildown.surgery.onnx_file import SUFFIX
from boildown.surgery.simulate import simulate
from boildown.tasks.data import places_of
from boildown.tasks.doubt import Doubt
from boildown.tasks.general import fresh, written
from boildown.tasks.repeats import Labels

TIMING_SECONDS = 30.0
"""The most that one timing takes which has a bound to decide."""

Which = Literal["search", "verdict"]
PARTS: tuple[Which, ...] = ("verdict", "search")
Purpose = Literal["search", "verdict", "fastest"]
"""What is timed for: to choose a variant, to judge an artifact, or to judge the one that its timing has chosen."""

Statistics = Mapping[str, NDArray[np.float64]]
Ran = tuple[str, str]
"""A runtime and what computes in it, see `Artifact.ran`."""
Recall = Callable[[str], Measurement | None]

_EXPORT_SECONDS = 900.0
_FLOAT_DECIBEL = 40.0
_PLAN_DECIBEL = 20.0
_PLAN_PROMISE = 30.0
_GATE_SAMPLES = 128
_LOOKED_INTO = 8
_COMPARED = 512
_GLANCE_SECONDS = 2.0
_FEW = 256
"""Bytes of the names of classes that any file has room for."""
UNDEFINED = "the metric has no value for these samples"


class Bench:
    """Everything that can be measured of a candidate of this job.

    `folder` is the run folder; `recall` finds a measurement by key, `keep` stores one, `record`
    journals how many search samples were scored. `seconds` counts wall time by kind of work, for the
    engine's own share. `first` is the first model's artifact, known once it has been written.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        *,
        check: Callable[[], None],
        progress: Callable[[str, int, int | None], None],
        recall: Recall = lambda _key: None,
        keep: Callable[[str, Measurement], None] = lambda _key, _measurement: None,
        record: Callable[[str, Mapping[str, Any]], None] = lambda _kind, _data: None,
    ) -> None:
        self.job, self.folder = job, folder
        self.check, self.progress, self.recall, self.keep, self.record = check, progress, recall, keep, record
        self.seconds: dict[str, float] = defaultdict(float)
        self._timing = False
        self.trust = True
        """Artifacts are the run's own, made here or checked by hash; a user's file is not."""
        self.first: Artifact | None = None
        self.attempt, self.rung = 0, "first"
        """What is written now belongs to: told in the file."""
        self.deadline = float("inf")
        self._child = Child()
        self.home = self._child.folder
        self._seconds = float("inf")
        self.runtimes = {name: get(name) for name in job.deployment.runtimes}
        self.versions = {name: runtime.version() for name, runtime in self.runtimes.items()}
        self.form = written_form(job.deployment.form, job.deployment.runtime)
        self._machine = {**environment(), "hardware": job.deployment.hardware}
        self._statistics: dict[tuple[Ran, Which], Statistics] = {}
        self.slicer = Slicer(job)
        self.scoring: dict[str, float] = {}
        """Seconds that scoring the first artifact on all samples took, by what they serve."""
        self.where = ""
        """The set that it looks at, where that is not the main one."""
        self._sides: dict[str, dict[str, Any]] = {}
        """What is kept of the other sets from one look at them to the next; see `on`."""
        self._fingerprints: dict[Which, str] = {}
        self._alone: dict[Ran, float] = {}
        self._lists = False
        """Whether outputs are lists of what belongs to each sample."""
        self.evaluations = Evaluations(self)
        self._names: dict[str, Mapping[str, str]] = {}
        """What the values of the graph are called inside of an artifact that was written here."""

    def move(self, folder: Path) -> None:
        """The run folder has been renamed."""
        if self.first is not None:
            self.first = self.first.at(folder / self.first.folder.relative_to(self.folder))
        self.folder = folder

    def bound(self, seconds: float, memory: int | None) -> None:
        """Files of others are run: no call takes longer, and no child gets more memory than this."""
        self._seconds, self._child.memory = seconds, memory

    def close(self) -> None:
        """End the child process."""
        self._child.close()

    # -- artifacts -----------------------------------------------------------------------------------

    def expect_export(self) -> None:
        """Let the child load, beside what is done here, what it will export with."""
        self._child.begin("boildown.runtimes.calls:load_exporter", self._exporter(self.job.deployment.first))

    def graph(self, candidate: Candidate) -> Graph:
        """The captured float graph of a candidate; of one that stays a file what is known of it."""
        if isinstance(candidate.model, Unread):
            return cast(Graph, FileGraph(candidate.model))
        with self.timed("export"):
            args, kwargs = self.job.task.example()
            return captured(candidate, args, kwargs)

    def write(self, candidate: Candidate, weights: str, folder: Path, runtime: str = "") -> tuple[Artifact, Written]:
        """The artifact of a candidate, its files laid into `folder`; those with the same weights share one export.

        runtime: that it is written for, by default the first.
        """
        runtime, graph = runtime or self.job.deployment.first, self.graph(candidate)
        name, version = f"model{self.runtimes[runtime].suffix}", self.versions[runtime]
        with self.timed("export"):
            exported = self._exported(graph, weights, self._exporter(runtime))
            self.progress("write", 0, None)
            fresh = _empty(folder / "new-artifact")
            try:
                written: Written = self._call(
                    "writing the file", "boildown.runtimes.calls:write",
                    runtime, str(exported), str(fresh / name), candidate.plan, candidate.rewrite, self.form,
                )  # fmt: skip
                beside = (path for path in fresh.rglob("*") if path.is_file())
                artifact = Artifact.read(runtime, fresh / name, beside, version=version)
                identity = self._identity(artifact)
                if self._call(
                    "naming the maker", "boildown.runtimes.calls:stamp", runtime, str(fresh / name), identity
                ):
                    artifact = Artifact.read(
                        runtime, fresh / name, artifact.paths, version=version, content=artifact.digest
                    )
                if clash := sorted(RESERVED & artifact.files.keys()):
                    raise ExportError(
                        f"The runtime {runtime} writes a file called {clash[0]}, as boildown does beside it.\n"
                        "  Let it give its files other names."
                    )
                self._names[artifact.digest] = written.names
                return artifact.move(folder), written
            finally:
                shutil.rmtree(fresh, ignore_errors=True)

    def _exporter(self, runtime: str) -> str:
        """The runtime whose exports one writes from."""
        return self.runtimes[runtime].exporter or runtime

    def _exported(self, graph: Graph, weights: str, exporter: str) -> Path:
        """The export of a graph with these weights, made once for all runtimes that write from it."""
        stays: Any = graph
        if isinstance(stays, FileGraph):  # its methods change the file itself
            assert self.first is not None
            return self.first.path
        by, ports = get(exporter), self.job.ports
        folder = self.folder / "exports" / hash_of([weights, graph.code_hash(), exporter, by.version(), ports])[:16]
        name = f"model{by.suffix}"
        if not folder.exists():
            self.progress("export", 0, None)
            fresh = _empty(folder.with_name(f"new-{folder.name}"))
            serialized = graph.serialize(ports)
            self._call("exporting", "boildown.runtimes.calls:export", exporter, serialized, str(fresh / name))
            fresh.replace(folder)
        return folder / name

    def _identity(self, artifact: Artifact) -> dict[str, str]:
        """What an artifact tells of itself: who made it, in which run, of what and how, and its classes where they
        take few bytes beside it."""
        identity = {
            "version": str(self._machine["packages"]["boildown"]),
            "run": self.folder.name.removeprefix(HIDDEN),
            "attempt": str(self.attempt),
            "method": self.rung,
        }
        if self.first is not None:
            identity["parent"] = self.first.sha256[:SHORT]
        classes = json.dumps(getattr(self.job.task, "classes", None) or [], separators=(",", ":"))
        if 2 < len(classes) <= max(_FEW, artifact.size // 100):
            identity["classes"] = classes
        return identity

    def ports(self, artifact: Artifact) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Inputs and outputs of an artifact."""
        found: tuple[tuple[Port, ...], tuple[Port, ...]] = self._call(
            "opening the file",
            "boildown.runtimes.calls:ports",
            artifact.runtime,
            str(artifact.path),
            os.cpu_count() or 1,
            self.trust,
        )
        return found

    def model(self, candidate: Candidate | None, artifact: Artifact) -> ArtifactModel:
        """The artifact, called like the model it was made from; a bare file returns what it returns."""
        output = None if candidate is None else self.graph(candidate).outputs
        return ArtifactModel(
            self._child, artifact,
            example=self.job.task.example(), output=output,
            threads=os.cpu_count() or 1, trust=self.trust, check=self.check, deadline=self._left(),
        )  # fmt: skip

    def agree(self, candidate: Candidate, artifact: Artifact) -> str:
        """Check the artifact against the model (or its simulation) on real samples, as a sentence.

        Raises ParityError where they disagree by more than the arithmetic of the runtime explains, or where the
        artifact's answers depend on the rest of the batch.
        """
        alone = self.alone(candidate, artifact)
        if candidate.rewrite is not None:
            as_deployed = f", at batch {self.job.deployment.batch} as deployed" if alone < LEAST_ALONE else ""
            return f"made from the exported file; judged by its scores alone{as_deployed}"
        least = LEAST_ALONE if candidate.plan is None else _PLAN_DECIBEL
        found_at_run_time = candidate.plan is not None and bool(candidate.plan.dynamic)
        if alone < least and not found_at_run_time:
            raise ParityError(f"In the artifact {_company(alone)}: at least {least:.0f} dB expected.")
        with self.timed("measure"), torch.no_grad():
            graph = self.graph(candidate)
            model = graph.module if candidate.plan is None else simulate(graph, candidate.plan)
            reference = candidate.model if candidate.plan is None else model
            exported = self.model(candidate, artifact)
            ours, theirs = [], []
            samples = self.job.splits.search
            for inputs, _ in samples.subset(range(min(_GATE_SAMPLES, len(samples)))).batches(32):
                self.check()
                for args, kwargs in self.job.task.calls(inputs):
                    own, named = fresh((args, kwargs))  # the model may work in place
                    ours.append(_numbers(reference(*own, **named)))
                    theirs.append(_numbers(exported(*args, **kwargs)))
        least, usual = (_FLOAT_DECIBEL,) * 2 if candidate.plan is None else (_PLAN_DECIBEL, _PLAN_PROMISE)
        decibel = signal_to_noise(np.concatenate(ours), np.concatenate(theirs))
        told = f"artifact and model agree to {decibel:.1f} dB"
        if found_at_run_time and alone < LEAST_ALONE:
            told += f"; grids that it finds while it runs depend on the batch: scored at {self.job.deployment.batch}"
        if decibel >= usual:
            return told
        apart = self._apart(candidate, artifact)
        if apart == "" and candidate.plan is not None and math.isfinite(decibel):
            return (
                f"{told}, less than usual: the network amplifies rounding, for given equal inputs each layer agrees to "
                "within one step"
            )
        if apart and candidate.plan is not None:
            raise ParityError(
                f"A layer of the artifact computes something else than its simulation in PyTorch: given equal inputs, "
                f"{apart} ({decibel:.1f} dB of agreement of the outputs on real samples).\n"
                "  The export of that layer is wrong: leave it float, or replace it in the model."
            )
        if not decibel >= least:
            what = "the model" if candidate.plan is None else "its simulation in PyTorch"
            first = f" The first that differs given equal inputs: {apart}." if apart else ""
            raise ParityError(
                f"The artifact's outputs differ from those of {what}: {decibel:.1f} dB of agreement on real "
                f"samples, at least {least:.0f} dB expected.{first} The model may depend on randomness or on state "
                "kept between calls; or the export of an operator is wrong."
            )
        return f"{told}, less than usual"

    def _apart(self, candidate: Candidate, artifact: Artifact) -> str | None:
        """The first layer that an artifact computes otherwise, see `parity.first_apart`: looked at on a few samples."""
        graph, example = self.graph(candidate), self.job.task.example()
        samples = self.job.splits.search
        count = min(graph.batch if graph.static_batch else self.job.fixed_batch or _LOOKED_INTO, len(samples))
        inputs, _ = next(iter(samples.subset(range(count)).batches(count)))
        args, kwargs = self.job.task.calls(inputs)[0]
        arrays = flatten(args, kwargs, example)

        def look(names: Sequence[str]) -> Any:
            return self._call(
                "looking into the file", "boildown.runtimes.calls:inside",
                artifact.runtime, str(artifact.path), names, arrays, os.cpu_count() or 1,
            )  # fmt: skip

        names = self._names.get(artifact.digest, {})
        with self.timed("measure"):
            return first_apart(graph, candidate.plan, names, graph.flatten(args, kwargs), count, look, self.check)

    def alone(self, candidate: Candidate | None, artifact: Artifact) -> float:
        """How well an artifact's outputs agree between a sample alone and in company, in decibel."""
        if artifact.ran not in self._alone:
            model = self.model(candidate, artifact)
            with self.timed("measure"), torch.no_grad():
                self._alone[artifact.ran] = alone_and_together(
                    lambda inputs: self.job.task.run(model, inputs), self.job.splits.search
                )
        return self._alone[artifact.ran]

    def sample(self, batch: int) -> list[Array]:
        """Flat inputs of one call with this batch size, from real samples."""
        search = self.job.splits.search
        inputs, _ = next(iter(search.subset([index % len(search) for index in range(batch)]).batches(batch)))
        args, kwargs = self.job.task.calls(inputs)[0]
        return flatten(args, kwargs, self.job.task.example())

    # -- measurements --------------------------------------------------------------------------------

    def size(self, artifact: Artifact, plain: int | None = None) -> Measurement:
        """Bytes of the artifact, against the first model's float artifact."""
        what = "the same network as boildown writes it in float" if self.brought else "the plain export"
        return measure_size(artifact, self.first or artifact, plain=plain, what=what)

    def operations(self, candidate: Candidate, first: Candidate) -> list[Measurement]:
        """Parameters and multiply-accumulates per sample, counted on the captured graph.

        Raises AttemptError where macs are asked for and an operator of the candidate is not counted.
        """
        if isinstance(first.model, Unread):
            return []
        if self.job.asks("macs") and (unknown := self.graph(candidate).uncounted()):
            raise AttemptError(f"Its macs cannot be counted: {', '.join(unknown)} with parameters is not counted.")
        pairs = {
            "params": (_parameters(candidate), _parameters(first)),
            "macs": (self.graph(candidate).macs(), self.graph(first).macs()),
        }
        return [
            Measurement(name, own, "", first=base, ratio=own / base if base else None)
            for name, (own, base) in pairs.items()
        ]

    def memory(self, artifact: Artifact) -> Measurement:
        """Peak resident memory in fresh processes, against the first model's artifact."""

        def measured() -> Measurement:
            deployment = self.job.deployment
            inputs = self.sample(deployment.batch)

            def peak(which: Artifact) -> int:
                with Child(memory=self._child.memory) as fresh:
                    return int(
                        fresh.call(
                            "boildown.measuring.memory:peak",
                            str(which.path), inputs, which.runtime, deployment.threads, self.trust,
                            check=self.check, deadline=self._left(), doing="measuring memory",
                        )
                    )  # fmt: skip

            assert self.first is not None
            firsts, own = [], []
            for _ in range(3):
                firsts.append(peak(self.first))
                own.append(peak(artifact))
            return memory_measure.summarise(firsts, own)

        return self._remembered(self.key("memory", artifact, **self._call_options(artifact)), measured)

    def apart(
        self,
        metrics: Sequence[str],
        artifact: Artifact,
        measured: Callable[[Callable[..., Any]], Mapping[str, Measurement]],
        **options: Any,
    ) -> dict[str, Measurement]:
        """Costs of an artifact that are measured in processes of their own, kept by their keys.

        measured: from a function, which calls another by its name in a fresh process, to what it found. options: what
        the costs depend on beside the artifact and the deployment.
        """
        options |= self._call_options(artifact)
        keys = {metric: self.key(metric, artifact, **options) for metric in metrics}
        known = {metric: found for metric, key in keys.items() if (found := self.recall(key)) is not None}
        if len(known) < len(keys):
            with self.timed("measure"):
                known = dict(measured(self._fresh))
            for metric, key in keys.items():
                self.keep(key, known[metric])
        return known

    def _fresh(self, function: str, *args: Any, doing: str, **options: Any) -> Any:
        with Child(memory=self._child.memory) as fresh:
            return fresh.call(function, *args, check=self.check, deadline=self._left(), doing=doing, **options)

    def executed(self, artifact: Artifact) -> tuple[Executed, ...]:
        """What the runtime ends up running of an artifact, for one call of the deployment's batch."""
        batch, threads = self.job.deployment.batch, self.job.deployment.threads
        with self.timed("measure"):
            found: tuple[Executed, ...] = self._call(
                "looking at what the runtime runs", "boildown.runtimes.calls:executed",
                artifact.runtime, str(artifact.path), self.sample(batch), threads,
            )  # fmt: skip
        return found

    def latency(self, artifact: Artifact, *, purpose: Purpose = "verdict", look: int = 1) -> Measurement:
        """Median latency, timed block by block beside the first model's artifact.

        Where the target asks for it sampling goes on until the bound is decided, else for two seconds, as for a
        `search`. What was timed for one purpose serves no other, and no two looks share a block: what a timing has
        chosen is judged by another. The k-th look is held to the k-th level.
        """
        job, asked = self.job, self.job.asks("latency") and purpose != "search"
        level = level_at_look(job.level, look) if asked else job.level
        again = () if look == 1 else (f"timed anew, all blocks new: look {look}",)
        again = ("timed anew after it was chosen for being the fastest",) if purpose == "fastest" else again
        bounds: dict[str, Any] = {
            "bound": job.bound("latency", "ratio") if asked else None,
            "value_bound": job.bound("latency", "value") if asked else None,
        }

        def measured() -> Measurement:
            assert self.first is not None
            with Child(memory=self._child.memory) as fresh, quiet(self.check) as still:
                self.progress("time", 0, None)
                found = Measurement.from_json(
                    fresh.call(
                        "boildown.measuring.latency:compare",
                        str(self.first.path), str(artifact.path), self.sample(job.deployment.batch),
                        runtime=artifact.runtime, first_runtime=self.first.runtime,
                        threads=job.deployment.threads, level=level,
                        bound=bounds["bound"], value_bound=bounds["value_bound"],
                        seconds=TIMING_SECONDS if asked else _GLANCE_SECONDS, trust=self.trust,
                        check=self.check, deadline=self._left(), doing="timing",
                    )
                )  # fmt: skip
            return in_company(replace(found, look=look if asked else 0, notes=(*found.notes, *again)), still)

        key = self.key(
            "latency",
            artifact,
            purpose=purpose,
            look=look,
            asked=asked,
            level=level,
            **bounds,
            **self._call_options(artifact),
        )
        measurement = self._remembered(key, measured)
        return beside_itself(measurement) if self.is_first(artifact) else measurement

    def divergence(self, candidate: Candidate, artifact: Artifact, first: Candidate) -> Measurement:
        """Mean divergence of the outputs from the first model's on the search samples; no labels."""
        if self.is_first(artifact):
            return Measurement("divergence", 0.0, samples=len(self.job.splits.search), data="search")

        def measured() -> Measurement:
            assert self.first is not None
            task, own, base = self.job.task, self.model(candidate, artifact), self.model(first, self.first)
            values, left = [], len(self.job.splits.search)
            for inputs, _ in self._batches(self.job.splits.search, "compare outputs", size):
                ours, theirs = (self._output(model, inputs, min(size, left)) for model in (own, base))
                values.append(np.asarray(task.divergence(ours, theirs), np.float64))
                left -= size
            return summarise_divergence(np.concatenate(values))

        size, batch = self._batch(candidate, artifact)
        return self._remembered(self.key("divergence", artifact, "search", first=self.first_hash, **batch), measured)

    def quality(
        self, candidate: Candidate | None, artifact: Artifact, which: Which, *, first: Candidate | None, look: int = 1
    ) -> list[Measurement]:
        """Every metric on the main set, and on the others that conditions name; of a search where it has labels."""
        found = self._quality(candidate, artifact, which, first=first, look=look) if self.scores(which) else []
        for name in self.job.splits.others:
            side = self.on(name)
            if side.scores(which):
                found += map(side.called, side._quality(candidate, artifact, which, first=first, look=look))
        return found

    def scores(self, which: Which) -> bool:
        """Whether there are labels to score."""
        return which == "verdict" or self.job.splits.search_labelled

    def on(self, name: str) -> Bench:
        """This bench as it is now, with another of the job's sets: what it measures is kept under the set's name."""
        side = copy.copy(self)
        vars(side).pop("asked", None)
        vars(side).update(self._sides.setdefault(name, {"_statistics": {}, "_fingerprints": {}}))
        side.where, side.job = name, self.job.on(name)
        side.slicer = Slicer(side.job)
        side.keep = lambda key, measurement: self.keep(key, side.called(measurement))
        side.record = lambda kind, data: self.record(kind, {"set": name, **data})
        side.progress = lambda what, done, total: self.progress(f"{what}, {name}", done, total)
        return side

    def called(self, measurement: Measurement) -> Measurement:
        """A measurement under the name of the set that it was made on."""
        if not self.where or measurement.metric.endswith(f"[{self.where}]"):
            return measurement
        notes = tuple(f"{self.where}: {note}" for note in measurement.notes)
        return replace(measurement, metric=f"{measurement.metric}[{self.where}]", notes=notes)

    def _quality(
        self, candidate: Candidate | None, artifact: Artifact, which: Which, *, first: Candidate | None, look: int = 1
    ) -> list[Measurement]:
        """Every metric of the task on the artifact, paired with the first model's on the same samples; then on slices.

        Search samples are scored only until it is clear whether all of them would meet the conditions
        on quality; metrics that no condition is about are left out then. An evaluation of the user's own is asked for
        the verdict alone.
        """
        level = level_at_look(self.job.level, look) if self.job.confidence is not None else self.job.level
        found = self._scored(candidate, artifact, which, first, level) if self.job.metrics else []
        if which == "search" or not self.job.evaluated:
            return found
        own = self.evaluations.measured(candidate, artifact, level, self._environment(artifact))
        return [*found, *((_undropped(each, level) for each in own) if self.is_first(artifact) else own)]

    def _scored(
        self, candidate: Candidate | None, artifact: Artifact, which: Which, first: Candidate | None, level: float
    ) -> list[Measurement]:
        """Every metric that is measured sample by sample, see `quality`."""
        metrics = {metric.name: metric for metric in self.job.metrics}

        assert self.first is not None
        base = self.statistics(first, self.first, which)
        batch = self._batch(candidate, artifact)[1]

        def keys(names: Iterable[str], **options: Any) -> dict[str, str]:
            shared = {"first": self.first_hash, "level": level, **batch, **options}
            scores = {name: _scores(metric, base[name]) for name, metric in metrics.items()}
            return {
                name: self.key(
                    name, artifact, which, scores=scores[base_of(name)], **self.slicer.key(name, which), **shared
                )
                for name in names
            }

        whole, stopped = keys((*metrics, *map(str, self.slicer.names(which)))), {}
        if which == "search" and self.asked:
            asked = dict.fromkeys(condition.metric for condition in self.asked)
            stopped = keys(asked, stopped=[asdict(condition) for condition in self.asked], error=ERROR)
        for names in (whole, stopped):
            known = [measurement for key in names.values() if (measurement := self.recall(key)) is not None]
            if len(known) == len(names) > 0:
                return known
        if which == "search" and not self.is_first(artifact):
            measurements, complete = self._searched(candidate, artifact, base, level)
        else:
            own = base if self.is_first(artifact) else self.statistics(candidate, artifact, which)
            measurements, complete = (
                [self._measured(m, artifact, own, base, which, level) for m in metrics.values()],
                True,
            )
            if batch and which == "verdict":
                measurements = self._in_other_batches(measurements, candidate, artifact, own)
            measurements += self._of_slices(artifact, own, base, which, level)
        for measurement in measurements:
            self.keep((whole if complete else stopped)[measurement.metric], measurement)
        return measurements

    def _measured(
        self, metric: Metric, artifact: Artifact, own: Statistics, base: Statistics, which: Which, level: float,
        order: NDArray[np.intp] | None = None, far: bool = False,
    ) -> Measurement:  # fmt: skip
        """A metric of an artifact from statistics. order: of the samples, where it is not that of the data, or of some
        of them. far: as in `measure_quality`."""
        samples, clusters = self._samples(which), self._clusters(which)
        if order is not None:
            samples, clusters = samples.subset(order.tolist()), None if clusters is None else clusters[order]
        if spoiled(metric, own) or spoiled(metric, base):
            measurement = replace(no_number(metric, own, base), samples=_count(own), data=which)
        else:
            with self.timed("measure"):
                measurement = measure_quality(
                    metric, own[metric.name], base[metric.name],
                    level=level, seed=self.job.seed, data=which, environment=self._environment(artifact),
                    clusters=clusters, places=places_of(samples), groups=self._grouped(which), far=far,
                )  # fmt: skip
            measurement = _undropped(measurement, level) if own is base else measurement
        return told(measurement, own, samples)

    def _of_slices(
        self, artifact: Artifact, own: Statistics, base: Statistics, which: Which, level: float
    ) -> list[Measurement]:
        """The slices of samples from the statistics of all."""

        def one(metric: Metric, rows: Rows, at: float, far: bool) -> Measurement:
            part = {name: own[name][rows] for name in (metric.name, ANSWER)}
            held = part if own is base else {name: base[name][rows] for name in part}
            self.check()
            if any(spoiled(metric, statistics) for statistics in (part, held)) or all(
                math.isfinite(metric.compute(statistics[metric.name])) for statistics in (part, held)
            ):
                return self._measured(metric, artifact, part, held, which, at, rows, far)
            none = replace(no_number(metric, part, held), samples=len(rows), data=which, notes=(UNDEFINED,))
            return told(none, part, self._samples(which).subset(rows.tolist()))

        return self.slicer.measure(which, level, one)

    def _in_other_batches(
        self, found: list[Measurement], candidate: Candidate | None, artifact: Artifact, own: Statistics
    ) -> list[Measurement]:
        """Scores in the deployment's batch, each with what some of the samples score in batches of another size."""
        deployed, samples = self.job.deployment.batch, self._samples("verdict")
        size = self.job.batch_size if deployed == 1 else 1
        some = np.sort(np.random.default_rng(self.job.seed).permutation(len(samples))[:_COMPARED])
        others = self.score(
            self.model(candidate, artifact),
            samples.subset(some.tolist()),
            f"score at batch {size}",
            size=size,
            reference=self._reference(candidate, artifact),
        )
        metrics, notes = {metric.name: metric for metric in self.job.metrics}, []
        for measurement in found:
            metric = metrics[measurement.metric]
            scores = [
                format_value(value_of(metric, statistics), measurement.unit)
                for statistics in (others, {name: rows[some] for name, rows in own.items()})
            ]
            notes.append(
                f"{_company(self._alone[artifact.ran])}: scored at batch {deployed}, as deployed; at batch {size} "
                f"{metric.name} is {scores[0]} instead of {scores[1]} on {len(some):,} samples"
            )
        return [replace(m, notes=(*m.notes, note)) for m, note in zip(found, notes, strict=True)]

    def _searched(
        self, candidate: Candidate | None, artifact: Artifact, base: Statistics, level: float
    ) -> tuple[list[Measurement], bool]:
        """A candidate on as many search samples as it takes: all metrics on all (True), or those asked for on some."""
        samples, metrics = self._samples("search"), {metric.name: metric for metric in self.job.metrics}
        doubt = base.get(Doubt.name, np.zeros(len(samples)))
        order: NDArray[np.intp] | None
        order, weights = reading_order(doubt, self.job.seed, int(artifact.digest[:16], 16))
        shuffled = {name: rows[order] for name, rows in base.items()}
        clusters = self._clusters("search") if self._grouped("search") else None
        stop = EarlyStop(self.asked, metrics, shuffled, weights, None if clusters is None else clusters[order])
        if stop.possible:
            samples = samples.subset(order.tolist())
            base, own = shuffled, self.score(
                self.model(candidate, artifact), samples, "score on search data",
                enough=lambda scored: stop.status(scored) is not Status.UNDECIDED,
                size=self._batch(candidate, artifact)[0], first=shuffled[ANSWER],
                reference=self._reference(candidate, artifact),
            )  # fmt: skip
        else:
            own, order = self.statistics(candidate, artifact, "search"), None
        if (scored := _count(own)) == len(samples):
            found = [self._measured(metric, artifact, own, base, "search", level, order) for metric in metrics.values()]
            found += self._of_slices(artifact, own, base, "search", level) if order is None else []
        else:
            asked = dict.fromkeys(condition.metric for condition in self.asked)
            machine = self._environment(artifact)
            found = [told(stop.measure(name, own, level, machine), own, samples) for name in asked]
        drops = {measurement.metric: measurement.drop for measurement in found}
        self.record("search", {"artifact": artifact.digest, "scored": scored, "of": len(samples), "drop": drops})
        return found, scored == len(samples)

    def statistics(self, candidate: Candidate | None, artifact: Artifact, which: Which) -> Statistics:
        """Per-sample statistics of every metric; scored once for each artifact.

        On search data also its doubt in the means that the target asks for, under `Doubt.name`.
        """
        if (artifact.ran, which) not in self._statistics:
            asked = [metric for metric in self.job.task.metrics if metric.decomposable and self.job.asks(metric.name)]
            doubt = [Doubt(asked, self.job.seed)] if which == "search" and asked else []
            base = None if self.first is None or self.is_first(artifact) else self.scored(self.first, which)
            start = time.perf_counter()
            self._statistics[artifact.ran, which] = self.score(
                self.model(candidate, artifact), self._samples(which), f"score on {which} data", *doubt,
                size=self._batch(candidate, artifact)[0], first=None if base is None else base[ANSWER],
                reference=self._reference(candidate, artifact),
            )  # fmt: skip
            self.scoring.setdefault(f"{which} {self.where}", time.perf_counter() - start)
        return self._statistics[artifact.ran, which]

    def scored(self, artifact: Artifact, which: Which) -> Statistics | None:
        """Per-sample statistics of an artifact that has been scored here; None for any other."""
        return self._statistics.get((artifact.ran, which))

    def score(
        self,
        model: Runnable,
        samples: Samples,
        what: str,
        *others: Doubt,
        enough: Callable[[Statistics], bool] | None = None,
        size: int | None = None,
        first: NDArray[np.float64] | None = None,
        reference: Runnable | None = None,
    ) -> Statistics:
        """Per-sample statistics of every metric (and others) for any model or artifact; no further once `enough`.

        Under `ANSWER` also what kind of answer each is; `first` holds the first model's kinds. What is none is wrong.
        size: of a batch, by default the job's. reference: the first model, which outputs may be held against; by
        default it is the model itself.
        """
        likeness = self.job.likeness
        scores: tuple[Metric | Doubt, ...] = (*self.job.metrics, *others)
        rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in (*(s.name for s in scores), ANSWER)}
        size, done = size or self.job.batch_size, 0
        for inputs, target in self._batches(samples, what, size):
            count = min(size, len(samples) - done)
            output = self._output(model, inputs, count)
            found = kinds(output, count, None if first is None else first[done : done + count])
            output, done = output if (found >= 0).all() else blanked(output, found), done + count
            wanted = output
            if likeness and reference is not None:
                wanted = self._output(reference, inputs, count)
            for score in scores:
                statistic = as_rows(score.statistic(output, wanted if score in likeness else target))
                rows[score.name].append(statistic if isinstance(score, Doubt) else held_wrong(score, statistic, found))
            rows[ANSWER].append(found)
            if (
                enough is not None
                and done % self.job.batch_size < size
                and enough({name: stacked(parts) for name, parts in rows.items()})
            ):
                break
        return {name: stacked(parts) for name, parts in rows.items()}

    def _output(self, model: Runnable, inputs: Any, count: int) -> Any:
        """The output for a batch; where others were lists of what belongs to each sample, of a single one too."""
        output = self.job.task.run(model, inputs)
        self._lists = self._lists or (count > 1 and of_each(output, count) is not None)
        return [output] if self._lists and count == 1 and not isinstance(output, list) else output

    def _reference(self, candidate: Candidate | None, artifact: Artifact) -> Runnable | None:
        """The first model's artifact, where outputs are held against it: a candidate's have the same structure."""
        if not self.job.likeness or self.first is None or self.is_first(artifact):
            return None
        return self.model(candidate, self.first)

    # -- helpers -------------------------------------------------------------------------------------

    @property
    def machine(self) -> str:
        """The CPU that verdicts hold for."""
        return str(self._machine.get("cpu") or "this machine")

    @property
    def stamps(self) -> bool:
        """Whether artifacts that are written here say who made them; a file that the user brought says what it said."""
        return self.brought or (self.first is not None and bool(self.first.content))

    @property
    def brought(self) -> bool:
        """Whether the first model's artifact is a file of the user's."""
        return bool(self.job.file) and self.first is not None and self.first.path.suffix == SUFFIX

    @property
    def first_hash(self) -> str:
        """The digest of the first model's artifact."""
        assert self.first is not None
        return self.first.digest

    def is_first(self, artifact: Artifact) -> bool:
        """Whether it is the first model's own; an equal file in another runtime is not."""
        return self.first is not None and artifact.ran == self.first.ran

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Count the wall time inside under this kind of work; inside another kind it counts there."""
        if self._timing:
            yield
            return
        self._timing, start = True, time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - start
            self._timing = False

    def _batch(self, candidate: Candidate | None, artifact: Artifact) -> tuple[int, dict[str, int]]:
        """(in batches of how many an artifact is scored, what its measurements' keys say of it).

        Where its answers depend on the rest of the batch, as with dynamic scales of activations, that is the
        deployment's batch; a quantized model whose plan has all the grids has been held against its simulation.
        """
        usual, deployed = self.job.batch_size, self.job.deployment.batch
        if candidate is not None and candidate.plan is not None and not candidate.plan.dynamic:
            return usual, {}
        try:
            alone = self.alone(candidate, artifact)
        except (Cancelled, WorkerLost):
            raise
        except Exception:
            if candidate is not None:
                raise
            # Somebody's file, or forward, that takes one size of batch only.
            alone = self._alone[artifact.ran] = math.inf
        return (deployed, {"batch": deployed}) if alone < LEAST_ALONE else (usual, {})

    def _batches(self, samples: Samples, what: str, size: int) -> Iterator[tuple[Any, Any]]:
        done = 0
        with self.timed("measure"), torch.no_grad():
            for inputs, target in samples.batches(size):
                self.check()
                self.progress(what, done, len(samples))
                yield inputs, target
                done = min(done + size, len(samples))
        self.progress(what, len(samples), len(samples))

    def key(self, metric: str, artifact: Artifact, which: Which | None = None, **options: Any) -> str:
        """The key of a measurement: what it depends on, all of it."""
        return measurement_key(
            metric=metric,
            artifact=artifact.digest,
            data="" if which is None else hash_of([*self._data(which), getattr(self.job.task, "recipe", None)]),
            runtime=artifact.runtime,
            version=self.versions[artifact.runtime],
            options={"packages": self._packages, "seed": self.job.seed, **self._beside(artifact), **options},
            machine=machine_key(),
        )

    @cached_property
    def _packages(self) -> dict[str, Any]:
        """Versions of what computes figures from outputs, whatever the runtime."""
        return {name: self._machine["packages"][name] for name in ("boildown", "torch", "numpy", "scipy")}

    def _beside(self, artifact: Artifact) -> dict[str, Any]:
        """What figures depend on that are held against the first model's, where that runs in another runtime."""
        first = self.first
        if first is None or first.runtime == artifact.runtime:
            return {}
        return {"beside": [first.runtime, self.versions[first.runtime]]}

    def _environment(self, artifact: Artifact) -> dict[str, Any]:
        """The machine, and what runs an artifact on it."""
        return {**self._machine, "runtime": artifact.runtime, "version": self.versions[artifact.runtime]}

    def _call_options(self, artifact: Artifact) -> dict[str, Any]:
        """What time and memory of a call depend on besides the artifact."""
        deployment = self.job.deployment.beside_first(artifact.runtime)
        return {"first": self.first_hash, "deployment": deployment.to_json(), "inputs": self._inputs}

    @cached_property
    def _inputs(self) -> list[list[Any]]:
        """Types and shapes of the inputs of one call."""
        return [[str(part.dtype), list(part.shape)] for part in self.sample(self.job.deployment.batch)]

    def fingerprint(self, which: Which) -> str:
        """Hash of all items of a slice."""
        if which not in self._fingerprints:
            with self.timed("read"):
                self._fingerprints[which] = self._samples(which).fingerprint(every=True)
        return self._fingerprints[which]

    @cached_property
    def asked(self) -> list[Condition]:
        """The target's conditions on quality that is measured sample by sample, of the main set and its slices."""
        names = {metric.name for metric in self.job.metrics}
        asked = (c for c in self.job.target.conditions if base_of(c.metric) in names)
        return [condition for condition in asked if set_of(condition.metric) is None]

    def _data(self, which: Which) -> list[str]:
        """Hashes of what a slice is, and of which of its samples are equal or belong together."""
        clusters, grouped = self._clusters(which), ["groups"] if self._grouped(which) else []
        parts = [] if clusters is None else [hashlib.sha256(clusters.data).hexdigest()]
        return [self.fingerprint(which), *parts, *grouped]

    def grouping(self, which: Which) -> str | None:
        """A hash of which samples belong together; None without groups."""
        return hash_of(self._data(which)[1:]) if self._grouped(which) else None

    def _grouped(self, which: Which) -> bool:
        return self.job.splits.search_grouped if which == "search" else self.job.splits.verdict_grouped

    def _clusters(self, which: Which) -> Labels | None:
        return self.job.splits.search_clusters if which == "search" else self.job.splits.verdict_clusters

    def _samples(self, which: Which) -> Samples:
        return self.job.splits.search if which == "search" else self.job.splits.verdict

    def _remembered(self, key: str, measured: Callable[[], Measurement]) -> Measurement:
        if (known := self.recall(key)) is not None:
            return known
        with self.timed("measure"):
            measurement = measured()
        self.keep(key, measurement)
        return measurement

    def _call(self, doing: str, function: str, *args: Any) -> Any:
        return self._child.call(
            function, *args, check=self.check, deadline=min(_EXPORT_SECONDS, self._left() or _EXPORT_SECONDS),
            on_progress=self.progress, retries=1, doing=doing,
        )  # fmt: skip

    def _left(self) -> float | None:
        left = min(self.deadline - time.monotonic(), self._seconds)
        if left == float("inf"):
            return None
        if left <= 0:
            raise DeadlineError("The attempt took all the time it had.")
        return left


def _empty(folder: Path) -> Path:
    """A new folder in place of what a killed process may have left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _scores(metric: Metric, base: NDArray[np.float64]) -> str:
    """A hash of a metric by its code, and by what it gives for the first model: a mended one measures anew."""
    code = [written(metric.statistic), written(metric.compute), metric.higher_is_better, metric.unit]
    return hash_of([*code, list(map(str, metric.range)), hashlib.sha256(base.tobytes()).hexdigest()])


def _undropped(measurement: Measurement, level: float) -> Measurement:
    """The first model's quality beside itself: it has lost nothing, and no sample is needed to know."""
    exact: dict[Form, Interval] = {"drop": Interval(0.0, 0.0, level, "the same file")}
    if measurement.ratio is not None:
        exact["ratio"] = Interval(1.0, 1.0, level, "the same file")
    return replace(measurement, standard_error=None, intervals={**measurement.intervals, **exact})


def signal_to_noise(reference: Array, other: Array) -> float:
    """10 log10 of the reference's power over the power of the difference; inf if equal, nan if not finite."""
    noise = float(np.square(reference.astype(np.float64) - other).sum())
    power = float(np.square(reference.astype(np.float64)).sum())
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(max(power, 1e-30) / noise))


def _numbers(output: Any) -> Array:
    leaves: Sequence[Any] = pytree.tree_leaves(output)
    flat = [leaf.detach().float().reshape(-1) for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return torch.cat(flat).numpy() if flat else np.zeros(0, np.float32)


def _company(decibel: float) -> str:
    """What is wrong where outputs for a sample alone and in company agree to so many decibel only."""
    return (
        "the answer for a sample depends on the other samples of its batch "
        f"(alone and in company its outputs agree to {decibel:.1f} dB)"
    )


def _count(statistics: Statistics) -> int:
    return len(next(iter(statistics.values())))


def _parameters(candidate: Candidate) -> int:
    return sum(parameter.numel() for parameter in candidate.model.parameters())
