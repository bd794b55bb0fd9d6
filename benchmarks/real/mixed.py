"""MobileNetV1 0.25 in int8 with float layers: what each choice costs in quality, bytes and time.

    BOILDOWN_DATA=... python -m benchmarks.real.mixed

Four folds of 100 images: calibrated on one, scored on the other 300, so that each of the 400 images is
scored under three calibrations. The drop's standard error is paired and over images. Latency is that of
the first fold's file, batch 1, one thread, in turns with the lean float file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import boildown as bd
from benchmarks.real import data
from benchmarks.real.models import mobilenet
from benchmarks.real.timing import latency_ratio
from boildown.domain.candidate import Candidate, Plan, Quantizer
from boildown.engine.bench import signal_to_noise
from boildown.methods.base import Context, Data, Method
from boildown.methods.quantize_mixed import QuantizeMixed
from boildown.methods.quantize_static import QuantizeStatic
from boildown.runtimes import get
from boildown.surgery.graph import capture

FOLDS, HELD = 4, 100
_ROW = "{:<26}{:>16}{:>9}{:>9}{:>9}{:>9}{:>9}  {}"


class PerTensor(QuantizeStatic):
    """quantize-static with one scale per weight tensor: the known failure on depthwise networks."""

    def apply(self, candidate: Candidate, task: Any, context: Context) -> Candidate:
        made = super().apply(candidate, task, context)
        assert made.plan is not None
        return replace(made, plan=replace(made.plan, weights={k: _flat(q) for k, q in made.plan.weights.items()}))


def _flat(quantizer: Quantizer) -> Quantizer:
    return replace(quantizer, scale=(max(quantizer.scale),) * len(quantizer.scale))


VARIANTS: dict[str, Callable[[], Method]] = {
    "per tensor": lambda: PerTensor(bias_correction=False),
    "static, uncorrected": lambda: QuantizeStatic(bias_correction=False),
    "static": QuantizeStatic,
    "static, equalized": lambda: QuantizeStatic(equalize=True),
    **{f"prefix {k}": lambda k=k: QuantizeMixed(prefix=k, layers=0) for k in range(1, 6)},  # type: ignore[misc]
    "prefix 2, uncorrected": lambda: QuantizeMixed(prefix=2, layers=0, bias_correction=False),
    **{f"most sensitive {k}": lambda k=k: QuantizeMixed(prefix=0, layers=k) for k in range(1, 4)},  # type: ignore[misc]
    "prefix 2 + sensitive 1": lambda: QuantizeMixed(prefix=2, layers=1),
}


@dataclass
class Result:
    """One variant over all folds; `right` is (folds, scored images) of 0 and 1."""

    right: list[NDArray[np.float64]]
    divergence: list[float]
    decibel: list[float]
    size: int = 0
    latency: float = 0.0


class Files:
    """Exports each model once and writes, runs and times its variants."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runtime = folder, get("onnxruntime")
        self._exports: dict[int, Path] = {}
        self._models: list[Any] = []

    def write(self, model: Any, example: Any, plan: Plan | None) -> tuple[Path, int]:
        """The artifact of a model, and the bytes of its plain export."""
        if id(model) not in self._exports:
            path = self.folder / f"export{len(self._exports)}.onnx"
            self.runtime.export(capture(model, *example).serialize(), path)
            self._exports[id(model)] = path
            self._models.append(model)  # an id is unique while its object lives
        exported = self._exports[id(model)]
        path = self.folder / "candidate.onnx"
        self.runtime.write(exported, path, plan)
        return path, exported.stat().st_size

    def logits(self, path: Path, inputs: torch.Tensor) -> torch.Tensor:
        """All outputs, shape (n, classes)."""
        session = self.runtime.open(path, threads=2)
        return torch.cat([torch.from_numpy(session.run([part.numpy()])[0]) for part in inputs.split(50)])


def folds(count: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """(calibration, scored) indices."""
    for fold in range(FOLDS):
        held = range(fold * HELD, (fold + 1) * HELD)
        yield held, [index for index in range(count) if index not in held]


def measure(files: Files, names: Sequence[str]) -> None:
    """Measure the variants and print a row for each."""
    inputs, labels = data.imagenet()
    model = mobilenet()
    example = ((inputs[:2],), {})
    floats, plain = files.write(model, example, None)
    first = floats.rename(files.folder / "first.onnx")
    exact = files.logits(first, inputs)
    exact_right = (exact.argmax(1) == labels).double().numpy()
    print(f"float {exact_right.mean():.2%} of {len(labels)}; {first.stat().st_size} B lean, {plain} B plain export\n")
    print(_ROW.format("", "drop pp", "KL", "dB", "lean", "plain", "latency", "fold drops"))
    for name in names:
        result = Result([], [], [])
        for fold, (held, scored) in enumerate(folds(len(labels))):
            task = bd.Classification(
                calibration=(inputs[held], labels[held]), validation=(inputs[scored], labels[scored])
            )
            context = Context(Data(None, task.calibration))
            made = VARIANTS[name]().apply(Candidate(model), task, context)
            path, _ = files.write(made.model, example, made.plan)
            logits, reference = files.logits(path, inputs[scored]), exact[scored]
            result.right.append((logits.argmax(1) == labels[scored]).double().numpy())
            result.divergence.append(float(np.mean(np.asarray(task.divergence(logits, reference)))))
            result.decibel.append(signal_to_noise(reference.numpy(), logits.numpy()))
            if fold == 0:
                result.size = path.stat().st_size
                result.latency = latency_ratio(first, path, inputs[:1])
        _tell(name, result, exact_right, first.stat().st_size, plain)


def _tell(name: str, result: Result, exact: NDArray[np.float64], lean: int, plain: int) -> None:
    total, per_fold = np.zeros(len(exact)), []
    for right, (_, scored) in zip(result.right, folds(len(exact)), strict=True):
        total[scored] += exact[scored] - right
        per_fold.append(100 * float((exact[scored] - right).mean()))
    drops = 100 * total / (FOLDS - 1)
    error = float(drops.std(ddof=1)) / len(drops) ** 0.5
    print(
        _ROW.format(
            name, f"{drops.mean():+.2f} ± {error:.2f}", f"{np.mean(result.divergence):.4f}",
            f"{np.mean(result.decibel):.1f}", f"{result.size / lean:.3f}x", f"{result.size / plain:.3f}x",
            f"{result.latency:.2f}x", " ".join(f"{drop:+.1f}" for drop in per_fold),
        ),
        flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        measure(Files(Path(scratch)), sys.argv[1:] or list(VARIANTS))
