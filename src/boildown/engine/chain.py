"""A rung's methods applied one after the other, here or in a child process, and the keys of what they make."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from boildown.domain.candidate import Candidate
from boildown.domain.deployment import Deployment
from boildown.domain.rules import Rules
from boildown.domain.target import Target
from boildown.engine.brought import fit
from boildown.engine.job import Factories, Job
from boildown.engine.rung import Rung, parse_rung
from boildown.engine.students import gather
from boildown.errors import AttemptError
from boildown.execution.quiet import Patience, computing, give_way, patient
from boildown.execution.worker import progress
from boildown.journal.keys import candidate_key, hash_of
from boildown.methods.base import Context, Data, Method, Sketching, keyed_settings, quantizes, settings_of
from boildown.surgery.factories import call_factory
from boildown.surgery.graph import Graph, capture
from boildown.surgery.onnx_file import file_of
from boildown.surgery.store import WEIGHTS, load_candidate, save_candidate
from boildown.surgery.weights import plain, restore, weights_hash
from boildown.tasks.groups import groups_of
from boildown.tasks.splits import learning
from boildown.tasks.watch import watching


def first_key(first: Candidate, graph: Graph) -> str:
    """The key of the first model: its weights and its code, and the file that it came as."""
    file = file_of(first.model)
    return hash_of([weights_hash(first.model), graph.code_hash(), *([] if file is None else [file.sha256])])


def rules_for(method: Method, job: Job, runtime: str = "") -> Rules:
    """What a method may know of a runtime's rules: one that does not quantize makes the same for all of them."""
    return job.rules_of(runtime) if quantizes(method) else Rules()


def link_key(
    parent: str, method: Method, job: Job, runtime: str = "", made_for: Mapping[str, Any] | None = None
) -> str:
    """The key of the candidate that a method makes from a parent in this job, for a runtime.

    made_for: what of the deployment it depends on; by default the hardware, and the runtime's rules where it quantizes.

    It says what was asked for. Minutes of training are a setting, and so in the key; the step count
    that they become on this machine is not, but is journalled and kept for whoever goes on.
    """
    if made_for is None:
        made_for = {"hardware": job.deployment.hardware, "rules": hash_of(rules_for(method, job, runtime).to_json())}
    splits, settings = job.splits, {**keyed_settings(method), **made_for}
    if method.card.trains:
        settings |= {"students": job.students_key, "recipe": getattr(job.task, "recipe", None)}
        if (groups := groups_of(job.task, "train")) is not None:  # they are held out whole
            settings |= {"groups": hash_of(groups.tolist())}
    prints = [None if s is None else s.fingerprint(every=False) for s in (splits.train, splits.calibration)]
    return candidate_key(
        parent=parent,
        method=method.card.name,
        method_version=method.card.version,
        settings=settings,
        data=hash_of(prints),
        seed=job.seed,
        steps=None,
        torch_version=torch.__version__,
    )


def link_keys(rung: Rung, first_key: str, job: Job, made_for: Mapping[str, Any] | None = None) -> list[str]:
    """The key after each link of a rung, that of the first model before them; `made_for` as in `link_key`."""
    keys = [first_key]
    for method in rung.methods:
        keys.append(link_key(keys[-1], method, job, rung.runtime, made_for))
    return keys


def kept(folder: Path, key: str) -> Path:
    """Where the link that makes the candidate of this key keeps what it goes on from."""
    return folder / key[:16]


STUDENTS = "students"
"""The folder, in that of an attempt, of the candidates on the way to its own."""

LINK = "link-"
"""How the candidate that a link hands to the next is named among those."""

Begun = tuple[int, Path]
"""How many links of a chain an earlier attempt has made already, and the folder of its candidate."""


def apply_chain(
    rung: Rung, first: Candidate, first_key: str, job: Job, context: Context, begun: Begun | None = None, *,
    sketched: bool = False,
) -> Candidate:  # fmt: skip
    """Apply the rung's methods one after the other; each link's parent is the one before.

    context.folder: of the run; every link gets its own in it. begun: where to go on from. sketched: only the
    shape of what every link makes. Raises AttemptError where a later link does not apply to what an earlier one
    made.
    """
    keys = link_keys(rung, first_key, job)
    done, candidate = (0, first) if begun is None else (begun[0], load_candidate(begun[1], first, job.students))
    if done:
        context.keep(f"{LINK}{done}-{rung.methods[done - 1].card.name}", candidate)
    for position, method in list(enumerate(rung.methods))[done:]:
        context.check()
        if position and (reason := method.applies_to(candidate, job.task)) is not None:
            raise AttemptError(f"{method.card.name} does not apply after {candidate.method}: {reason}.")
        own = None if context.folder is None else kept(context.folder, keys[position + 1])
        make = method.sketch if sketched and isinstance(method, Sketching) else method.apply
        rules = rules_for(method, job, rung.runtime)
        made = make(candidate, job.task, replace(context, folder=own, rules=rules))
        notes = (*candidate.notes, *made.notes)
        candidate = replace(
            made, method=method.card.name, settings=settings_of(method), parent=keys[position], notes=notes
        )
        if position + 1 < len(rung.methods) and not sketched:
            context.keep(f"{LINK}{position + 1}-{method.card.name}", candidate)
    return candidate


def context_of(job: Job, first: Candidate, folder: Path, **told: Any) -> Context:
    """What the methods of a rung get, but for the rules; `told` are the functions to tell and to ask."""
    return Context(
        Data(job.splits.train, job.splits.calibration),
        seed=job.seed, device=job.device, hardware=job.deployment.hardware, folder=folder,
        first=first, students=job.students,
        **told,
    )  # fmt: skip


def keeper(folder: Path, first: Candidate, first_folder: Path) -> Callable[[str, Candidate], None]:
    """What saves the candidates on the way to the one of a folder; see `Context.keep`."""
    return lambda name, candidate: save_candidate(candidate, folder / STUDENTS / name, first, first_folder)


def apply_in_child(
    factories: Factories, rung: str, folder: str, first_folder: str, seed: int, device: str,
    deployment: Deployment, rules: tuple[Rules, ...], training: str, begun: Begun | None, sketched: bool = False,
    patience: float | None = None, seconds: float | None = None,
) -> list[tuple[str, dict[str, Any]]]:  # fmt: skip
    """Apply a rung in this process from factories alone and save the candidate; returns its records.

    patience: seconds to wait for other runs, None for a minute at a stretch. seconds: after which this process is
    ended; data that hang are told just before.
    """
    records: list[tuple[str, dict[str, Any]]] = []
    waits = Patience(patience, lambda what, _seconds: progress(what, 0), Path(training).parent.name)
    end = math.inf if seconds is None else time.monotonic() + 0.95 * seconds
    with patient(waits), computing(), watching(lambda: end - time.monotonic(), least=0.1):
        job, first, first_key = _from_factories(factories, first_folder, seed, device, deployment, rules)
        context = context_of(
            job, first, Path(training), progress=progress, record=lambda kind, data: records.append((kind, dict(data))),
            keep=keeper(Path(folder), first, Path(first_folder)), check=_give_way,
        )  # fmt: skip
        candidate = apply_chain(parse_rung(rung), first, first_key, job, context, begun, sketched=sketched)
        save_candidate(candidate, Path(folder), first, Path(first_folder))
    return records


def _give_way() -> None:
    give_way()


@lru_cache(maxsize=1)
def _from_factories(
    factories: Factories, first_folder: str, seed: int, device: str, deployment: Deployment, rules: tuple[Rules, ...]
) -> tuple[Job, Candidate, str]:
    """The job and the first candidate, built once in this process."""
    for entry in factories.path:
        if entry not in sys.path:
            sys.path.append(entry)
    assert factories.model is not None
    assert factories.task is not None
    task = call_factory(factories.task)
    model, _ = plain(call_factory(factories.model))
    model, task, _ = fit(restore(model, Path(first_folder) / WEIGHTS), task)
    first = Candidate(model)
    job = Job(
        task,
        learning(task, seed),
        Target(()),
        seed=seed,
        device=device,
        deployment=deployment,
        rules=rules,
        factories=factories,
        students=gather(factories.students, {}, seed),
    )
    return job, first, first_key(first, capture(model, *task.example()))
