"""A model that comes as an ONNX file: the network that is read from it, called as the file is.

The file is named by its path and its digest, so that a child process, or a later sitting, reads the same one or none.
"""

from __future__ import annotations

import inspect
import keyword
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from boildown.domain.artifact import Artifact
from boildown.errors import InputError, ModelError, in_words
from boildown.files import real
from boildown.runtimes.onnx.external import external_files
from boildown.runtimes.port_names import distinct

if TYPE_CHECKING:
    import onnx

    from boildown.surgery.onnx_in import Port

SUFFIX = ".onnx"
PREFIX = "onnx:"
"""What stands before the path of a file in the place of a factory."""

_DIGEST = "?sha256="
_Own = tuple[tuple[int | str | None, ...], int]
_OTHERS = {10: torch.float16, 11: torch.float64, 16: torch.bfloat16}
"""Floats of ONNX that are computed as float32, and stay what goes in and comes out."""


@dataclass(frozen=True)
class File:
    """An ONNX file as it was found.

    sha256: of it and of the files that it keeps weights in. inputs, outputs: as the file has them, in its order.
    quantized: it held integer weights, which were made float again. half: it computes in another precision than
    float32. notes: what else was changed while it was read. agreement: how well what was read agrees with it, in words.
    """

    path: Path
    sha256: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    quantized: bool = False
    half: bool = False
    notes: tuple[str, ...] = ()
    agreement: str = ""

    @property
    def batch(self) -> int | None:
        """How many samples it takes at a time, where that is fixed; None for any number."""
        return fixed_batch([port.shape for port in self.inputs])

    @property
    def ports(self) -> dict[str, Any]:
        """What its inputs, outputs and axes are called, as plain data; see `runtimes.port_names`."""
        sides = {"inputs": self.inputs, "outputs": self.outputs}
        return {
            "inputs": [port.name for port in self.inputs],
            "names": [port.name for port in self.outputs],
            "axes": {side: [list(port.shape) for port in ports] for side, ports in sides.items()},
        }


class OnnxFile(nn.Module):
    """The network of a file, called by position in the file's order, or by the names of its inputs."""

    def __init__(self, network: nn.Module, file: File) -> None:
        super().__init__()
        self.network, self.file = network, file

    def call(self, *inputs: Tensor) -> Any:
        """The outputs for inputs in the file's order, in the file's types; in between it computes in float32."""
        found = self.network(*(value.float() if _is_other_float(value) else value for value in inputs))
        several = isinstance(found, tuple | list)
        made = [
            value.to(port.dtype) if value.is_floating_point() and value.dtype != port.dtype else value
            for value, port in zip(found if several else (found,), self.file.outputs, strict=True)
        ]
        return tuple(made) if several else made[0]


def named_file(model: Any) -> Path | None:
    """The path of a model that is given as the name of a file; None for anything else."""
    if isinstance(model, str | os.PathLike):
        text = os.fspath(model)
        if isinstance(text, str) and text.lower().endswith(SUFFIX):
            return Path(text.removeprefix(PREFIX))
    return None


def factory_of(path: Path) -> str:
    """The file as a factory that gives the same network wherever it is called. Raises ModelError for no such file."""
    return f"{PREFIX}{real(path)}{_DIGEST}{artifact_of(path).sha256}"


def path_of(factory: str) -> Path:
    """The file that a factory of `factory_of` names."""
    return Path(factory.removeprefix(PREFIX).partition(_DIGEST)[0])


def artifact_of(path: Path) -> Artifact:
    """The file, and those that it keeps weights in. Raises ModelError where one is not there, or lies elsewhere."""
    try:
        if not real(path).is_file():
            raise ModelError.of(f"There is no file {path}.", "Check the path.")
        return Artifact.read("onnxruntime", real(path), external_files(real(path)))
    except InputError as error:
        raise ModelError(*error.mistakes) from error
    except (OSError, ValueError) as error:
        raise ModelError.of(
            f"{path} cannot be read: {in_words(error)}.", "Keep the files of its weights beside it."
        ) from error


def from_onnx(text: str) -> nn.Module:
    """The network of the file that a factory names behind its prefix, in eval mode.

    Raises ModelError for a file that is not there or not the one with that digest, InputError for what cannot be read.
    """
    path, digest = path_of(text), text.partition(_DIGEST)[2]
    found = artifact_of(path).sha256
    if digest and found != digest:
        raise ModelError.of(
            f"{path} is not the file that the run began with: its sha256 is {found[:16]}, and it was {digest[:16]}.",
            "Bring it back from a copy, attempts/00-first/ of the run has one; or start a new run.",
        )
    return network_of(path, found)


def network_of(path: Path, sha256: str) -> OnnxFile:
    """The network of a file. Raises InputError for what cannot be read."""
    from boildown.surgery.onnx_in import read

    own, half = _ports(path)
    with tempfile.TemporaryDirectory() as folder:
        told = read(_with_open_batch(path, Path(folder)) or path)
    inputs, outputs = (
        tuple(
            replace(port, shape=shape, dtype=_OTHERS.get(kind, port.dtype))
            for port, (shape, kind) in zip(*side, strict=True)
        )
        for side in ((told.inputs, own[0]), (told.outputs, own[1]))
    )
    file = File(real(path), sha256, inputs, outputs, told.quantized, half, told.notes)
    return _called_as(inputs)(told.module, file).eval()


def file_of(model: Any) -> File | None:
    """The file that a model came as; None for any other."""
    found = getattr(model, "file", None)
    return found if isinstance(found, File) else None


def fixed_batch(shapes: Sequence[Sequence[int | str | None]]) -> int | None:
    """The size of the first axis, where all inputs with axes have the same fixed one."""
    sizes = {shape[0] for shape in shapes if len(shape)}
    found = sizes.pop() if len(sizes) == 1 else None
    return found if isinstance(found, int) and found > 0 else None


def _called_as(inputs: Sequence[Port]) -> type[OnnxFile]:
    """A class whose `forward` names its arguments by the inputs: what captures it looks there."""
    names = [port.name for port in inputs]
    words = distinct([re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_0123456789") or "x" for name in names])
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    own = [inspect.Parameter(f"{word}_" if keyword.iskeyword(word) else word, kind) for word in ("self", *words)]

    def forward(self: OnnxFile, *args: Tensor, **by_name: Tensor) -> Any:
        return self.call(*args, *(by_name[name] for name in names[len(args) :]))

    forward.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    return cast("type[OnnxFile]", type("OnnxFile", (OnnxFile,), {"forward": forward}))


def input_shapes(path: Path) -> list[tuple[int | str | None, ...]]:
    """The axes of every input as the file says them: a size, a name, or None. Raises ModelError for no ONNX file."""
    return [shape for shape, _ in _ports(path)[0][0]]


# ---- files for batches of one size ---------------------------------------------------------------


def _ports(path: Path) -> tuple[tuple[list[_Own], list[_Own]], bool]:
    """Shape and type of inputs and outputs as the file says, and whether it has other floats than float32."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # whatever protobuf says of bytes
        raise ModelError.of(f"{path} is no ONNX file: {in_words(error)}.", "Export it again.") from error
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs, outputs = (
        [(_shape(port), port.type.tensor_type.elem_type) for port in side if port.name not in weights]
        for side in (model.graph.input, model.graph.output)
    )
    casts = {attribute.i for node in model.graph.node if node.op_type == "Cast" for attribute in node.attribute}
    kinds = {kind for _, kind in (*inputs, *outputs)} | {tensor.data_type for tensor in model.graph.initializer} | casts
    return (inputs, outputs), not kinds.isdisjoint(_OTHERS)


def _shape(port: onnx.ValueInfoProto) -> tuple[int | str | None, ...]:
    tensor = port.type.tensor_type
    return tuple(int(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or None for dim in tensor.shape.dim)


def _with_open_batch(path: Path, folder: Path) -> Path | None:
    """A copy of a file that takes one size of batch, for any size; None for any other file.

    What it computes is held against the file itself later: where a first axis is no batch, that shows.
    """
    import onnx

    batch = fixed_batch(input_shapes(path))
    if batch is None:
        return None
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    for port in (*(port for port in model.graph.input if port.name not in weights), *model.graph.output):
        if (dims := port.type.tensor_type.shape.dim) and dims[0].dim_value == batch:
            dims[0].dim_param = "batch"
    del model.graph.value_info[:]
    _open_reshapes(model, batch)
    opened = folder / path.name
    onnx.save(model, opened)
    return opened


def _open_reshapes(model: onnx.ModelProto, batch: int) -> None:
    """Let every Reshape of data whose target begins with the batch take what is left for it."""
    from onnx import numpy_helper

    known = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {node.output[0]: node.attribute[0].t for node in model.graph.node if _is_constant(node)}
    fixed = known.keys() | made.keys()
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[0] in fixed:
            continue
        tensor = known.get(node.input[1]) or made.get(node.input[1])
        if tensor is None:
            continue
        target = numpy_helper.to_array(tensor).copy()
        if target.ndim == 1 and len(target) and target[0] == batch:
            target[0] = 0 if -1 in target else -1
            own = numpy_helper.from_array(target, f"{node.input[1]}/open {number}")
            model.graph.initializer.append(own)
            node.input[1] = own.name


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value"


def _is_other_float(value: Tensor) -> bool:
    return value.is_floating_point() and value.dtype != torch.float32


def readable(factory: str) -> None:
    """Read a file, for a child process with limits. Raises what `from_onnx` raises."""
    from_onnx(factory.removeprefix(PREFIX))
