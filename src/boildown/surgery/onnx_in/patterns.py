"""Layers that older exporters write out as arithmetic, as the one operator that they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from boildown.surgery.onnx_in.file import Body, Constant, Op


class Patterns:
    """Finds and replaces them in one graph."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.makers = {name: op for op in body.ops for name in op.outputs if name}
        self.readers: dict[str, list[Op]] = {}
        for op in body.ops:
            for name in op.inputs:
                self.readers.setdefault(name, []).append(op)
        self.kept = {*body.outputs, *(name for op in body.ops for name in _inner(op))}
        self.gone: set[Op] = set()
        self.fresh: dict[Op, Op] = {}

    def replace(self) -> None:
        """Put one node where the last of those that are taken out stood."""
        for op in self.body.ops:
            finder = _FINDERS.get(op.kind) if not op.domain and op not in self.gone else None
            found = finder(self, op) if finder is not None else None
            if found is not None:
                parts, made = found
                last = parts[-1]
                inner = {name for part in parts[:-1] for name in part.outputs}
                read = (reader for name in inner for reader in self.readers.get(name, ()))
                if inner & self.kept or any(reader not in parts for reader in read) or self.gone.intersection(parts):
                    continue
                self.gone.update(parts)
                self.fresh[last] = made
        self.body.ops = [made for op in self.body.ops if (made := self.fresh.get(op, op)) not in self.gone]

    # ---- looking ---------------------------------------------------------------------------------

    def maker(self, name: str, *kinds: str) -> Op | None:
        """The node that makes a value, if it is of one of these kinds."""
        op = self.makers.get(name)
        return op if op is not None and op.kind in kinds and not op.domain else None

    def reader(self, name: str, *kinds: str) -> Op | None:
        """The one node that reads a value, if it is of one of these kinds."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 and found[0].kind in kinds and name not in self.kept else None

    def number(self, name: str) -> float | None:
        """The number that a constant is."""
        constant = self.body.constants.get(name)
        return float(constant.tensor) if constant is not None and constant.tensor.numel() == 1 else None

    def other(self, op: Op, name: str) -> str:
        """The other input of a node with two."""
        return op.inputs[1] if op.inputs[0] == name else op.inputs[0]

    def axes(self, op: Op) -> list[int] | None:
        """The axes that a reduction is told."""
        if len(op.inputs) > 1 and op.inputs[1] in self.body.constants:
            return [int(axis) for axis in self.body.constants[op.inputs[1]].tensor.reshape(-1)]
        return op.attributes.get("axes") if len(op.inputs) == 1 else None


_Found = tuple[list[Op], Op] | None


def _near(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=1e-4)


def _inner(op: Op) -> Iterable[str]:
    """What the branches of a node read."""
    for attribute in op.attributes.values():
        if isinstance(attribute, Body):
            for each in attribute.ops:
                yield from each.inputs
                yield from _inner(each)
            yield from attribute.outputs


def _layer_norm(found: Patterns, division: Op) -> _Found:
    """`(x - mean) / sqrt(mean((x - mean)^2) + eps)`, mostly times a weight, plus a bias."""
    root = found.maker(division.inputs[1], "Sqrt")
    shifted = found.maker(root.inputs[0], "Add") if root is not None else None
    if root is None or shifted is None:
        return None
    for variance_name, epsilon_name in (shifted.inputs, shifted.inputs[::-1]):
        epsilon, variance = found.number(epsilon_name), found.maker(variance_name, "ReduceMean")
        square = found.maker(variance.inputs[0], "Pow", "Mul") if variance is not None else None
        if epsilon is None or variance is None or square is None:
            continue
        difference = found.maker(square.inputs[0], "Sub")
        squared = _near(found.number(square.inputs[1]), 2) if square.kind == "Pow" else len({*square.inputs}) == 1
        mean = found.maker(difference.inputs[1], "ReduceMean") if difference is not None else None
        twin = found.maker(division.inputs[0], "Sub")  # some exporters write the difference twice
        if difference is None or mean is None or twin is None or not squared or twin.inputs != difference.inputs:
            return None
        axes = found.axes(mean)
        last = axes is not None and sorted(axes) == list(range(-len(axes), 0))
        kept = all(op.attributes.get("keepdims", 1) for op in (mean, variance))
        if (
            not last
            or axes is None
            or axes != found.axes(variance)
            or not kept
            or mean.inputs[0] != (difference.inputs[0])
        ):
            return None
        parts = [mean, difference, *([twin] if twin is not difference else []), square, variance, shifted, root,
                 division]  # fmt: skip
        return _affine(found, parts, mean.inputs[0], len(axes), epsilon)
    return None


def _affine(found: Patterns, parts: list[Op], value: str, axes: int, epsilon: float) -> _Found:
    """The weight and the bias behind a norm; a norm without a weight stays as it is."""
    scaled = found.reader(parts[-1].outputs[0], "Mul")
    weight = found.other(scaled, parts[-1].outputs[0]) if scaled is not None else ""
    tensor = found.body.constants.get(weight)
    if scaled is None or tensor is None or tensor.tensor.ndim != axes:
        return None
    inputs, end = [value, weight], scaled
    added = found.reader(scaled.outputs[0], "Add")
    bias = found.body.constants.get(found.other(added, scaled.outputs[0])) if added is not None else None
    if added is not None and bias is not None and bias.tensor.shape == tensor.tensor.shape:
        inputs.append(found.other(added, scaled.outputs[0]))
        end = added
    parts = [*parts, *([scaled] if scaled is not end else []), end]
    made = Op("LayerNormalization", "", parts[0].name, inputs, end.outputs, {"axis": -axes, "epsilon": epsilon},
              parts[0].scope)  # fmt: skip
    return parts, made


def _gelu(found: Patterns, error: Op) -> _Found:
    """`x * (1 + erf(x / sqrt(2))) / 2` in any order."""
    scaled = found.maker(error.inputs[0], "Div", "Mul")
    if scaled is None:
        return None
    value = next((name for name in scaled.inputs if found.number(name) is None), None)
    factor = found.number(found.other(scaled, value)) if value is not None else None
    wanted = math.sqrt(2) if scaled.kind == "Div" else math.sqrt(0.5)
    plus = found.reader(error.outputs[0], "Add")
    if value is None or not _near(factor, wanted) or (scaled.kind == "Div" and scaled.inputs[0] != value):
        return None
    if plus is None or not _near(found.number(found.other(plus, error.outputs[0])), 1):
        return None
    parts, halves, values = [scaled, error, plus], 0, 0
    end = plus
    while halves + values < 2:
        product = found.reader(end.outputs[0], "Mul", "Div")
        if product is None or (product.kind == "Div" and product.inputs[0] != end.outputs[0]):
            return None
        other = found.other(product, end.outputs[0])
        half = found.maker(other, "Mul")
        if _near(found.number(other), 0.5 if product.kind == "Mul" else 2):
            halves += 1
        elif other == value and product.kind == "Mul":
            values += 1
        elif half is not None and value in half.inputs and _near(found.number(found.other(half, value)), 0.5):
            halves, values = halves + 1, values + 1
            parts.append(half)
        else:
            return None
        parts.append(product)
        end = product
    if (halves, values) != (1, 1):
        return None
    return parts, Op("Gelu", "", parts[0].name, [value], end.outputs, {}, parts[0].scope)


def _mish(found: Patterns, curve: Op) -> _Found:
    """`x * tanh(softplus(x))`."""
    inner = found.maker(curve.inputs[0], "Softplus")
    product = found.reader(curve.outputs[0], "Mul")
    if inner is None or product is None or found.other(product, curve.outputs[0]) != inner.inputs[0]:
        return None
    return [inner, curve, product], Op("Mish", "", inner.name, inner.inputs, product.outputs, {}, inner.scope)


def _group_norm(found: Patterns, norm: Op) -> _Found:
    """Groups as the channels of an instance norm, as PyTorch's exporter writes it."""
    constants = found.body.constants
    grouped, back = found.maker(norm.inputs[0], "Reshape"), found.reader(norm.outputs[0], "Reshape")
    if grouped is None or back is None or len(norm.inputs) != 3:
        return None
    shape, scale, bias = (constants.get(name) for name in (grouped.inputs[1], *norm.inputs[1:]))
    if shape is None or scale is None or bias is None:
        return None
    wanted = shape.tensor.reshape(-1).tolist()
    plain = bool((scale.tensor == 1).all()) and not bool(bias.tensor.any())
    if len(wanted) != 3 or wanted[0] != 0 or wanted[2] != -1 or not plain:
        return None
    sizes = found.maker(back.inputs[1], "Shape")
    if back.inputs[1] not in constants and (sizes is None or sizes.inputs[0] != grouped.inputs[0]):
        return None
    scaled = found.reader(back.outputs[0], "Mul")
    added = found.reader(scaled.outputs[0], "Add") if scaled is not None else None
    if scaled is None or added is None:
        return None
    names = [found.other(scaled, back.outputs[0]), found.other(added, scaled.outputs[0])]
    given = [constants.get(name) for name in names]
    if any(each is None or each.tensor.ndim < 2 or each.tensor.numel() != len(each.tensor) for each in given):
        return None
    for name, each in zip(names, given, strict=True):
        assert each is not None
        if len(found.readers[name]) > 1:
            return None
        constants[name] = Constant(each.tensor.reshape(-1), each.learned, each.name)
    settings: dict[str, Any] = {"num_groups": wanted[1], "epsilon": norm.attributes.get("epsilon", 1e-5)}
    parts = [grouped, norm, *([sizes] if sizes is not None and len(found.readers[sizes.outputs[0]]) == 1 else []), back,
             scaled, added]  # fmt: skip
    return parts, Op("GroupNormalization", "", norm.name, [grouped.inputs[0], *names], added.outputs, settings,
                     norm.scope)  # fmt: skip


def _rescaled(found: Patterns, product: Op) -> _Found:
    """The steps of a weight that was integers, multiplied to what it makes: they are the weight's."""
    for name, scale_name in (product.inputs, product.inputs[::-1]):
        cast = found.maker(name, "Cast")
        layer = found.maker(cast.inputs[0] if cast is not None else name, "MatMul", "Conv")
        scale = found.body.constants.get(scale_name)
        weight = found.body.constants.get(layer.inputs[1]) if layer is not None and len(layer.inputs) == 2 else None
        if layer is None or scale is None or weight is None or "/float" not in layer.inputs[1]:
            continue
        wide = weight.tensor.shape[-1] if layer.kind == "MatMul" else len(weight.tensor)
        if scale.tensor.numel() not in (1, wide) or weight.tensor.ndim < 2:
            continue
        columns = scale.tensor.reshape(-1)
        columns = columns if layer.kind == "MatMul" else columns.reshape(-1, *[1] * (weight.tensor.ndim - 1))
        fresh = f"{layer.inputs[1]}/scaled"
        found.body.constants[fresh] = Constant((weight.tensor * columns).contiguous(), name=weight.name)
        made = Op(layer.kind, "", layer.name, [layer.inputs[0], fresh], product.outputs, layer.attributes, layer.scope)
        return [layer, *([cast] if cast is not None else []), product], made
    return None


_FINDERS: dict[str, Callable[[Patterns, Op], _Found]] = {
    "Div": _layer_norm,
    "Mul": _rescaled,
    "Erf": _gelu,
    "Tanh": _mish,
    "InstanceNormalization": _group_norm,
}
