"""Values inside of a file: what its nodes make, as outputs beside its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime

from boildown.runtimes.base import Array


def inside(
    path: Path, names: Sequence[str], arrays: Sequence[Array], options: onnxruntime.SessionOptions
) -> tuple[dict[str, Array], list[Array]]:
    """(values by name, as many as there are of those asked for; the file's own outputs) for flat inputs."""
    model = onnx.load(path)
    own = [port.name for port in model.graph.output]
    made = {name for node in model.graph.node for name in node.output} - {*own}
    others = [name for name in dict.fromkeys(names) if name in made]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in others)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = dict(zip((port.name for port in session.get_inputs()), arrays, strict=True))
    values: list[Array] = session.run([*own, *others], given)
    found = dict(zip([*own, *others], values, strict=True))
    return {name: found[name] for name in names if name in found}, values[: len(own)]
