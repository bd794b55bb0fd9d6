"""ONNX's own tests of its operators, read: `python -m benchmarks.onnx_nodes [OPERATOR ...]`.

The cases are those that the `onnx` package makes for every runtime. One is right when what is read computes what is
expected, or when the file is refused by an error with a cause and a cure. Prints a table of operators, and every case
that is wrong. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from boildown.errors import InputError
from boildown.surgery.onnx_in import NEWEST, read

OUT_OF_REACH = ("Loop", "Scan", "Random", "Bernoulli", "Multinomial", "String", "Optional", "Momentum", "Adam",
                "Adagrad", "ImageDecoder", "TfIdf", "Regex", "SequenceMap")  # fmt: skip
"""Operators that no network for inference is made of, or that are refused on purpose."""


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help="all without any")
    parser.add_argument("--refused", action="store_true", help="print why cases are refused")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    from onnx.backend.test.case.node import collect_testcases

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    told: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in collect_testcases():
            kinds = [node.op_type for node in case.model.graph.node]
            versions = {each.domain: each.version for each in case.model.opset_import}
            kind = kinds[0] if len(kinds) == 1 else "written out"
            if (asked.operators and kind not in asked.operators) or kind.startswith(OUT_OF_REACH):
                continue
            if set(versions) - {"", "ai.onnx"} or versions.get("", 0) > NEWEST:
                continue
            state, why = outcome(case, Path(folder) / "case.onnx")
            counts[kind][state] += 1
            if state == "wrong" or (state == "refused" and asked.refused):
                told.append(f"{case.name}: {state}: {why}")
    print(table(counts))
    print("\n".join(told))
    return 1 if any(count["wrong"] for count in counts.values()) else 0


def outcome(case: Any, path: Path) -> tuple[str, str]:
    """(right, refused or wrong; why) of one case."""
    path.write_bytes(case.model.SerializeToString())
    try:
        found = read(path)
    except InputError as error:
        return "refused", str(error).partition("\n")[0]
    except Exception:  # noqa: BLE001 - it is what is looked for
        return "wrong", _last_line()
    for inputs, outputs in case.data_sets:
        try:
            given = [torch.from_numpy(_plain(array)) for array in inputs]
            given = [each.to(port.dtype) for each, port in zip(given, found.inputs, strict=True)]
            with torch.no_grad():
                made = found.module(*given)
        except Exception:  # noqa: BLE001 - as above
            return "wrong", _last_line()
        made = made if isinstance(made, tuple) else (made,)
        for ours, theirs in zip(made, outputs, strict=True):
            wanted = _plain(theirs)
            if tuple(ours.shape) != wanted.shape:
                return "wrong", f"the shape {tuple(ours.shape)}, not {wanted.shape}"
            half = np.asarray(theirs).dtype not in (np.float32, np.float64)
            wanted = wanted.astype(np.float64)
            if not np.allclose(ours.numpy(), wanted, rtol=1e-2 if half else 1e-3, atol=1e-2 if half else 1e-5,
                               equal_nan=True):  # fmt: skip
                return "wrong", f"apart by {np.abs(ours.numpy() - wanted).max():.3g}"
    return "right", ""


def _plain(given: Any) -> np.ndarray[Any, Any]:
    """An array of a type that torch has."""
    array = onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.array(given)
    return array if array.dtype.isbuiltin else array.astype(np.float32)


def _last_line() -> str:
    return traceback.format_exc().strip().splitlines()[-1]


def table(counts: dict[str, Counter[str]]) -> str:
    """The table of operators in Markdown, with the sum."""
    states = ("right", "refused", "wrong")
    lines = ["| operator | right | refused by name | wrong |", "| --- | --- | --- | --- |"]
    for kind in sorted(counts):
        lines.append(f"| {kind} | {' | '.join(str(counts[kind][state] or '') for state in states)} |")
    whole = sum(counts.values(), Counter())
    read_all = sum(1 for count in counts.values() if count["right"])
    lines.append(f"| **{len(counts)}, of which {read_all} are read** | "
                 f"{' | '.join(str(whole[state]) for state in states)} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
