"""A network from PyTorch and the same from its ONNX files: the same methods give the same figures.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.onnx_in [NETWORK ...] [--rung RUNG ...]

Of networks of `benchmarks.real.models`: each is written by today's exporter and by the TorchScript one (opset 13 and
17), and every file is boiled down beside the module by the same rungs, on the same data. Prints a row for each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import boildown as bd
from benchmarks.real import tasks
from benchmarks.real.models import MODELS

TARGET = ["accuracy drop <= 1 pp", "size <= 0.05x"]  # so that every rung is climbed
RUNGS = ("quantize-static", "low-rank(ratio=0.8)", "prune(ratio=0.7)")
NAMES = ("resnet20", "mobilenet")


def brought(model: nn.Module, example: torch.Tensor, folder: Path) -> Iterator[tuple[str, nn.Module | Path]]:
    """(what it is, the model) for the module and its files."""
    yield "PyTorch", model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = folder / "dynamo.onnx"
        axes = ({0: torch.export.Dim("N")},)
        torch.onnx.export(model, (example,), file, dynamo=True, dynamic_shapes=axes, external_data=False, verbose=False)
        yield "dynamo", file
        for opset in (13, 17):
            file, names = folder / f"torchscript{opset}.onnx", {"x": {0: "N"}, "y": {0: "N"}}
            torch.onnx.export(
                model, (example,), file, dynamo=False, opset_version=opset, input_names=["x"], output_names=["y"],
                dynamic_axes=names,
            )  # fmt: skip
            yield f"TorchScript, opset {opset}", file


def rows(name: str, rungs: list[str], folder: Path) -> Iterator[str]:
    """The figures of a network, from everything that it may come as."""
    task = tasks.TASKS[name]()
    example = next(iter(task.validation.batches(1)))[0]
    for what, model in brought(MODELS[name](), example, folder):
        start = time.perf_counter()
        run = bd.compress(model, task, TARGET, ladder=rungs, runs=folder / what, verbose=False, samples=False)
        first, took = run.attempt(0), time.perf_counter() - start
        for result in run.candidates:
            found = result.measurements
            if result.verdict is None:
                yield f"| {name} | {what} | {result.rung} | {result.state.value}: {result.sentence} | | | |"
                continue
            size, apart = found["size"], found["divergence"].value if "divergence" in found else 0.0
            quality = found.get("accuracy", found.get("divergence"))
            shown = "" if quality is None else f"{quality.metric} {quality.value:.4f}"
            lean = next((note.split("x of")[0] for note in size.notes if "as boildown" in note), "")
            told = (
                next((note for note in first.notes if "agree" in note), "") if result.number == 0 else f"{took:.0f} s"
            )
            yield (
                f"| {name} | {what} | {result.rung} | {shown} | {size.value:,.0f} B, {size.ratio:.3f}x "
                f"| {lean} | {apart:.3g} | {told} |"
            )


def main() -> None:
    """Boil the networks asked for down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=list(NAMES))
    parser.add_argument("--rung", action="append")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | from | rung | quality | size, of the file | of the lean float file | divergence | told |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in given.networks:
        with tempfile.TemporaryDirectory() as scratch:
            for row in rows(name, given.rung or list(RUNGS), Path(scratch)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
