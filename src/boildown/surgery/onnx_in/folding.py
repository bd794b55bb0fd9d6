"""What follows from a file's constants alone, computed once; what only passes a value on, taken out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from boildown.errors import shortened, text_of
from boildown.surgery.onnx_in.file import Body, Constant, Faults, Op, capital
from boildown.surgery.onnx_in.step import as_numbers
from boildown.surgery.onnx_in.table import OPERATORS, Operator
from boildown.surgery.onnx_in.values import Known, tensor

MOST_FOLDED = 1 << 30
"""Bytes of all that is computed from constants."""

_GROWS = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "Pad", "OneHot", "EyeLike", "CenterCropPad", "Col2Im",
                    "HannWindow", "HammingWindow", "BlackmanWindow", "Resize", "Upsample", "AffineGrid"})  # fmt: skip
_FEW = 64
"""Numbers of which the other operators cannot make many."""
_MAKE = "Export the model with its constants folded, or with smaller ones."
_SIMPLER = "Run the exporter's optimizer or `onnxsim` over it, which settles what is always the same."


class Folding:
    """Folds one file; `integers` tells whether weights were found that were stored as such."""

    def __init__(self, opset: int, faults: Faults) -> None:
        self.opset, self.faults = opset, faults
        self.bytes, self.integers, self._branches = 0, False, 0

    def fold(self, body: Body, around: Mapping[str, Constant] | None = None) -> None:
        """Fold a graph in place, and the branches in it; `around` are constants outside of it."""
        names: dict[str, str] = {}
        left: list[Op] = []
        waiting = deque(body.ops)
        while waiting:
            op = waiting.popleft()
            op.inputs = [_resolved(name, names) for name in op.inputs]
            given = [self._constant(name, body, around) if name else None for name in op.inputs]
            if op.kind == "If" and not op.domain:
                if given and given[0] is not None and given[0].tensor.numel() == 1:
                    waiting.extendleft(reversed(self._inlined(op, bool(given[0].tensor), body, names)))
                    continue
                for branch in _bodies(op):
                    _rename(branch, {name: _resolved(name, names) for name in names})
                    self.fold(branch, {**(around or {}), **body.constants})
            elif _passes(op) and given and given[0] is None and op.inputs[0]:
                names[op.outputs[0]] = op.inputs[0]
                continue
            elif self._settled(op, given) and self._compute(op, given, body):
                continue
            left.append(op)
        body.ops = left
        body.outputs = [_resolved(name, names) for name in body.outputs]

    @staticmethod
    def _constant(name: str, body: Body, around: Mapping[str, Constant] | None) -> Constant | None:
        return body.constants.get(name) or (around or {}).get(name)

    def _settled(self, op: Op, given: list[Constant | None]) -> bool:
        """Whether a node is to be computed now."""
        if op.kind == "Constant" and not op.domain:
            return True
        known = OPERATORS.get((op.domain, op.kind))
        whole = all(each is not None for each, name in zip(given, op.inputs, strict=True) if name)
        return known is not None and known.folds and bool(op.inputs) and whole

    def _compute(self, op: Op, given: list[Constant | None], body: Body) -> bool:
        """Make constants of a node's outputs; False where it is left for the one who builds the graph to refuse."""
        if op.kind == "Constant" and not op.domain:
            value = _constant_of(op)
            if value is None:
                self.faults.add(f"{capital(op)} holds no number.", "Export the model without texts in it.")
                value = torch.zeros(())
            body.constants[op.outputs[0]] = Constant(value, name=op.outputs[0])
            return True
        known = OPERATORS[op.domain, op.kind]
        if problems(op, known):
            return False
        try:
            made = self._computed(op, known, given)
        except _TooLargeError as error:
            self.faults.add(f"{capital(op)} makes a constant of {error.args[0] / 1e9:.1f} GB.", _MAKE)
            made = [torch.zeros(()) for _ in op.outputs]
        except Exception as error:  # noqa: BLE001 - operators raise what they find odd
            said = text_of(error).partition("\n")[0] or type(error).__name__
            self.faults.add(f"{capital(op)} cannot be computed: {shortened(said)}.", _SIMPLER)
            made = [torch.zeros(()) for _ in op.outputs]
        moved = known.moves or (op.kind in ("Cast", "DequantizeLinear"))
        learned = moved and any(each is not None and each.learned for each in given[:1])
        first = given[0]
        if op.kind in ("DequantizeLinear", "Cast") and first is not None and _is_stored(first.tensor, made[0]):
            self.integers = True
        source = first.name if learned and first is not None else ""
        for name, value in zip(op.outputs, made, strict=False):
            if op.kind == "Identity" and value.ndim == 1 and value.is_floating_point():
                value, source = value.clone(), name  # exporters let equal weights be one
            body.constants[name] = Constant(value, learned, source or name)
        return True

    def _computed(self, op: Op, known: Operator, given: list[Constant | None]) -> list[Tensor]:
        settings = settings_of(op, known, self.opset)
        values = [None if each is None else as_numbers(each.tensor) or each.tensor for each in given]
        if op.kind in _GROWS or sum(each.tensor.numel() for each in given if each is not None) > _FEW:
            self._bound(known, values, settings)
        with torch.no_grad():
            found = known.function(*values, **settings)
        made = [tensor(value) for value in (found if isinstance(found, tuple) else (found,))]
        self.bytes += sum(value.numel() * value.element_size() for value in made if not _is_view(value, given))
        if self.bytes > MOST_FOLDED:
            raise _TooLargeError(self.bytes)
        return made

    def _bound(self, known: Operator, values: list[Any], settings: Mapping[str, Any]) -> None:
        """Raise where the outputs would be larger than all that may be folded: they are made without numbers first."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode, torch.no_grad():
            fake = [_fake(value, mode) for value in values]
            logger = logging.getLogger("torch._subclasses.fake_tensor")
            level = logger.level
            logger.setLevel(logging.CRITICAL)
            try:
                found = known.function(*fake, **settings)
            except Exception:  # noqa: BLE001 - it depends on data: what it gives is no larger, or it fails again
                return
            finally:
                logger.setLevel(level)
        parts = found if isinstance(found, tuple) else (found,)
        size = sum(part.numel() * part.element_size() for part in parts if isinstance(part, FakeTensor))
        if self.bytes + size > MOST_FOLDED:
            raise _TooLargeError(self.bytes + size)

    def _inlined(self, op: Op, holds: bool, body: Body, names: dict[str, str]) -> list[Op]:
        """The nodes of the branch that is always taken, under names of their own."""
        branch = op.attributes.get("then_branch" if holds else "else_branch")
        if not isinstance(branch, Body) or len(branch.outputs) < len(op.outputs):
            self.faults.add(f"{capital(op)} has no branch to take.", _SIMPLER)
            return []
        self._branches += 1
        fresh = {
            name: f"{name}/branch{self._branches}"
            for name in (*branch.constants, *(output for each in branch.ops for output in each.outputs if output))
        }
        _rename(branch, {**names, **fresh})
        body.constants.update({fresh[name]: constant for name, constant in branch.constants.items()})
        for each in branch.ops:
            each.outputs = [fresh.get(name, name) for name in each.outputs]
        for name, value in zip(op.outputs, branch.outputs, strict=False):
            names[name] = value
        return branch.ops


class _TooLargeError(Exception):
    pass


def _fake(value: Any, mode: FakeTensorMode) -> Any:
    if isinstance(value, Known):
        return Known(value.array, value.dtype, None if value.held is None else mode.from_tensor(value.held))
    return mode.from_tensor(value) if isinstance(value, Tensor) else value


def _is_view(value: Tensor, given: list[Constant | None]) -> bool:
    storage = value.untyped_storage().data_ptr()
    return any(each is not None and each.tensor.untyped_storage().data_ptr() == storage for each in given)


def _is_stored(before: Tensor, after: Tensor) -> bool:
    """Whether weights were stored as whole numbers of 8 bits or less."""
    small = before.dtype in (torch.int8, torch.uint8) and before.numel() > 64
    return small and after.is_floating_point()


def _passes(op: Op) -> bool:
    """Whether a node gives what it reads."""
    return not op.domain and op.kind in ("Identity", "Dropout") and len(op.outputs) == 1 and bool(op.inputs)


def _resolved(name: str, names: Mapping[str, str]) -> str:
    """What a name stands for."""
    for _ in range(len(names)):
        if name not in names:
            break
        name = names[name]
    return name


def _bodies(op: Op) -> list[Body]:
    return [value for value in op.attributes.values() if isinstance(value, Body)]


def _rename(body: Body, names: Mapping[str, str]) -> None:
    """Read other names, inner branches too."""
    for op in body.ops:
        op.inputs = [names.get(name, name) for name in op.inputs]
        for inner in _bodies(op):
            own = {*inner.constants, *(name for each in inner.ops for name in each.outputs)}
            _rename(inner, {name: other for name, other in names.items() if name not in own})
    body.outputs = [names.get(name, name) for name in body.outputs]


def drop_unread(body: Body) -> None:
    """Take out the nodes that nothing needs."""
    needed, kept = {*body.outputs}, []
    for op in reversed(body.ops):
        while op.outputs and op.outputs[-1] not in needed:
            op.outputs.pop()
        if op.outputs:
            kept.append(op)
            needed.update(op.inputs)
            for inner in _bodies(op):
                drop_unread(inner)
                needed.update(_read_in(inner))
    body.ops = kept[::-1]


def _read_in(body: Body) -> set[str]:
    found = {*body.outputs}
    for op in body.ops:
        found.update(op.inputs)
        for inner in _bodies(op):
            found |= _read_in(inner)
    return found


def _constant_of(op: Op) -> Tensor | None:
    """What a Constant node holds; None where that is no number."""
    for name, value in op.attributes.items():
        if name == "value" and isinstance(value, Tensor):
            return value
        kind = name.removeprefix("value_").upper()
        if kind in ("FLOAT", "FLOATS", "INT", "INTS") and _fits(value, kind):
            return torch.tensor(value, dtype=torch.float32 if kind.startswith("FLOAT") else torch.int64)
    return None


def problems(op: Op, known: Operator) -> list[str]:
    """What is wrong with a node's inputs and attributes, in words."""
    found = []
    if not known.least <= len(op.inputs) <= known.most:
        found.append(f"it has {len(op.inputs)} inputs")
    elif any(not name for name in op.inputs[: known.least]):
        found.append("an input that it needs is left out")
    for name, value in op.attributes.items():
        told = known.attributes.get(name)
        if told is None and name not in known.ignores:
            found.append(f"its attribute {shortened(name)!r} is not known")
        elif told is not None and not _fits(value, told[0]):
            found.append(f"its attribute {name!r} is no {told[0]}")
        elif value not in known.only.get(name, (value,)):
            found.append(f"{name}={shortened(repr(value))} is not read")
    if known.results is not None and len(op.outputs) > known.results:
        found.append(f"its outputs behind the first {known.results} are not read")
    if not found and (together := known.unread(op.attributes)):
        found.append(together)
    missing = [name for name, (_, needed) in known.attributes.items() if needed and name not in op.attributes]
    found += [f"its attribute {name!r} is missing" for name in missing]
    return found


def _fits(value: Any, kind: str) -> bool:
    if kind == "TENSOR":
        return isinstance(value, Tensor)
    if kind in ("INTS", "FLOATS", "STRINGS"):
        inner = kind[:-1]
        return isinstance(value, list) and all(_fits(each, inner) for each in value)
    kinds: dict[str, Any] = {"INT": int, "FLOAT": (int, float), "STRING": str}
    return isinstance(value, kinds[kind])


def settings_of(op: Op, known: Operator, opset: int) -> dict[str, Any]:
    """What a node's function takes by name."""
    settings = {known.parameters[name]: value for name, value in op.attributes.items() if name in known.attributes}
    own: dict[str, Any] = {"opset": opset if not op.domain else 1, "outputs": max(len(op.outputs), 1)}
    return settings | {name: own[name] for name in known.given}
