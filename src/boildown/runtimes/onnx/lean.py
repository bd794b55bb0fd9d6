"""The leanest file that computes the same: exact clean-ups of the graph, then every byte that only names things.

An exported file spends as much on names, source positions and shapes of inner values as an int8
graph spends on its nodes. All of it goes; the source positions also because they tell a stranger
about the user's disk. Outputs stay bit for bit what they were.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from onnx_ir.passes import common

from boildown.runtimes.base import Array

OPSET = 21
"""The first with 4-bit integers; every ONNX Runtime we support reads it."""

PORTS = "boildown.ports"
"""The metadata of an exported file that says what its inputs and outputs are to be called: a list of all, in JSON."""

TRANSPOSED = "^T"
"""Ends the name of a linear layer's weight that an exported file holds as in x out (for MatMul)."""

GATES = "^gates"
"""Ends the name of a recurrent operator's weight; before it stand the parameters that it was made from."""


def clean(model: ir.Model) -> None:
    """Exact clean-ups in place: zero padding moves into convolutions, what nothing reads goes."""
    for node in list(model.graph):
        if node.op_type == "Pad":
            _fold_pad(node)
    tidy(model)


def tidy(model: ir.Model) -> None:
    """Drop nodes, initializers and opset imports that nothing uses."""
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer, else `None`."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return np.asarray(value.const_value.numpy())


def add_constant(graph: ir.Graph, name: str, array: Array | np.generic, dtype: ir.DataType | None = None) -> ir.Value:
    """The initializer `name`, made if it is not there yet; `dtype` where numpy has none of its kind."""
    if name not in graph.initializers:
        tensor = ir.tensor(np.asarray(array), dtype=dtype, name=name)
        graph.register_initializer(ir.val(name, const_value=tensor))
    return graph.initializers[name]


def _fold_pad(pad: ir.Node) -> None:
    """Let convolutions that read a constant zero padding pad by themselves (without an effect else)."""
    pads, fill = constant(pad.inputs[1]), constant(pad.inputs[2] if len(pad.inputs) > 2 else None)
    zero = len(pad.inputs) < 3 or pad.inputs[2] is None or (fill is not None and not fill.any())
    mode = pad.attributes.get("mode")
    named_axes = len(pad.inputs) > 3 and pad.inputs[3] is not None
    if pads is None or not zero or named_axes or (mode is not None and mode.as_string() != "constant"):
        return
    begins, ends = np.split(pads, 2)
    if pads.min() < 0 or begins[:2].any() or ends[:2].any():
        return
    extra = [*begins[2:], *ends[2:]]
    for use in list(pad.outputs[0].uses()):
        conv = use.node
        if conv.op_type != "Conv" or use.idx != 0 or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            continue
        own = conv.attributes.get_ints("pads", [0] * len(extra))
        conv.attributes["pads"] = ir.AttrInt64s("pads", [int(a + b) for a, b in zip(own, extra, strict=True)])
        conv.replace_input_with(0, pad.inputs[0])


def strip(model: ModelProto) -> dict[str, str]:
    """Drop what no computation needs, in place; returns the new name of every renamed value.

    Goes: metadata, doc strings, producer, node names, attributes that equal their default, repeated
    initializers, and shapes of inner values except those a runtime cannot infer (ONNX Runtime fuses
    the layer norms of a transformer only where it knows the shape behind a computed Reshape). Inner
    values get the shortest names, the most used ones first. Inputs and outputs of the graph keep
    their types and shapes, and are called as the exported file says.
    """
    told = next((json.loads(entry.value) for entry in model.metadata_props if entry.key == PORTS), None)
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    for field in ("metadata_props", "doc_string", "producer_name", "producer_version", "domain", "model_version"):
        model.ClearField(field)
    for graph in _graphs(model.graph):
        _drop_inferable(graph)
        for field in ("doc_string", "metadata_props", "quantization_annotation"):
            graph.ClearField(field)
        graph.name = "g"
        for node in graph.node:
            for field in ("name", "doc_string", "metadata_props", "overload"):
                node.ClearField(field)
            _drop_defaults(node, opsets.get(node.domain, 1))
        for port in (*graph.input, *graph.output, *graph.value_info):
            port.ClearField("doc_string")
            port.ClearField("metadata_props")
    _lift_constants(model.graph)
    _merge_initializers(model.graph)
    _turn_twins(model.graph)
    for tensor in model.graph.initializer:
        _compact(tensor)
    names = _rename(model.graph, told)
    used = {node.domain for graph in _graphs(model.graph) for node in graph.node} | {""}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return names


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from _graphs(inner)


_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)

_LIST_DEFAULTS = {"dilations": 1, "strides": 1, "pads": 0, "output_padding": 0}
"""Attributes whose default is this number for each spatial axis (the schema cannot say so)."""


_SHAPED_BY_DATA = {"ConstantOfShape", "Expand", "Pad", "Range", "Reshape", "Resize", "Slice", "Tile"}


def _drop_inferable(graph: GraphProto) -> None:
    """Shapes of inner values, except where the output's shape is computed or a Reshape infers the batch."""
    known = {tensor.name for tensor in graph.initializer}
    computed = {
        output
        for node in graph.node
        if node.op_type in _SHAPED_BY_DATA
        and (node.op_type == "Reshape" or not known.issuperset(filter(None, node.input[1:] or node.input)))
        for output in node.output
    }
    kept = [info for info in graph.value_info if info.name in computed and _is_symbolic(info)]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _is_symbolic(info: ValueInfoProto) -> bool:
    return any(dim.dim_param for dim in info.type.tensor_type.shape.dim)


def _drop_defaults(node: NodeProto, opset: int) -> None:
    """Attributes that say what would hold without them; kernel_shape is the weight's shape."""
    if node.domain not in ("", "ai.onnx"):
        return
    schema = onnx.defs.get_schema(node.op_type, opset).attributes
    for attribute in list(node.attribute):
        default = schema[attribute.name].default_value
        of_each_axis = _LIST_DEFAULTS.get(attribute.name)
        if (
            (default.type and onnx.helper.get_attribute_value(attribute) == onnx.helper.get_attribute_value(default))
            or (of_each_axis is not None and set(attribute.ints) == {of_each_axis})
            or (attribute.name == "kernel_shape" and node.op_type in ("Conv", "ConvTranspose"))
        ):
            node.attribute.remove(attribute)
        else:
            attribute.ClearField("doc_string")


def _lift_constants(graph: GraphProto) -> None:
    """A constant costs less as an initializer than as a node."""
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        lifted = graph.initializer.add()
        lifted.CopyFrom(node.attribute[0].t)
        lifted.name = node.output[0]
        graph.node.remove(node)


def _merge_initializers(graph: GraphProto) -> None:
    """Keep one of each group of byte-equal initializers."""
    ports = {port.name for port in (*graph.input, *graph.output)}
    kept: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    replaced: dict[str, str] = {}
    for tensor in list(graph.initializer):
        if tensor.name in ports or tensor.data_type == TensorProto.STRING:
            continue
        key = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        if key in kept:
            replaced[tensor.name] = kept[key]
            graph.initializer.remove(tensor)
        else:
            kept[key] = tensor.name
    _replace_names(graph, replaced)


def _turn_twins(graph: GraphProto) -> None:
    """Keep one of two matrices that are each other's transpose, as a tied table and head are: loading turns it again.

    The one that rows are looked up in is kept. ONNX Runtime folds the Transpose when it loads, and runs no slower.
    """
    ports = {port.name for port in (*graph.input, *graph.output)}
    tables = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    kept: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    turned: list[NodeProto] = []
    for tensor in sorted(graph.initializer, key=lambda each: each.name not in tables):
        if tensor.name in ports or len(tensor.dims) != 2 or tensor.data_type not in _TURNED or 1 in tensor.dims:
            continue
        array = numpy_helper.to_array(tensor)
        if array.nbytes < _LEAST_TURNED:
            continue
        twin = kept.get((tensor.data_type, array.T.shape, array.T.tobytes()))
        if twin is None or tensor.name in tables:
            kept[tensor.data_type, array.shape, array.tobytes()] = tensor.name
        else:
            turned.append(onnx.helper.make_node("Transpose", [twin], [tensor.name]))
            graph.initializer.remove(tensor)
    nodes = [*turned, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


_TURNED = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)
_LEAST_TURNED = 1024
"""Bytes of a matrix that are worth a node."""


def _compact(tensor: TensorProto) -> None:
    """The shorter of raw bytes and variable-length integers: shapes and axes are small numbers."""
    for field in ("doc_string", "metadata_props"):
        tensor.ClearField(field)
    if tensor.data_type == TensorProto.INT64:
        numbers = numpy_helper.to_array(tensor)
        slim = TensorProto(data_type=tensor.data_type, dims=tensor.dims, int64_data=numbers.ravel().tolist())
        slim.name = tensor.name
        if slim.ByteSize() < tensor.ByteSize():
            tensor.CopyFrom(slim)


def _rename(graph: GraphProto, told: Sequence[str] | None) -> dict[str, str]:
    """Base-36 names for all inner values, the shortest for the most used; inputs and outputs are called as `told`."""
    ports = [port.name for port in (*graph.input, *graph.output)]
    if told is None or len(told) != len(ports) or len({*ports}) < len(ports):
        told = ports
    uses = Counter(
        name
        for each in _graphs(graph)
        for node in each.node
        for name in (*node.input, *node.output)
        if name and name not in ports
    )
    free = (name for name in _short_names() if name not in told)
    names = {name: next(free) for name, _ in uses.most_common()}
    called = dict(zip(ports, told, strict=True))
    _replace_names(graph, names | called)
    for port in (*graph.input, *graph.output):
        port.name = called[port.name]
    return names | {old: new for old, new in called.items() if old != new}


def _short_names() -> Iterator[str]:
    digits = "abcdefghijklmnopqrstuvwxyz0123456789"
    shorter = [""]
    while True:
        shorter = [name + digit for name in shorter for digit in digits]
        yield from shorter


def _replace_names(graph: GraphProto, names: dict[str, str]) -> None:
    for each in _graphs(graph):
        for node in each.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for named in (*each.initializer, *each.value_info):
            named.name = names.get(named.name, named.name)
        if each is not graph:
            for port in (*each.input, *each.output):
                port.name = names.get(port.name, port.name)
