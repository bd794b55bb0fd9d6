"""The runtime 'eager': a `torch.export` program run by PyTorch itself, float only.

It serves models that no other runtime can take. Its file can execute code when it is loaded
(`torch.export.load` falls back to pickle), so opening one asks for trust in so many words.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Edit, Plan
from boildown.domain.deployment import LEAN
from boildown.domain.rules import FLOAT
from boildown.errors import ExportError, InputError, UntrustedFileError
from boildown.runtimes.base import CHECK, Array, Port, Usual, Written
from boildown.runtimes.port_names import loaded

_REFUSAL = "the eager runtime runs float candidates only"
_LOADER = '''\
"""Load {file}; run as a script, check it on the sample beside it.

A .pt2 file can run code when it is loaded: trust its origin.
"""
import numpy as np, torch
from pathlib import Path
from torch.utils._pytree import tree_leaves, tree_unflatten
here = Path(__file__).parent

def load():
    """The model as a function of its inputs by name, which gives its outputs by name."""
    program = torch.export.load(here / "{file}")
    model, names = program.module(check_guards=False), np.load(here / "sample.npz").files
    given, made = ([name[len(side):] for name in names if name.startswith(side)] for side in ("input:", "output:"))

    def run(inputs):
        arrays = [torch.from_numpy(inputs[name]) for name in given]
        args, kwargs = tree_unflatten(arrays, program.call_spec.in_spec)
        with torch.inference_mode():
            outputs = [leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
        return {{name: output.numpy() for name, output in zip(made, outputs, strict=True)}}
    return run
'''


class Eager(Usual):
    """PyTorch on the CPU; see `base.Runtime` for the methods."""

    name = "eager"
    suffix = ".pt2"
    rules = FLOAT

    def version(self) -> str:
        """Name and version, for keys and environments."""
        return f"torch {torch.__version__}"

    def refuses(self, plan: Plan | None, rewrite: Edit | None, form: str = LEAN) -> str | None:
        """Whatever is quantized: PyTorch runs float here."""
        return None if plan is None and rewrite is None else _REFUSAL

    def loader(self, artifact: Artifact) -> str:
        """A few lines of PyTorch."""
        return (_LOADER + CHECK).format(file=artifact.name)

    def export(self, program: bytes, path: Path) -> None:
        """Store the program as it is."""
        path.write_bytes(program)

    def write(self, exported: Path, path: Path, plan: Plan | None = None, rewrite: Edit | None = None) -> Written:
        """Copy the program. Raises ExportError for a plan or a rewrite: PyTorch runs float here."""
        if self.refuses(plan, rewrite) is not None:
            raise ExportError("The eager runtime runs float candidates only.\n  Use runtime='onnxruntime' to quantize.")
        shutil.copyfile(exported, path)
        return Written(path.stat().st_size, "float")

    def open(self, path: Path, threads: int = 1, *, trust: bool = False) -> EagerSession:
        """Load a program whose origin the caller vouches for with `trust` (a checked hash, say).

        `threads` is PyTorch's number for the whole process. Raises UntrustedFileError without
        trust, InputError if the file is missing or damaged.
        """
        if not trust:
            raise UntrustedFileError.of(
                f"{path} can execute code when it is loaded",
                "open it with trust=True if you made it yourself, or use an .onnx file, which cannot",
            )
        return EagerSession(path, threads)


class EagerSession:
    """A loaded program; `inputs` and `outputs` are its ports in order."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load with `threads` intra-op threads. Raises InputError if the file cannot be read."""
        if not path.is_file():
            raise InputError.of(f"there is no file {path}", "check the path")
        torch.set_num_threads(threads)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on its own archive's internals
                program, inputs, outputs, _axes = loaded(path.read_bytes())
        except Exception as error:
            raise InputError.of(f"{path} is not a torch.export program: {error}", "Export it again.") from error
        self._module = program.module(check_guards=False)
        self._structure = program.call_spec.in_spec
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        signature = program.graph_signature
        given, made = (
            [values[name] for name in side if isinstance(name, str)]
            for side in (signature.user_inputs, signature.user_outputs)
        )
        self.inputs: tuple[Port, ...] = tuple(map(_port, inputs, given))
        self.outputs: tuple[Port, ...] = tuple(map(_port, outputs, made))

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Flat inputs in port order to flat outputs in port order; InputError if they do not fit."""
        if len(arrays) != len(self.inputs):
            raise InputError.of(
                f"the model takes {len(self.inputs)} inputs and was given {len(arrays)}",
                f"give one array for each of: {', '.join(port.name for port in self.inputs)}",
            )
        args, kwargs = tree_unflatten([torch.from_numpy(array) for array in arrays], self._structure)
        with torch.inference_mode():
            outputs = tree_flatten(self._module(*args, **kwargs))[0]
        return [output.numpy() for output in outputs if isinstance(output, torch.Tensor)]


def _port(name: str, value: torch.Tensor) -> Port:
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return Port(name, str(value.dtype).removeprefix("torch."), shape)
