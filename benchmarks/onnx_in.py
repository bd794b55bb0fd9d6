"""The zoo through files and back: `python -m benchmarks.onnx_in [MODEL ...] [--by EXPORTER ...]`.

Every architecture is exported by each exporter, read, captured, and held to ONNX Runtime on the file itself, for inputs
and a batch that it was not exported with. A cell is at parity from 90 dB on. Prints the table, the rate of each
exporter, and why what fails does; exit code 1 if anything is wrong without a word.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from benchmarks.zoo.cells import Wrong, decibel
from benchmarks.zoo.entry import ZOO, Entry, load
from boildown.errors import BoildownError, InputError, text_of
from boildown.runtimes import get
from boildown.surgery.graph import capture
from boildown.surgery.onnx_in import read
from boildown.tasks.general import as_call

PARITY = 90.0
"""Decibel from which a file is read right."""

EXPORTERS = ("dynamo", "boildown", "torchscript-13", "torchscript-17")


def main() -> int:
    """Print the table."""
    load()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="all without any")
    parser.add_argument("--by", nargs="+", choices=EXPORTERS, default=list(EXPORTERS), metavar="EXPORTER")
    parser.add_argument(
        "--uncaptured", action="store_true", help="leave out torch.export, which takes most of the time"
    )
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    cells: dict[tuple[str, str], tuple[str, str]] = {}
    names = asked.models or list(ZOO)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for exporter in asked.by:
                start = time.perf_counter()
                path = Path(folder) / f"{name}-{exporter}.onnx"
                cells[name, exporter] = cell(ZOO[name], exporter, path, captured=not asked.uncaptured)
                told = " ".join(cells[name, exporter])
                print(
                    f"{name} {exporter}: {told:.200}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True
                )
                path.unlink(missing_ok=True)
    print(table(cells, names, asked.by))
    return 1 if any(state == "wrong" for state, _ in cells.values()) else 0


def cell(entry: Entry, exporter: str, path: Path, *, captured: bool = True) -> tuple[str, str]:
    """(ok, no file, refused, uncaptured or wrong; the decibel or why)."""
    model = entry.build()
    try:
        export(model, *as_call(entry.samples(2, seed=1)), exporter, path)
    except Exception as error:  # noqa: BLE001 - exporters raise what they find odd
        return "no file", _first(error)
    try:
        found = read(path)
    except InputError as error:
        return "refused", "; ".join(mistake.cause for mistake in error.mistakes[:3])
    except Exception as error:  # noqa: BLE001 - it is what is looked for
        return "wrong", f"{type(error).__name__}: {_first(error)}"
    args = _flat(entry.samples(3, seed=2))
    try:
        session = get("onnxruntime").open(path)
    except InputError as error:
        return "no file", _first(error)
    try:
        wanted = [torch.from_numpy(array) for array in session.run([arg.numpy() for arg in args])]
    except Exception as error:  # noqa: BLE001 - a file that fixes its batch, mostly
        args = _flat(entry.samples(2, seed=2))
        try:
            wanted = [torch.from_numpy(array) for array in session.run([arg.numpy() for arg in args])]
        except Exception:  # noqa: BLE001 - as above
            return "no file", f"ONNX Runtime: {_first(error)}"
    try:
        args = args[: len(found.inputs)]
        with torch.no_grad():
            given = found.module(*args)
        least = decibel(wanted, list(given) if isinstance(given, tuple) else [given])
    except Wrong as error:
        return "wrong", str(error)
    except Exception as error:  # noqa: BLE001 - as above
        return "wrong", _first(error)
    if least < PARITY:
        return "wrong", f"{least:.0f} dB"
    if captured:
        try:
            graph = capture(found.module, tuple(args))
        except BoildownError as error:
            return "uncaptured", _first(error)
        return "ok", f"{least:.0f}{' dB, its batch is fixed' if graph.static_batch else ' dB'}"
    return "ok", f"{least:.0f} dB"


def export(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], exporter: str, path: Path) -> None:
    """Write a model's file by an exporter, the first axis open where it allows that."""
    if exporter == "boildown":
        get("onnxruntime").export(capture(model, args, kwargs).serialize(), path)
        return
    names = list(kwargs) or [f"in{number}" for number in range(len(args))]
    with torch.no_grad():
        if exporter == "dynamo":
            batch = torch.export.Dim("batch")
            shapes: Any = {name: {0: batch} for name in kwargs} if kwargs else tuple({0: batch} for _ in args)
            try:
                program = torch.onnx.export(model, args, kwargs=kwargs, dynamo=True, dynamic_shapes=shapes,
                                            verbose=False)  # fmt: skip
            except Exception:  # noqa: BLE001 - a batch that is fixed in the model
                program = torch.onnx.export(model, args, kwargs=kwargs, dynamo=True, verbose=False)
            assert program is not None
            program.save(path)
            return
        file = io.BytesIO()
        call = (*args, kwargs) if kwargs else args
        torch.onnx.export(
            model, call, file, dynamo=False, opset_version=int(exporter.rpartition("-")[2]), input_names=names,
            dynamic_axes={name: {0: "batch"} for name in names},
        )  # fmt: skip
        path.write_bytes(file.getvalue())


def _flat(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(as_call(inputs)) if isinstance(leaf, Tensor)]


def _first(error: BaseException) -> str:
    return f"{type(error).__name__}: {text_of(error).strip().partition(chr(10))[0]:.300}"


def table(cells: dict[tuple[str, str], tuple[str, str]], names: Sequence[str], by: Sequence[str]) -> str:
    """The table in Markdown, the rate of each exporter, and why what is not right is not."""
    lines = [f"| model | {' | '.join(by)} |", f"| --- |{' --- |' * len(by)}"]
    for name in names:
        found = [cells[name, exporter] for exporter in by]
        lines.append(f"| {name} | {' | '.join(why if state == 'ok' else f'**{state}**' for state, why in found)} |")
    for exporter in by:
        count = Counter(cells[name, exporter][0] for name in names)
        files = sum(count.values()) - count["no file"]
        rate = f"{100 * count['ok'] / files:.1f} %" if files else "no"
        lines.append(f"\n{exporter}: {rate} of {files} files at parity ({dict(count)})")
    lines += [f"- {name}, {exporter}: {state}: {why}" for (name, exporter), (state, why) in cells.items()
              if state != "ok"]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
