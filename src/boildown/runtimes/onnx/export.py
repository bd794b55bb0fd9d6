"""From a captured program to a float ONNX file whose values keep the program's names.

The exporter decomposes the program and numbers its values anew (`add_7` becomes `add_247`), and it
replaces the weights of 3-D linear layers by transposed copies. A quantization plan speaks of the
program's own names, so both are led back here: values through the provenance that torch keeps on
every decomposed node (`from_node`), weights through the linear layer they belong to.
"""

from __future__ import annotations

import json
import logging
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir
import torch
from onnxscript.optimizer import fold_constants
from torch.export import ExportedProgram
from torch.fx import Node

from boildown.errors import ExportError
from boildown.runtimes.base import Array
from boildown.runtimes.onnx.lean import GATES, OPSET, PORTS, TRANSPOSED, add_constant, constant
from boildown.runtimes.onnx.recurrent import gate_matrices
from boildown.runtimes.port_names import Axes, distinct, loaded

_LARGEST = 2**31 - 2**20
"""A protobuf holds 2 GiB; leave room for the graph."""


def export(program: bytes, path: Path) -> None:
    """Export the output of `torch.export.save` to a float ONNX file at `path`.

    Raises ExportError naming the operator that cannot be exported, or that the file would be
    larger than 2 GB (external data is never written).
    """
    with _quiet(), torch.no_grad():
        captured, inputs, outputs, axes = loaded(program)
        # The exporter traces twice, and how attention's result lies in memory depends on this.
        for tensor in captured.state_dict.values():
            tensor.requires_grad_(False)
        try:
            exported = torch.onnx.export(captured, dynamo=True, opset_version=OPSET, verbose=False)
        except Exception as error:
            raise ExportError(_grouped_by_batch(captured) or _reason(error)) from error
    assert exported is not None  # None is what the deprecated exporter returns
    model = exported.model
    if (weight := sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)) > _LARGEST:
        raise ExportError(
            f"The weights take {weight / 1e9:.1f} GB; an ONNX file without external data holds 2 GB.\n"
            "  Give a smaller model, or use runtime='eager'."
        )
    fold_constants(model, input_size_limit=_ANY, output_size_limit=_ANY, should_fold=_only_moves)
    decomposed = exported.exported_program or captured
    _rename_values(model, _names(captured, decomposed, _made(model, decomposed)))
    _rename_inputs(model, captured)
    _rename_weights(model, captured)
    _rename_recurrent_weights(model, captured)
    _name_axes(model, axes)
    if (len(inputs), len(outputs)) == (len(model.graph.inputs), len(model.graph.outputs)):
        model.metadata_props[PORTS] = json.dumps([*inputs, *outputs])
    ir.save(model, path)


_ANY = 2**40


def _only_moves(node: ir.Node) -> bool | None:
    """Fold rearranged weights of any size (gates of an LSTM, transposed matrices): no byte is added."""
    return node.op_type in {"Concat", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"} or None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not installed and on its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    loggers.append(logging.getLogger("torch.onnx._internal.exporter._registration"))
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _grouped_by_batch(program: ExportedProgram) -> str:
    """What to say of a convolution whose number of groups follows from the size of the batch; empty without one."""
    for node in program.graph.nodes:
        if "conv" in str(node.target) and any(isinstance(arg, Node) for arg in node.args[6:]):
            return (
                f"The convolution {node.name} has as many groups as follow from the size of the batch: an ONNX file "
                "fixes their number.\n  Keep the batch an axis of its own (unfold, and einsum with each sample's "
                "weights), or use runtime='eager'."
            )
    return ""


def _reason(error: BaseException) -> str:
    """One sentence with the operator's name where the exporter tells it."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__
    found = re.search(r"target=torch\.ops\.([\w.]+)", "\n".join(said)) or re.search(
        r"OpOverload\(op='([\w.]+)'", "\n".join(said)
    )
    if found:
        return (
            f"The operator {found.group(1)} cannot be exported to ONNX.\n"
            "  Replace it in the model, or use runtime='eager'."
        )
    lines = said[-1].strip().splitlines() or [repr(error)]
    return f"The model cannot be exported to ONNX: {lines[0]}\n  Simplify it, or use runtime='eager'."


def _made(model: ir.Model, decomposed: ExportedProgram) -> dict[str, str]:
    """Names of the decomposed program's values -> names of the values that the file has for them.

    An operator that is written as several ends with a value of the exporter's own naming where its last step did
    nothing, and was optimized away: the one of its shape that no other step of it takes.
    """
    nodes = list(model.graph.all_nodes())
    steps: dict[str, list[ir.Node]] = {}
    for node in nodes:
        if found := _STEP_OF.match(node.metadata_props.get("pkg.torch.onnx.fx_node", "")):
            steps.setdefault(found.group(1), []).append(node)
    made = {output.name or "": output.name or "" for node in nodes for output in node.outputs}
    for value in decomposed.graph.nodes:
        if value.name not in made and (parts := steps.get(value.name)):
            ends = [output for part in parts for output in part.outputs if not {*parts} & {*output.consumers()}]
            if len(ends) == 1 and _as_large(value, ends[0]):
                made[value.name] = ends[0].name or ""
    return made


_STEP_OF = re.compile(r"%(\w+) :")


def _as_large(ours: Node, theirs: ir.Value) -> bool:
    value = ours.meta.get("val")
    if not isinstance(value, torch.Tensor) or theirs.shape is None or value.dim() != len(theirs.shape):
        return False
    axes = zip(value.shape, theirs.shape, strict=True)
    return all(a == b for a, b in axes if isinstance(a, int) and isinstance(b, int))


def _names(captured: ExportedProgram, decomposed: ExportedProgram, made: Mapping[str, str]) -> dict[str, str]:
    """Names of the file's values -> names of the captured program's values.

    Of the several values one operator decomposes into, the last one is its result, or the one that was cast to what it
    is already where the file has `made` nothing of that.
    """
    originals = {node.name: node for node in captured.graph.nodes if node.op == "call_function"}
    results: dict[str, Node] = {}
    for node in decomposed.graph.nodes:
        history = node.meta.get("from_node")
        if node.op != "call_function" or not history or history[0].name not in originals:
            continue
        original = originals[history[0].name]
        if node.target is operator.getitem and original.target is not operator.getitem:
            if not _same_results(original, cast(Node, node.args[0])):
                continue  # it picks a part of a step on the way
            picked = [user for user in original.users if user.args[1:] == node.args[1:]]
            results.update({user.name: node for user in picked})
        elif _alike(original, node):
            results[original.name] = node
    names: dict[str, str] = {}
    for name, node in results.items():
        while node.name not in made and node.target in _CASTS and _alike(node, cast(Node, node.args[0])):
            node = cast(Node, node.args[0])
        names.setdefault(made.get(node.name, node.name), name)
    # The exporter's optimizer has one operator in place of a split and what picks its parts.
    for node in decomposed.graph.nodes:
        if node.target is operator.getitem and node.name in names:
            names[f"{cast(Node, node.args[0]).name}_split_{node.args[1]}"] = names[node.name]
    return names


_CASTS = frozenset({torch.ops.aten.type_as.default, torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default})


def _same_results(original: Node, decomposed: Node) -> bool:
    ours, theirs = original.meta.get("val"), decomposed.meta.get("val")
    if not isinstance(ours, tuple | list) or not isinstance(theirs, tuple | list):
        return False
    shapes = [[str(getattr(value, "shape", None)) for value in values] for values in (ours, theirs)]
    return shapes[0] == shapes[1]


def _alike(original: Node, decomposed: Node) -> bool:
    ours, theirs = original.meta.get("val"), decomposed.meta.get("val")
    return (
        isinstance(ours, torch.Tensor)
        and isinstance(theirs, torch.Tensor)
        and ours.dtype == theirs.dtype
        and ours.dim() == theirs.dim()
    )


def _rename_values(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give every value its captured name; values without one get a name no plan can mention."""
    graph = model.graph
    inner = [output for node in graph.all_nodes() for output in node.outputs]
    for number, value in enumerate(inner):
        value.meta["name"] = names.get(value.name or "", f"_{number}")
        value.name = f"__{number}"  # free all names first: new and old ones overlap
    for value in inner:
        value.name = value.meta.pop("name")


def _rename_inputs(model: ir.Model, captured: ExportedProgram) -> None:
    """Give inputs that are outputs too their names back, to which the exporter adds `_orig`."""
    names = {f"{name}_orig": str(name) for name in captured.graph_signature.user_inputs}
    for value in model.graph.inputs:
        value.name = names.get(value.name or "", value.name)


def _name_axes(model: ir.Model, told: Axes) -> None:
    """Call open axes as they are told, else `batch`, `length`, `height` and `width`, and not by the exporter's symbols.

    What is told to have one size has it.
    """
    graph, words = model.graph, dict[str, str]()
    pairs = list(_told_axes(graph, told))
    for value, axis, size in pairs:
        symbols = _symbols(dim := _sizes(value)[axis])
        if isinstance(size, str) and symbols == [getattr(dim, "value", None)] and symbols[0] not in words:
            (words[symbols[0]],) = distinct([size], [*words.values()])
    ports = [
        (value.shape, axis) for value in graph.inputs if value.shape is not None for axis in range(len(value.shape))
    ]
    for shape, axis in sorted(ports, key=lambda port: port[1] > 0):  # batches first
        for symbol in _symbols(shape[axis]):
            if symbol not in words:
                word = "batch" if axis == 0 else _AXES.get((len(shape), axis), f"axis_{axis}")
                (words[symbol],) = distinct([word], [*words.values()])

    def named(dim: int | ir.SymbolicDim) -> int | str | None:
        if isinstance(dim, int) or dim.value is None:
            return dim if isinstance(dim, int) else None
        for symbol in _symbols(dim):
            if symbol not in words:  # only running tells how many
                (words[symbol],) = distinct(["count"], [*words.values()])
        return _SYMBOL.sub(lambda found: words[found.group()], dim.value)

    for value in (*graph.inputs, *(output for node in graph.all_nodes() for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(map(named, value.shape))
    for value, axis, size in pairs:
        if isinstance(size, int) and not isinstance(_sizes(value)[axis], int):
            value.shape = ir.Shape(size if place == axis else each for place, each in enumerate(_sizes(value)))


def _told_axes(graph: ir.Graph, told: Axes) -> Iterator[tuple[ir.Value, int, int | str | None]]:
    """Every axis of which something is told: (input or output, which axis, its size or name)."""
    for side, values in {"inputs": graph.inputs, "outputs": graph.outputs}.items():
        for value, sizes in zip(values, told.get(side, ()), strict=False):
            if len(_sizes(value)) == len(sizes):
                yield from ((value, axis, size) for axis, size in enumerate(sizes))


def _sizes(value: ir.Value) -> list[int | ir.SymbolicDim]:
    """The axes of a value; none where nothing is known of them."""
    return [] if value.shape is None else list(value.shape)


_SYMBOL = re.compile(r"\b(?:batch|[su]\d+)\b")
_AXES = {(2, 1): "length", (3, 1): "length", (3, 2): "length", (4, 2): "height", (4, 3): "width"}
"""What an axis beside the batch is called, by (how many axes there are, which it is)."""


def _symbols(dim: int | ir.SymbolicDim) -> list[str]:
    return [] if isinstance(dim, int) or dim.value is None else _SYMBOL.findall(dim.value)


def _rename_weights(model: ir.Model, captured: ExportedProgram) -> None:
    """Give every convolution and linear layer a weight called by its parameter's name.

    Layers that happen to have equal weights get one each again; the writer merges what is still
    equal once it is quantized.
    """
    graph = model.graph
    values = {output.name: output for node in graph for output in node.outputs}
    parameters = captured.graph_signature.inputs_to_parameters
    for node in captured.graph.nodes:
        if node.target not in _LAYERS or node.name not in values:
            continue
        name = parameters.get(getattr(node.args[1], "name", ""))
        layer = _layer(values[node.name])
        if name is None or layer is None or (weight := layer.inputs[1]) is None or weight.const_value is None:
            continue
        if layer.op_type == "MatMul":
            name += TRANSPOSED
        if weight.name != name:
            array = weight.const_value.numpy()
            own = add_constant(graph, name, array)
            if own.const_value is None or not np.array_equal(own.const_value.numpy(), array):
                continue  # another call of the layer has another weight, with a batch norm folded in
            layer.replace_input_with(1, own)
            if not weight.uses() and weight.name:
                graph.initializers.pop(weight.name)


def _rename_recurrent_weights(model: ir.Model, captured: ExportedProgram) -> None:
    """Call the weights of recurrent layers by their parameters; they are known by their values.

    An operator over a sequence has one weight for all gates and directions, a product has a parameter as it is or
    transposed.
    """
    unnamed = [layer for layer in model.graph if layer.op_type in {"Gemm", "GRU", "LSTM", "MatMul"}]
    parameters = captured.graph_signature.inputs_to_parameters
    for node in captured.graph.nodes:
        if node.target not in _RECURRENT:
            continue
        cell = not isinstance(node.args[2], list | tuple)
        given = node.args[2:4] if cell else cast("tuple[Node, ...]", node.args[2])
        names = [name for each in given if (name := parameters.get(getattr(each, "name", "")))]
        matrices = {name: value.numpy() for name in names if (value := captured.state_dict[name]).ndim == 2}
        if operator := _RECURRENT[node.target]:
            _name_gates(model.graph, unnamed, operator, matrices, directions=2 if node.args[7] else 1)
        else:
            for name, matrix in matrices.items():
                _name_factor(model.graph, unnamed, name, matrix, every=not cell)


def _name_gates(
    graph: ir.Graph, unnamed: list[ir.Node], operator: str, matrices: Mapping[str, Array], directions: int
) -> None:
    """Name the weights of one operator for each layer."""
    names, count = list(matrices), 2 * directions
    for first in range(0, len(names) - count + 1, count):
        pairs = [names[first + part : first + count : 2] for part in (0, 1)]  # for what comes in, and for the state
        arrays = [gate_matrices([matrices[name] for name in pair], operator) for pair in pairs]
        for layer in unnamed:
            if layer.op_type == operator and all(map(_holds, layer.inputs[1:3], arrays)):
                for position, (pair, array) in enumerate(zip(pairs, arrays, strict=True), start=1):
                    layer.replace_input_with(position, add_constant(graph, " ".join(pair) + GATES, array))
                unnamed.remove(layer)
                break


def _name_factor(graph: ir.Graph, unnamed: list[ir.Node], name: str, matrix: Array, *, every: bool) -> None:
    """Name the weight of a product with a matrix, or of every one."""
    for layer in [layer for layer in unnamed if layer.op_type in {"Gemm", "MatMul"}]:
        turned = not layer.attributes.get_int("transB", 0)
        array = matrix.T.copy() if turned else matrix
        if _holds(layer.inputs[1], array):
            layer.replace_input_with(1, add_constant(graph, name + TRANSPOSED * turned, array))
            unnamed.remove(layer)
            if not every:
                return


def _holds(value: ir.Value | None, array: Array) -> bool:
    known = constant(value)
    return known is not None and known.shape == array.shape and np.array_equal(known, array)


_RECURRENT = {
    torch.ops.aten.lstm.input: "LSTM",
    torch.ops.aten.gru.input: "GRU",
    torch.ops.aten.rnn_tanh.input: None,
    torch.ops.aten.rnn_relu.input: None,
    torch.ops.aten.lstm_cell.default: None,
    torch.ops.aten.gru_cell.default: None,
    torch.ops.aten.rnn_tanh_cell.default: None,
    torch.ops.aten.rnn_relu_cell.default: None,
}
"""Recurrent layers -> the operator that the file has for one; None where it has products."""

_LAYERS = {
    torch.ops.aten.linear.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv1d.padding,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.conv3d.default,
    torch.ops.aten.conv3d.padding,
    torch.ops.aten.conv_transpose1d.default,
    torch.ops.aten.conv_transpose2d.input,
    torch.ops.aten.conv_transpose3d.input,
}


def _layer(output: ir.Value) -> ir.Node | None:
    """The convolution or product that makes `output`, perhaps with the bias added behind it."""
    node = output.producer()
    if node is not None and node.op_type == "Add":
        made = [v.producer() for v in node.inputs if v is not None]
        node = next((p for p in made if p is not None and p.op_type == "MatMul"), None)
    return node if node is not None and node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"} else None
