"""The runtime 'openvino': ONNX files with operators of ONNX alone, run by OpenVINO on the CPU.

OpenVINO is an extra, and imported where it is used. It computes in bfloat16 unless it is told not to, runs faster where
it knows the shapes, and reports to its makers when it is imported, unless its telemetry cannot be.
"""

from __future__ import annotations

import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Edit, Plan
from boildown.domain.deployment import FORMS, LEAN
from boildown.domain.preprocess import Preprocess
from boildown.domain.rules import Rules
from boildown.errors import ExportError, InputError, in_words, install
from boildown.runtimes.base import CHECK, Array, Executed, Port, Usual, Written
from boildown.runtimes.onnx.external import external_files

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx import ModelProto, TensorProto

    from boildown.runtimes.onnx.runtime import OnnxRuntime

_HOW = {
    "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False,
    "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128,
}  # fmt: skip
"""How every file is run: one call after the other, and in float32 what is float. Of a layer whose weights alone are
int8 OpenVINO quantizes the activations too, in groups of so many."""

_FAULTY = (
    (
        (2026, 4), ("aarch64", "arm64"),
        "computes int8 linear layers wrongly on ARM processors (openvinotoolkit/openvino#36764)",
    ),
)  # fmt: skip
"""(the first version without a fault, the processors that it shows on, the fault) of files with a plan."""

_STATIC = 4
"""Shapes of inputs for each of which a session compiles the file; once more for all others."""
_CALLS = 20
"""Over which the time of a layer is averaged."""
_LEAST = 1024
"""Numbers of a weight that are worth scales."""
_INT8 = ("i8", "u8")
_LAYERS = ("Convolution", "FullyConnected", "MatMul", "Deconvolution")
_SEQUENCE, _RECURRENT = "RNNSeq", ("GRU", "LSTM", "RNN")
"""What layers over a sequence are called by OpenVINO, and in the file."""

_LOADER = '''\
"""Load {file}; run as a script, check it on the sample beside it."""
import sys
from pathlib import Path

sys.modules.setdefault("openvino_telemetry", None)  # importing OpenVINO would report to its makers
import numpy as np, openvino as ov

here = Path(__file__).parent
HOW = {how}

def load():
    """The model as a function of its inputs by name, which gives its outputs by name."""
    core, compiled = ov.Core(), {{}}

    def made_for(shapes):  # of known shapes it runs faster
        key = shapes if shapes in compiled or len(compiled) < {static} else None
        if key not in compiled:
            model = core.read_model(here / "{file}")
            if key is not None:
                model.reshape(dict(key))
            compiled[key] = core.compile_model(model, "CPU", HOW)
        return compiled[key]

    def run(inputs):
        model = made_for(tuple((name, array.shape) for name, array in inputs.items()))
        return dict(zip({outputs}, model(inputs).to_tuple(), strict=True))
    return run
'''


class OpenVino(Usual):
    """OpenVINO's CPU plugin; see `base.Runtime` for the methods. Files are exported and stamped as for ONNX Runtime.

    Raises InputError where OpenVINO is not installed.
    """

    name = "openvino"
    suffix = ".onnx"
    exporter = "onnxruntime"
    rules = Rules(grids=(), joins=("concatenate",))
    """An int8 layer gives floats where none reads it as integers, and sums are added up in float: a grid before would
    only round them (ResNet-20: 33.4 dB against 32.6, at 0.32x of the time against 0.35x)."""
    forms = FORMS

    def __init__(self) -> None:
        if find_spec("openvino") is None:
            raise InputError.of("The runtime openvino needs OpenVINO, which is not installed.", install("openvino"))

    def version(self) -> str:
        """Name and version, for keys and environments."""
        _core()
        return f"openvino {_openvino().__version__.partition('-')[0]}"

    def refuses(self, plan: Plan | None, rewrite: Edit | None, form: str = LEAN) -> str | None:
        """A plan that this version is known to compute wrongly, and what OpenVINO has no operator for."""
        if plan is not None:
            version, machine = metadata.version("openvino"), platform.machine().lower()
            for first, machines, fault in _FAULTY:
                if machine in machines and tuple(map(int, re.findall(r"\d+", version)[:2])) < first:
                    return f"OpenVINO {version} {fault}: pip install 'openvino>={'.'.join(map(str, first))}'"
        if rewrite is not None and rewrite.args.get("embeddings", 8) < 8:
            return "4-bit embedding tables take an operator of ONNX Runtime's own: leave them at 8 bits"
        return None

    def load_exporter(self) -> None:
        """As for ONNX Runtime."""
        _onnx().load_exporter()

    def export(self, program: bytes, path: Path) -> None:
        """As for ONNX Runtime."""
        _onnx().export(program, path)

    def write(
        self, exported: Path, path: Path, plan: Plan | None = None, rewrite: Edit | None = None, form: str = LEAN
    ) -> Written:
        """Write the file with operators of ONNX alone, whatever the form: as it is, with a plan laid in, or rewritten.

        A rewrite stores weights in int8, and leaves activations to OpenVINO, or in float16. Then OpenVINO compiles the
        file. Facts: `exported` (bytes before), the counts of `kernels` by operator and precision, with a rewrite to
        int8 how many weights are `integer_weights`. Raises ExportError if the plan does not fit, or naming what
        OpenVINO cannot run.
        """
        import onnx_ir as ir

        from boildown.runtimes.onnx import dynamic, half, lean, origins, qdq, tune

        if plan is not None and rewrite is not None:
            raise ExportError("A file is quantized by a plan or by a rewrite, not by both.\n  Choose one.")
        if (reason := self.refuses(plan, rewrite)) is not None:
            raise ExportError(f"The file cannot be written: {reason}.")
        model = ir.load(exported)
        lean.clean(model)
        known = origins.known(model)
        facts: dict[str, Any] = {"exported": exported.stat().st_size}
        kind, quantized, notes = "float", set[str](), tuple[str, ...]()
        if plan is not None:
            qdq.insert(model, plan)
            kind, quantized = "qdq", _quantized(model.graph)
        elif rewrite is not None and rewrite.op != "half":
            dynamic.asked(rewrite)
            kind, facts["integer_weights"] = "weights", _store(model)
        tune.tune(model)
        if rewrite is not None and rewrite.op == "half":
            kind, (found, notes) = "half", half.store(model, rewrite)
            facts |= found
        proto = ir.to_proto(model)
        names = lean.strip(proto)
        if plan is not None or rewrite is not None:
            facts["names"] = origins.origins(proto, names, known)
        originals = {short: name for name, short in names.items()}
        data = proto.SerializeToString()
        steps = list(_steps(_compiled(data, proto, originals)))
        facts["kernels"] = dict(sorted(Counter(f"{step['layerType']} {_precision(step)}" for step in steps).items()))
        path.write_bytes(data)
        notes += _notes(steps, {names.get(name, name) for name in quantized}, originals)
        return Written(len(data), kind, facts, notes)

    def open(self, path: Path, threads: int = 1, *, trust: bool = False) -> OpenVinoSession:
        """Load an artifact. Raises InputError if it is missing, damaged or reads other folders.

        An ONNX file executes no code, so `trust` is not needed.
        """
        return OpenVinoSession(path, threads)

    def executed(self, path: Path, inputs: Sequence[Array], threads: int = 1) -> tuple[Executed, ...]:
        """The graph that OpenVINO made of the file, with what each of its steps took on average over some calls."""
        import onnx

        session, taken = OpenVinoSession(path, threads, PERF_COUNT=True), Counter[str]()
        session.run(inputs)  # the first call makes ready
        request = session.request(inputs)
        for _ in range(_CALLS):
            session.run(inputs)
            for step in request.get_profiling_info():
                taken[step.node_name] += step.real_time.total_seconds() / _CALLS
        model = onnx.load(path)
        weights, steps = _weights(model), list(_steps(request.get_compiled_model()))
        nameless = [step for step in steps if step["layerType"] == _SEQUENCE]  # it calls them by names of its own
        recurrent = [node.output for node in model.graph.node if node.op_type in _RECURRENT]
        if len(nameless) == len(recurrent):
            for step, outputs in zip(nameless, recurrent, strict=True):
                step["originalLayersNames"] = next(filter(None, outputs))
        return tuple(_executed(step, weights, taken) for step in steps)

    def inside(
        self, path: Path, names: Sequence[str], arrays: Sequence[Array], threads: int = 1
    ) -> tuple[dict[str, Array], list[Array]] | None:
        """With the values as outputs of the file; what computes on integers still does."""
        session = OpenVinoSession(path, threads, inside=names)
        values = session.run(arrays)
        own = len(session.outputs)
        found = dict(zip(session.inside, values[own:], strict=True))
        found |= {port.name: value for port, value in zip(session.outputs, values, strict=False) if port.name in names}
        return found, values[:own]

    def stamp(self, path: Path, identity: Mapping[str, str]) -> bool:
        """As for ONNX Runtime."""
        return _onnx().stamp(path, identity)

    def about(self, path: Path) -> dict[str, Any]:
        """As for ONNX Runtime."""
        return _onnx().about(path)

    def files(self, path: Path) -> tuple[Path, ...]:
        """As for ONNX Runtime."""
        return _onnx().files(path)

    def loader(self, artifact: Artifact) -> str:
        """Some lines of OpenVINO."""
        outputs = [port.name for port in self.open(artifact.path).outputs]
        return (_LOADER + CHECK).format(file=artifact.name, how=_HOW, static=_STATIC, outputs=outputs)

    def with_preprocessing(
        self, path: Path, target: Path, description: Preprocess, classes: Sequence[str] | None, said: Mapping[str, str]
    ) -> None:
        """As for ONNX Runtime."""
        _onnx().with_preprocessing(path, target, description, classes, said)


class OpenVinoSession:
    """A loaded file; `inputs` and `outputs` are its ports in order.

    It is compiled for the shapes that it is given, in memory alone: shapes that are open cost time at every call.
    """

    def __init__(self, path: Path, threads: int = 1, *, inside: Sequence[str] = (), **how: Any) -> None:
        """Load with `threads` threads, and settings of OpenVINO's. Raises InputError if the file cannot be read.

        inside: values of the file that a run is to give behind its outputs, as many of them as it has: see `inside`.
        """
        external_files(path)  # refuses those outside its folder
        self._path, self._how = path, {**_HOW, "INFERENCE_NUM_THREADS": threads, **how}
        self._requests: dict[tuple[tuple[int, ...], ...] | None, Any] = {}
        try:
            model = _core().read_model(path)
            self.inputs: tuple[Port, ...] = tuple(map(_port, model.inputs))
            self.outputs: tuple[Port, ...] = tuple(map(_port, model.outputs))
            known = {name for node in model.get_ordered_ops() for value in node.outputs() for name in value.names}
            known -= {name for value in model.outputs for name in value.names}
            self.inside = [name for name in dict.fromkeys(inside) if name in known]
        except InputError:
            raise
        except Exception as error:  # a foreign file can fail anywhere
            raise InputError.of(
                f"{path} is not a model OpenVINO can load: {_said(error)}",
                'Export it again; what boildown wrote for another runtime, write with form="portable".',
            ) from error

    def request(self, arrays: Sequence[Array]) -> Any:
        """What runs arrays of these shapes."""
        shapes = tuple(array.shape for array in arrays)
        key = shapes if shapes in self._requests or len(self._requests) < _STATIC else None
        if key not in self._requests:
            model = _core().read_model(self._path)
            model.add_outputs(self.inside)
            if key is not None:
                model.reshape({place: list(shape) for place, shape in enumerate(key)})
            self._requests[key] = _core().compile_model(model, "CPU", self._how).create_infer_request()
        return self._requests[key]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Flat inputs in port order to flat outputs in port order; InputError if they do not fit."""
        if len(arrays) != len(self.inputs):
            raise InputError.of(
                f"the model takes {len(self.inputs)} inputs and was given {len(arrays)}",
                f"give one array for each of: {', '.join(port.name for port in self.inputs)}",
            )
        expected = f"expected: {', '.join(f'{p.name} {p.dtype}{list(p.shape)}' for p in self.inputs)}"
        if not all(map(_fits, self.inputs, arrays)):
            given = ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)
            raise InputError.of(f"the inputs do not fit: given {given}", expected)
        if any(array.dtype == np.int64 and array.size and not _in_32_bits(array) for array in arrays):
            raise InputError.of(
                "OpenVINO computes whole numbers in 32 bits, and was given larger ones",
                "give smaller ones, or use runtime='onnxruntime'",
            )
        try:
            request = self.request(arrays)
            request.infer(dict(enumerate(arrays)), share_inputs=True)
            results = [np.array(request.get_output_tensor(place).data) for place in range(len(request.model_outputs))]
        except Exception as error:
            raise InputError.of(f"the inputs do not fit: {_said(error)}", expected) from error
        if odd := [result.dtype for result in results if result.dtype.kind not in "biuf"]:
            raise InputError.of(f"the model returns {odd[0]}, no numbers", "let every output be a tensor of numbers")
        return results


def _onnx() -> OnnxRuntime:
    from boildown.runtimes.onnx.runtime import OnnxRuntime

    return OnnxRuntime()


@cache
def _openvino() -> Any:
    """OpenVINO without its telemetry."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module("openvino")
    except ImportError as error:
        raise InputError.of(f"OpenVINO cannot be imported: {in_words(error)}.", install("openvino")) from error


@cache
def _core() -> Any:
    """What reads and compiles, with the library for processors loaded: no file is charged with its memory."""
    core = _openvino().Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")
    return core


def _port(port: Any) -> Port:
    shape = port.get_partial_shape()
    axes = () if shape.rank.is_dynamic else tuple(shape)
    sizes = (axis.get_length() if axis.is_static else f"axis_{at}" if at else "batch" for at, axis in enumerate(axes))
    return Port(port.get_any_name(), str(np.dtype(port.get_element_type().to_dtype())), tuple(sizes))


def _fits(port: Port, array: Array) -> bool:
    if array.dtype != port.dtype or array.ndim != len(port.shape):
        return False
    return all(isinstance(axis, str) or axis == size for axis, size in zip(port.shape, array.shape, strict=True))


def _in_32_bits(array: Array) -> bool:
    limits = np.iinfo(np.int32)
    return bool(array.min() >= limits.min and array.max() <= limits.max)


def _said(error: Exception) -> str:
    """What an error of OpenVINO's says last, behind the places in its source that it came through."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _compiled(data: bytes, proto: ModelProto, originals: Mapping[str, str]) -> Any:
    """What OpenVINO makes of a file. Raises ExportError naming the operators, and their layers, that it cannot run."""
    try:
        return _core().compile_model(_core().read_model(data), "CPU", {**_HOW, "INFERENCE_NUM_THREADS": 1})
    except Exception as error:
        words = set(re.findall(r"\w+", str(error)))
        found = [node for node in proto.graph.node if node.op_type in words]
        kinds = " and ".join(sorted({node.op_type for node in found}))
        layers = ", ".join(originals.get(node.output[0], node.output[0]) for node in found[:5])
        what = f"cannot run the operator {kinds} (layer {layers})" if found else f"refuses the file: {_said(error)}"
        raise ExportError(f"OpenVINO {what}.\n  Replace it in the model, or use runtime='onnxruntime'.") from error


def _steps(compiled: Any) -> Iterator[dict[str, str]]:
    """What OpenVINO tells of every step that it runs at a call, in order; what it prepares once is left out."""
    nodes = compiled.get_runtime_model().get_ordered_ops()
    told = {node.get_friendly_name(): {k: v.astype(str) for k, v in node.get_rt_info().items()} for node in nodes}
    once = set[str]()
    for node in nodes:
        sources = [value.get_source_output().get_node().get_friendly_name() for value in node.inputs()]
        kind, name = told[node.get_friendly_name()]["layerType"], node.get_friendly_name()
        if kind == "Const" or (sources and once.issuperset(sources)):
            once.add(name)
    steps = [{**step, "name": name} for name, step in told.items() if name not in once]
    yield from sorted(
        (step for step in steps if step["layerType"] not in ("Input", "Output")),
        key=lambda step: int(step["execOrder"]),
    )


def _precision(step: Mapping[str, str]) -> str:
    told = step["runtimePrecision"].lower()
    return "int8" if told in _INT8 else {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}.get(told, told)


def _notes(steps: Sequence[Mapping[str, str]], quantized: set[str], originals: Mapping[str, str]) -> tuple[str, ...]:
    """What OpenVINO makes of quantized layers that was not meant."""
    if not quantized:
        return ()
    if "INT8" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return ("OpenVINO computes in float on this processor, which lacks what it needs for int8",)
    floats = [
        originals.get(name, name)
        for step in steps
        if step["layerType"] in _LAYERS and _precision(step) != "int8"
        for name in step["originalLayersNames"].split(",")
        if name in quantized
    ]
    shown = ", ".join(floats[:5])
    return (f"{len(floats)} of {len(quantized)} quantized layers run in float in OpenVINO: {shown}",) if floats else ()


def _executed(step: Mapping[str, str], weights: Mapping[str, TensorProto], taken: Mapping[str, float]) -> Executed:
    """A step by the name of its weight where it has one; `weights`: those of the file by what their layers give."""
    names = [name for name in step["originalLayersNames"].split(",") if name]
    weight = next((weights[name] for name in names if name in weights), None)
    seconds, kind, precision = taken.get(step["name"], 0.0), step["layerType"], _precision(step)
    if weight is None:
        return Executed((names or [step["name"]])[-1], kind, precision, seconds)
    stored = {1: "float32", 3: "int8", 22: "int4"}.get(weight.data_type, "")
    return Executed(weight.name, kind, precision, seconds, int(np.prod(weight.dims)), stored)


def _weights(model: ModelProto) -> dict[str, TensorProto]:
    """The largest constant of two axes or more that a node of a file reads, perhaps behind others, by what it gives."""
    largest = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) > 1}
    constant = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, TensorProto] = {}
    for node in model.graph.node:
        read = [largest[value] for value in node.input if value in largest]
        weight = max(read, key=lambda tensor: float(np.prod(tensor.dims)), default=None)
        if constant.issuperset(filter(None, node.input)):
            constant |= set(node.output)
            largest |= dict.fromkeys(node.output, weight) if weight is not None else {}
        elif weight is not None:
            found |= dict.fromkeys(node.output, weight)
    return found


def _quantized(graph: ir.Graph) -> set[str]:
    """The layers of a graph that read integers and have integers for weights, by what they give."""
    from boildown.runtimes.onnx.qdq import LAYERS, dequantized

    layers = (node for node in graph if node.op_type in LAYERS)
    return {node.outputs[0].name or "" for node in layers if all(map(dequantized, node.inputs[:2]))}


def _store(model: ir.Model) -> int:
    """Store the weights of linear, recurrent and embedding layers in int8, with a scale for each channel or row.

    Returns how many. Raises ExportError where there are none.
    """
    import onnx_ir as ir

    from boildown.runtimes.onnx.lean import add_constant, constant, tidy

    graph, stored = model.graph, 0
    for name, weight in list(graph.initializers.items()):
        array, uses = constant(weight), list(weight.uses())
        axes = {_channels(use.node, use.idx, 0 if array is None else array.ndim) for use in uses}
        axis = axes.pop() if len(axes) == 1 else None
        if array is None or axis is None or array.dtype != np.float32 or array.size < _LEAST:
            continue
        others = tuple(other for other in range(array.ndim) if other != axis)
        scale = np.maximum(np.abs(array).max(axis=others, keepdims=True), np.finfo(np.float32).tiny) / np.float32(127)
        integers = np.clip(np.rint(array / scale), -127, 127).astype(np.int8)
        inputs = [add_constant(graph, f"{name}/q", integers), add_constant(graph, f"{name}/scale", scale.ravel())]
        node = ir.node("DequantizeLinear", inputs, {"axis": axis})
        node.outputs[0].name = f"{name}/dq"
        for use in uses:
            use.node.replace_input_with(use.idx, node.outputs[0])
        graph.insert_before(graph[0], node)
        stored += 1
    tidy(model)
    if not stored:
        raise ExportError(
            "Nothing in this model can be stored in 8 bits: it has no linear, recurrent or embedding layer of some "
            "size.\n  Quantize it statically."
        )
    return stored


def _channels(node: ir.Node, place: int, axes: int) -> int | None:
    """The axis of output channels, or of rows, of a weight of so many axes; None for what is no weight."""
    if node.op_type == "MatMul" and (place, axes) == (1, 2):
        return 1
    if node.op_type == "Gemm" and place == 1:
        return 0 if node.attributes.get_int("transB", 0) else 1
    if node.op_type in _RECURRENT and place in (1, 2):
        return 1
    if node.op_type == "Gather" and (place, axes) == (0, 2) and node.attributes.get_int("axis", 0) == 0:
        return 0
    return None
