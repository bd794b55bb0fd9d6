"""The first model made ready: called, captured, exported, held against its file and its own score.

Whatever is wrong here is the user's input, found before a run exists.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.grammar import base_of, format_value, unit_of
from boildown.domain.task import Metric
from boildown.engine import handover
from boildown.engine.answers import sentence, spoiled
from boildown.engine.bench import PARTS, Bench, Statistics
from boildown.engine.brought import is_first, take_in
from boildown.engine.company import LEAST_ALONE, alone_and_together, repeats
from boildown.engine.deliver import save_sample
from boildown.engine.job import Job
from boildown.engine.metric_checks import (
    LOOKED_AGAIN,
    LOOKED_AT,
    Batch,
    knows_nothing,
    out_of_range,
    outputs_of,
    unsound,
)
from boildown.engine.unread import Unread
from boildown.errors import (
    AttemptError,
    BoildownError,
    BudgetError,
    DataError,
    InputError,
    Mistake,
    ModelError,
    WorkerLost,
    contained,
    in_words,
)
from boildown.surgery.graph import Graph, capture
from boildown.surgery.onnx_file import File, file_of
from boildown.surgery.weights import weights_hash
from boildown.tasks.checks import check_labels, majority_share
from boildown.tasks.classification import Classification
from boildown.tasks.data import read_targets
from boildown.tasks.embedding import Embedding
from boildown.tasks.regression import Regression

FIRST = "attempts/00-first"
SCORING = "A data set or a metric of the task failed: mend it."
"""The cure where scoring raises."""
_MISMATCH = 0.01
_PERFECT_FROM = 200


@dataclass(frozen=True)
class Prepared:
    """The first model's artifact is on the bench; `plain` is the size of its plain export in bytes."""

    agreement: str
    facts: Mapping[str, Any]
    plain: int | None = None
    notices: tuple[str, ...] = ()
    """What the user should know of the first model and the metrics."""


def prepare(
    first: Candidate, job: Job, bench: Bench, measured: Artifact | None = None, facts: Mapping[str, Any] | None = None
) -> Prepared:
    """Put the first model's artifact on the bench, and check it and its scores.

    measured: the one of an earlier sitting, with the facts of its writing: another version of a library may write
    other bytes.

    Raises ModelError where the model cannot be called, captured or exported, or scores no better
    than guessing; DataError where the data does not fit the model.
    """
    file = file_of(first.model)
    if measured is None:
        bench.expect_export()
    with bench.timed("measure"):
        _call(first, job)
        _check_loss(first, job)
        _check_students(first, job)
    cure = "Mend that item, or leave it out."
    with bench.timed("read"), named("The training or calibration data cannot be read", cure):
        for samples in (job.splits.train, job.splits.calibration):
            if samples is not None:
                samples.fingerprint(every=False)
    save_sample(bench.sample(job.fixed_batch or 1), bench.folder / FIRST)
    handover.keep(job.task, bench.folder / FIRST / handover.KEPT, samples=job.samples)
    try:
        if not isinstance(first.model, Unread):  # of one that is, scores are taken at the batch deployed
            _check_graph(bench.graph(first), job)
            with bench.timed("measure"):
                _refuse_company(first, job)
        if file is not None and is_first(file, job):
            measured, facts, agreement = _brought(first, file, bench, measured, facts)
        else:
            if measured is None:
                measured, written = bench.write(first, weights_hash(first.model), bench.folder / FIRST)
                facts = written.facts
            bench.first = measured
            agreement = bench.agree(first, measured)
    except BudgetError:
        raise
    except (AttemptError, WorkerLost) as error:
        cause, _, cure = str(error).partition("\n")
        raise ModelError.of(
            f"The model cannot be deployed as it is: {cause}",
            cure.strip() or "Rewrite that part of the model, or use another runtime.",
        ) from error
    with named("The first model cannot be scored", SCORING):
        statistics = [bench.statistics(first, measured, part) for part in PARTS if bench.scores(part)]
        model = bench.model(first, measured)
        with bench.timed("measure"):
            compared = _compare_scores(job, statistics, lambda inputs: job.task.run(model, inputs))
            notices = (*_perfect(job, statistics), *compared)
            _refuse_undefined(job, bench, statistics[0])
        if job.evaluated:
            scores = bench.evaluations.scores(first, measured).whole
            if mistakes := [m for e in job.evaluated if e.name in scores for m in _unexpected(e, scores[e.name], job)]:
                raise ModelError(*mistakes)
    for name in job.splits.others:
        with named(f"The first model cannot be scored on {name}", SCORING):
            notices += _scored_beside(bench.on(name), first, measured)
    facts = facts or {}
    return Prepared(agreement, facts, facts.get("exported"), notices)


def _brought(
    first: Candidate, file: File, bench: Bench, measured: Artifact | None, facts: Mapping[str, Any] | None
) -> tuple[Artifact, Mapping[str, Any], str]:
    """The file itself on the bench, the facts of what was read of it, and how well that agrees with it, in words.

    What was read is written once, and held against the network: others are made of that.
    """
    runtime, folder = bench.job.deployment.first, bench.folder / FIRST
    bench.first = measured or take_in(file, runtime, folder)
    if isinstance(first.model, Unread) or measured is not None:
        return bench.first, facts or {}, file.agreement
    own, written = bench.write(first, weights_hash(first.model), folder / "read")
    bench.agree(first, own)
    size = own.size
    shutil.rmtree(folder / "read")
    return bench.first, {**written.facts, "exported": size}, file.agreement


def _check_graph(graph: Graph, job: Job) -> None:
    """Refuse a captured model that cannot be judged as it is asked."""
    _refuse_fixed_batch(graph)
    _check_names(graph, job)
    if job.asks("macs"):
        _refuse_uncounted(graph)


@contextmanager
def named(what: str, cure: str) -> Iterator[None]:
    """Whatever the user's own code raises inside becomes a DataError that says what could not be done."""
    try:
        with contained():
            yield
    except BoildownError:
        raise
    except Exception as error:
        raise DataError.of(f"{what}: {in_words(error)}", cure) from error


def _call(first: Candidate, job: Job) -> None:
    """Call the model once on real samples, and hold its outputs against the labels."""
    inputs, _ = next(iter(job.splits.search.batches(min(8, job.batch_size))))
    try:
        with contained(), torch.no_grad():
            output = job.task.run(first.model, inputs)
    except BoildownError:
        raise
    except Exception as error:
        raise DataError.of(
            f"The model cannot be called with what the data set yields: {in_words(error)}",
            f"The inputs have {_shapes(inputs)}, in a batch of a size that boildown chose: let the data set yield "
            "what the model takes in batches of any size, or give the task forward=(a function of model and inputs).",
        ) from error
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
    if not leaves:
        raise DataError.of(
            f"The model returns {type(output).__name__} without a tensor in it.",
            "Let it return tensors, or give the task forward=(a function of model and inputs).",
        )
    if isinstance(output, Mapping | tuple | list) and isinstance(job.task, (Classification, Regression)):
        inside = ", ".join(map(repr, output)) if isinstance(output, Mapping) else f"{len(output)} values"
        raise DataError.of(
            f"The model returns a {type(output).__name__} of {inside}, not one tensor.",
            "Say which is compared with the targets: forward=lambda model, inputs: model(inputs)[...].",
        )
    mistakes = [
        Mistake(
            "The first model's outputs on the validation data hold NaN or infinity.",
            "Check the preprocessing and the weights.",
        )
        for leaf in leaves[:1]
        if not all(torch.isfinite(leaf).all() for leaf in leaves)
    ]
    if isinstance(job.task, Classification) and leaves[0].ndim == 2 and leaves[0].shape[1] > 1:
        names, outputs = job.task.classes, leaves[0].shape[1]
        if names is not None and len(names) != outputs:
            cause = f"The task names {len(names)} classes, and the model has {outputs} outputs."
            mistakes.append(Mistake(cause, "Name one class per output, in their order."))
        for name, samples in job.task.data().items():
            with named(f"The {name} data cannot be read", "Mend that item, or leave it out."):
                targets = None if name == "calibration" else read_targets(samples)
            if targets is not None:
                mistakes += check_labels(targets, leaves[0].shape[1], name)
    if mistakes:
        raise DataError(*mistakes)


def _check_loss(first: Candidate, job: Job) -> None:
    """Compute the loss on a few samples, as every training does first: what does not fit is told before any."""
    if job.splits.train is None or getattr(job.task, "training_step", None) is not None:
        return
    cure = "Give a loss that takes what the model returns and what the data set yields."
    with named("The loss cannot be computed", cure), torch.no_grad():
        inputs, target = next(iter(job.splits.train.batches(min(8, job.batch_size))))
        if target is not None:
            job.task.loss(job.task.run(first.model, inputs), target)


def _check_names(graph: Graph, job: Job) -> None:
    """Refuse names for more or fewer outputs than the model has."""
    names = getattr(job.task, "outputs", ())
    made = sum(isinstance(name, str) for name in graph.program.graph_signature.user_outputs)
    if names and len(names) != made:
        raise DataError.of(
            f"The task names {len(names)} outputs, and the model has {made}.", "Name every output, in their order."
        )


def _refuse_uncounted(graph: Graph) -> None:
    """Refuse a condition on macs where parameters are multiplied by an operator whose macs nobody knows."""
    if unknown := graph.uncounted():
        raise ModelError.of(
            f"The model's macs cannot be counted: {', '.join(unknown)} with parameters is not counted.",
            "Leave conditions on macs out (latency says more), or write that part with PyTorch's own layers.",
        )


def _refuse_fixed_batch(graph: Graph) -> None:
    """Refuse a model of which only one size of the batch can be captured: it is judged in batches of several."""
    if graph.static_batch:
        raise ModelError.of(
            f"The model can be captured for batches of {graph.batch} samples only, and is judged in others.",
            "Let its forward take the size of the batch from the input, as x.shape[0] or -1 where a shape is given, "
            "and neither count the samples in a loop nor branch on how many there are.",
        )


def _check_students(first: Candidate, job: Job) -> None:
    """Refuse students that cannot stand in for the first model: not callable, other outputs, not captured."""
    inputs, _ = next(iter(job.splits.search.batches(min(8, job.batch_size))))
    mistakes = []
    for name, student in job.students.items():
        cure = "Give a network that takes the same inputs and gives the same kind of outputs as the first model."
        try:
            with named(f"Student {name} cannot be used", cure), torch.no_grad():
                found, wanted = (_shapes(job.task.run(model, inputs)) for model in (student, first.model))
                capture(student, *job.task.example())
        except (InputError, AttemptError) as error:
            cause, _, told = str(error).partition("\n")
            mistakes.append(Mistake(cause, told.strip() or cure))
            continue
        if found != wanted and not isinstance(job.task, Embedding):
            mistakes.append(Mistake(f"The outputs of student {name} have {found}, the first model's {wanted}.", cure))
    if mistakes:
        raise ModelError(*mistakes)


def _refuse_company(first: Candidate, job: Job) -> None:
    """Refuse a model whose answer for a sample depends on the other samples of its batch: alone it has another."""

    def run(inputs: Any) -> Any:
        return job.task.run(first.model, inputs)

    try:
        with torch.no_grad():
            decibel = alone_and_together(run, job.splits.search)
            random = decibel < LEAST_ALONE and not repeats(run, job.splits.search)
    except BoildownError:
        raise
    except Exception as error:
        raise ModelError.of(
            f"The model cannot be called with one sample alone, or not with a few: {in_words(error)}", _PER_SAMPLE
        ) from error
    if decibel < LEAST_ALONE and not random:
        raise ModelError.of(
            "The model's answer for a sample depends on the other samples of its batch: alone and in company its "
            f"outputs agree to {decibel:.1f} dB, and rounding leaves {LEAST_ALONE:.0f} or more.",
            _PER_SAMPLE,
        )


_PER_SAMPLE = (
    "Let it compute nothing over the batch: batch norm with the statistics of training (track_running_stats=True), "
    "attention and recurrent layers with batch_first=True where inputs are (n, T, ...), means over other axes than 0."
)


def _compare_scores(job: Job, statistics: list[Statistics], run: Callable[[Any], Any]) -> tuple[str, ...]:
    """What to tell of the first model's scores and of the metrics; refuses a model that is not the one the user
    expected or no better than guessing, and a metric that is not what it says.

    run: from the inputs of a batch to its outputs. What the target names must be better than guessing; of other
    metrics it is told.
    """
    mistakes, notices = [], []

    @cache
    def look(most: int) -> list[Batch]:
        return outputs_of(run, job.splits.verdict, job.seed, most=most)

    asked = {base_of(condition.metric) for condition in job.target.conditions} & job.quality
    where = (job.splits.verdict, job.splits.search)
    lost = next(filter(None, map(sentence, statistics, where)), "")
    if lost and any(spoiled(metric, part) for metric in job.metrics for part in statistics):
        cause = f"The first model gives no answer on some of the data to judge on: {lost}."
        raise ModelError.of(cause, "Check the preprocessing of these samples, and divisions and logarithms of zero.")
    if lost:
        notices.append(f"the first model gives no answer, which counts as wrong: {lost}")
    for metric in job.task.metrics:
        score = metric.compute(np.concatenate([part[metric.name] for part in statistics]))
        mistakes += _unexpected(metric, score, job)
        wrong = [*out_of_range(metric, score), *unsound(metric, look(LOOKED_AT), job.seed)]
        mistakes += wrong
        told, stop = ("", False) if wrong else _guessing(metric, job, statistics[0], look)
        if told and stop and (metric.name in asked or (metric.name == "accuracy" and not asked)):
            mistakes.append(
                Mistake(
                    told,
                    "Check normalisation, the order of the labels, the weights, and that the model is in eval mode; "
                    "of a metric of your own also its higher_is_better.",
                )
            )
        elif told:
            notices.append(told)
    if mistakes:
        raise ModelError(*mistakes)
    return tuple(notices)


def _refuse_undefined(job: Job, bench: Bench, statistics: Statistics) -> None:
    """Refuse conditions on slices in which a metric has no value of the first model, as the area under a curve has none
    where every sample has the same class."""
    metrics, mistakes = {metric.name: metric for metric in job.metrics}, []
    for name in bench.slicer.names("verdict"):
        texts = [c.text for c in job.target.conditions if c.metric == str(name)]
        rows = bench.slicer.rows(name.key, "verdict")
        none = [
            str(replace(name, value=value))
            for value, at in rows.items()
            if texts and value in (value if name.worst else name.value,)
            and not math.isfinite(metrics[name.base].compute(statistics[name.base][at]))
        ]  # fmt: skip
        if none:
            more = f" and {len(none) - 3:,} more" if len(none) > 3 else ""
            cause = f"`{texts[0]}`: {name.base} of the first model has no value in {', '.join(none[:3])}{more}."
            mistakes.append(Mistake(cause, "Give slices more samples, or ask for a metric that has a value in each."))
    if mistakes:
        raise DataError(*mistakes)


def _unexpected(metric: Metric, score: float, job: Job) -> list[Mistake]:
    """A score of the first model that is not the one that the user expects."""
    wanted = job.expected.get(metric.name)
    tolerance = _MISMATCH if np.isfinite(metric.range).all() else _MISMATCH * abs(wanted or 0.0)
    if wanted is None or abs(score - wanted) <= tolerance:
        return []
    return [
        Mistake(
            f"The first model's {metric.name} is {score:.4g} here, and {wanted:.4g} was expected.",
            "Check normalisation, label order, the weights file, and that validation is the set you mean.",
        )
    ]


def _guessing(
    metric: Metric, job: Job, statistics: Statistics, look: Callable[[int], Sequence[Batch]]
) -> tuple[str, bool]:
    """What is told of a model that is no better than guessing by a metric, and whether nothing speaks for it."""
    if not getattr(metric, "knows", True):
        return "", False
    targets = read_targets(job.splits.verdict) if metric.name == "accuracy" else None
    if targets is not None:
        score, share = metric.compute(statistics["accuracy"]), majority_share(targets)
        if score <= share:
            return (
                f"The first model's accuracy is {score:.2%}: no better than always answering the most "
                f"frequent class ({share:.2%}).",
                True,
            )
    found = knows_nothing(metric, look(LOOKED_AT), job.seed)
    return knows_nothing(metric, look(LOOKED_AGAIN), job.seed) if found[1] else found


def _perfect(job: Job, statistics: list[Statistics]) -> tuple[str, ...]:
    """A question where the first model makes no mistake on many samples: it may have been trained on them."""
    # The area under a curve, or the best of five guesses, may be perfect where answers are not.
    metrics = [m for m in job.task.metrics if m.name == "accuracy"] or [m for m in job.task.metrics if m.name != "top5"]
    found = []
    for metric in metrics:
        rows = np.concatenate([part[metric.name] for part in statistics])
        best = metric.range[1] if metric.higher_is_better else metric.range[0]
        if len(rows) < _PERFECT_FROM or metric.compute(rows) != best:
            return ()
        found.append(f"{metric.name} is {format_value(best, unit_of(metric))} on all {len(rows):,} samples")
    if not found:
        return ()
    return (
        f"The first model's {', '.join(found)}: was it trained on them? Then scores here say nothing of new samples, "
        "and drops seem smaller than they are.",
    )


def _scored_beside(bench: Bench, first: Candidate, artifact: Artifact) -> tuple[str, ...]:
    """Score the first model on another set, and what to tell of it; refuses one that a condition cannot be held to."""
    job, parts = bench.job, [part for part in PARTS if bench.scores(part)]
    found = [bench.statistics(first, artifact, part) for part in parts]
    lost = next(filter(None, map(sentence, found, [getattr(job.splits, part) for part in parts])), "")
    asked = [metric for metric in job.metrics if job.asks(metric.name)]
    if lost and any(spoiled(metric, part) for metric in asked for part in found):
        cause = f"The first model gives no answer on some of the data to judge on: {bench.where}, {lost}."
        raise ModelError.of(cause, "Check the preprocessing of these samples, and divisions and logarithms of zero.")
    return (f"the first model gives no answer, which counts as wrong: {bench.where}, {lost}",) if lost else ()


def _shapes(inputs: Any) -> str:
    leaves = tree_leaves(inputs)
    return ", ".join(
        f"shape {tuple(leaf.shape)} ({str(leaf.dtype).removeprefix('torch.')})"
        for leaf in leaves
        if isinstance(leaf, torch.Tensor)
    )


def check_expectations(expected: Any, metrics: Sequence[Metric]) -> None:
    """Refuse expectations of metrics that the task does not have, and what cannot be a score."""
    if not isinstance(expected, Mapping):
        raise InputError.of(f"expected = {expected!r} names no metric.", 'Write {"accuracy": 0.934}.')
    ranges, mistakes = {metric.name: metric.range for metric in metrics}, []
    for name, value in expected.items():
        if name not in ranges:
            known = ", ".join(sorted(ranges))
            mistakes.append(
                Mistake(f"expected names {name}, which the task does not measure.", f"It measures {known}.")
            )
        elif not isinstance(value, int | float):
            mistakes.append(Mistake(f"expected {name} = {value!r} is no number.", "Give the score, such as 0.934."))
        elif not ranges[name][0] <= value <= ranges[name][1]:
            low, high = ranges[name]
            mistakes.append(
                Mistake(
                    f"expected {name} = {value!r}: {name} lies between {low:g} and {high:g}.",
                    "Give it as the task measures it: 0.934 for 93.4 %.",
                )
            )
    if mistakes:
        raise InputError(*mistakes)
