"""A plan laid into a float graph as QuantizeLinear and DequantizeLinear nodes.

Where they stand follows what ONNX Runtime fuses to integer kernels: after the activation function
rather than before it, weights and biases stored as integers behind a DequantizeLinear, a clamp
absorbed by the quantizer behind it (a Clip left there breaks the fusion of its convolution).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from boildown.domain.candidate import Plan, Quantizer
from boildown.errors import ExportError
from boildown.runtimes.base import Array
from boildown.runtimes.onnx.lean import TRANSPOSED, add_constant, constant, tidy
from boildown.runtimes.onnx.recurrent import parameters, quantize_products, quantize_sequences, scaled

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_INT32 = 2**31 - 1


def insert(model: ir.Model, plan: Plan) -> list[str]:
    """Lay `plan` into `model` in place.

    Returns the names of the convolutions whose input, weight and output are all quantized to 8
    bits: those a runtime is expected to run on integers. Raises ExportError listing what of the
    plan does not fit the graph.
    """
    _check(model.graph, plan)
    _correct_biases(model.graph, plan)
    values = _values(model.graph)
    for name, quantizer in plan.activations.items():
        if name in values:
            _quantize(model.graph, values[name], quantizer)
    for name, quantizer in plan.weights.items():
        for stored in (name, name + TRANSPOSED):
            if stored in model.graph.initializers:
                change = quantize_products if name in plan.dynamic else _quantize_weight
                change(model.graph, model.graph.initializers[stored], quantizer)
    quantize_sequences(model.graph, plan)
    if plan.dynamic:
        model.opset_imports["com.microsoft"] = 1
    tidy(model)
    if _keep_float(model.graph):
        tidy(model)
    return [node.outputs[0].name or "" for node in model.graph if node.op_type == "Conv" and _is_integer(node)]


def _keep_float(graph: ir.Graph) -> bool:
    """Keep ONNX Runtime from quantizing, per tensor, the layers that the plan leaves float.

    It does so with any float weight between a DequantizeLinear of one scale and a QuantizeLinear
    (its WeightBiasQuantization). One scale per channel, all equal, gives the same values and is out
    of its reach: each such layer gets a DequantizeLinear of its own.
    Returns whether there was such a layer.
    """
    found = False
    for node in list(graph):
        grid, weight = dequantized(node.inputs[0] if node.inputs else None), constant(_input(node, 1))
        if node.op_type not in {"Conv", "ConvTranspose", "Gemm"} or grid is None or weight is None:
            continue
        if not _leads_to_grid(node.outputs[0]):
            continue
        channels = weight.shape[1] * node.attributes.get_int("group", 1)
        if node.op_type == "ConvTranspose" or (node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)):
            channels = weight.shape[0]
        integers, *parts = grid
        name = f"{node.outputs[0].name}/input"
        vectors = [
            add_constant(graph, f"{name}_{part}", np.full(channels, constant(value)))
            for part, value in zip(("scale", "zero"), parts, strict=True)
        ]
        own = ir.node("DequantizeLinear", [integers, *vectors], {"axis": 1})
        own.outputs[0].name = f"{name}_dq"
        node.replace_input_with(0, own.outputs[0])
        graph.insert_before(node, own)
        found = True
    return found


def _leads_to_grid(value: ir.Value) -> bool:
    """Whether a QuantizeLinear, perhaps behind clamps, alone reads a value."""
    while only_reader(value, "QuantizeLinear") is None:
        clamp = only_reader(value, "Relu") or only_reader(value, "Clip")
        if clamp is None:
            return False
        value = clamp.outputs[0]
    return True


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Inputs of the graph and outputs of its nodes by name."""
    inner = (output for node in graph for output in node.outputs)
    return {value.name: value for value in (*graph.inputs, *inner) if value.name}


def _check(graph: ir.Graph, plan: Plan) -> None:
    """Every entry fits the graph, or an ExportError says which do not.

    An exporter folds operators that only move data (a zero padding into its convolution, a slice
    that takes everything). Such a value is absent, and its grid is its producer's; any other absent
    value would be left unquantized in silence.
    """
    values, wrong = _values(graph), []
    weights = {*graph.initializers, *(name for value in graph.initializers.values() for name in parameters(value))}
    present = {_grid(q) for name, q in plan.activations.items() if name in values}
    for name, quantizer in plan.activations.items():
        if name not in values and _grid(quantizer) not in present:
            wrong.append(f"the file has no value {name!r}")
        if quantizer.bits != 8 or len(quantizer.scale) != 1:
            wrong.append(f"{name!r}: activations take 8 bits and one scale, not {quantizer.bits} bits")
    for name, quantizer in plan.weights.items():
        if not {name, name + TRANSPOSED} & weights:
            wrong.append(f"the file has no weight {name!r}")
        if not quantizer.signed or any(quantizer.zero_point) or not 2 <= quantizer.bits <= 8:
            wrong.append(f"{name!r}: weights are signed, symmetric and of 2 to 8 bits")
    for name in plan.biases:
        if not {name, name + TRANSPOSED} & set(graph.initializers):
            wrong.append(f"the file has no weight {name!r} whose bias could be corrected")
    for name, quantizer in (*plan.activations.items(), *plan.weights.items()):
        if not (np.isfinite(quantizer.scale).all() and min(quantizer.scale) > 0):
            wrong.append(f"{name!r}: a scale is not a positive number")
    if wrong:
        raise ExportError(
            f"The quantization plan does not fit the exported model: {'; '.join(wrong)}.\n"
            "  Make the plan on the program that was exported."
        )


def _grid(quantizer: Quantizer) -> tuple[object, ...]:
    return quantizer.bits, quantizer.signed, quantizer.scale, quantizer.zero_point


def _correct_biases(graph: ir.Graph, plan: Plan) -> None:
    """Add the plan's corrections to float biases; a layer without a bias gets one."""
    for weight, correction in plan.biases.items():
        shift = np.asarray(correction, np.float32)
        for layer in _layers(graph, weight):
            if layer.op_type == "MatMul":
                _shift_output(graph, layer.outputs[0], shift)
            else:
                bias = constant(_input(layer, 2))
                layer.resize_inputs(3)
                total = shift if bias is None else bias + shift
                layer.replace_input_with(2, add_constant(graph, f"{layer.outputs[0].name}/bias", total))


def _layers(graph: ir.Graph, weight: str) -> Iterator[ir.Node]:
    """The layers whose weight is the parameter `weight`."""
    for stored in (weight, weight + TRANSPOSED):
        if stored in graph.initializers:
            for use in graph.initializers[stored].uses():
                if use.node.op_type in LAYERS and use.idx == 1:
                    yield use.node


def _shift_output(graph: ir.Graph, product: ir.Value, shift: Array) -> None:
    """Add `shift` to the constant that is added to a product, or behind a product without one."""
    added = _added_constant(product)
    if added is not None:
        add, position = added
        total = np.asarray(constant(add.inputs[position]) + shift, np.float32)
        add.replace_input_with(position, add_constant(graph, f"{product.name}/bias", total))
        return
    node, name = product.producer(), product.name
    assert node is not None  # the output of a layer
    product.name = f"{name}/product"
    shifted = ir.val(name, type=product.type, shape=product.shape)
    product.replace_all_uses_with(shifted, replace_graph_outputs=True)
    bias = add_constant(graph, f"{name}/bias", shift)
    graph.insert_after(node, ir.node("Add", [product, bias], outputs=[shifted]))


def _added_constant(product: ir.Value) -> tuple[ir.Node, int] | None:
    """The Add that alone reads `product`, and which of its inputs is constant."""
    add = only_reader(product, "Add")
    if add is None:
        return None
    position = 1 if add.inputs[0] is product else 0
    return (add, position) if constant(add.inputs[position]) is not None else None


def only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """The node of this kind that alone reads `value`; `None` if there are others or it is an output."""
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or readers[0].op_type != op_type:
        return None
    return readers[0]


def _quantize(graph: ir.Graph, value: ir.Value, quantizer: Quantizer) -> None:
    """Quantize `value` and let all its readers read the dequantized one."""
    name, kind = value.name, _integer(quantizer)
    step, origin = np.float32(quantizer.scale[0]), np.asarray(quantizer.zero_point[0], kind.numpy())
    source = _before_clamps(value, quantizer)
    known = dequantized(source)
    if known is not None and constant(known[1]) == step and constant(known[2]) == origin:
        value.replace_all_uses_with(source, replace_graph_outputs=False)  # it is on this grid already
        return
    scale, zero = add_constant(graph, f"{name}/scale", step), add_constant(graph, f"{name}/zero", origin)
    quantized = ir.val(f"{name}/q", type=ir.TensorType(_integer(quantizer)), shape=value.shape)
    result = ir.val(f"{name}/dq", type=value.type, shape=value.shape)
    nodes = [
        ir.node("QuantizeLinear", [source, scale, zero], outputs=[quantized]),
        ir.node("DequantizeLinear", [quantized, scale, zero], outputs=[result]),
    ]
    readers = [use for use in value.uses() if use.node not in nodes]
    for use in readers:
        use.node.replace_input_with(use.idx, result)
    if value.is_graph_output() and value.producer() is not None:  # an input that is an output stays as it came
        value.name, result.name = f"{name}/float", name
        for position, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[position] = result
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, nodes)
    elif len(graph):
        graph.insert_before(graph[0], nodes)


def _integer(quantizer: Quantizer) -> ir.DataType:
    return ir.DataType.INT8 if quantizer.signed else ir.DataType.UINT8


def _before_clamps(value: ir.Value, quantizer: Quantizer) -> ir.Value:
    """The value before the clamps that make `value` and that the saturation of its grid makes needless.

    A clamp to [low, high] is needless if low rounds to the grid's first integer or below and high to
    its last or above: then both ends saturate anyway.
    """
    first, last = (-128, 127) if quantizer.signed else (0, 255)
    scale, zero = np.float32(quantizer.scale[0]), quantizer.zero_point[0]
    node = value.producer()
    while node is not None and (limits := _clamp(node)) is not None:
        low, high = limits
        source = node.inputs[0]
        if np.rint(low / scale) + zero > first or np.rint(high / scale) + zero < last or source is None:
            break
        value, node = source, source.producer()
    return value


def _clamp(node: ir.Node) -> tuple[float, float] | None:
    """The limits of a Relu or of a Clip between constants."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    ends = []
    for position, without in ((1, -np.inf), (2, np.inf)):
        given, end = _input(node, position), constant(_input(node, position))
        if given is not None and end is None:
            return None
        ends.append(without if end is None else float(end))
    return ends[0], ends[1]


def _quantize_weight(graph: ir.Graph, weight: ir.Value, quantizer: Quantizer) -> None:
    """Store `weight` as integers and what makes floats of them; where integers are read, the biases too."""
    array, name = constant(weight), weight.name
    assert array is not None  # named among the initializers
    axis = quantizer.axis
    if axis is not None and (name or "").endswith(TRANSPOSED):
        axis = array.ndim - 1 - axis
    layers = [use.node for use in weight.uses() if use.node.op_type in LAYERS and use.idx == 1]
    scale = np.asarray(quantizer.scale, np.float32)
    for layer in layers:
        scale = np.maximum(scale, _smallest_scale(layer))
    shape = [1] * array.ndim
    if axis is not None:
        if len(scale) != array.shape[axis]:
            raise ExportError(
                f"The weight {name!r} has {array.shape[axis]} channels along axis {axis} and the plan gives "
                f"{len(scale)} scales.\n  Make the plan on the program that was exported."
            )
        shape[axis] = -1
    low, high = quantizer.limits
    integers = np.clip(np.rint(array / scale.reshape(shape)), low, high).astype(np.int8)
    kind = ir.DataType.INT4 if quantizer.bits <= 4 else ir.DataType.INT8
    stored = add_constant(graph, f"{name}/q", integers, kind)
    if not any(dequantized(layer.inputs[0]) for layer in layers):
        nodes = scaled(graph, stored, scale.reshape(shape))
    else:
        nodes = _dequantized_weight(graph, stored, scale, axis, layers)
    nodes[-1].outputs[0].name = f"{name}/dq"
    for use in list(weight.uses()):
        use.node.replace_input_with(use.idx, nodes[-1].outputs[0])
    graph.insert_before(graph[0], nodes)
    for layer in layers:
        _quantize_bias(graph, layer, scale)


def _dequantized_weight(
    graph: ir.Graph, stored: ir.Value, scale: Array, axis: int | None, layers: Sequence[ir.Node]
) -> list[ir.Node]:
    """Integers behind a DequantizeLinear, for layers that are to run on integers."""
    nodes, name = [], stored.name
    if stored.dtype == ir.DataType.INT4:
        # Folded to int8 when a session is made: half the file, and the kernels of 8 bits. Without
        # the Cast the weight is dequantized at every inference (7 times slower, measured).
        nodes.append(ir.node("Cast", [stored], {"to": ir.DataType.INT8}))
        stored = nodes[0].outputs[0]
        stored.name, stored.type = f"{name}/int8", ir.TensorType(ir.DataType.INT8)
    inputs = [stored, add_constant(graph, f"{name}/scale", scale if axis is not None else scale[0])]
    if any(layer.op_type in {"Gemm", "MatMul"} for layer in layers):  # ONNX Runtime fuses them only with one
        zeros = np.zeros(scale.shape if axis is not None else (), np.int8)
        inputs.append(add_constant(graph, f"{name}/zero", zeros))
    return [*nodes, ir.node("DequantizeLinear", inputs, {"axis": axis} if axis is not None else {})]


def _smallest_scale(layer: ir.Node) -> Array:
    """The smallest weight scale per channel with which the layer's bias fits 32 bits.

    A channel without weights (dead since batch norm was folded) has an arbitrarily small scale, and
    its bias would overflow. ONNX Runtime's own quantizer widens the scale likewise.
    """
    bias, grid = constant(_input(layer, 2)), dequantized(layer.inputs[0])
    step = constant(grid[1]) if grid is not None else None
    if bias is None or step is None:
        return np.zeros(1, np.float32)
    return np.asarray(np.abs(bias) / (np.float64(_INT32 - 128) * step), np.float32)


def _quantize_bias(graph: ir.Graph, layer: ir.Node, weight_scale: Array) -> None:
    """Store the bias as int32 with scale = input scale x weight scale, if the input is quantized."""
    bias, grid = constant(_input(layer, 2)), dequantized(layer.inputs[0])
    plain = layer.attributes.get_float("alpha", 1.0) == layer.attributes.get_float("beta", 1.0) == 1.0
    if layer.op_type not in {"Conv", "Gemm"} or bias is None or grid is None or bias.ndim != 1 or not plain:
        return
    name = layer.outputs[0].name
    scale = np.asarray(constant(grid[1]) * weight_scale, np.float32)
    integers = np.clip(np.rint(bias.astype(np.float64) / scale), -_INT32, _INT32).astype(np.int32)
    stored = add_constant(graph, f"{name}/bias_q", integers)
    scales = add_constant(graph, f"{name}/bias_scale", scale if len(scale) > 1 else scale[0])
    node = ir.node("DequantizeLinear", [stored, scales], {"axis": 0} if len(scale) > 1 else {})
    node.outputs[0].name = f"{name}/bias_dq"
    layer.replace_input_with(2, node.outputs[0])
    graph.insert_before(graph[0], node)


def dequantized(value: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value | None] | None:
    """Integers, scale and zero point behind `value`, if a DequantizeLinear makes it."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        return None
    integers, scale, zero = node.inputs[0], node.inputs[1], _input(node, 2)
    assert integers is not None
    assert scale is not None
    return integers, scale, zero


def _is_integer(conv: ir.Node) -> bool:
    """Whether input, 8-bit weight and output (perhaps behind clamps) of a convolution are quantized."""
    weight = dequantized(conv.inputs[1])
    output: ir.Value | None = conv.outputs[0]
    while output is not None and only_reader(output, "QuantizeLinear") is None:
        clamp = only_reader(output, "Relu") or only_reader(output, "Clip")
        output = clamp.outputs[0] if clamp is not None else None
    eight_bits = weight is not None and weight[0].dtype == ir.DataType.INT8
    return eight_bits and output is not None and dequantized(conv.inputs[0]) is not None


def _input(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if len(node.inputs) > position else None
