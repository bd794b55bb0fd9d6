"""What a candidate gets wrong that the first model got right, with the inputs where they are pictures."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from boildown.domain.candidate import Candidate
from boildown.domain.task import Metric
from boildown.engine.attempt import Attempt
from boildown.engine.bench import Bench, Statistics
from boildown.tasks.data import IndexedSamples, places_of
from boildown.tasks.metrics import predicted_classes

CHANGED = "changed"
"""The kind of record."""

_SHOWN = 16
_CLASSES = 8
_SIDE = 64
_SMALLEST = 8
_IN_SLICE = 50


def changed(bench: Bench, attempt: Attempt, first: Candidate) -> dict[str, Any] | None:
    """How many of the verdict's samples an attempt is worse and better at than the first model, and some of the worse.

    Plain data: artifact, data (fingerprint of the samples), metric, of, worse, better (counts of samples), classes (the
    most that lost: label, samples, mean before and after), slices (of those in which something changed: key, value,
    counts of the worse and the better, indices of the worse), samples. A sample is its index in the user's data, before
    and after in the metric's statistic, and where they are known its label, the classes said first and now, and a
    picture of the input (PNG in base64). None where no metric is one number per sample, or where the samples have
    not been scored here.
    """
    assert bench.first is not None
    if attempt.artifact is None:
        return None
    base, own = bench.scored(bench.first, "verdict"), bench.scored(attempt.artifact, "verdict")
    if base is None or own is None:
        return None
    metric = next((m for m in bench.job.metrics if _per_sample(m, base)), None)
    if metric is None:
        return None
    before, after = base[metric.name], own[metric.name]
    lost = before - after if metric.higher_is_better else after - before
    chosen = _spread(lost)
    shown = _Shown(bench, attempt, first, chosen).rows() if chosen else []
    places = places_of(bench.job.splits.verdict)
    return {
        "artifact": attempt.artifact.digest,
        "metric": metric.name,
        "data": bench.fingerprint("verdict"),
        "of": len(lost),
        "worse": int((lost > 0).sum()),
        "better": int((lost < 0).sum()),
        "classes": _classes(bench, before, after, lost),
        **({"slices": slices} if (slices := _slices(bench, lost, places)) else {}),
        "samples": [
            {"index": int(places[i]), "before": float(before[i]), "after": float(after[i]), **row}
            for i, row in zip(chosen, shown, strict=True)
        ],
    }


def _per_sample(metric: Metric, statistics: Statistics) -> bool:
    return metric.decomposable and statistics[metric.name].ndim == 1


def _spread(lost: NDArray[np.float64]) -> list[int]:
    """The samples that lost most; of those that lost as much as each other, some from everywhere."""
    worse = [int(index) for index in np.argsort(-lost, kind="stable") if lost[index] > 0]
    tied = [index for index in worse if lost[index] == lost[worse[0]]]
    if len(tied) <= _SHOWN:
        return worse[:_SHOWN]
    return [tied[round(at)] for at in np.linspace(0, len(tied) - 1, _SHOWN)]


def _classes(bench: Bench, before: Any, after: Any, lost: Any) -> list[list[Any]]:
    """[label, samples, mean before, mean after] of the classes that lost most, where samples have one class each."""
    samples = bench.job.splits.verdict
    labels = samples.targets() if isinstance(samples, IndexedSamples) else None
    if labels is None or labels.shape != (len(lost),) or not np.issubdtype(np.asarray(labels).dtype, np.integer):
        return []
    labels = np.asarray(labels)
    total = {int(label): float(np.nansum(lost[labels == label])) for label in np.unique(labels)}
    most = [label for label in sorted(total, key=lambda label: -total[label]) if total[label] > 0][:_CLASSES]
    chosen = [(label, labels == label) for label in most]
    return [[label, int(at.sum()), float(before[at].mean()), float(after[at].mean())] for label, at in chosen]


def _slices(bench: Bench, lost: NDArray[np.float64], places: NDArray[np.int64]) -> list[list[Any]]:
    """[key, value, worse, better, where the worse are] of the slices in which something changed."""
    found: list[list[Any]] = []
    for name in bench.slicer.names("verdict"):
        for value, rows in bench.slicer.rows(name.key, "verdict").items() if name.worst else ():
            worse, better = rows[lost[rows] > 0], int((lost[rows] < 0).sum())
            row = [name.key, value, len(worse), better, places[worse][:_IN_SLICE].tolist()]
            if (len(worse) or better) and row not in found:
                found.append(row)
    return found


@dataclass(frozen=True)
class _Shown:
    """Some samples of the verdict, looked at one by one."""

    bench: Bench
    attempt: Attempt
    first: Candidate
    indices: Sequence[int]

    def rows(self) -> list[dict[str, Any]]:
        """Label, classes said and picture of each, as far as there are any."""
        bench, task, attempt = self.bench, self.bench.job.task, self.attempt
        assert attempt.artifact is not None
        assert bench.first is not None
        samples = bench.job.splits.verdict.subset(self.indices)
        inputs, target = next(iter(samples.batches(len(self.indices))))
        rows: list[dict[str, Any]] = [{} for _ in self.indices]
        if isinstance(target, Tensor) and target.shape == (len(rows),) and not target.is_floating_point():
            said = []
            for candidate, artifact in ((self.first, bench.first), (attempt.candidate, attempt.artifact)):
                with torch.no_grad():
                    said.append(task.run(bench.model(candidate, artifact), inputs))
            if all(isinstance(output, Tensor) and output.ndim == 2 for output in said):
                told = (target, *map(predicted_classes, said))
                for row, (label, before, after) in zip(rows, zip(*told, strict=True), strict=True):
                    row.update(label=int(label), first=int(before), now=int(after))
        for row, picture in zip(rows, pictures(inputs), strict=False):
            row["picture"] = picture
        return rows


def pictures(inputs: Any) -> list[str]:
    """Every input of a batch as a PNG in base64, at most 64 pixels wide and high; none where they are no pictures.

    Pictures are one tensor (n, C, H, W) with 1 or 3 channels. Each channel runs from its least to its largest value
    in the batch, which undoes any normalisation by channel.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if len(leaves) != 1 or leaves[0].ndim != 4 or leaves[0].shape[1] not in (1, 3):
        return []
    batch = leaves[0].detach().float().cpu()
    if min(batch.shape[2:]) < _SMALLEST or not bool(torch.isfinite(batch).all()):
        return []
    step = max(1, -(-max(batch.shape[2:]) // _SIDE))
    batch = torch.nn.functional.avg_pool2d(batch, step, ceil_mode=True) if step > 1 else batch
    low, high = batch.amin((0, 2, 3), keepdim=True), batch.amax((0, 2, 3), keepdim=True)
    pixels = (255 * (batch - low) / (high - low).clamp_min(1e-12)).round().to(torch.uint8)
    return [base64.b64encode(png(picture.permute(1, 2, 0).numpy())).decode() for picture in pixels]


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file (ISO 15948) of pixels (height, width, 1 or 3)."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
