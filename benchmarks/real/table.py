"""A row for every candidate: what the file that is written of it costs beside others' files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import boildown as bd
from benchmarks.real.data import Samples
from benchmarks.real.timing import latency_ratio
from boildown.domain.candidate import Candidate
from boildown.engine.bench import signal_to_noise
from boildown.methods.base import Context, Data, Method
from boildown.runtimes import get
from boildown.surgery.graph import capture


@dataclass(frozen=True)
class File:
    """What was written of a candidate, and what ONNX Runtime computes with it.

    outputs: (n, classes). right: (n,), 1 where the largest of them is the label's, else 0. integer: how many
    convolutions run on integers.
    """

    path: Path
    outputs: Tensor
    right: Tensor
    integer: int


class Table:
    """Rows of candidates, printed as they are measured.

    against: float networks by name. A row tells the accuracy and the drop beside each of them; the divergence (KL,
    and dB of signal to noise), the size and the latency (batch 1, one thread, in turns) beside the first of them.
    """

    def __init__(self, folder: Path, task: bd.Task, test: Samples, against: Mapping[str, Candidate]) -> None:
        self.folder, self.task, self.test = folder, task, test
        self.runtime = get("onnxruntime")
        self.against = {name: self.write(each, f"against-{n}.onnx") for n, (name, each) in enumerate(against.items())}
        for name, file in self.against.items():
            print(f"{name}: {file.right.mean():.2%} of {len(file.right)}, {file.path.stat().st_size:,} B")
        drops = [f"drop from {name}, pp" for name in against]
        print(" | ".join(["", "accuracy, %", *drops, "KL", "dB", "size", "latency", "integer", "CPU min"]), flush=True)

    def write(self, candidate: Candidate, name: str) -> File:
        """Write a candidate into the folder and run it on the test images."""
        exported, path = self.folder / "exported.onnx", self.folder / name
        self.runtime.export(capture(candidate.model, *self.task.example()).serialize(), exported)
        facts = self.runtime.write(exported, path, candidate.plan).facts
        inputs, labels = self.test
        session = self.runtime.open(path)
        outputs = torch.cat([torch.from_numpy(session.run([part.numpy()])[0]) for part in inputs.split(100)])
        right = (outputs.argmax(1) == labels).double()
        return File(path, outputs, right, facts.get("kernels", {}).get("QLinearConv", 0))

    def row(
        self, name: str, candidate: Candidate, method: Method | None = None, teacher: Candidate | None = None
    ) -> None:
        """Print a candidate's row, or that of what a method makes of it, after what the method records and notes."""
        start = time.process_time()
        if method is not None:
            context = Context(
                Data(self.task.train, self.task.calibration),
                first=teacher,
                record=lambda kind, found: print(f"  {kind}: {dict(found)}", flush=True),
            )
            candidate = method.apply(candidate, self.task, context)
            print(*(f"  {note}\n" for note in candidate.notes), sep="", end="")
        minutes = (time.process_time() - start) / 60
        ours, first = self.write(candidate, "candidate.onnx"), next(iter(self.against.values()))
        divergence = torch.as_tensor(self.task.divergence(ours.outputs, first.outputs)).mean()
        cells = (
            name,
            f"{100 * ours.right.mean():.2f}",
            *(drop(file.right, ours.right) for file in self.against.values()),
            f"{divergence:.4f}",
            f"{signal_to_noise(first.outputs.numpy(), ours.outputs.numpy()):.1f}",
            f"{ours.path.stat().st_size / first.path.stat().st_size:.3f}x",
            f"{latency_ratio(first.path, ours.path, self.test[0][:1]):.2f}x",
            str(ours.integer),
            f"{minutes:.1f}" if method is not None else "",
        )
        print(" | ".join(cells), flush=True)


def drop(first: Tensor, ours: Tensor) -> str:
    """How much less often `ours` is right, in percentage points with the standard error of the paired difference."""
    worse = 100 * (first - ours)
    return f"{worse.mean():+.2f} ± {worse.std() / len(worse) ** 0.5:.2f}"
