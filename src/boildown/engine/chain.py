"""A rung's methods applied one after the other, here or in a child process, and the keys of what they make."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from boildown.domain.candidate import Candidate
from boildown.domain.target import Target
from boildown.engine.factories import call_factory
from boildown.engine.job import Factories, Job
from boildown.engine.rung import Rung, parse_rung
from boildown.errors import AttemptError
from boildown.execution.worker import progress
from boildown.journal.keys import candidate_key, hash_of
from boildown.methods.base import Context, Data, Method, settings_of
from boildown.surgery.graph import Graph, capture
from boildown.surgery.store import WEIGHTS, save_candidate
from boildown.surgery.weights import plain, restore, weights_hash
from boildown.tasks.splits import resolve


def first_key(first: Candidate, graph: Graph) -> str:
    """The key of the first model: its weights and its code."""
    return hash_of([weights_hash(first.model), graph.code_hash()])


def link_key(parent: str, method: Method, job: Job) -> str:
    """The key of the candidate that a method makes from a parent in this job."""
    splits = job.splits
    prints = [None if s is None else s.fingerprint(every=False) for s in (splits.train, splits.calibration)]
    return candidate_key(
        parent=parent,
        method=method.card.name,
        method_version=method.card.version,
        settings={**settings_of(method), "hardware": job.hardware},
        data=hash_of(prints),
        seed=job.seed,
        steps=None,
        torch_version=torch.__version__,
    )


def apply_chain(rung: Rung, first: Candidate, first_key: str, job: Job, context: Context) -> Candidate:
    """Apply the rung's methods one after the other; each link's parent is the one before.

    Raises AttemptError where a later link does not apply to what an earlier one made.
    """
    candidate, key = first, first_key
    for position, method in enumerate(rung.methods):
        context.check()
        if position and (reason := method.applies_to(candidate, job.task)) is not None:
            raise AttemptError(f"{method.card.name} does not apply after {candidate.method}: {reason}.")
        made = method.apply(candidate, job.task, context)
        candidate = replace(made, method=method.card.name, settings=settings_of(method), parent=key)
        key = link_key(key, method, job)
    return candidate


def apply_in_child(
    factories: Factories, rung: str, folder: str, first_folder: str, seed: int, device: str, hardware: str
) -> list[tuple[str, dict[str, Any]]]:
    """Apply a rung in this process from factories alone and save the candidate; returns its records."""
    job, first, first_key = _from_factories(factories, first_folder, seed, device, hardware)
    records: list[tuple[str, dict[str, Any]]] = []
    context = Context(
        Data(job.splits.train, job.splits.calibration),
        seed=seed, device=device, hardware=hardware,
        progress=progress, record=lambda kind, data: records.append((kind, dict(data))),
    )  # fmt: skip
    candidate = apply_chain(parse_rung(rung), first, first_key, job, context)
    save_candidate(candidate, Path(folder), first, Path(first_folder))
    return records


@lru_cache(maxsize=1)
def _from_factories(
    factories: Factories, first_folder: str, seed: int, device: str, hardware: str
) -> tuple[Job, Candidate, str]:
    """The job and the first candidate, built once in this process."""
    for entry in factories.path:
        if entry not in sys.path:
            sys.path.insert(0, entry)
    assert factories.model is not None
    assert factories.task is not None
    task = call_factory(factories.task)
    model, _ = plain(call_factory(factories.model))
    first = Candidate(restore(model, Path(first_folder) / WEIGHTS))
    job = Job(
        task,
        resolve(task, seed),
        Target(()),
        seed=seed,
        device=device,
        hardware=hardware,
        factories=factories,
    )
    return job, first, first_key(first, capture(model, *task.example()))
