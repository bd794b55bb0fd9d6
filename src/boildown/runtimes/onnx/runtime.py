"""The runtime 'onnxruntime': ONNX files on the CPU.

Opening a session loads ONNX Runtime alone (0.2 s), never torch: a child that only times an artifact
starts at once.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Edit, Plan
from boildown.domain.deployment import FORMS, LEAN, PORTABLE
from boildown.domain.preprocess import Preprocess
from boildown.domain.rules import Rules
from boildown.errors import ExportError, InputError
from boildown.files import real
from boildown.runtimes.base import CHECK, Array, Executed, Port, Usual, Written
from boildown.runtimes.onnx.external import external_files

_state = onnxruntime.capi.onnxruntime_pybind11_state
_ERRORS = (
    *(_state.Fail, _state.InvalidArgument, _state.InvalidGraph, _state.InvalidProtobuf, _state.NoSuchFile),
    *(_state.NoModel, _state.NotImplemented, _state.EPFail, _state.RuntimeException),
)
"""ONNX Runtime's own errors; they share no base narrower than Exception."""


_EXPORTER = (
    "torch._dynamo", "torch.export.pt2_archive", "torch.onnx._internal.exporter._core",
    "onnxscript.function_libs.torch_lib.ops",
)  # fmt: skip

_LOADER = '''\
"""Load {file}; run as a script, check it on the sample beside it."""
import numpy as np, onnxruntime as ort
from pathlib import Path
here = Path(__file__).parent

def load():
    """The model as a function of its inputs by name, which gives its outputs by name."""
    session = ort.InferenceSession(here / "{file}")
    names = [port.name for port in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs)))
'''


class OnnxRuntime(Usual):
    """ONNX Runtime's CPU provider; see `base.Runtime` for the methods."""

    name = "onnxruntime"
    suffix = ".onnx"
    rules = Rules(
        layers=(*Rules.layers, "product"),
        joins=("add", "concatenate", "multiply", "average"),
        activations=(
            *("aten.hardsigmoid.default", "aten.hardswish.default", "aten.leaky_relu.default"),
            *("aten.prelu.default", "aten.sigmoid.default", "aten.silu.default", "aten.tanh.default"),
        ),
        narrow=32,
        dynamic=("lstm", "rnn", "cell", "loop"),
        dynamic_from=90_000,
        stored=("gru",),
    )
    forms = FORMS

    def version(self) -> str:
        """Name and version, for keys and environments."""
        return f"onnxruntime {onnxruntime.__version__}"

    def refuses(self, plan: Plan | None, rewrite: Edit | None, form: str = LEAN) -> str | None:
        """What takes an operator of ONNX Runtime's own, in a form without such."""
        if form == PORTABLE and rewrite is not None and rewrite.args.get("embeddings", 8) < 8:
            return "4-bit embedding tables take an operator of ONNX Runtime's own: leave them at 8 bits, or form='lean'"
        return None

    def load_exporter(self) -> None:
        """Import torch, and what it and the exporter import only when they are used: together some seconds."""
        for name in ("boildown.runtimes.onnx.export", *_EXPORTER):
            import_module(name)

    def export(self, program: bytes, path: Path) -> None:
        """See `export.export`."""
        from boildown.runtimes.onnx.export import export

        export(program, path)

    def write(
        self, exported: Path, path: Path, plan: Plan | None = None, rewrite: Edit | None = None, form: str = LEAN
    ) -> Written:
        """Write the leanest artifact: as it is, with a plan laid in, or rewritten.

        A plan is written as Q/DQ and, unless it is to be portable, as QOperator, whichever is smaller;
        then ONNX Runtime is asked whether every quantized convolution runs on integers. Facts:
        `exported` (bytes before), with a plan also `forms` (bytes of each form), `quantized_convolutions`
        and the counts of `kernels` ONNX Runtime ends up with; of what is quantized its `names`, see
        `origins`. Raises ExportError if the plan does not fit or a quantized convolution would run in float.
        """
        import onnx_ir as ir

        from boildown.runtimes.onnx import between, dynamic, half, lean, origins, qdq, qoperator, tune

        if plan is not None and rewrite is not None:
            raise ExportError("A file is quantized by a plan or by a rewrite, not by both.\n  Choose one.")
        if (reason := self.refuses(plan, rewrite, form)) is not None:
            raise ExportError(f"The file cannot be written in the form {form}: {reason}.")
        portable, model = form == PORTABLE, ir.load(exported)
        lean.clean(model)
        known = origins.known(model)
        facts: dict[str, Any] = {"exported": exported.stat().st_size}
        names: dict[str, str] = {}
        notes: tuple[str, ...] = ()
        if rewrite is not None and rewrite.op == "half":
            tune.tune(model)
            found, notes = half.store(model, rewrite)
            facts |= found
            proto = ir.to_proto(model)
            lean.strip(proto)
            form, data = "half", proto.SerializeToString()
        elif rewrite is not None:
            tune.tune(model)
            proto, found = dynamic.quantize(model, rewrite, portable=portable)
            names = lean.strip(proto)
            form, data = "dynamic", proto.SerializeToString()
            facts |= {**found, "names": origins.origins(proto, names, known)}
        elif plan is None:
            tune.tune(model)
            proto = ir.to_proto(model)
            names = lean.strip(proto)
            form, data = "float", proto.SerializeToString()
        else:
            convolutions = qdq.insert(model, plan)
            between.rewrite(model)
            tune.tune(model)
            written = {}
            for form, change in (("qdq", None), ("qoperator", qoperator.convert))[: 1 if portable else 2]:
                if change is not None:
                    change(model)
                proto = ir.to_proto(model)
                names = lean.strip(proto)
                written[form] = proto.SerializeToString(), names, origins.origins(proto, names, known)
            form = min(written, key=lambda form: len(written[form][0]))
            data, names, facts["names"] = written[form]
            facts["forms"] = {form: len(data) for form, (data, *_) in written.items()}
            facts["quantized_convolutions"] = len(convolutions)
            facts["kernels"] = _kernels(data, convolutions, names)
        path.write_bytes(data)
        return Written(len(data), form, facts, notes, _values(names, plan))

    def inside(
        self, path: Path, names: Sequence[str], arrays: Sequence[Array], threads: int = 1
    ) -> tuple[dict[str, Array], list[Array]] | None:
        """With the values as outputs of the file; what computes on integers still does."""
        from boildown.runtimes.onnx.inside import inside

        return inside(path, names, arrays, _options(threads))

    def stamp(self, path: Path, identity: Mapping[str, str]) -> bool:
        """As the file's producer and metadata."""
        from boildown.runtimes.onnx import identify

        identify.stamp(path, identity)
        return True

    def about(self, path: Path) -> dict[str, Any]:
        """Its producer and metadata, its operator sets and what is not ONNX's own."""
        from boildown.runtimes.onnx import identify

        return identify.about(path)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Where the file keeps weights outside of itself. Raises InputError for those outside its folder."""
        folder = real(path).parent
        return tuple(path.parent / file.relative_to(folder) for file in external_files(path) if file.is_file())

    def loader(self, artifact: Artifact) -> str:
        """A few lines of ONNX Runtime."""
        return (_LOADER + CHECK).format(file=artifact.name)

    def with_preprocessing(
        self, path: Path, target: Path, description: Preprocess, classes: Sequence[str] | None, said: Mapping[str, str]
    ) -> None:
        """See `pictures.preprocessed`."""
        from boildown.runtimes.onnx.pictures import preprocessed

        preprocessed(path, target, description, classes, said)

    def open(self, path: Path, threads: int = 1, *, trust: bool = False) -> OnnxSession:
        """Load an artifact. Raises InputError if it is missing, damaged or reads other folders.

        An ONNX file executes no code, so `trust` is not needed.
        """
        return OnnxSession(path, threads)

    def executed(self, path: Path, inputs: Sequence[Array], threads: int = 1) -> tuple[Executed, ...]:
        """See `executed.executed`."""
        from boildown.runtimes.onnx.executed import executed

        return executed(path, inputs, lambda: _options(threads))


def _values(names: Mapping[str, str], plan: Plan | None) -> dict[str, str]:
    """What a file calls the values of the captured graph, by what it called all of them before it was stripped."""
    grids = {} if plan is None else plan.activations
    floats = {name: short for name, short in names.items() if name not in grids}
    return floats | {name: names[integers] for name in grids if (integers := f"{name}/q") in names}


def _kernels(data: bytes, convolutions: Sequence[str], names: dict[str, str]) -> dict[str, int]:
    """How many kernels of each kind ONNX Runtime runs, all quantized convolutions on integers."""
    import onnx

    options = _options(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        try:
            onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except _ERRORS as error:
            raise ExportError(f"ONNX Runtime refuses the file: {_first_line(error)}") from error
        nodes = list(onnx.load(optimized).graph.node)
    kernels = Counter(node.op_type for node in nodes)
    if kernels["QLinearConv"] < len(convolutions):
        originals = {short: name for name, short in names.items()}
        left = [originals.get(o, o) for node in nodes if node.op_type in _FLOAT_CONV for o in node.output]
        raise ExportError(
            f"{len(convolutions) - kernels['QLinearConv']} of {len(convolutions)} quantized convolutions would "
            f"run in float ({', '.join(left[:5]) or 'the runtime renamed them'}).\n"
            "  Keep the range of their output within the clamp behind it, or leave them float."
        )
    return dict(sorted(kernels.items()))


_FLOAT_CONV = {"Conv", "FusedConv"}


class OnnxSession:
    """A loaded ONNX file; `inputs` and `outputs` are its ports in order."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Load with `threads` intra-op threads, all graph optimizations, spinning off."""
        external_files(path)  # refuses those outside its folder
        try:
            session = onnxruntime.InferenceSession(str(path), _options(threads), providers=["CPUExecutionProvider"])
            self.inputs: tuple[Port, ...] = tuple(map(_port, session.get_inputs()))
            self.outputs: tuple[Port, ...] = tuple(map(_port, session.get_outputs()))
        except Exception as error:  # a foreign file can fail anywhere, out of memory or at a name that is no text
            raise InputError.of(
                f"{path} is not a model ONNX Runtime can load: {_first_line(error)}", "Export it again."
            ) from error
        self._session = session
        self._names = [port.name for port in self.inputs]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Flat inputs in port order to flat outputs in port order; InputError if they do not fit."""
        if len(arrays) != len(self._names):
            raise InputError.of(
                f"the model takes {len(self._names)} inputs and was given {len(arrays)}",
                f"give one array for each of: {', '.join(self._names)}",
            )
        try:
            results: list[Array] = self._session.run(None, dict(zip(self._names, arrays, strict=True)))
        except Exception as error:
            expected = ", ".join(f"{port.name} {port.dtype}{list(port.shape)}" for port in self.inputs)
            raise InputError.of(f"the inputs do not fit: {_first_line(error)}", f"expected: {expected}") from error
        if odd := [type(r).__name__ for r in results if not isinstance(r, np.ndarray) or r.dtype.kind not in "biuf"]:
            raise InputError.of(f"the model returns {odd[0]}, no numbers", "let every output be a tensor of numbers")
        return results


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _port(argument: Any) -> Port:
    kind = argument.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int | str) else "?" for size in argument.shape)
    return Port(argument.name, {"float": "float32", "double": "float64"}.get(kind, kind), shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
